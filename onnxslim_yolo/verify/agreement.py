"""How far two detectors agree on images, whatever sizes their inputs have: boxes are compared in the images' pixels.

A detection of the source is *kept* where the other one has a box of its class that overlaps by half (IoU), both with a
confidence of 0.25; each box counts once. What the other one detects besides is a *false alarm*.

Which of two networks is the better one such counts do not tell: their threshold cuts off what int8 scores a little
lower, and what moves by half a cell, as at another size, is another detection and as good. `average_precision` takes
the reference's detections for labels, whatever the other's scores are; a reference that sees more than the network at
hand, the source at twice its size, orders networks as labels do (bench/advise.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.head_error import iou
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.runtime.progress import counted
from onnxslim_yolo.verify.alive import CONFIDENCE, OVERLAP, kept
from onnxslim_yolo.verify.detector import Detector, Network

ANY_SCORE = 1.0

FAINT = 0.01
"""Detections of this confidence count for an average precision."""

UNSURE = 0.05
"""What a reference detects with this confidence, and less than `CONFIDENCE`, is neither an object nor none."""


@dataclass(frozen=True)
class Agreement:
    """What a detector has of its source's detections.

    Attributes:
        images: compared. objects: what the source detects on them. kept: of those, how many it has, too.
        false_alarms: what else it detects.
    """

    images: int
    objects: int
    kept: int
    false_alarms: int

    @property
    def share(self) -> float:
        """Of the source's detections that are kept."""
        return self.kept / self.objects if self.objects else 1.0

    @property
    def score(self) -> float:
        """Both kinds of error in one number: 2·kept over all detections of both (F1)."""
        both = self.objects + self.kept + self.false_alarms
        return 2 * self.kept / both if both else 1.0

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self) | {"share": round(self.share, 4), "score": round(self.score, 4)}


def detections_of(
    network: Network, images: Sequence[Path], nc: int | None = None, *, conf: float = CONFIDENCE
) -> list[Detections]:
    """What a network detects in each image, boxes in the image's pixels.

    Raises:
        UnsupportedError: its head is none that can be decoded. InputError: an image cannot be read.
    """
    detector = Detector(network, nc=nc, conf=conf, multi_label=False)
    found = []
    for path in counted("images", images, len(images)):
        feed, placement = load_input(path, detector.size)
        one = detector(feed)[0]
        found.append(replace(one, boxes=placement.undo(one.boxes)))
    return found


def confident(found: Sequence[Detections]) -> list[Detections]:
    """Those with a confidence of 0.25."""
    return [_those(one, one.scores >= CONFIDENCE) for one in found]


def _those(found: Detections, wanted: Array) -> Detections:
    return Detections(found.boxes[wanted], found.scores[wanted], found.classes[wanted], found.extra[wanted])


def average_precision(reference: Sequence[Detections], other: Sequence[Detections]) -> float:
    """Of the other's detections, all classes together, with the reference's confident ones for labels, at IoU 0.5.

    Args:
        reference, other: of the same images, with a confidence of `FAINT`.
    """
    scores, hits, objects = [np.zeros(0)], [np.zeros(0, bool)], 0
    for labels, found in zip(reference, other, strict=True):
        objects += int((labels.scores >= CONFIDENCE).sum())
        right, counts = _hits(labels, found)
        scores.append(found.scores[counts])
        hits.append(right[counts])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.cumsum(np.concatenate(hits)[order])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float((np.diff(right, prepend=0) * precision).sum()) / objects if objects else 1.0


def _hits(labels: Detections, found: Detections) -> tuple[Array, Array]:
    """Which of the found are right, and which count at all; the surest first, each label once."""
    right, counts = np.zeros(len(found), bool), np.ones(len(found), bool)
    sure = labels.scores >= CONFIDENCE
    free = sure.copy()
    for index in np.argsort(-found.scores, kind="stable"):
        box = np.broadcast_to(found.boxes[index], labels.boxes.shape)
        overlap = np.where(labels.classes == found.classes[index], iou(box, labels.boxes), 0)
        mine = np.where(free, overlap, 0)
        if mine.max(initial=0) >= OVERLAP:
            free[int(mine.argmax())], right[index] = False, True
        else:
            unsure = ~sure & (labels.scores >= UNSURE)
            counts[index] = np.where(unsure, overlap, 0).max(initial=0) < OVERLAP
    return right, counts


def agreement(source: Sequence[Detections], other: Sequence[Detections]) -> Agreement:
    """Compare detections on the same images."""
    same = [kept(a, b, score=ANY_SCORE) for a, b in zip(source, other, strict=True)]
    return Agreement(len(source), sum(map(len, source)), sum(same), sum(map(len, other)) - sum(same))
