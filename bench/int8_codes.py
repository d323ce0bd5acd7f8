"""What int8 layers gain in ncnn that hand on codes, beside the same that give out floats.

    python bench/int8_codes.py

Networks of the zoo at the nano size's widths and two of ../shared/material, deployed, with all in int8 that can be; the
ranges are made up, for time does not depend on them. The same plan as a pair whose layers hand on codes where they can
(as pairs are written), as one where all give out floats, and in float: one thread, interleaved, medians of per-round
ratios in thread-CPU time with their quartiles, denormals flushed. Writes bench/results/int8_codes.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.pipeline import parse_pipeline
from tests import zoo

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material" / "weights"
ZOO = {"yolov6n": 320, "repvgg": 224, "mobilenetv2": 224, "resnet": 224, "yolov7-tiny": 320, "yolov8n": 320}
FILES = {"Yolo-Fastest 1.1": "yolo-fastest-1.1.cfg", "FastestDet": "FastestDet.onnx"}
PASSES = (
    "canonicalise,shuffle-to-gather,canonicalise,focus-to-conv,spp-to-sppf,reparam,fold-bn,fold-affine,silu,pad-pool,"
    "canonicalise"
)
ROUNDS = 31


def networks() -> Iterator[tuple[str, Model]]:
    """Each by its name."""
    yield from ((name, network(name)) for name in (*(f"{name}, {size} px" for name, size in ZOO.items()), *FILES))


def network(name: str) -> Model:
    """One of them."""
    if name in FILES:
        return load(MATERIAL / FILES[name])
    name = name.partition(",")[0]
    return Model.from_onnx(onnx.load_from_string(zoo.onnx_bytes(name, width=1.0, size=ZOO[name])))


def main() -> None:
    """Measure, write the table."""
    lines = [
        "| network | int8 layers | hand on codes | float, ms | int8 | handing codes on | of int8 without | control |",
        "|---|---|---|---|---|---|---|---|",
    ]
    machine = ""
    for name, model in networks():
        PassManager(parse_pipeline(PASSES)).run(model)
        whole = everything(model.graph)
        if whole is None:
            continue
        pairs = {"floats": emit_ncnn(whole, codes=False), "codes": emit_ncnn(whole)}
        pairs["float"] = emit_ncnn(Model(graph=whole.graph))
        with tempfile.TemporaryDirectory() as folder:
            for label, pair in pairs.items():
                Path(folder, label).mkdir()
                write_pair(pair, Path(folder, label))
            timed = benchmark([Path(folder, label) for label in pairs], names=list(pairs), rounds=ROUNDS)
        _, codes, plain = timed.models
        handed = sum(layer.output_scale is not None for layer in pairs["codes"].int8)
        low, high = codes.ratio_quartiles
        lines.append(
            f"| {name} | {len(pairs['codes'].int8)} | {handed} | {plain.ms:.2f} | {1 / plain.ratio:.2f} | "
            f"{codes.ratio / plain.ratio:.2f} | {codes.ratio:.3f} ({low:.3f} … {high:.3f}) | {timed.control:.3f} |"
        )
        machine = ", ".join(f"{key} {value}" for key, value in timed.machine.items())
        print(lines[-1], flush=True)
    text = "# Codes handed on, ncnn\n\n" + "\n".join(lines) + f"\n\nMachine: {machine}\n"
    (HERE / "results" / "int8_codes.md").write_text(text)


if __name__ == "__main__":
    main()
