"""From a head's numbers to candidate boxes, cheapest test first.

σ(x) > t is the same as x > −log(1/t − 1). So raw heads are filtered by one comparison a logit, and sigmoid, exp and
the DFL's softmax run on the survivors alone. A score that is a product of objectness and class probability exceeds t
only if both factors do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.arithmetic import Candidates, distances, logit, sigmoid
from onnxslim_yolo.heads.decode_points import decode_points
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array

__all__ = ["Candidates", "candidates", "check_shapes", "distances", "logit", "sigmoid"]


def candidates(outputs: Sequence[Array], head: HeadSpec, image: int, conf: float, multi_label: bool) -> Candidates:
    """The boxes of one image whose score exceeds `conf`: the best class of each, or with `multi_label` all.

    Raises:
        InputError: an output's shape does not fit the head.
    """
    check_shapes(outputs, head)
    flat = head.kind == "points"  # of one image its rows may come without a batch
    one = [output if flat and output.ndim == 2 else output[image] for output in outputs[: head.outputs]]
    return Candidates.join(list(_DECODERS[head.kind](one, head, conf, multi_label)))


def check_shapes(outputs: Sequence[Array], head: HeadSpec) -> None:
    """Raise InputError unless there are as many outputs, of such ranks and channels, as the head needs."""
    if len(outputs) < head.outputs:
        raise InputError(f"a {head.kind} head has {head.outputs} outputs; the model gave {len(outputs)}")
    for index, (output, (rank, axis, channels)) in enumerate(zip(outputs, _expected(head), strict=False)):
        if output.ndim != rank or output.shape[axis] != channels:
            raise InputError(
                f"output {index} of a {head.kind} head has to have rank {rank} and {channels} channels; "
                f"found shape {tuple(output.shape)}",
                hint="the head's description does not belong to this model",
            )


def _expected(head: HeadSpec) -> list[tuple[int, int, int]]:
    e, levels = head.extra_channels, head.levels
    if head.kind == "v5":
        return [(3, 2, 5 + head.nc + e)]
    if head.kind == "points":
        return []  # checked where they are split
    if head.kind == "v8":
        return [(3, 2 if head.rows else 1, 4 + head.nc + e)]
    if head.kind == "end2end":
        return [(3, 2, 6 + e)]
    if head.kind == "fastestdet":
        return [(4, 3 if head.rows else 1, 5 + head.nc)]
    if head.kind == "v5-raw":
        return [(4, 1, len(level) * (5 + head.nc + e)) for level in head.anchors]
    box, extra = 4 * head.reg_max, [(4, 1, e)] * levels if head.extra else []
    if head.joint:
        return [(4, 1, box + head.nc)] * levels + extra
    return [(4, 1, box)] * levels + [(4, 1, head.nc)] * levels + extra


def _v5(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    table = outputs[0][outputs[0][:, 4] > conf]
    scores = table[:, 5 : 5 + head.nc] * table[:, 4:5]
    row, label, score = _select(scores, conf, multi_label)
    yield Candidates(_xyxy(table[row, :4]), score, label, table[row, 5 + head.nc :])


def _v8(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    table = outputs[0].T if head.rows else outputs[0]
    alive = np.flatnonzero(table[4 : 4 + head.nc].max(axis=0) > conf)
    rows = table[:, alive].T
    row, label, score = _select(rows[:, 4 : 4 + head.nc], conf, multi_label)
    yield Candidates(_xyxy(rows[row, :4]), score, label, rows[row, 4 + head.nc :])


def _end2end(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    rows = outputs[0][outputs[0][:, 4] > conf]
    yield Candidates(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), rows[:, 6:])


def _fastestdet(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    """Centre (cell + tanh)/cells, size σ, both relative to the image (dog-qiuqiu/FastestDet, BSD-3-Clause)."""
    planes = outputs[0].transpose(2, 0, 1) if head.rows else outputs[0]
    channels, height, width = planes.shape
    table = planes.reshape(channels, -1)
    alive = np.flatnonzero(table[0] > conf)
    rows = table[:, alive].T
    row, label, score = _select(rows[:, 5:] * rows[:, :1], conf, multi_label)
    box, cell = rows[row, 1:5], alive[row]
    grid = np.stack((cell % width, cell // width), axis=1).astype(box.dtype)
    stride = head.strides[0]
    whole = np.array([width, height], box.dtype) * stride
    yield _at((grid + np.tanh(box[:, :2])) * stride, sigmoid(box[:, 2:]) * whole, score, label, np.zeros((len(row), 0)))


def _v5_raw(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    low = logit(conf)
    levels = zip(outputs, head.strides, head.anchors, head.scales, head.size_rules, strict=False)
    for level, stride, anchors, alpha, rule in levels:
        _, height, width = level.shape
        table = level.reshape(len(anchors), 5 + head.nc + head.extra_channels, height * width)
        which, cell = np.nonzero(table[:, 4] > low)
        rows = table[which, :, cell]
        objectness = sigmoid(rows[:, 4])
        row, label, score = _select_logits(rows[:, 5 : 5 + head.nc], conf, multi_label, objectness)
        kept, row = _once(row, len(rows))
        rows, which, cell = rows[kept], which[kept], cell[kept]
        grid = np.stack((cell % width, cell // width), axis=1).astype(rows.dtype)
        linear = head.centres == "linear"
        centre = ((rows[:, :2] if linear else alpha * sigmoid(rows[:, :2]) - (alpha - 1) / 2) + grid) * stride
        size = (2 * sigmoid(rows[:, 2:4])) ** 2 if rule == "square" else np.exp(rows[:, 2:4])
        boxes = _xyxy(np.concatenate((centre, size * np.array(anchors, rows.dtype)[which]), axis=1))
        yield Candidates(boxes[row], score, label, rows[row, 5 + head.nc :])


def _v8_raw(outputs: Sequence[Array], head: HeadSpec, conf: float, multi_label: bool) -> Iterator[Candidates]:
    low, levels, bins = logit(conf), head.levels, 4 * head.reg_max
    for index, stride in enumerate(head.strides):
        level = outputs[index]
        width = level.shape[2]
        boxes = level[:bins].reshape(bins, -1)
        scores = (level[bins:] if head.joint else outputs[levels + index]).reshape(head.nc, -1)
        cells = np.flatnonzero(scores.max(axis=0) > low)
        row, label, score = _select_logits(scores[:, cells].T, conf, multi_label, None)
        kept, row = _once(row, len(cells))
        cells = cells[kept]
        grid = np.stack((cells % width, cells // width), axis=1).astype(level.dtype) + level.dtype.type(0.5)
        sides = distances(boxes[:, cells].T, head.reg_max)
        extra = outputs[-levels + index].reshape(head.extra_channels, -1)[:, cells].T if head.extra else None
        box, further = _place(head, sides, grid, stride, extra)
        yield Candidates(box[row], score, label, further[row])


def _place(head: HeadSpec, sides: Array, grid: Array, stride: float, extra: Array | None) -> tuple[Array, Array]:
    """Boxes (n, 4) and further numbers (n, e), in pixels. A rotated box is given by its unrotated corners."""
    low, high = grid - sides[:, :2], grid + sides[:, 2:]
    if extra is None or head.extra == "mask":
        return np.concatenate((low, high), axis=1) * stride, np.zeros((len(grid), 0)) if extra is None else extra
    if head.extra == "angle":
        angle = (sigmoid(extra) - 0.25) * np.pi
        x, y = ((sides[:, 2:] - sides[:, :2]) / 2).T[:, :, None]
        cos, sin = np.cos(angle), np.sin(angle)
        centre = grid + np.concatenate((x * cos - y * sin, x * sin + y * cos), axis=1)
        half = (sides[:, :2] + sides[:, 2:]) / 2
        return np.concatenate((centre - half, centre + half), axis=1) * stride, angle
    points = extra.reshape(len(grid), -1, 3 if head.extra_channels % 3 == 0 else 2).copy()
    points[:, :, :2] = (points[:, :, :2] * 2 + (grid - 0.5)[:, None]) * stride
    points[:, :, 2:] = sigmoid(points[:, :, 2:])
    return np.concatenate((low, high), axis=1) * stride, points.reshape(len(grid), -1)


def _select(scores: Array, conf: float, multi_label: bool) -> tuple[Array, Array, Array]:
    """Rows, classes and scores above `conf` in (n, nc) scores."""
    if multi_label:
        row, label = np.nonzero(scores > conf)
        return row, label, scores[row, label]
    label = scores.argmax(axis=1) if scores.size else np.zeros(len(scores), np.int64)
    score = scores[np.arange(len(scores)), label]
    row = np.flatnonzero(score > conf)
    return row, label[row], score[row]


def _select_logits(
    logits: Array, conf: float, multi_label: bool, objectness: Array | None
) -> tuple[Array, Array, Array]:
    """As `_select` for σ(logits), times objectness (n,) if given; σ runs only where both factors exceed `conf`."""
    low = logit(conf)
    if multi_label:
        row, label = np.nonzero(logits > low)
    else:
        label = logits.argmax(axis=1) if logits.size else np.zeros(len(logits), np.int64)
        row = np.flatnonzero(logits[np.arange(len(logits)), label] > low)
        label = label[row]
    score = sigmoid(logits[row, label])
    if objectness is None:
        return row, label, score
    score = score * objectness[row]
    alive = score > conf
    return row[alive], label[alive], score[alive]


def _once(row: Array, count: int) -> tuple[Array, Array]:
    """Which of `count` rows occur, and `row` as indices into those: a box is decoded once, however many its classes."""
    used = np.zeros(count, bool)
    used[row] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[row]


def _xyxy(boxes: Array) -> Array:
    half = boxes[:, 2:4] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)


def _at(centre: Array, size: Array, score: Array, label: Array, extra: Array) -> Candidates:
    return Candidates(_xyxy(np.concatenate((centre, size), axis=1)), score, label, extra)


_DECODERS = {
    "v5": _v5,
    "v8": _v8,
    "end2end": _end2end,
    "fastestdet": _fastestdet,
    "points": decode_points,
    "v5-raw": _v5_raw,
    "v8-raw": _v8_raw,
}
