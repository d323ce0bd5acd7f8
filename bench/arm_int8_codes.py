"""What int8 layers that hand on codes gain on a Pi 5 and a Pi 4, in counted instructions of whole pairs.

    python bench/arm_int8_codes.py ["yolov6n, 320 px" …]      networks of bench/int8_codes.py

Each network as three pairs (in float; all in int8 that can be, every layer giving out floats; the same handing on codes
where it can, term 101) is run whole under emulation, by bench/arm_counter.sh's qemu. Ratios are of instructions, all
classes counted alike: no time. Writes bench/results/arm_int8_codes.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arm_counting import Counter
from arm_tables import DEVICE
from arm_weights import TITLE
from int8_codes import PASSES, networks

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.pipeline import parse_pipeline

RESULTS = Path(__file__).with_name("results")
CHOSEN = ("yolov6n, 320 px", "FastestDet")


def main() -> None:
    """Count, write the table."""
    chosen = sys.argv[1:] or CHOSEN
    models = {name: model for name, model in networks() if name in chosen}
    lines = ["# Codes handed on, on ARM", "", "`python bench/arm_int8_codes.py`. Instructions of whole pairs."]
    for core in DEVICE:
        lines += ["", f"## {TITLE[core]}", ""]
        lines += ["| network | int8 layers | hand on codes | float, 10⁶ | int8 | handing codes on | of int8 without |"]
        lines += ["|---|---|---|---|---|---|---|"]
        with Counter(core) as counter:
            for name in chosen:
                lines.extend(rows(name, models[name].copy(), core, counter))
                print(lines[-1], flush=True)
    (RESULTS / "arm_int8_codes.md").write_text("\n".join([*lines, ""]))


def rows(name: str, model: Model, core: str, counter: Counter) -> Iterator[str]:
    """A network's row; none where nothing of it can be in int8."""
    PassManager(parse_pipeline(PASSES)).run(model)
    whole = everything(model.graph)
    if whole is None:
        return
    of_board = {"half": core == "a76", "dot_products": core == "a76"}
    pairs = {
        "float": emit_ncnn(Model(graph=whole.graph), half=core == "a76"),
        "floats": emit_ncnn(whole, codes=False, **of_board),
        "codes": emit_ncnn(whole, **of_board),
    }
    shapes = [list(port.shape[1:]) for port in pairs["float"].inputs.values()]
    counts = {}
    for label, pair in pairs.items():
        with tempfile.TemporaryDirectory() as folder:
            found = counter.whole(*write_pair(pair, Path(folder)), shapes)
        if found is None:
            raise ValueError(f"{name}: ncnn does not run it as {label}")
        counts[label] = sum(found)
    handed = sum(layer.output_scale is not None for layer in pairs["codes"].int8)
    plain, without, with_codes = counts["float"], counts["floats"], counts["codes"]
    yield (
        f"| {name} | {len(pairs['codes'].int8)} | {handed} | {plain / 1e6:.1f} | {without / plain:.2f} | "
        f"{with_codes / plain:.2f} | {with_codes / without:.3f} |"
    )


if __name__ == "__main__":
    main()
