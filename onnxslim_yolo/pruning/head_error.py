"""How far a pruned network's outputs are from the source's on images: one number, forward only, no labels.

For a detector whose head can be decoded, per cell with (p, c, b) the source's best probability, its class and its
box, and (p′, c′, b′) the pruned one's:

    Σ  KL(p ‖ p′)  +  3·max(p, p′)·(1 − IoU(b, b′))      over cells with max(p, p′) > 0.01,   divided by   Σ p

nats of lost confidence and lost overlap per object that the source sees. Where the classes differ, the pruned
network gives the source's class at most half of what it found (its own class won), and what it found is a false
alarm.

For any other network, or heads that rank their rows, it is the relative squared error of the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.decode import Candidates, candidates
from onnxslim_yolo.heads.shown import classes_shown
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.calibration_images import evenly
from onnxslim_yolo.runtime.onnx_run import session

FAINTEST = 0.01
"""Cells in which both see less than this count for nothing."""

LARGEST_SIDE = 1e9
"""Pixels: boxes without an end count as ending there."""

LEAST = 1e-4
"""Probabilities are taken to be at least this, so that certainty stays finite."""

BOX_WEIGHT = 3.0
"""Average precision asks for overlap, but of confidences only for their order: a nat weighs less than a lost box."""

NO_THRESHOLD = -float("inf")
"""A confidence that every cell exceeds: candidates then come in the order of the cells."""


@dataclass
class HeadError:
    """The source's outputs on some images, and the error of others against them.

    Attributes:
        inputs: the images, (1, 3, h, w) each.
        head: how to decode, or None.
        outputs: the source's outputs, per image.
        cells: the source's cells, decoded, per image; empty without a head.
    """

    inputs: Sequence[Array]
    head: HeadSpec | None
    outputs: list[list[Array]]
    cells: list[Candidates]

    @classmethod
    def of(cls, model: Model, images: Sequence[Array]) -> HeadError:
        """Run the source. Raises InputError if there is no image."""
        inputs = list(images)
        if not inputs:
            raise InputError("there is no calibration image")
        outputs = run_images(model, inputs)
        head = head_of(model, outputs[0], inputs[0].shape[2:])
        cells = [] if head is None else [_decode(one, head) for one in outputs]
        return cls(inputs, head, outputs, cells)

    @property
    def seen(self) -> list[int]:
        """The images in which the source sees something; all of them without a head."""
        if self.head is None:
            return list(range(len(self.inputs)))
        return [i for i, cells in enumerate(self.cells) if (np.nan_to_num(cells.scores) > FAINTEST).any()]

    def detects(self, confidence: float) -> bool:
        """Whether the source is at least so sure of anything in one of the images; True without a head."""
        return self.head is None or any((np.nan_to_num(cells.scores) >= confidence).any() for cells in self.cells)

    def undecoded(self) -> HeadError:
        """The same without a head: outputs are compared as they are."""
        return HeadError(self.inputs, None, self.outputs, [])

    def subset(self, count: int) -> HeadError:
        """The same on `count` of the images, evenly picked among those in which the source sees something."""
        candidates = self.seen or list(range(len(self.inputs)))
        picked = [candidates[i] for i in evenly(count, len(candidates))]
        return HeadError(
            [self.inputs[i] for i in picked],
            self.head,
            [self.outputs[i] for i in picked],
            [self.cells[i] for i in picked] if self.cells else [],
        )

    def error(self, model: Model) -> float:
        """The error of another network on the same images."""
        return self.error_of(run_images(model, self.inputs))

    def error_of(self, outputs: list[list[Array]]) -> float:
        """The error of outputs, per image, against the source's."""
        if self.head is None:
            pairs = [
                (a, b) for one, two in zip(self.outputs, outputs, strict=True) for a, b in zip(one, two, strict=True)
            ]
            return float(np.mean([relative_error(a, b) for a, b in pairs]))
        lost = total = 0.0
        for source, found in zip(self.cells, outputs, strict=True):
            cost, weight = cell_errors(source, _decode(found, self.head))
            lost, total = lost + cost, total + weight
        return lost / max(total, 1.0)


