"""A detector's outputs as numbers whose squared differences count: what importance is measured against, without labels.

Per cell with the source's confidence p (objectness, or the best class's probability where there is none), the
coordinates z are logits and the box relative to its own size, and two networks differ by

    E = Σ_cells p · ( Δobjectness²  +  10 · mean over classes of Δclass²  +  60 · Σ (Δedge / size)² )  where p > 0.001

All classes count, not only those seen: what a handful of images does not show has to survive as well. Being a sum of
squares, E has the Gauss–Newton form Δᵀ·JᵀSJ·Δ, and JᵀSJ = E[g gᵀ] over g = Jᵀ√S·u with random u of unit variance
(Hutchinson 1990): `cotangents` are √S·u carried back to the outputs, for `analysis.adjoint`.

Where the head is not known, it is the squared error of the outputs relative to their spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.heads.decode import distances, sigmoid
from onnxslim_yolo.heads.decode_points import split_rows
from onnxslim_yolo.heads.points import as_rows, back_in_place
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array

FAINTEST = 1e-3
"""Cells in which the source sees less than this count for nothing."""

CLASS_WEIGHT = 10.0

BOX_WEIGHT = 60.0
"""A box off by a tenth of its size at each edge weighs as a confidence off by 1.5 logits."""

EDGES = np.sqrt([2.0, 2.0, 0.5, 0.5])
"""(Δcx, Δw) times this has the length of the two edges' shifts: Δl² + Δr² = 2Δcx² + Δw²/2."""

LARGEST_LOGIT, LARGEST_SHIFT = 8.0, 3.0
"""Differences beyond these count as much as these: what is lost is lost."""

LEAST = 1e-7
"""Probabilities are taken to lie between this and 1 − this."""


@dataclass(frozen=True)
class Layout:
    """A head's outputs as one table, a row per cell: 4·bins box numbers, an objectness or none, the classes.

    Attributes:
        bins: numbers per side of a box.
        objectness: whether there is one.
        logits: whether scores are logits; else probabilities.
        to_table: outputs of one image → (n, 4·bins + objectness + classes).
        to_outputs: the inverse, on zeros for whatever the table leaves out.
    """

    bins: int
    objectness: bool
    logits: bool
    to_table: Callable[[Sequence[Array]], Array]
    to_outputs: Callable[[Array, Sequence[Array]], list[Array]]

    def scores(self, table: Array) -> Array:
        """A table's objectness and classes, as logits."""
        return self.as_logits(table[:, 4 * self.bins :])

    def as_logits(self, scores: Array) -> Array:
        """Scores as logits, whatever they are."""
        if self.logits:
            return scores
        p = np.clip(scores, LEAST, 1 - LEAST)
        return np.asarray(np.log(p) - np.log1p(-p))


