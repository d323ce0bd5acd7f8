"""Heads without anchor boxes that leave the decode to whoever calls them: a row of numbers per cell, no box in pixels.

    parts of a row            what it is                                       a box from cell (x, y) of stride s
    box, objectness, classes  YOLOX (`decode_in_inference=False`)              centre (x + dx, y + dy)·s, size exp(·)·s
                              one table, or a map per level of all three
    classes, box              NanoDet-Plus: a box is 4·bins logits (GFL)       (x, y)·s ∓ expected distances·s
    classes | box             NanoDet, PicoDet, per level                      (x + ½, y + ½)·s ∓ expected distances·s
    score | box | points      SCRFD, per level, two rows a cell                (x, y)·s ∓ distances·s
    score | obj. | box | pts  YuNet, per level; confidence √(score·objectness) as YOLOX

Which it is follows from the outputs' shapes and, for a table, from whether its first columns lie where the cells do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from onnxslim_yolo.ir.graph import Array

Part = Literal["box", "objectness", "classes", "extra"]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (4, 8, 16, 32), (8, 16), (4, 8, 16), (16,), (32,), (8,))
ANCHORS = (1, 2, 3)
"""Rows a cell that maps of such heads have."""

KEY_POINTS = 10
"""Numbers of a face's five key points."""


@dataclass(frozen=True)
class Points:
    """Where the numbers of such a head stand, and what they mean.

    Attributes:
        grids: per level the (h, w) of its cells.
        parts: what a row holds, in order.
        order: which outputs hold it: per part, then per level; one per level where an output holds all parts; () where
            all is one table in output 0.
        per_cell: rows a cell.
        offset: where in its cell a point lies: 0 or ½.
        sides: "distance" from the point to the edges; "exp" for centres and the logarithm of sizes.
        logits: scores are logits; else probabilities.
        root: the confidence is the root of the product of score and objectness; else the product.
    """

    grids: tuple[tuple[int, int], ...]
    parts: tuple[Part, ...]
    order: tuple[int, ...] = ()
    per_cell: int = 1
    offset: float = 0.0
    sides: Literal["distance", "exp"] = "distance"
    logits: bool = False
    root: bool = False

    @property
    def joint(self) -> bool:
        """Whether an output holds all parts, side by side."""
        return len(self.order) < len(self.parts) * len(self.grids)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Points:
        """From what JSON makes of one. Raises TypeError, ValueError or KeyError."""
        grids = tuple((int(h), int(w)) for h, w in data.pop("grids"))
        parts, order = tuple(data.pop("parts")), tuple(int(k) for k in data.pop("order"))
        if not set(parts) <= set(get_args(Part)):
            raise ValueError(f"unknown parts {parts}")
        return cls(grids=grids, parts=parts, order=order, **data)


@dataclass(frozen=True)
class Guess:
    """A layout that fits the shapes: classes, strides, bins a side (1: a plain number), further numbers a box."""

    points: Points
    nc: int
    strides: tuple[float, ...]
    bins: int = 1
    extra: int = 0


