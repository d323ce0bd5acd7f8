"""Per column of an output: by how much inputs move it, and what rounding hides. What differences are divided by.

Scores are compared as logits where the graph shows them: z = log p − log(1 − p). An output's probability is good to
δp = u·p + 2⁻²¹ (u the unit of its type; onnxruntime's Sigmoid is good to 3·2⁻²⁴ absolutely, not relatively), which
moves z by δp / (p·(1 − p)): so much of every element's difference is let off.

A column's *movement* is how far it goes from input to input at one place: the root of the mean over places of the
variance over inputs. The grid of cells in a decoded box is no movement, so it hides nothing. Its *floor* is what
rounding costs: the unit of its type, and what was measured on the reference itself. Differences are divided by the
movement, or by floor / tolerance where that is more. A column whose floor is above

* its movement is *blind*: no input moves it, and its values are only required to agree but for rounding;
* a hundredth of it is *dim*: a change by 1 % may pass there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.verify.columns import Feeds, Meaning

LEAST = 1e-6
"""Probabilities are taken to lie between this and 1 − this."""

SIGMOID = 2.0**-21
"""What onnxruntime's Sigmoid may be off by, whatever it yields."""

ROUNDINGS = 8.0
"""Units in the last place that any column may be off by."""

NOISE = 10.0
"""Results may differ by this many times what rounding is seen to cost: over the zoo it is up to 4.5 times."""

FIRES = 0.25
"""A score above this is a detection by any usual threshold."""

FEW = 16
"""Columns of fewer numbers than this have a movement that chance may have made small."""


@dataclass(frozen=True)
class Ruler:
    """How one output is compared.

    Attributes:
        meaning: of its columns.
        movement, floor: per column, of logits where those count; float64.
        unit: of the output's type: half the distance of 1 to the next number.
        silent: (columns,) bool: scores that no input raises above `FIRES`.
    """

    meaning: Meaning
    movement: Array
    floor: Array
    unit: float
    silent: Array

    def scale(self, tolerance: float) -> Array:
        """What each column's difference is divided by, to be compared with the tolerance."""
        scale = np.maximum(self.movement, self.floor / tolerance)
        return np.where(scale > 0, scale, 1.0)

    @property
    def blind(self) -> Array:
        """(columns,) bool: what no input moves."""
        return np.asarray(self.movement <= self.floor)

    @property
    def dim(self) -> Array:
        """(columns,) bool: what moves, but not so much that a hundredth of that would be seen."""
        return np.asarray(~self.blind & (0.01 * self.movement <= self.floor))

    def delta(self, expected: Array, got: Array) -> Array:
        """(rows, columns) absolute differences, of logits where those count, less what rounding of an element is."""
        return self.rows(self.meaning.table(expected), self.meaning.table(got))

    def rows(self, expected: Array, got: Array) -> Array:
        """`delta` of tables whose columns are last."""
        # Columns first: a mask of rows is picked and worked on in one piece. What is equal takes no logarithms.
        a, b = (np.ascontiguousarray(table.T, np.float64) for table in (expected, got))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        delta = np.zeros(a.shape)
        apart = ~same.all(axis=1)
        with np.errstate(invalid="ignore"):
            delta[apart] = np.abs(a[apart] - b[apart])
            if self.meaning.scores.any():
                scores = self.meaning.scores & apart
                delta[scores] = self._logits_apart(a[scores], b[scores])
        delta[np.isnan(delta)] = np.inf
        delta[same] = 0.0
        return np.asarray(delta.T)

    def _logits_apart(self, expected: Array, got: Array) -> Array:
        """|logit p − logit q| = |log(1 + (p − q) / (q (1 − p)))|, less what rounding of an element is.

        By the mean value theorem that is nothing where p and q are no farther apart than `SIGMOID`: no logarithm then.
        """
        # Beyond [0, 1] nothing is a probability: its logit says nothing.
        outside = np.abs(got - 0.5) > 0.5 + 4 * self.unit
        apart = np.where(outside, np.inf, 0.0)
        far = ~(outside | (np.abs(expected - got) <= SIGMOID))
        p, q = (np.clip(x[far], LEAST, 1 - LEAST) for x in (expected, got))
        between = np.abs(np.log1p((p - q) / (q * (1 - p))))
        apart[far] = np.maximum(between - np.maximum(self._slack(p), self._slack(q)), 0.0)
        return apart

    def _slack(self, p: Array) -> Array:
        return np.asarray((self.unit * p + SIGMOID) / (p * (1 - p)))


