"""Writes checkpoints with a real YOLOv5 or YOLOv5-Lite checkout, and what it computes with them.

Runs in an environment of its own: `python write_yolov5.py CHECKOUT FOLDER models/yolov5n.yaml …`. For each yaml it
writes `NAME.pt` and `NAME.reference.pt` ({'x': image, 'outputs': tensors}) to FOLDER.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from write_ultralytics import calibrate, flatten


def forget_grids(model: torch.nn.Module) -> None:
    """Heads cache grids of the last image's size; a trainer's checkpoint has none."""
    for module in model.modules():
        if hasattr(module, "grid"):
            module.grid = [torch.zeros(1)] * module.nl


def write(source: Path, folder: Path) -> None:
    from models import yolo  # type: ignore[attr-defined]

    kind = "SegmentationModel" if source.stem.endswith("-seg") else "DetectionModel"
    model = getattr(yolo, kind, None) or yolo.Model
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    model = model(str(source), ch=3, nc=5).eval()
    calibrate(model, random, 256)
    model.names = [f"kind{index}" for index in range(5)]
    model = model.half().float()
    forget_grids(model)
    half = copy.deepcopy(model).half()
    torch.save({"epoch": -1, "model": half, "ema": half, "opt": {"imgsz": 256}}, folder / f"{source.stem}.pt")
    x = torch.rand(1, 3, 256, 256, generator=random)
    with torch.no_grad():
        outputs = flatten(model(x))
    torch.save({"x": x, "outputs": outputs}, folder / f"{source.stem}.reference.pt")


if __name__ == "__main__":
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    for alias in (int, float, bool):  # older checkouts use numpy's former names for these
        if alias.__name__ not in vars(np):
            setattr(np, alias.__name__, alias)
    for each in sys.argv[3:]:
        write(checkout / each, Path(sys.argv[2]))
