"""What int8 layers that hand on codes gain on a Pi 5 and a Pi 4, in counted instructions of whole pairs.

    python bench/arm_int8_codes.py ["yolov6n, 320 px" …]      networks of bench/int8_codes.py

Each network as three pairs (in float; all in int8 that can be, every layer giving out floats; the same handing on codes
where it can, term 101) is run whole under emulation, by bench/arm_counter.sh's qemu. Ratios are of instructions,
and of the slots that these take up (bench/arm_weights.py, here of the network as a whole): no time, which also goes
into moving maps. Writes bench/results/arm_int8_codes.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arm_counting import Counter
from arm_tables import DEVICE
from arm_weights import TITLE, slots
from int8_codes import PASSES, network

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.pipeline import parse_pipeline

RESULTS = Path(__file__).with_name("results")
CHOSEN = ("FastestDet", "mobilenetv2, 224 px", "yolov6n, 320 px")


def main() -> None:
    """Count, write the table."""
    chosen = sys.argv[1:] or CHOSEN
    lines = ["# Codes handed on, on ARM", "", "`python bench/arm_int8_codes.py`. Instructions of whole pairs."]
    for core in DEVICE:
        lines += ["", f"## {TITLE[core]}", ""]
        lines += ["| network | int8 layers | hand on codes | float, 10⁶ | int8 | handing codes on | of int8 without |"]
        lines[-1] += " the same, slots | of float, slots |"
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        with Counter(core) as counter:
            for name in chosen:
                lines.extend(rows(name, network(name), core, counter))
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
        counts[label] = sum(found), slots(core, found)
    handed = sum(layer.output_scale is not None for layer in pairs["codes"].int8)
    plain, without, with_codes = (np.array(counts[label]) for label in ("float", "floats", "codes"))
    gains = with_codes / without
    yield (
        f"| {name} | {len(pairs['codes'].int8)} | {handed} | {plain[0] / 1e6:.1f} | {without[0] / plain[0]:.2f} | "
        f"{with_codes[0] / plain[0]:.2f} | {gains[0]:.3f} | {gains[1]:.3f} | {with_codes[1] / plain[1]:.2f} |"
    )


if __name__ == "__main__":
    main()
