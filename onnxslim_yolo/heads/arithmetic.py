"""What every decode needs: candidate boxes, σ and its inverse, expected distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.ir.graph import Array


@dataclass(frozen=True)
class Candidates:
    """Boxes of one image before NMS: boxes (n, 4) xyxy pixels, scores (n,), classes (n,), extra (n, e)."""

    boxes: Array
    scores: Array
    classes: Array
    extra: Array

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("boxes", "scores", "classes", "extra")))


def logit(threshold: float) -> float:
    """x with σ(x) = threshold; ∓∞ at 0 and 1."""
    if threshold <= 0:
        return -math.inf
    return math.inf if threshold >= 1 else -math.log(1 / threshold - 1)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)) without overflow, in x's precision."""
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def distances(boxes: Array, reg_max: int) -> Array:
    """(n, 4·reg_max) logits → (n, 4) expected left, top, right, bottom in cells (Generalized Focal Loss, §3)."""
    if reg_max == 1:
        return boxes
    bins = boxes.reshape(-1, 4, reg_max)
    weight = np.exp(bins - bins.max(axis=2, keepdims=True))
    expected: Array = (weight @ np.arange(reg_max, dtype=boxes.dtype)) / weight.sum(axis=2)
    return expected
