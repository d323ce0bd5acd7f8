"""How far a box's four edges, relative to its size, move with each number that a head gives for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxslim_yolo.heads.decode import distances, sigmoid
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array

EDGES = np.sqrt([2.0, 2.0, 0.5, 0.5])
"""(Δcx, Δw) times this has the length of the two edges' shifts: Δl² + Δr² = 2Δcx² + Δw²/2."""


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


def _of_points(table: Array, head: HeadSpec, outputs: Sequence[Array]) -> Array:
    """In cells: of exponential boxes EDGES over the size, and EDGES; of distances as for maps."""
    if head.points is not None and head.points.sides == "exp":
        size = np.maximum(np.exp(table[:, 2:4].clip(-8, 8)), 0.1)
        return np.asarray(EDGES * np.concatenate((1 / size, np.ones_like(size)), axis=1))[:, :, None]
    return _slopes_of_distances(table[:, : 4 * head.reg_max], head.reg_max, np.full((len(table), 1), 0.1))


SLOPES: dict[str, Callable[[Array, HeadSpec, Sequence[Array]], Array]] = {
    "v5": _decoded,
    "v8": _decoded,
    "v5-raw": _of_anchors,
    "v8-raw": _of_distances,
    "fastestdet": _of_fastestdet,
    "points": _of_points,
}
"""Per kind: how far a box's four numbers, relative to its size, move with each number of the table; (n, 4, bins)."""