def logit(p: Array) -> Array:
    """log p − log(1 − p)."""
    return np.asarray(np.log(p) - np.log1p(-p))


def unit_of(dtype: np.dtype[Any]) -> float:
    """Half the distance of 1 to the next number; 0 of integers."""
    return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" else 0.0


def rulers_of(
    runs: Sequence[Feeds], meaning: dict[str, Meaning], noise: dict[str, Array] | None = None
) -> dict[str, Ruler]:
    """A ruler per output.

    Args:
        runs: the reference's outputs, per input.
        noise: per output and column what rounding is seen to cost (see `noise_between`).
    """
    found: dict[str, Ruler] = {}
    for name, what in meaning.items():
        values = [run[name] for run in runs if name in run]
        unit = max(unit_of(value.dtype) for value in values)
        movement, largest = _movement(values, what)
        highest = np.max([what.table(value).max(axis=0, initial=0.0) for value in values], axis=0)
        found[name] = Ruler(what, movement, ROUNDINGS * unit * largest, unit, what.scores & (highest < FIRES))
    return with_noise(found, noise or {})


def with_noise(rulers: dict[str, Ruler], noise: dict[str, Array]) -> dict[str, Ruler]:
    """The same rulers where rounding is seen to cost a column this much (of `noise_between`)."""
    return {n: replace(r, floor=np.maximum(r.floor, NOISE * noise.get(n, 0.0))) for n, r in rulers.items()}


def noise_between(first: Sequence[Feeds], second: Sequence[Feeds], rulers: dict[str, Ruler]) -> dict[str, Array]:
    """Per output and column the largest difference of two ways to compute the same.

    Columns of one kind share the ninth decile of how that compares with their movement, those that nothing moves the
    ninth decile itself: that one of them was lucky does not make it exact.
    """
    found: dict[str, Array] = {}
    for name, ruler in rulers.items():
        pairs = [(a[name], b[name]) for a, b in zip(first, second, strict=False) if name in a and name in b]
        deltas = [ruler.delta(a, b).max(axis=0, initial=0.0) for a, b in pairs if a.shape == b.shape and a.size]
        if not deltas:
            continue
        worst = np.where(np.isfinite(deltas), deltas, 0.0).max(axis=0)
        moving, one = ruler.movement > 0, np.ones(len(worst))
        shared = np.zeros(len(worst))
        kinds = np.array([ruler.meaning.kind(column) for column in range(len(worst))])
        for kind in np.unique(kinds):
            for mine, yard in (((kinds == kind) & moving, ruler.movement), ((kinds == kind) & ~moving, one)):
                if mine.any():
                    shared[mine] = np.quantile(worst[mine] / yard[mine], 0.9) * yard[mine]
        found[name] = np.maximum(worst, shared)
    return found


def _movement(values: Sequence[Array], meaning: Meaning) -> tuple[Array, Array]:
    """Per column the movement, and the largest magnitude (0 of logits, whose rounding is let off by element)."""
    tables = [meaning.table(value).astype(np.float64) for value in values if value.size]
    if not tables:
        return np.zeros(meaning.count), np.zeros(meaning.count)
    largest = np.max([np.abs(np.where(np.isfinite(t), t, 0.0)).max(axis=0) for t in tables], axis=0)
    scores = meaning.scores
    if scores.any():
        for table in tables:
            table[:, scores] = logit(np.clip(table[:, scores], LEAST, 1 - LEAST))
        largest = np.where(scores, 0.0, largest)
    stack = _stacked(tables)
    with np.errstate(invalid="ignore"):
        stack = np.where(np.isfinite(stack), stack, 0.0)
    if len(stack) > 1:
        movement = np.sqrt(stack.var(axis=0, ddof=1).mean(axis=0))
    elif stack.shape[1] > 1:
        movement = stack[0].std(axis=0)
    else:
        movement = np.abs(stack[0, 0])
    if stack.shape[0] * stack.shape[1] < FEW:
        movement = np.where(movement > 0, np.maximum(movement, np.median(movement) / 2), 0.0)
    return movement, largest


def _stacked(tables: Sequence[Array]) -> Array:
    """(inputs, rows, columns); of one input with all rows where their numbers differ."""
    if len({len(table) for table in tables}) == 1:
        return np.stack(tables)
    return np.concatenate(tables)[None]