def head_of(model: Model, outputs: Sequence[Array], size: Sequence[int]) -> HeadSpec | None:
    """How to decode a network's outputs cell by cell, or None where that is not known."""
    try:
        spec = recognise(outputs, (int(size[0]), int(size[1])), model.metadata, classes_shown(model.graph))
    except (UnsupportedError, InputError):
        return None
    return None if spec.kind == "end2end" or spec.end2end else spec


def run_images(model: Model, images: Sequence[Array]) -> list[list[Array]]:
    """The outputs, in the model's order, per image."""
    runner = session(model, optimise=True, threads=1)
    feed = model.graph.inputs[0].name
    dtype = model.graph.inputs[0].dtype or np.float32
    return [
        [np.asarray(o, dtype=np.float32) for o in runner.run(None, {feed: i.astype(dtype, copy=False)})] for i in images
    ]


def relative_error(expected: Array, found: Array) -> float:
    """Σ(Δ²) / Σ((x − mean)²); 1, as of the mean alone, where the rows found (by an NMS, say) are not as many.

    What is no number counts as the mean; where none was expected, whatever is found counts nothing.
    """
    if expected.shape != found.shape:
        return 1.0
    there = np.isfinite(expected)
    if not there.any():
        return 0.0
    wanted, other = (values[there].astype(np.float64) for values in (expected, found))
    mean = wanted.mean()
    spread = float(((wanted - mean) ** 2).sum())
    return float(((wanted - np.where(np.isfinite(other), other, mean)) ** 2).sum()) / max(spread, 1e-12)


def _decode(outputs: Sequence[Array], head: HeadSpec) -> Candidates:
    """Every cell, in order. What is no number is seen as nothing: a logit far below 0, a probability of 0."""
    logits = head.points is not None and head.points.logits
    nothing = -30.0 if logits or head.kind.endswith("-raw") else 0.0
    return candidates([np.nan_to_num(o, nan=nothing) for o in outputs], head, 0, NO_THRESHOLD, False)


def cell_errors(source: Candidates, found: Candidates) -> tuple[float, float]:
    """(what is lost, what there was) over the cells of one image; see the module."""
    if len(source.scores) != len(found.scores):
        raise InputError(f"{len(found.scores)} cells, expected {len(source.scores)}")
    found_scores = np.nan_to_num(found.scores, nan=0.0)
    seen = np.flatnonzero(np.maximum(source.scores, found_scores) > FAINTEST)
    p = source.scores[seen].astype(np.float64).clip(LEAST, 1 - LEAST)
    q = found_scores[seen].astype(np.float64).clip(LEAST, 1 - LEAST)
    same = source.classes[seen] == found.classes[seen]
    mine = np.where(same, q, np.maximum(q / 2, LEAST))
    divergence = p * np.log(p / mine) + (1 - p) * np.log((1 - p) / (1 - mine))
    alarm = np.where(same, 0.0, -np.log(1 - q))
    overlap = iou(source.boxes[seen], np.nan_to_num(found.boxes[seen]))
    lost = divergence + alarm + BOX_WEIGHT * np.maximum(p, q) * (1 - overlap)
    return float(lost.sum()), float(source.scores[source.scores > FAINTEST].sum())


def iou(a: Array, b: Array) -> Array:
    """Intersection over union, row by row, of (n, 4) xyxy boxes; 0 of what is no box."""
    a, b = (np.clip(x.astype(np.float64), -LARGEST_SIDE, LARGEST_SIDE) for x in (a, b))
    size = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inner = size[:, 0] * size[:, 1]
    areas = [np.clip(x[:, 2] - x[:, 0], 0, None) * np.clip(x[:, 3] - x[:, 1], 0, None) for x in (a, b)]
    return np.asarray(np.nan_to_num(inner / np.maximum(areas[0] + areas[1] - inner, 1e-9)))
