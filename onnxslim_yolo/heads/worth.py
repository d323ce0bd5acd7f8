"""What a detector's scores are worth, in detections: the one unit that importance is measured in.

Whoever uses a detector has a threshold, and which is not known. It parts objects from the rest, so it lies where
objects lie; and of what a detector finds with a score s, a share s are objects. So its density is 2s, and a score s is
seen with probability

    v(s) = s²

Every (cell, class) is a candidate, its score that of the class, times the objectness where there is one. Noise of a
typical size σ on one of a head's logits changes what is seen by E|v(s′) − v(s)| detections: an object missed where s
was high, a false alarm where it was low, a wrong class where s is that of another class of the same cell. All are
counted alike. Divided by σ² this is what a squared error of that logit costs (a secant: the slope of v vanishes in
background and where it is sure, and noise does harm all the same).

Cells whose boxes of a class overlap are one detection after non-maximum suppression, so they share its worth: each has
the probability of being the best of them, softmax(logit s / σ).

A handful of images shows few of the classes. So an object stands for some of other classes, too: what the logit is
worth that it hangs on most, all classes together are worth `CLASSES` times, besides.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.heads.arithmetic import sigmoid
from onnxslim_yolo.ir.graph import Array

NOISE = 2.0
"""σ, in logits. Of 1, 1.5 and 2 the one with which YOLOv5n keeps most at 0.7 of its MACs (bench/kinds_of_heads.py)."""

SHIFT = 0.1
"""The same for a box's edge, as a share of its side: so much on all four costs about as much of a detection."""

CLASSES = 8.0
"""How many objects of other classes one stands for: YOLOv5n keeps more with 8 than with 1."""

FAINTEST = 1e-4
"""Candidates with lower scores count for nothing."""

OVERLAP = 0.45
"""Boxes of a class that overlap by more (IoU) are one detection."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def logits_of(probabilities: Array) -> Array:
    """Logits, finite whatever they are."""
    p = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p) - np.log1p(-p))


def seen(scores: Array) -> Array:
    """v: with which probability scores are seen."""
    return np.asarray(scores**2)


def candidate_scores(scores: Array, *, objectness: bool, root: bool) -> Array:
    """Every candidate's score from a head's logits, (n, [1 +] classes) → (n, classes); what is no number is 0."""
    with np.errstate(over="ignore"):
        p = np.nan_to_num(sigmoid(scores))
    product = p[:, 1:] * p[:, :1] if objectness else p
    return np.sqrt(product) if root and objectness else product


def worth(scores: Array, share: Array, *, objectness: bool, root: bool) -> Array:
    """What a squared error of each logit costs, in detections; of the scores' shape.

    Args:
        scores: (n, [1 +] classes) logits. share: (n,) of each cell in its detection.
    """
    candidates = candidate_scores(scores, objectness=objectness, root=root)
    found = np.zeros(scores.shape)
    rows, columns = np.nonzero(candidates > FAINTEST)
    own = scores[rows, columns + objectness]
    before = seen(candidates[rows, columns])
    classes = np.zeros(len(rows))
    objects = np.zeros(len(rows))
    for node, weight in zip(NOISE * _NODES, _WEIGHTS, strict=True):
        if objectness:
            first = scores[rows, 0]
            classes += weight * np.abs(_seen_of(first, own + node, root) - before)
            objects += weight * np.abs(_seen_of(first + node, own, root) - before)
        else:
            classes += weight * np.abs(seen(sigmoid(own + node)) - before)
    found[rows, columns + objectness] = classes
    if objectness:
        np.add.at(found[:, 0], rows, objects)
    most = found.max(axis=1, initial=0.0, keepdims=True)
    found[:, int(objectness) :] += CLASSES * most / max(candidates.shape[1], 1)
    return found * share[:, None] / NOISE**2


def _seen_of(objectness: Array, classes: Array, root: bool) -> Array:
    product = sigmoid(objectness) * sigmoid(classes)
    return seen(np.sqrt(product) if root else product)


def shares(boxes: Array, classes: Array, logits: Array) -> Array:
    """Of each cell, with which probability it is the best of those that are one detection with it; (n,).

    Args:
        boxes: (n, 4) xyxy. classes: (n,), the best of each cell; logits: (n,) of its score.
    """
    found = np.zeros(len(logits))
    left = np.argsort(-logits, kind="stable")
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    while len(left):
        best = left[0]
        width = np.maximum(np.minimum(x2[left], x2[best]) - np.maximum(x1[left], x1[best]), 0)
        inner = width * np.maximum(np.minimum(y2[left], y2[best]) - np.maximum(y1[left], y1[best]), 0)
        mine = (inner > OVERLAP * (area[left] + area[best] - inner)) & (classes[left] == classes[best])
        mine[0] = True
        group = left[mine]
        chance = np.exp((logits[group] - logits[best]) / NOISE)
        found[group] = chance / chance.sum()
        left = left[~mine]
    return found