def grids_of(size: tuple[int, int], strides: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """Per level the cells of an input of `size` (h, w)."""
    return tuple((-(-size[0] // int(s)), -(-size[1] // int(s))) for s in strides)


def cells_of(grids: Sequence[tuple[int, int]], strides: Sequence[float], per_cell: int = 1) -> tuple[Array, Array]:
    """(x, y) of every row's cell, (n, 2), and its stride, (n,)."""
    places = []
    for height, width in grids:
        y, x = np.divmod(np.arange(height * width), width)
        places.append(np.repeat(np.stack((x, y), axis=1), per_cell, axis=0))
    return np.concatenate(places), np.repeat(strides, [len(p) for p in places])


def rows_of(outputs: Sequence[Array], points: Points) -> list[Array]:
    """One image's outputs → per part its rows over all levels, (n, k) each; where parts are joint, one table alone."""
    if not points.order:
        return [outputs[0]]
    levels = len(points.grids)
    # Of one image a map has three axes, a table two.
    rows = [as_rows(outputs[k][None] if outputs[k].ndim == 3 else outputs[k], points.per_cell) for k in points.order]
    return [np.concatenate(rows[k : k + levels]) for k in range(0, len(rows), levels)]


def as_rows(output: Array, per_cell: int) -> Array:
    """Rows over columns. Of a map (1, a·k, h, w) with a rows a cell those of a cell stand together, as in a table."""
    if output.ndim < 4:
        return output.reshape(-1, output.shape[-1])
    height, width = output.shape[2:]
    split = output.reshape(per_cell, -1, height, width)
    return np.ascontiguousarray(split.transpose(2, 3, 0, 1)).reshape(height * width * per_cell, -1)


def back_in_place(rows: Array, shape: Sequence[int], per_cell: int) -> Array:
    """The inverse of `as_rows`: an output of this shape."""
    if len(shape) < 4:
        return rows.reshape(shape)
    height, width = shape[2:]
    split = rows.reshape(height, width, per_cell, -1)
    return np.asarray(split.transpose(2, 3, 0, 1).reshape(shape))


def guesses(outputs: Sequence[Array], size: tuple[int, int], nc: int | None) -> Iterator[Guess]:
    """Layouts that the outputs' shapes allow, for one image a run."""
    if len(outputs) == 1 and outputs[0].ndim == 3 and outputs[0].shape[1] > outputs[0].shape[2]:
        yield from _tables(outputs[0][0], size, nc)
    elif len(outputs) > 1 and all(o.ndim == 4 and len(o) == 1 for o in outputs):
        yield from _joint(outputs, size, nc)
        for per_cell in ANCHORS:  # the fewest rows a cell that make sense of the columns
            if all(o.shape[1] % per_cell == 0 for o in outputs):
                split = _levels([as_rows(o, per_cell) for o in outputs], size, per_cell)
                yield from (g for g in split if g.nc == (nc or g.nc) and g.bins not in (2, 3))
    elif len(outputs) > 1:
        yield from _levels(outputs, size)


def _tables(table: Array, size: tuple[int, int], nc: int | None) -> Iterator[Guess]:
    rows, columns = table.shape
    for strides in STRIDES:
        grids = grids_of(size, strides)
        if sum(h * w for h, w in grids) != rows:
            continue
        known = columns - 5 if nc is None else nc
        logits = _beyond(table[:, 4:])
        if known == columns - 5 and known > 0 and not (logits and nc is None):  # any numbers could be logits
            points = Points(grids, ("box", "objectness", "classes"), offset=0.0, sides="exp", logits=logits)
            yield Guess(points, known, strides)
        known = _leading_scores(table) if nc is None else nc
        if 0 < known <= columns - 8 and (columns - known) % 4 == 0:
            points = Points(grids, ("classes", "box"), logits=_beyond(table[:, :known]))
            yield Guess(points, known, strides, bins=(columns - known) // 4)


def _joint(outputs: Sequence[Array], size: tuple[int, int], nc: int | None) -> Iterator[Guess]:
    """YOLOX's maps, one per level: offsets and logarithms, which are of both signs, then probabilities.

    Distances are not below zero, and neither are YOLOv5's numbers behind their sigmoid.
    """
    if nc is None or {o.shape[1] for o in outputs} != {5 + nc}:
        return
    boxes = np.concatenate([as_rows(o[:, :4], 1) for o in outputs])
    if any(_beyond(o[:, 4:]) for o in outputs) or not (boxes.min(axis=0) < -1e-4).all():
        return
    order = tuple(sorted(range(len(outputs)), key=lambda k: -outputs[k].shape[2]))
    for strides in STRIDES:
        grids = grids_of(size, strides)
        if grids == tuple(outputs[k].shape[2:] for k in order):
            yield Guess(Points(grids, ("box", "objectness", "classes"), order, sides="exp"), nc, strides)


def _leading_scores(table: Array) -> int:
    """How many columns in front may be probabilities, with bins for four sides left behind them."""
    inside: Array = np.asarray(((table >= 0) & (table <= 1)).all(axis=0))
    count = len(inside) if inside.all() else int(inside.argmin())
    return max((n for n in range(1, count + 1) if (len(inside) - n) % 4 == 0 and len(inside) - n >= 8), default=0)


def _beyond(scores: Array) -> bool:
    """Whether these are no probabilities."""
    return bool(scores.size) and not (scores.min() >= -1e-4 and scores.max() <= 1 + 1e-4)


def _levels(outputs: Sequence[Array], size: tuple[int, int], per_cell: int | None = None) -> Iterator[Guess]:
    """Outputs of their own per level and part: grouped by their number of rows, told apart by their columns.

    `per_cell`: of maps, how many rows a cell they were split into.
    """
    if any(o.ndim not in (2, 3) or (o.ndim == 3 and len(o) != 1) for o in outputs):
        return
    groups: dict[int, list[int]] = {}
    for k, output in enumerate(outputs):
        groups.setdefault(output.shape[-2], []).append(k)
    levels = [groups[rows] for rows in sorted(groups, reverse=True)]
    widths = [[outputs[k].shape[-1] for k in level] for level in levels]
    if len({tuple(w) for w in widths}) != 1:
        return
    found = _parts(widths[0])
    for strides in STRIDES:
        grids = grids_of(size, strides)
        if found is None or len(grids) != len(levels):
            continue
        parts, bins, extra = found
        ratios = {outputs[level[0]].shape[-2] / (h * w) for level, (h, w) in zip(levels, grids, strict=True)}
        if len(ratios) != 1 or not (ratio := ratios.pop()).is_integer() or not 1 <= ratio <= 9:
            continue
        if per_cell not in (None, int(ratio)):
            continue
        order = tuple(level[column] for _, column in parts for level in levels)
        names = tuple(name for name, _ in parts)
        classes = widths[0][dict(parts)["classes"]]
        scores = np.concatenate([outputs[k].reshape(-1) for k in order[: len(levels)]])
        both = "objectness" in names
        points = Points(
            grids, names, order, int(ratio), 0.5 if bins > 1 else 0.0, "exp" if both else "distance",
            logits=_beyond(scores), root=both and classes == 1,
        )  # fmt: skip
        yield Guess(points, classes, strides, bins, extra)


def _parts(widths: Sequence[int]) -> tuple[list[tuple[Part, int]], int, int] | None:
    """Which column count is which part: (part, place in its level), scores first; bins; further numbers a box."""
    left = dict(enumerate(widths))
    extra = [k for k, width in left.items() if width == KEY_POINTS]
    if len(widths) > 2 and len(extra) == 1:
        del left[extra[0]]
    else:
        extra = []
    boxes = [k for k, width in left.items() if width % 4 == 0]
    if len(left) == 2 and len(boxes) == 2:  # eighty classes beside distributions: scores come first
        boxes = boxes[1:]
    if len(left) == 3:
        boxes = [k for k in boxes if left[k] == 4]
    if len(boxes) != 1:
        return None
    scores = [k for k in left if k != boxes[0]]
    parts: list[tuple[Part, int]] = []
    if len(scores) == 1:
        parts.append(("classes", scores[0]))
    elif len(scores) == 2 and min(left[k] for k in scores) == 1:
        first, second = sorted(scores, key=lambda k: -left[k])  # of two single columns the score stands first
        parts += [("classes", first), ("objectness", second)]
    else:
        return None
    if len(scores) == 1 and left[boxes[0]] == 4 and not extra and left[scores[0]] != 1:
        return None  # distances, or offsets from anchors: nothing tells
    parts.append(("box", boxes[0]))
    parts += [("extra", k) for k in extra]
    return parts, left[boxes[0]] // 4, KEY_POINTS if extra else 0
