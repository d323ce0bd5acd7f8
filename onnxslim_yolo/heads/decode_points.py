"""The numbers of `head_points` → candidate boxes. Scores are compared first; boxes are made of what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.arithmetic import Candidates, distances, logit, sigmoid
from onnxslim_yolo.heads.points import Points, cells_of, rows_of
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array


def decode_points(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    """The boxes of one image whose score exceeds `conf`, of a head of kind "points"."""
    points = head.points
    if points is None:
        raise InputError("a head of kind 'points' has no description of them")
    cell, stride = cells_of(points.grids, head.strides, points.per_cell)
    parts = split_rows(rows_of(outputs, points), points, head)
    if any(len(rows) != len(cell) for rows in parts.values()):
        raise InputError(f"{len(parts['box'])} boxes, expected {len(cell)}")
    scores = _scores(parts, points, conf)
    if multi_label:
        row, label = np.nonzero(scores > conf)
    else:
        label = scores.argmax(axis=1)
        row = np.flatnonzero(scores[np.arange(len(scores)), label] > conf)
        label = label[row]
    boxes = _boxes(parts["box"][row], head.reg_max, points, cell[row], stride[row, None])
    extra = parts["extra"][row] if "extra" in parts else np.zeros((len(row), 0), np.float32)
    if extra.size:  # key points, from the cell
        shift = np.tile(cell[row] + points.offset, extra.shape[1] // 2)
        extra = (extra + shift) * stride[row, None]
    yield Candidates(boxes, scores[row, label], label, extra)


def split_rows(rows: Sequence[Array], points: Points, head: HeadSpec) -> dict[str, Array]:
    """Per part its rows, (n, k) each: of a table, columns."""
    if not points.joint:
        return dict(zip(points.parts, rows, strict=True))
    widths = {"box": 4 * head.reg_max, "objectness": 1, "classes": head.nc, "extra": head.extra_channels}
    stops = np.cumsum([0, *(widths[part] for part in points.parts)])
    return {p: rows[0][:, a:b] for p, a, b in zip(points.parts, stops, stops[1:], strict=False)}


def _scores(parts: dict[str, Array], points: Points, conf: float) -> Array:
    scores = parts["classes"]
    if points.logits:
        if "objectness" not in parts and conf > 0:  # σ runs only where it matters
            return np.where(scores > logit(conf), sigmoid(scores), 0.0)
        scores = sigmoid(scores)
    if "objectness" not in parts:
        return scores
    objectness = sigmoid(parts["objectness"]) if points.logits else parts["objectness"]
    product = scores * objectness
    return np.sqrt(np.clip(product, 0, 1)) if points.root else product


def _boxes(box: Array, bins: int, points: Points, cell: Array, stride: Array) -> Array:
    place = cell.astype(box.dtype) + box.dtype.type(points.offset)
    if points.sides == "exp":
        centre, half = place + box[:, :2], np.exp(box[:, 2:4].clip(-60, 60)) / 2
        return np.asarray(np.concatenate((centre - half, centre + half), axis=1) * stride, dtype=box.dtype)
    sides = distances(box, bins)
    return np.asarray(np.concatenate((place - sides[:, :2], place + sides[:, 2:]), axis=1) * stride, dtype=box.dtype)
