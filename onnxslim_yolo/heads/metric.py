"""How far a detector's outputs are from its source's, in detections: what importance is measured in, without labels.

Two networks differ by what of the source's detections changes, after non-maximum suppression, at a soft threshold (see
`heads.worth`): objects missed, false alarms, wrong classes, and of boxes that shift the overlap that they lose,

    E = Σ_cells share · ( Σ_classes |v(s′) − v(s)|  +  v(s) · min(1, Σ |Δedge| / size) )

whatever kind of head they come from: nothing in it is weighed by hand.

For small errors that is no sum of squares. Around noise of a typical size it is as good as one: E ≈ Δᵀ·S·Δ, with the
diagonal S of what that noise on each logit and each edge changes, divided by its square. S has the Gauss–Newton form
that is needed to carry it back through the network: JᵀSJ = E[g gᵀ] over g = Jᵀ√S·u with random u of unit variance
(Hutchinson 1990). `cotangents` are √S·u carried back to the outputs, for `analysis.adjoint`.

Where the head is not known, it is the squared error of the outputs relative to their spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxslim_yolo.heads.arithmetic import sigmoid
from onnxslim_yolo.heads.decode import candidates
from onnxslim_yolo.heads.layout import layout_of
from onnxslim_yolo.heads.slopes import SLOPES
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.heads.worth import FAINTEST, SHIFT, candidate_scores, logits_of, seen, shares, worth
from onnxslim_yolo.ir.graph import Array

LEAST = 1e-7
"""Probabilities are taken to lie between this and 1 − this."""

NO_THRESHOLD = -1.0
"""A confidence that every cell exceeds: candidates then come in the order of the cells."""

MEAN_NOISE = float(np.sqrt(2 / np.pi))
"""E|ε| of noise of unit variance."""


class HeadMetric:
    """The metric around a source's outputs on one image.

    Args:
        outputs: the source's, in the model's order, with the batch axis.
        head: how to read them; None where that is not known.
    """

    def __init__(self, outputs: Sequence[Array], head: HeadSpec | None) -> None:
        self._outputs = outputs
        self._head, self._layout = head, None if head is None else layout_of(head)
        if head is None or self._layout is None:
            self._outputs = [np.nan_to_num(o) for o in outputs]
            self._spreads = [max(float(o.std()), 1e-6) * np.sqrt(o.size * len(outputs)) for o in self._outputs]
            return
        table = self._layout.to_table(outputs).astype(np.float64)
        best = self._best(table)
        # Few cells count: with theirs alone, dozens of images' metrics fit in memory.
        self._cells, self._alive = len(best), np.flatnonzero(best > FAINTEST)
        self._best_before = best.astype(np.float32)
        self._table = table[self._alive]
        scores = self._scores(self._table)
        self._seen = seen(self._candidates(scores))
        self._share = self._shares(outputs, self._alive, scores)
        of = self._layout
        self._worth = worth(scores, self._share, objectness=of.objectness, root=of.root)
        self._slopes = SLOPES[head.kind](table, head, outputs)[self._alive]
        self._side_worth = MEAN_NOISE / SHIFT * self._share * self._seen.max(axis=1, initial=0.0)
        self._outputs = [np.broadcast_to(np.zeros((), o.dtype), o.shape) for o in outputs]  # their shapes

    def _scores(self, table: Array) -> Array:
        """Logits."""
        layout = self._layout
        scores = table[:, 4 * layout.bins :] if layout else table
        if layout is None or layout.logits:
            return scores
        p = np.clip(scores, LEAST, 1 - LEAST)
        return np.asarray(np.log(p) - np.log1p(-p))

    def _candidates(self, scores: Array) -> Array:
        layout = self._layout
        objectness, root = (False, False) if layout is None else (layout.objectness, layout.root)
        return candidate_scores(scores, objectness=objectness, root=root)

    def _best(self, table: Array) -> Array:
        """Every cell's best score; what is no number is 0."""
        layout = self._layout
        if layout is None:
            return np.zeros(0)
        scores = table[:, 4 * layout.bins :]
        first = int(layout.objectness)
        most = np.concatenate((scores[:, :first], scores[:, first:].max(axis=1, keepdims=True)), axis=1)
        p = np.nan_to_num(sigmoid(most) if layout.logits else most).prod(axis=1)
        return np.asarray(np.sqrt(np.maximum(p, 0)) if layout.root else p)

    def _shares(self, outputs: Sequence[Array], cells: Array, scores: Array) -> Array:
        """Of these cells, in the detections that they belong to; `scores` are theirs."""
        if self._head is None or not len(cells):
            return np.zeros(len(cells))
        boxes = candidates([np.nan_to_num(o) for o in outputs], self._head, 0, NO_THRESHOLD, False).boxes
        found = self._candidates(scores)
        return shares(boxes[cells], found.argmax(axis=1), logits_of(found.max(axis=1)))

    def error(self, outputs: Sequence[Array]) -> float:
        """E of another network's outputs."""
        if self._layout is None:
            pairs = zip(self._outputs, outputs, self._spreads, strict=True)
            return float(sum((((a - np.nan_to_num(b)) / s) ** 2).sum() for a, b, s in pairs))
        whole = self._layout.to_table(outputs)
        table = np.nan_to_num(whole[self._alive].astype(np.float64))
        now = seen(self._candidates(self._scores(table)))
        sides = 4 * self._layout.bins
        moved = (table[:, :sides] - self._table[:, :sides]).reshape(len(table), 4, self._layout.bins)
        shifted = np.minimum(np.abs((moved * self._slopes).sum(axis=2)).sum(axis=1), 1.0)
        changed = np.abs(now - self._seen).sum(axis=1) + self._seen.max(axis=1, initial=0.0) * shifted
        return float((self._share * changed).sum()) + self._alarms(whole, outputs)

    def _alarms(self, table: Array, outputs: Sequence[Array]) -> float:
        """What is seen in cells where the source saw nothing at all."""
        best = self._best(table)
        new = np.setdiff1d(np.flatnonzero(best > FAINTEST), self._alive)
        if not len(new):
            return 0.0
        more = seen(best[new]) - seen(self._best_before[new])
        share = self._shares(outputs, new, self._scores(table[new].astype(np.float64)))
        return float((share * np.maximum(more, 0)).sum())

    def cotangents(self, rng: np.random.Generator) -> list[Array]:
        """√S·u carried back to the outputs, float32 of their shapes; u is drawn anew."""
        if self._layout is None:
            return [
                (rng.standard_normal(o.shape) / s).astype(np.float32)
                for o, s in zip(self._outputs, self._spreads, strict=True)
            ]
        sides = 4 * self._layout.bins
        noise = rng.standard_normal((self._cells, 4 + self._worth.shape[1]))[self._alive]
        scores = noise[:, 4:] * np.sqrt(self._worth)
        if not self._layout.logits:
            p = np.clip(self._table[:, sides:], LEAST, 1 - LEAST)
            scores = scores / (p * (1 - p))
        boxes = noise[:, :4, None] * self._slopes * np.sqrt(self._side_worth)[:, None, None]
        table = np.zeros((self._cells, self._table.shape[1]))
        table[self._alive] = np.concatenate((boxes.reshape(len(noise), sides), scores), axis=1)
        return [o.astype(np.float32) for o in self._layout.to_outputs(table, self._outputs)]
