"""A head's outputs as one table, a row per cell, and back: whatever their layout, they are measured alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.heads.decode_points import split_rows
from onnxslim_yolo.heads.points import as_rows, back_in_place
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array


@dataclass(frozen=True)
class Layout:
    """A head's outputs as one table, a row per cell: 4·bins box numbers, an objectness or none, the classes.

    Attributes:
        bins: numbers per side of a box.
        objectness: whether there is one.
        logits: whether scores are logits; else probabilities.
        root: whether a confidence is the root of objectness times class; else the product.
        to_table: outputs of one image → (n, 4·bins + objectness + classes).
        to_outputs: the inverse, on zeros for whatever the table leaves out.
    """

    bins: int
    objectness: bool
    logits: bool
    to_table: Callable[[Sequence[Array]], Array]
    to_outputs: Callable[[Array, Sequence[Array]], list[Array]]
    root: bool = False


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

    return Layout(head.reg_max, "objectness" in wanted, points.logits, to_table, to_outputs, points.root)
