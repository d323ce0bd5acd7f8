"""An int8 pair on emulated ARM cores: does every int8 layer compute there what the simulation says?

    python bench/arm_int8.py

Needs bench/arm_setup.py's Python, and ../shared/material. FastestDet at 352 px, all of it in int8, from the images of
calib.txt: `verify.ncnn_int8` with the pair run under qemu, in fp32 arithmetic beside int8, on a Cortex-A76 (the pair as
--for pi5 has it, with dot products) and a Cortex-A72. Writes bench/results/arm_int8.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from arm_setup import default_root

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Quantise
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.verify.feeds import shared_feeds
from onnxslim_yolo.verify.files import as_cut
from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
CALIB = MATERIAL / "data/coco-val128/calib.txt"
PASSES = "canonicalise,shuffle-to-gather,canonicalise,fold-bn,fold-affine,silu,pad-pool,canonicalise"


def main() -> None:
    """Run both cores, write the table."""
    model = Model.from_onnx(onnx.load(MATERIAL / "weights/FastestDet.onnx"))
    PassManager([*parse_pipeline(PASSES), Quantise(("all",), CALIB)]).run(model)
    lines = ["| core | int8 layers | compared | worst | allowed |", "|---|---|---|---|---|"]
    for core in ("a76", "a72"):
        pair = emit_ncnn(model, half=core == "a76", dot_products=core == "a76")
        with tempfile.TemporaryDirectory() as folder:
            files = write_pair(pair, Path(folder))
            launcher = f"{default_root() / 'arm-python'} {core} -"
            checks = verify_int8_pair(as_cut(model, pair), pair, files, shared_feeds(model, CALIB)[:1], run_on=launcher)
        for check in checks:
            what = f"{check.label} ({check.runtime})"
            lines.append(f"| {core} | {len(pair.int8)} | {what} | {check.worst:.1e} | {check.tolerance:.0e} |")
            print(lines[-1], flush=True)
    text = "# int8 under emulation: FastestDet, 352 px\n\n" + "\n".join(lines) + "\n"
    (HERE / "results" / "arm_int8.md").write_text(text)


if __name__ == "__main__":
    main()