class HeadMetric:
    """The metric around a source's outputs on one image.

    Args:
        outputs: the source's, in the model's order, with the batch axis.
        head: how to read them; None where that is not known.
    """

    def __init__(self, outputs: Sequence[Array], head: HeadSpec | None) -> None:
        self._outputs = outputs
        self._layout = None if head is None else layout_of(head)
        if head is None or self._layout is None:
            self._outputs = [np.nan_to_num(o) for o in outputs]
            self._spreads = [
                max(float(o.std()) if o.size else 0.0, 1e-6) * np.sqrt(max(o.size, 1) * len(outputs))
                for o in self._outputs
            ]
            return
        table = self._layout.to_table(outputs).astype(np.float64)
        raw = table[:, 4 * self._layout.bins :]
        p = sigmoid(self._layout.as_logits(raw[:, 0] if self._layout.objectness else raw.max(axis=1)))
        # Few cells count: with theirs alone, dozens of images' metrics fit in memory.
        self._cells, self._alive = len(p), np.flatnonzero(p > FAINTEST)
        self._root = np.sqrt(p[self._alive])[:, None]
        self._table = table[self._alive]
        self._share = _shares(self._layout.scores(self._table), self._layout.objectness)
        self._slopes = _SLOPES[head.kind](table, head, outputs)[self._alive] * np.sqrt(BOX_WEIGHT)
        self._outputs = [np.broadcast_to(np.zeros((), o.dtype), o.shape) for o in outputs]  # their shapes

    def error(self, outputs: Sequence[Array]) -> float:
        """E of another network's outputs."""
        if self._layout is None:
            pairs = zip(self._outputs, outputs, self._spreads, strict=True)
            return float(sum((((a - _found(a, b)) / s) ** 2).sum() for a, b, s in pairs))
        table = np.nan_to_num(self._layout.to_table(outputs)[self._alive].astype(np.float64))
        sides = 4 * self._layout.bins
        logits = np.clip(self._layout.scores(table) - self._layout.scores(self._table), -LARGEST_LOGIT, LARGEST_LOGIT)
        moved = (table[:, :sides] - self._table[:, :sides]).reshape(len(table), 4, self._layout.bins)
        limit = LARGEST_SHIFT * np.sqrt(BOX_WEIGHT)
        boxes = np.clip((moved * self._slopes).sum(axis=2), -limit, limit)
        return float(((self._root * logits) ** 2 * self._share).sum() + ((self._root * boxes) ** 2).sum())

    def cotangents(self, rng: np.random.Generator) -> list[Array]:
        """√S·u carried back to the outputs, float32 of their shapes; u is drawn anew."""
        if self._layout is None:
            return [
                np.asarray(rng.standard_normal(o.shape) / s, np.float32)  # one of a single number, too
                for o, s in zip(self._outputs, self._spreads, strict=True)
            ]
        sides = 4 * self._layout.bins
        noise = rng.standard_normal((len(self._alive), 4 + self._share.shape[1])) * self._root
        scores = noise[:, 4:] * np.sqrt(self._share)
        if not self._layout.logits:
            p = np.clip(self._table[:, sides:], LEAST, 1 - LEAST)
            scores = scores / (p * (1 - p))
        boxes = (noise[:, :4, None] * self._slopes).reshape(len(noise), sides)
        table = np.zeros((self._cells, self._table.shape[1]))
        table[self._alive] = np.concatenate((boxes, scores), axis=1)
        return [o.astype(np.float32) for o in self._layout.to_outputs(table, self._outputs)]


def _shares(scores: Array, objectness: bool) -> Array:
    """What each score's squared difference counts: the confidence 1, all classes together `CLASS_WEIGHT`."""
    classes = scores.shape[1] - objectness
    share = np.full(scores.shape, CLASS_WEIGHT / max(classes, 1))
    if objectness:
        share[:, 0] = 1.0
    else:
        share[np.arange(len(share)), scores.argmax(axis=1)] += 1.0
    return share


def layout_of(head: HeadSpec) -> Layout | None:
    """How to read a head as a table; None for heads that rank their rows."""
    if head.kind == "end2end" or head.end2end or (head.kind == "fastestdet" and head.rows):
        return None
    if head.kind == "points":
        return _points_layout(head)
    if head.kind in ("v5", "v8"):
        width = 4 + (head.kind == "v5") + head.nc
        turned = head.kind == "v8" and not head.rows
        return Layout(
            1, head.kind == "v5", False,
            lambda outputs: (outputs[0][0].T if turned else outputs[0][0])[:, :width],
            lambda table, outputs: _back([(table, 0, slice(0, width), turned)], outputs),
        )  # fmt: skip
    return _maps_layout(head)


def _back(parts: Sequence[tuple[Array, int, slice, bool]], outputs: Sequence[Array]) -> list[Array]:
    """Zeros of the outputs' shapes with tables put into their columns (of the transposed table where `turned`)."""
    found = [np.zeros(o.shape) for o in outputs]
    for table, index, columns, turned in parts:
        view = found[index][0].T if turned else found[index][0]
        view[:, columns] = table
    return found


