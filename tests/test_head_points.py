"""Heads without a decode: told from outputs, decoded as their authors do, refused where nothing is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.heads.metric import HeadMetric, layout_of
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.graph import Array

SIZE = (128, 192)
BOX = (40.0, 24.0, 104.0, 72.0)
CELL = (4, 3)
"""The box's centre lies in cell (x 4, y 3) of stride 16."""
LABEL = 2
Outputs = list[Array]


def grids(strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(s, SIZE[0] // s, SIZE[1] // s) for s in strides]


def noise(shape: tuple[int, ...], scale: float = 0.3) -> Array:
    return np.random.default_rng(sum(shape)).normal(0, scale, shape).astype(np.float32)


def row_of(strides: tuple[int, ...], per_cell: int = 1) -> int:
    row = 0
    for stride, height, width in grids(strides):
        if stride == 16:
            return row + (CELL[1] * width + CELL[0]) * per_cell
        row += height * width * per_cell
    raise ValueError(strides)


def rows(strides: tuple[int, ...]) -> int:
    return sum(h * w for _, h, w in grids(strides))


def yolox(nc: int = 4, logits: bool = False, strides: tuple[int, ...] = (8, 16, 32)) -> Outputs:
    table = np.concatenate((noise((1, rows(strides), 4)), np.zeros((1, rows(strides), 1 + nc), np.float32)), axis=2)
    x1, y1, x2, y2 = BOX
    centre = ((x1 + x2) / 2 / 16 - CELL[0], (y1 + y2) / 2 / 16 - CELL[1])
    table[0, row_of(strides), :4] = (*centre, np.log((x2 - x1) / 16), np.log((y2 - y1) / 16))
    scores = np.full((rows(strides), 1 + nc), -9.0 if logits else 0.001)
    scores[row_of(strides), [0, 1 + LABEL]] = np.log(0.9 / 0.1) if logits else 0.9
    table[0, :, 4:] = scores
    return [table]


def decoded(outputs: Outputs, strides: tuple[int, ...] = (8, 16, 32)) -> Outputs:
    """What YOLOX's own `decode_outputs` makes of it."""
    table, start = outputs[0].copy(), 0
    for s, height, width in grids(strides):
        y, x = np.mgrid[:height, :width]
        part = table[0, start : start + height * width]
        part[:, 0], part[:, 1] = (part[:, 0] + x.ravel()) * s, (part[:, 1] + y.ravel()) * s
        part[:, 2:4] = np.exp(part[:, 2:4]) * s
        start += height * width
    return [table]


def bins(distance: float, count: int = 8) -> Array:
    """Logits whose expectation is this."""
    low = int(distance)
    share = np.full(count, 1e-6)
    share[low] = 1 - (distance - low)
    share[low + 1] += distance - low
    return np.log(share)


def distances(offset: float, stride: float = 16) -> list[float]:
    x, y = (CELL[0] + offset) * stride, (CELL[1] + offset) * stride
    return [d / stride for d in (x - BOX[0], y - BOX[1], BOX[2] - x, BOX[3] - y)]


def nanodet_plus(nc: int = 4, strides: tuple[int, ...] = (8, 16, 32, 64)) -> Outputs:
    table = np.concatenate((np.full((1, rows(strides), nc), 0.001), noise((1, rows(strides), 32), 2)), axis=2)
    row = table[0, row_of(strides)]
    row[LABEL] = 0.8
    row[nc:] = np.concatenate([bins(d) for d in distances(0)])
    return [table.astype(np.float32)]


def picodet(nc: int = 4, strides: tuple[int, ...] = (8, 16, 32, 64), logits: bool = False) -> Outputs:
    nothing, something = (-7.0, np.log(4.0)) if logits else (0.001, 0.8)
    scores = [np.full((1, h * w, nc), nothing, np.float32) for _, h, w in grids(strides)]
    sides = [noise((1, h * w, 32), 2) for _, h, w in grids(strides)]
    level = strides.index(16)
    cell = CELL[1] * grids(strides)[level][2] + CELL[0]
    scores[level][0, cell, LABEL] = something
    sides[level][0, cell] = np.concatenate([bins(d) for d in distances(0.5)])
    return [*scores, *sides]


def nanodet(nc: int) -> Outputs:
    """PicoDet's parts, level by level: scores, then distributions."""
    found = picodet(nc, (8, 16, 32))
    return [found[k] for k in (0, 3, 1, 4, 2, 5)]


def face(objectness: bool, per_cell: int = 1, batch: bool = True, points: bool = True) -> Outputs:
    strides = (8, 16, 32)
    counts = [h * w * per_cell for _, h, w in grids(strides)]
    scores, certain = ([np.full((1, n, 1), 0.001, np.float32) for n in counts] for _ in range(2))
    boxes = [noise((1, n, 4)) if objectness else np.abs(noise((1, n, 4), 2)) for n in counts]
    marks = [noise((1, n, 10)) for n in counts]
    cell = (CELL[1] * grids(strides)[1][2] + CELL[0]) * per_cell
    scores[1][0, cell] = certain[1][0, cell] = 0.8
    boxes[1][0, cell] = yolox()[0][0, row_of(strides), :4] if objectness else distances(0)
    marks[1][0, cell] = 0.25
    found = [*scores, *(certain if objectness else []), *boxes, *(marks if points else [])]
    return found if batch else [o[0] for o in found]


def maps(outputs: Outputs, strides: tuple[int, ...] = (8, 16, 32), per_cell: int = 1) -> Outputs:
    """The same before it was permuted and flattened: (1, rows a cell · columns, h, w) per level."""
    found = []
    for output in outputs:
        height, width = next((h, w) for _, h, w in grids(strides) if h * w * per_cell == output.shape[1])
        split = output.reshape(height, width, per_cell, -1).transpose(2, 3, 0, 1)
        found.append(np.ascontiguousarray(split.reshape(1, -1, height, width)))
    return found


def yolox_apart() -> Outputs:
    """Classes, boxes, objectness per level, as maps."""
    table, ends = yolox(5)[0], np.cumsum([h * w for _, h, w in grids((8, 16, 32))])
    levels = np.split(table, ends[:-1], axis=1)
    return maps([part for level in levels for part in (level[..., 5:], level[..., :4], level[..., 4:5])])


def yolox_joint(nc: int = 4, strides: tuple[int, ...] = (8, 16, 32)) -> Outputs:
    """One map a level, its parts side by side."""
    ends = np.cumsum([h * w for _, h, w in grids(strides)])
    return maps(np.split(yolox(nc, strides=strides)[0], ends[:-1], axis=1), strides)


FOUR = (8, 16, 32, 64)

CASES: dict[str, tuple[Callable[[], Outputs], int | None, float, int]] = {
    "yolox": (yolox, 4, 0.81, LABEL),
    "yolox, classes not given": (yolox, None, 0.81, LABEL),
    "yolox, logits": (lambda: yolox(logits=True), 4, 0.81, LABEL),
    "yolox, eighty classes": (lambda: yolox(80), 80, 0.81, LABEL),
    "yolox, four levels": (lambda: yolox(strides=(8, 16, 32, 64)), 4, 0.81, LABEL),
    "yolox, strides from 4 to 16": (lambda: yolox(strides=(4, 8, 16)), 4, 0.81, LABEL),
    "yolox, decoded": (lambda: decoded(yolox()), 4, 0.81, LABEL),
    "nanodet-plus": (nanodet_plus, 4, 0.8, LABEL),
    "nanodet-plus, classes not given": (nanodet_plus, None, 0.8, LABEL),
    "nanodet-plus, three levels": (lambda: nanodet_plus(7, (8, 16, 32)), 7, 0.8, LABEL),
    "picodet": (picodet, 4, 0.8, LABEL),
    "picodet, eighty classes, logits": (lambda: picodet(80, logits=True), 80, 0.8, LABEL),
    "picodet, three levels": (lambda: picodet(3, (8, 16, 32)), 3, 0.8, LABEL),
    "scrfd": (lambda: face(False, 2), None, 0.8, 0),
    "scrfd, without a batch": (lambda: face(False, 2, batch=False), 1, 0.8, 0),
    "scrfd, no key points": (lambda: face(False, points=False), 1, 0.8, 0),
    "yolox, maps": (yolox_apart, 5, 0.81, LABEL),
    "yolox, joint maps": (yolox_joint, 4, 0.81, LABEL),
    "yolox, joint maps, coarse first": (lambda: yolox_joint(80)[::-1], 80, 0.81, LABEL),
    "yolox, four joint maps": (lambda: yolox_joint(7, FOUR), 7, 0.81, LABEL),
    "nanodet, maps": (lambda: maps(nanodet(7)), 7, 0.8, LABEL),
    "picodet, maps": (lambda: maps(picodet(), FOUR), 4, 0.8, LABEL),
    "picodet, maps, classes not given": (lambda: maps(picodet(80, logits=True), FOUR), None, 0.8, LABEL),
    "scrfd, maps": (lambda: maps(face(False, 2), per_cell=2), None, 0.8, 0),
    "scrfd, maps, no key points": (lambda: maps(face(False, 2, points=False), per_cell=2), 1, 0.8, 0),
    "yunet, maps": (lambda: maps(face(True)), None, 0.8, 0),
    "yunet": (lambda: face(True), None, 0.8, 0),
    "yunet, interleaved": (lambda: [face(True)[k] for k in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11)], 1, 0.8, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_box_is_found_where_it_is(name: str) -> None:
    make, nc, score, label = CASES[name]
    outputs = make()
    head = recognise(outputs, SIZE, nc=nc)
    assert head.kind == ("v5" if name.endswith(", decoded") else "points")
    for spec in (head, HeadSpec.from_json(head.to_json()), recognise(outputs, SIZE, {HEAD_KEY: head.to_json()})):
        (found,) = postprocess(outputs, spec, conf=0.25)
        assert len(found) == 1
        np.testing.assert_allclose(found.boxes[0], BOX, atol=0.05)
        assert found.scores[0] == pytest.approx(score, abs=1e-3) and found.classes[0] == label
    if head.extra == "pose":
        expected = np.tile((np.array(CELL) + 0.25) * 16, 5)
        np.testing.assert_allclose(found.extra[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_the_metric_sees_what_such_a_head_says(name: str) -> None:
    make, nc, _, _ = CASES[name]
    outputs = make()
    if outputs[0].ndim == 2:
        outputs = [o[None] for o in outputs]
    head = recognise(outputs, SIZE, nc=nc)
    layout = layout_of(head)
    assert layout is not None
    back = layout.to_outputs(layout.to_table(outputs), outputs)
    for one, two in zip(back, outputs, strict=True):
        marks = two.shape[-1] == 10 if two.ndim == 3 else two.shape[1] % 10 == 0
        np.testing.assert_array_equal(two if marks else one, two)
    metric, rng = HeadMetric(outputs, head), np.random.default_rng(0)
    moved = [o + np.float32(1e-4) * (o > 0.5) for o in outputs]
    draws = [sum(float((c * (m - o)).sum()) for c, m, o in zip(metric.cotangents(rng), moved, outputs, strict=True))
             for _ in range(400)]  # fmt: skip
    assert metric.error(outputs) == 0 < metric.error(moved)
    assert np.mean(np.square(draws)) == pytest.approx(metric.error(moved), rel=0.4)


def test_what_is_not_known_is_refused() -> None:
    n, rng = rows((8, 16, 32)), np.random.default_rng(0)
    relative = decoded(yolox())[0].copy()
    relative[:, :, :4] /= np.array([SIZE[1], SIZE[0], SIZE[1], SIZE[0]], np.float32)
    corners = np.concatenate((rng.uniform(0, 128, (1, n, 4)), rng.random((1, n, 5))), axis=2).astype(np.float32)
    logits = np.concatenate((rng.normal(0, 1, (1, 3 * n, 4)), rng.random((1, 3 * n, 5))), axis=2).astype(np.float32)
    for table in (relative, corners, logits):
        with pytest.raises(UnsupportedError, match="neither pixels nor offsets") as caught:
            recognise([table], SIZE, nc=4)
        assert caught.value.exit_status == 2
    boxes_and_classes = [np.zeros((1, h * w, c), np.float32) for _, h, w in grids((8, 16, 32)) for c in (4, 5)]
    with pytest.raises(UnsupportedError):  # anchors or distances: nothing tells
        recognise(boxes_and_classes, SIZE, nc=5)


def test_maps_of_which_nothing_says_what_comes_first_are_refused() -> None:
    """80 + 4·8 channels are NanoDet's classes and bins, or a YOLOv8's bins and classes."""
    joined = [np.zeros((1, 112, h, w), np.float32) for _, h, w in grids((8, 16, 32))]
    with pytest.raises(UnsupportedError, match="nothing says"):
        recognise(joined, SIZE, nc=80)
    assert recognise([o[:, :1].repeat(144, axis=1) for o in joined], SIZE, nc=80).reg_max == 16
    for channels in (85, 255):  # one map a level, its boxes without a decode
        with pytest.raises(UnsupportedError, match="fit no head"):
            recognise([o[:, :1].repeat(channels, axis=1) for o in joined], SIZE, nc=80)


def test_joint_maps_that_are_not_yolox_are_refused() -> None:
    """Distances, not offsets; logits, not probabilities; another number of classes, or none that is known."""
    good = yolox_joint()
    distances = [np.concatenate((np.abs(o[:, :4]), o[:, 4:]), axis=1) for o in good]
    logits = [np.concatenate((o[:, :4], o[:, 4:] * 9 - 5), axis=1) for o in good]
    for outputs, nc in ((distances, 4), (logits, 4), (good, 3), (good, None)):
        with pytest.raises(UnsupportedError):
            recognise(outputs, SIZE, nc=nc)


def test_tables_in_pixels_are_taken_as_they_were() -> None:
    """YOLOv5's three boxes a cell, anchor by anchor or cell by cell, and YOLOv8's columns, either way round."""
    pixels = decoded(yolox())[0]
    by_cell = np.repeat(pixels, 3, axis=1)
    parts = np.split(pixels[0], np.cumsum([h * w for _, h, w in grids((8, 16))]))
    by_anchor, coarse_first = (np.concatenate([np.tile(p, (3, 1)) for p in ps])[None] for ps in (parts, parts[::-1]))
    for table in (by_cell, by_anchor, coarse_first):
        assert recognise([table], SIZE, nc=4).kind == "v5"
    v8 = np.delete(pixels, 4, axis=2)
    assert recognise([v8.transpose(0, 2, 1)], SIZE, nc=4) == HeadSpec("v8", 4)
    turned = recognise([v8], SIZE, nc=4)
    assert turned == HeadSpec("v8", 4, rows=True)
    (found,), (same,) = (
        postprocess([table], head, conf=0.25)
        for table, head in ((v8, turned), (v8.transpose(0, 2, 1), HeadSpec("v8", 4)))
    )
    assert isinstance(found, Detections) and len(found) == 1
    np.testing.assert_array_equal(found.boxes, same.boxes)


def test_fastestdet_with_channels_last() -> None:
    planes = np.random.default_rng(0).uniform(0, 1, (1, 9, 8, 12)).astype(np.float32)
    plain, turned = recognise([planes], SIZE, nc=4), recognise([planes.transpose(0, 2, 3, 1)], SIZE, nc=4)
    assert (plain.rows, turned.rows, turned.strides) == (False, True, (16,))
    one, two = postprocess([planes], plain)[0], postprocess([planes.transpose(0, 2, 3, 1)], turned)[0]
    np.testing.assert_array_equal(one.boxes, two.boxes)


def test_a_map_of_any_numbers_is_no_fastestdet() -> None:
    planes = np.random.default_rng(0).uniform(0, 1, (1, 9, 8, 12)).astype(np.float32)
    assert recognise([planes], SIZE).kind == "fastestdet"
    planes[0, 0, 2, 3] = -0.4
    with pytest.raises(UnsupportedError):
        recognise([planes], SIZE)
