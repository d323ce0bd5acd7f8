"""What large detectors take by the estimate, against what is allowed by default: nothing is run.

    python bench/large_models.py        # writes bench/results/large_models.md

YOLOv5 and YOLOv8 at their published widths and depths, put together from the layouts in `models/zoo`, traced at 64 px
and judged at the sizes of the table. "raw" are the maps before decoding.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import torch

from onnxslim_yolo.analysis.effort import effort_of
from onnxslim_yolo.analysis.limits import limits_for
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.models.container import Assembler
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.zoo import layouts
from onnxslim_yolo.passes import Canonicalise

RESULT = Path(__file__).resolve().parent / "results" / "large_models.md"


class Scale(NamedTuple):
    """A published size: the layout, factors on the nano widths and on the repeats, and the widest layer."""

    layout: str
    width: float
    depth: float
    widest: int


SCALES = {
    "YOLOv5n": Scale("yolov5n", 1, 0.33, 1024),
    "YOLOv5s": Scale("yolov5n", 2, 0.33, 1024),
    "YOLOv5x": Scale("yolov5n", 5, 1.33, 1024),
    "YOLOv8n": Scale("yolov8n", 1, 0.33, 1024),
    "YOLOv8s": Scale("yolov8n", 2, 0.33, 1024),
    "YOLOv8m": Scale("yolov8n", 3, 0.67, 768),
    "YOLOv8x": Scale("yolov8n", 5, 1.0, 512),
}
SIDES = ((640, 640), (1280, 1280), (2176, 3840))


def exported(name: str, head: str) -> tuple[onnx.ModelProto, int]:
    """The detector with height and width open, BatchNorms kept, and its number of parameters."""
    scale = SCALES[name]

    def assembler(_width: Any, depth: float = 1.0, c: int = 3) -> Assembler:
        return Assembler(layouts.widths(0.25 * scale.width, scale.widest), scale.depth, c)

    kept, layouts.Assembler = layouts.Assembler, assembler  # type: ignore[misc, assignment]
    try:
        module = getattr(layouts, scale.layout)(80, 1.0).eval()
    finally:
        layouts.Assembler = kept  # type: ignore[misc]
    for part in module.modules():
        if isinstance(part, Head):
            part.output = head
        if isinstance(getattr(part, "dynamic", None), bool):
            part.dynamic = True
        if callable(settle := getattr(part, "settle", None)):
            settle()
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            module, (torch.zeros(1, 3, 64, 64),), file, opset_version=17, dynamo=False, do_constant_folding=False,
            dynamic_axes={"images": {2: "height", 3: "width"}}, input_names=["images"],
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue()), sum(p.numel() for p in module.parameters())


def row(name: str, head: str, proto: onnx.ModelProto, parameters: int, side: tuple[int, int]) -> str:
    """A line of the table."""
    model = Model.from_onnx(proto)
    Canonicalise(*side).run(model)
    effort, limits = effort_of(model.graph), limits_for(model, None, None)
    over = [f"--limit-{what}" for what in ("memory", "work") if getattr(effort, what) > getattr(limits, what)]
    memory = f"{effort.memory / 1e6:.0f} | {limits.memory / 1e6:.0f}"
    work = f"{effort.work / 1e9:.0f} | {limits.work / 1e9:.0f}"
    millions = f"{parameters / 1e6:.1f}"
    return f"| {name} | {head} | {side[0]}×{side[1]} | {millions} | {memory} | {work} | {' '.join(over) or 'nothing'} |"


def main() -> None:
    """Every scale, both heads, all sizes."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    rows = []
    for name in SCALES:
        for head in ("decoded", "raw"):
            proto, parameters = exported(name, head)
            for side in SIDES:
                rows.append(row(name, head, proto, parameters, side))
                print(rows[-1], flush=True)
    text = "# Large detectors and the default limits\n\n"
    text += "Made by `python bench/large_models.py`: estimates, nothing is run.\n\n"
    text += "| network | head | input | parameters, M | memory, MB | allowed | work, G | allowed | needs |\n"
    text += "|---|---|---|--:|--:|--:|--:|--:|---|\n" + "\n".join(rows) + "\n"
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