def _maps_layout(head: HeadSpec) -> Layout:
    """Heads that give maps: per level the channels of every cell (and anchor), boxes before scores."""

    def rows(level: Array, anchors: int) -> Array:
        """(1, anchors·k, h, w) → a view (anchors·h·w, k)."""
        return np.moveaxis(level[0].reshape(anchors, -1, level.shape[2] * level.shape[3]), 1, 2)

    def tables(outputs: Sequence[Array]) -> list[list[Array]]:
        """Per level the views (anchors, cells, k) whose columns make up its rows."""
        if head.kind == "fastestdet":
            view = rows(outputs[0], 1)
            return [[view[:, :, 1:5], view[:, :, :1], view[:, :, 5 : 5 + head.nc]]]
        if head.kind == "v5-raw":
            return [
                [rows(level, len(anchors))[:, :, : 5 + head.nc]]
                for level, anchors in zip(outputs, head.anchors, strict=False)
            ]
        if head.joint:
            return [[rows(level, 1)[:, :, : 4 * head.reg_max + head.nc]] for level in outputs[: head.levels]]
        n = head.levels
        return [[rows(box, 1), rows(score, 1)] for box, score in zip(outputs[:n], outputs[n : 2 * n], strict=True)]

    def to_table(outputs: Sequence[Array]) -> Array:
        levels = [np.concatenate(parts, axis=2) for parts in tables(outputs)]
        return np.concatenate([level.reshape(-1, level.shape[2]) for level in levels])

    def to_outputs(table: Array, outputs: Sequence[Array]) -> list[Array]:
        found = [np.zeros(o.shape) for o in outputs]
        start = 0
        for parts in tables(found):
            cells, column = parts[0].shape[0] * parts[0].shape[1], 0
            for part in parts:
                mine = table[start : start + cells, column : column + part.shape[2]]
                part[...] = mine.reshape(part.shape)
                column += part.shape[2]
            start += cells
        return found

    bins = head.reg_max if head.kind == "v8-raw" else 1
    return Layout(bins, head.kind != "v8-raw", head.kind != "fastestdet", to_table, to_outputs)


