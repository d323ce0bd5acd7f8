"""A detector's outputs → boxes, with numpy alone.

    head = identify_head([o.shape for o in outputs], (640, 640), metadata)
    detections = postprocess(outputs, head, conf=0.25, iou=0.45)

`identify_head` reads the head's description from the metadata, or tells it from the outputs' shapes (see `HeadSpec`).
Raw heads are filtered in logit space before any sigmoid, exp or DFL runs (see `decode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.heads.decode import Candidates, candidates
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec, class_names, identify_head
from onnxslim_yolo.ir.graph import Array

__all__ = ["HEAD_KEY", "Detections", "HeadSpec", "class_names", "identify_head", "nms", "postprocess"]

MAX_CANDIDATES = 30_000
"""Boxes an image that NMS looks at, best first: what the reference evaluators take."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: (n, 4) float32 xyxy, pixels of the model's input.
        scores: (n,) float32.
        classes: (n,) int64.
        extra: (n, e) float32: mask coefficients, key points or an angle.
    """

    boxes: Array
    scores: Array
    classes: Array
    extra: Array

    def __len__(self) -> int:
        return len(self.scores)


def postprocess(
    outputs: Sequence[Array],
    head: HeadSpec,
    *,
    conf: float = 0.25,
    iou: float = 0.45,
    max_det: int = 300,
    multi_label: bool = False,
    agnostic: bool = False,
) -> list[Detections]:
    """The detections in every image of a batch.

    Args:
        outputs: the model's outputs, batch first, in its order.
        head: what they mean.
        conf: scores have to exceed it.
        iou: of two boxes of a class that overlap more than this, the better one stays.
        max_det: at most so many boxes an image.
        multi_label: every class above `conf` makes a box, not only the best one (how evaluators count: with
            conf 0.001, iou 0.6 or 0.7).
        agnostic: boxes of different classes suppress each other, too.

    Raises:
        UsageError: a threshold outside [0, 1], or `max_det` below 1.
        InputError: an output's shape does not fit the head.
    """
    if not (0 <= conf <= 1 and 0 <= iou <= 1 and max_det >= 1):
        raise UsageError(f"conf {conf} and iou {iou} have to lie in [0, 1], max_det {max_det} has to be at least 1")
    results: list[Detections] = []
    for image in range(len(outputs[0]) if outputs[0].ndim > 2 else 1):  # rows of one image may have no batch
        # One-to-one heads rank (box, class) pairs, so a box may come with two classes.
        found = candidates(outputs, head, image, conf, multi_label or head.end2end)
        results.append(_finish(found, head, iou, max_det, agnostic))
    return results


def _finish(found: Candidates, head: HeadSpec, iou: float, max_det: int, agnostic: bool) -> Detections:
    order = np.argsort(-found.scores, kind="stable")[:MAX_CANDIDATES]
    if head.kind == "end2end" or head.end2end:
        keep = order[:max_det]
    else:
        classes = np.zeros_like(found.classes) if agnostic else found.classes
        keep = order[nms(found.boxes[order], classes[order], iou, max_det)]
    return Detections(
        found.boxes[keep].astype(np.float32, copy=False),
        found.scores[keep].astype(np.float32, copy=False),
        found.classes[keep].astype(np.int64, copy=False),
        found.extra[keep].astype(np.float32, copy=False),
    )


def nms(boxes: Array, classes: Array, iou: float, max_det: int) -> Array:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes: (n, 4) xyxy, best first.
        classes: (n,) integers.
        iou: a box that overlaps a better one of its class by more than this goes.
        max_det: stop after so many.

    Returns:
        Indices of the boxes that stay, best first. One vectorised comparison for each of them.
    """
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    left = np.arange(len(boxes))
    keep: list[int] = []
    while len(left) and len(keep) < max_det:
        best, left = left[0], left[1:]
        keep.append(int(best))
        width = np.minimum(x2[left], x2[best]) - np.maximum(x1[left], x1[best])
        height = np.minimum(y2[left], y2[best]) - np.maximum(y1[left], y1[best])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        union = area[left] + area[best] - overlap
        left = left[(overlap <= iou * union) | (classes[left] != classes[best])]
    return np.array(keep, np.int64)
