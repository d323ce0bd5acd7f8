"""How far two detectors agree on images, whatever sizes their inputs have: boxes are compared in the images' pixels.

A detection of the source is *kept* where the other one has a box of its class that overlaps by half (IoU), both with a
confidence of 0.25; each box counts once. What the other one detects besides is a *false alarm*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.runtime.progress import counted
from onnxslim_yolo.verify.alive import CONFIDENCE, kept
from onnxslim_yolo.verify.detector import Detector, Network

ANY_SCORE = 1.0


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


def detections_of(network: Network, images: Sequence[Path], nc: int | None = None) -> list[Detections]:
    """What a network detects in each image, boxes in the image's pixels.

    Raises:
        UnsupportedError: its head is none that can be decoded. InputError: an image cannot be read.
    """
    detector = Detector(network, nc=nc, conf=CONFIDENCE, multi_label=False)
    found = []
    for path in counted("images", images, len(images)):
        feed, placement = load_input(path, detector.size)
        one = detector(feed)[0]
        found.append(replace(one, boxes=placement.undo(one.boxes)))
    return found


def agreement(source: Sequence[Detections], other: Sequence[Detections]) -> Agreement:
    """Compare detections on the same images."""
    same = [kept(a, b, score=ANY_SCORE) for a, b in zip(source, other, strict=True)]
    return Agreement(len(source), sum(map(len, source)), sum(same), sum(map(len, other)) - sum(same))