def _decoded(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    """Boxes cx cy w h in pixels: relative to w and h."""
    size = np.maximum(np.abs(table[:, 2:4]), 1.0)
    return np.asarray(EDGES / np.concatenate((size, size), axis=1))[:, :, None]


def _of_anchors(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    """Slopes of YOLOv5's and YOLOv3's box formulas (see `HeadSpec`) in their logits, relative to the box's size."""
    cells = [o.shape[2] * o.shape[3] for o in outputs[: head.levels]]
    anchors = np.concatenate([np.repeat(a, n, axis=0) for a, n in zip(head.anchors, cells, strict=True)])
    rows = [len(a) * n for a, n in zip(head.anchors, cells, strict=True)]
    strides, scales = (np.repeat(values, rows)[:, None] for values in (head.strides, head.scales))
    s = sigmoid(table[:, :4])
    square = np.repeat([rule == "square" for rule in head.size_rules], rows)[:, None]
    size = np.where(square, (2 * s[:, 2:]) ** 2, np.exp(table[:, 2:4].clip(-8, 8))) * anchors
    sizes = np.where(square, 2 * (1 - s[:, 2:]), 1)
    centres = np.ones_like(size) if head.centres == "linear" else scales * s[:, :2] * (1 - s[:, :2])
    return np.asarray(EDGES * np.concatenate((centres * strides / np.maximum(size, 1.0), sizes), axis=1))[:, :, None]


def _of_distances(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    """Slopes of expected distances in their bins' logits: p_j·(j − E), relative to the box's size."""
    cells = [o.shape[2] * o.shape[3] for o in outputs[: head.levels]]
    return _slopes_of_distances(
        table[:, : 4 * head.reg_max], head.reg_max, 1.0 / np.repeat(head.strides, cells)[:, None]
    )


def _slopes_of_distances(bins: Array, count: int, least: Array) -> Array:
    """`bins`: (n, 4·count). `least`: sizes count as at least this, (n, 1) cells."""
    sides = distances(bins, count)
    size = np.maximum(np.abs(sides[:, :2] + sides[:, 2:]), least)
    size = np.concatenate((size, size), axis=1)[:, :, None]
    if count == 1:
        return np.asarray(1 / size)
    logits = bins.reshape(len(bins), 4, -1)
    p = np.exp(logits - logits.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return np.asarray(p * (np.arange(count) - sides[:, :, None]) / size)


def _of_fastestdet(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    height, width = outputs[0].shape[2:]
    s = sigmoid(table[:, 2:4])
    size = np.maximum(s * np.array([width, height]), 1 / head.strides[0])
    return np.asarray(EDGES * np.concatenate(((1 - np.tanh(table[:, :2]) ** 2) / size, 1 - s), axis=1))[:, :, None]


def _found(wanted: Array, found: Array) -> Array:
    """An output as numbers; nothing but the mean of what was wanted where its rows (an NMS's, say) are not as many."""
    if found.shape == wanted.shape:
        return np.nan_to_num(found)
    return np.full_like(wanted, wanted.mean() if wanted.size else 0.0)


def _points_layout(head: HeadSpec) -> Layout | None:
    """Heads of a row a cell: box, objectness and classes beside one another, whatever their order."""
    points = head.points
    if points is None:
        return None
    wanted = [part for part in ("box", "objectness", "classes") if part in points.parts]

    def parts_of(outputs: Sequence[Array]) -> dict[str, list[Array]]:
        """Per part its rows, level by level; of one table views."""
        if not points.order:
            return {part: [rows] for part, rows in split_rows([outputs[0][0]], points, head).items()}
        levels = len(points.grids)
        rows = [as_rows(outputs[k], points.per_cell) for k in points.order]
        if points.joint:
            split = [split_rows([level], points, head) for level in rows]
            return {part: [level[part] for level in split] for part in points.parts}
        return {part: rows[k * levels : (k + 1) * levels] for k, part in enumerate(points.parts)}

    def to_table(outputs: Sequence[Array]) -> Array:
        parts = parts_of(outputs)
        return np.concatenate([np.concatenate(parts[part]) for part in wanted], axis=1)

    def to_outputs(table: Array, outputs: Sequence[Array]) -> list[Array]:
        found = [np.zeros(o.shape) for o in outputs]
        parts, column = parts_of(found), 0
        for part in wanted:
            start, width = 0, parts[part][0].shape[1]
            for rows in parts[part]:
                rows[...] = table[start : start + len(rows), column : column + width]
                start += len(rows)
            column += width
        levels = len(points.grids)
        for place, k in enumerate(points.order):
            held = points.parts if points.joint else points.parts[place // levels : place // levels + 1]
            rows = np.concatenate([parts[part][place % levels] for part in held], axis=1)
            found[k] = back_in_place(rows, outputs[k].shape, points.per_cell)
        return found

    return Layout(head.reg_max, "objectness" in wanted, points.logits, to_table, to_outputs)


def _of_points(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    """In cells: of exponential boxes EDGES over the size, and EDGES; of distances as for maps."""
    if head.points is not None and head.points.sides == "exp":
        size = np.maximum(np.exp(table[:, 2:4].clip(-8, 8)), 0.1)
        return np.asarray(EDGES * np.concatenate((1 / size, np.ones_like(size)), axis=1))[:, :, None]
    return _slopes_of_distances(table[:, : 4 * head.reg_max], head.reg_max, np.full((len(table), 1), 0.1))


_SLOPES: dict[str, Callable[[Array, HeadSpec, Sequence[Array]], Array]] = {
    "v5": _decoded,
    "v8": _decoded,
    "v5-raw": _of_anchors,
    "v8-raw": _of_distances,
    "fastestdet": _of_fastestdet,
    "points": _of_points,
}
"""Per kind: how far a box's four numbers, relative to its size, move with each number of the table; (n, 4, bins)."""
