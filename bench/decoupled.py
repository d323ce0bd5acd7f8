"""Networks with decoupled heads, made from YOLOv5n's: what importance and `advise` are measured on besides.

    python bench/decoupled.py yolox v8 [--out DIR]

Backbone and neck are those of the COCO checkpoint and stay as they are; a new head (YOLOX's, with an objectness of its
own branch, or YOLOv8's, without one) learns to find what YOLOv5n finds, on the 128 images, varied at random. Its labels
are YOLOv5n's own detections, so mAP cannot be higher; that the images are those which mAP is measured on does not
matter to what *pruning* loses of it. 800 steps of 8 images take a quarter of an hour on one core. Written are ONNX
files, BatchNorm kept; they are derived from AGPL weights and not kept here.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxslim_yolo.heads.finish import postprocess
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.load.checkpoint import read_checkpoint
from onnxslim_yolo.models.demo.train import export, measure
from onnxslim_yolo.models.demo.train_data import Augmentation, batches, cache
from onnxslim_yolo.models.demo.train_loss import detection_loss, read_head, start_rare
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.heads_dfl import Detect
from onnxslim_yolo.models.zoo.detectors import YOLOXHead
from onnxslim_yolo.runtime.dataset import read_dataset

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
SOURCE, DATA = MATERIAL / "weights/yolov5n-coco-v6.pt", MATERIAL / "data/coco-val128/data.yaml"
FOLDER = Path(tempfile.gettempdir()) / "onnxslim-decoupled"
SIZE, STEPS, BATCH, RATE, SURE = (320, 320), 800, 8, 2e-3, 0.2
WIDTHS, CLASSES = (64, 128, 256), 80


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("yolox", "v8"))
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        print(json.dumps({name: made(name, given.out / f"{name}-like.onnx", given.steps)}), flush=True)


def network(name: str, folder: Path = FOLDER) -> Path:
    """One of them, made if it is not there."""
    file = folder / f"{name}-like.onnx"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made(name, file, STEPS)
    return file


def made(name: str, file: Path, steps: int) -> dict[str, Any]:
    """Train a head and write the network; returns its mAP on the images of val.txt."""
    whole: Any = read_checkpoint(SOURCE).module
    teacher = whole.model[-1]
    teacher.output = "decoded"
    torch.manual_seed(0)
    head: Head = YOLOXHead(WIDTHS, CLASSES, WIDTHS[0]) if name == "yolox" else Detect(WIDTHS, CLASSES, (8, 16, 32))
    head.output = "raw"
    start_rare(head)
    whole.float().eval().requires_grad_(False)
    taught(whole, teacher, head, steps)
    head.eval()
    head.f = teacher.f
    whole.model[-1] = head
    export(whole, _names(), SIZE, file, f"YOLOv5n's backbone and neck, a head like {name}'s")
    return measure(file, read_dataset(DATA))


def taught(whole: Any, teacher: nn.Module, head: Head, steps: int) -> None:
    """Train the head on what the teacher's detects in the same features."""
    features: list[list[Tensor]] = []
    teacher.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    images = cache(read_dataset(DATA, ("calib", "val")), SIZE)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.02)
    random, spec, done, begun = torch.Generator().manual_seed(0), HeadSpec("v5", CLASSES), 0, time.perf_counter()
    head.train()
    while done < steps:
        for pixels, _, _ in batches(images, BATCH, Augmentation(flip_y=0.0), random):
            with torch.no_grad():
                said = whole(pixels)
            boxes, labels = _seen((said[0] if isinstance(said, tuple) else said).numpy(), spec)
            for group in optimizer.param_groups:
                group["lr"] = (
                    RATE * min(1.0, (done + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * done / steps)) / 2)
                )
            optimizer.zero_grad()
            loss, parts = detection_loss(read_head(head, head([x.clone() for x in features.pop()])), boxes, labels, 1.0)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), 10.0)
            optimizer.step()
            done += 1
            if done % 50 == 0:
                print(
                    done, {k: round(v, 3) for k, v in parts.items()}, f"{time.perf_counter() - begun:.0f} s", flush=True
                )


def _seen(table: np.ndarray[Any, Any], spec: HeadSpec) -> tuple[Tensor, Tensor]:
    """(b, m, 4) boxes and (b, m) classes that the teacher detects, padded with −1."""
    found = postprocess([table], spec, conf=SURE)
    most = max(1, max(map(len, found)))
    boxes, labels = torch.zeros(len(found), most, 4), torch.full((len(found), most), -1)
    for row, one in enumerate(found):
        boxes[row, : len(one)], labels[row, : len(one)] = torch.from_numpy(one.boxes), torch.from_numpy(one.classes)
    return boxes, labels


def _names() -> tuple[str, ...]:
    return tuple(read_dataset(DATA).names)


if __name__ == "__main__":
    main()
