"""Post-processing against decodes written out here, number by number, and against a quadratic NMS."""

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.heads.decode import candidates, distances, logit, sigmoid
from onnxslim_yolo.heads.finish import HEAD_KEY, HeadSpec, class_names, identify_head, nms, postprocess

ANCHORS = (((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)), ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)))
STRIDES = (8.0, 16.0)
CELLS = ((6, 8), (3, 4))
THRESHOLDS = (0.001, 0.05, 0.25, 0.6)


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def random_maps(channels: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(-1, 2, (2, channels, *cells)).astype(np.float32) for cells in CELLS]


def v5_table(maps: list[np.ndarray], alpha: float, exp: bool) -> np.ndarray:
    """(b, N, 5 + nc), in loops."""
    images = []
    for image in range(len(maps[0])):
        rows = []
        for level, stride, anchors in zip(maps, STRIDES, ANCHORS, strict=True):
            numbers = level.shape[1] // 3
            for a, (aw, ah) in enumerate(anchors):
                for y in range(level.shape[2]):
                    for x in range(level.shape[3]):
                        raw = level[image, a * numbers : (a + 1) * numbers, y, x].astype(np.float64)
                        s = sigma(raw)
                        cx, cy = (alpha * s[:2] - (alpha - 1) / 2 + (x, y)) * stride
                        w, h = np.exp(raw[2:4]) * (aw, ah) if exp else (2 * s[2:4]) ** 2 * (aw, ah)
                        rows.append([cx, cy, w, h, *s[4:]])
        images.append(rows)
    return np.array(images)


def v8_table(maps: list[np.ndarray], reg_max: int) -> np.ndarray:
    """(b, 4 + nc, N), in loops."""
    images = []
    for image in range(len(maps[0])):
        columns = []
        for level, stride in zip(maps, STRIDES, strict=True):
            for y in range(level.shape[2]):
                for x in range(level.shape[3]):
                    raw = level[image, :, y, x].astype(np.float64)
                    sides = raw[: 4 * reg_max].reshape(4, reg_max)
                    weights = np.exp(sides)
                    lt_rb = (
                        (weights / weights.sum(1, keepdims=True)) @ np.arange(reg_max) if reg_max > 1 else sides[:, 0]
                    )
                    x1, y1, x2, y2 = x + 0.5 - lt_rb[0], y + 0.5 - lt_rb[1], x + 0.5 + lt_rb[2], y + 0.5 + lt_rb[3]
                    box = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) * stride
                    columns.append([*box, *sigma(raw[4 * reg_max :])])
        images.append(np.array(columns).T)
    return np.array(images)


def same(one, other) -> bool:
    """The same detections up to rounding; sorted, as equal scores may change places."""
    if len(one) != len(other):
        return False
    a, b = (np.lexsort((d.boxes[:, 0].round(2), d.classes, d.scores.round(5))) for d in (one, other))
    return (
        np.array_equal(one.classes[a], other.classes[b])
        and np.allclose(one.scores[a], other.scores[b], atol=2e-6)
        and np.allclose(one.boxes[a], other.boxes[b], rtol=1e-5, atol=1e-3)
        and np.allclose(one.extra[a], other.extra[b], atol=1e-5)
    )


def assert_same(raw, head: HeadSpec, table, table_head: HeadSpec, **options) -> None:
    ours, theirs = postprocess(raw, head, **options), postprocess(table, table_head, **options)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) > 0 and same(one, other)


@pytest.mark.parametrize("conf", THRESHOLDS)
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("alpha", "exp"), [(2.0, False), (1.05, True)])
def test_v5_raw_is_v5_decoded(conf: float, multi_label: bool, alpha: float, exp: bool) -> None:
    maps = random_maps(3 * 9)
    head = HeadSpec("v5-raw", 4, STRIDES, ANCHORS, scale_xy=alpha, sizes="exp" if exp else "square")
    table = [v5_table(maps, alpha, exp)]
    options = {"conf": conf, "iou": 0.5, "multi_label": multi_label}
    assert_same(maps, head, table, HeadSpec("v5", 4), **options)
    # Control: an anchor that is 1 % off is seen.
    off = replace(head, anchors=(tuple((w * 1.01, h) for w, h in ANCHORS[0]), ANCHORS[1]))
    assert not same(postprocess(maps, off, **options)[0], postprocess(table, HeadSpec("v5", 4), **options)[0])


@pytest.mark.parametrize("conf", THRESHOLDS)
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("reg_max", [16, 1])
def test_v8_raw_is_v8_decoded(conf: float, joint: bool, reg_max: int) -> None:
    maps = random_maps(4 * reg_max + 5, seed=1)
    table = [v8_table(maps, reg_max)]
    raw = maps if joint else [m[:, : 4 * reg_max] for m in maps] + [m[:, 4 * reg_max :] for m in maps]
    head = HeadSpec("v8-raw", 5, STRIDES, reg_max=reg_max, joint=joint)
    for multi_label in (False, True):
        assert_same(raw, head, table, HeadSpec("v8", 5), conf=conf, iou=0.7, multi_label=multi_label)
    spoilt = [raw[0] * np.float32(1.01), *raw[1:]]
    assert not same(postprocess(spoilt, head, conf=conf)[0], postprocess(table, HeadSpec("v8", 5), conf=conf)[0])


def test_one_to_one_maps_rank_pairs_without_nms() -> None:
    maps = random_maps(4 + 5, seed=2)
    head = HeadSpec("v8-raw", 5, STRIDES, reg_max=1, end2end=True)
    table = v8_table(maps, 1)
    for image, found in enumerate(postprocess(maps, head, conf=0, max_det=40)):
        scores = table[image, 4:]
        best = np.argsort(-scores.ravel(), kind="stable")[:40]
        np.testing.assert_allclose(found.scores, scores.ravel()[best], atol=1e-6)
        np.testing.assert_array_equal(found.classes, best // scores.shape[1])


def test_end2end_table() -> None:
    rows = np.array([[[0, 0, 9, 9, 0.9, 2], [0, 0, 9, 9, 0.8, 2], [1, 1, 5, 5, 0.1, 0]]], np.float32)
    found = postprocess([rows], HeadSpec("end2end", 3), conf=0.25)[0]
    np.testing.assert_allclose(found.scores, [0.9, 0.8])  # duplicates are the network's business
    assert found.classes.tolist() == [2, 2]


def test_fastestdet() -> None:
    output = np.zeros((1, 5 + 3, 2, 4), np.float32)
    output[0, :, 1, 2] = (0.9, 0.3, -0.2, 0.5, -1.0, 0.1, 0.7, 0.2)
    found = postprocess([output], HeadSpec("fastestdet", 3, (16.0,)), conf=0.25)[0]
    cx, cy = (2 + np.tanh(0.3)) * 16, (1 + np.tanh(-0.2)) * 16
    w, h = sigma(np.array(0.5)) * 64, sigma(np.array(-1.0)) * 32
    np.testing.assert_allclose(found.boxes, [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], rtol=1e-5)
    assert found.classes.tolist() == [1] and found.scores[0] == pytest.approx(0.63)


def test_masks_follow_their_boxes() -> None:
    maps, masks = random_maps(4 * 16 + 2), random_maps(6, seed=5)
    head = HeadSpec("v8-raw", 2, STRIDES, extra="mask", extra_channels=6)
    flat = np.concatenate([m.reshape(2, 6, -1) for m in masks], axis=2)
    table = [np.concatenate((v8_table(maps, 16), flat), axis=1)]
    assert_same([*maps, *masks], head, table, HeadSpec("v8", 2, extra="mask", extra_channels=6), multi_label=True)


def slow_nms(boxes: np.ndarray, classes: np.ndarray, iou: float) -> list[int]:
    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        inside = max(w, 0) * max(h, 0)
        return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)

    keep: list[int] = []
    for i in range(len(boxes)):
        if all(classes[i] != classes[j] or overlap(boxes[i], boxes[j]) <= iou for j in keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize("iou", [0.3, 0.6])
def test_nms_is_greedy_within_classes(iou: float) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (200, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(10, 40, (200, 2))), axis=1)
    classes = rng.integers(0, 3, 200)
    expected = slow_nms(boxes, classes, iou)
    assert nms(boxes, classes, iou, 300).tolist() == expected
    assert nms(boxes, classes, iou, 7).tolist() == expected[:7]
    assert nms(boxes, np.zeros(200), iou, 300).tolist() != expected  # control: the classes matter
    assert nms(boxes[:0], classes[:0], iou, 300).tolist() == []


def test_logit_and_sigmoid() -> None:
    x = np.linspace(-90, 90, 181, dtype=np.float32)
    np.testing.assert_allclose(sigmoid(x), sigma(x), atol=6e-8)
    for t in (0.001, 0.25, 0.5, 0.99):
        assert sigma(np.array(logit(t))) == pytest.approx(t)
    assert logit(0) == -np.inf and logit(1) == np.inf
    huge = np.array([[1e4, -1e4, 0, 0] * 4], np.float32)
    assert np.isfinite(distances(huge, 4)).all()


def test_nothing_found_is_empty_not_an_error() -> None:
    maps = [np.full((1, 3 * 9, *cells), -20, np.float32) for cells in CELLS]
    found = postprocess(maps, HeadSpec("v5-raw", 4, STRIDES, ANCHORS))[0]
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_wrong_shapes_and_options_are_refused() -> None:
    maps = random_maps(27)
    with pytest.raises(InputError, match="has 2 outputs"):
        postprocess(maps[:1], HeadSpec("v5-raw", 4, STRIDES, ANCHORS))
    with pytest.raises(InputError, match="30 channels"):
        postprocess(maps, HeadSpec("v5-raw", 5, STRIDES, ANCHORS))
    with pytest.raises(UsageError, match="conf"):
        postprocess(maps, HeadSpec("v5-raw", 4, STRIDES, ANCHORS), conf=2)


@pytest.mark.parametrize(
    ("shapes", "size", "metadata", "kind", "nc"),
    [
        ([(1, 25200, 85)], (640, 640), {}, "v5", 80),
        ([(1, 6300, 6)], (320, 320), {}, "v5", 1),
        ([(1, 84, 8400)], (640, 640), {}, "v8", 80),
        ([(1, 5, 1029)], (224, 224), {}, "v8", 1),
        ([(1, 300, 6)], (640, 640), {}, "end2end", 0),
        ([(1, 84, 6)], (64, 64), {"names": "['a', 'b']"}, "end2end", 2),
        ([(1, 84, 6)], (64, 64), {"names": "['a']"}, "v5", 1),
        ([(1, 85, 22, 22)], (352, 352), {}, "fastestdet", 80),
        ([(1, 84, 3549)], (416, 416), {"names": "{0: 'a'}"}, "v8", 80),
        (
            [(1, 116, 8400), (1, 32, 160, 160)],
            (640, 640),
            {"names": str(dict.fromkeys(range(80), "x")), "task": "segment"},
            "v8",
            80,
        ),
        ([(1, 66, 4, 4), (1, 66, 2, 2)], (64, 64), {"names": "{0: 'a', 1: 'b'}"}, "v8-raw", 2),
        ([(1, 64, 4, 4), (1, 64, 2, 2), (1, 2, 4, 4), (1, 2, 2, 2)], (64, 64), {"names": "['a', 'b']"}, "v8-raw", 2),
        ([(1, 8400, 9)], (640, 640), {}, "v5", 4),
        ([(1, 300, 4, 4)], (64, 64), {HEAD_KEY: HeadSpec("v5", 7).to_json()}, "v5", 7),
    ],
)
def test_identify(shapes, size, metadata, kind: str, nc: int) -> None:
    head = identify_head(shapes, size, metadata)
    assert (head.kind, head.nc) == (kind, nc)
    if kind == "v8-raw":
        assert head.strides == (16, 32) and head.reg_max == 16


@pytest.mark.parametrize("shapes", [[(1, 1000)], [(1, 255, 4, 4), (1, 255, 2, 2)], [(1, 777, 85)], [(1, 84, 8401)]])
def test_identify_refuses_what_it_does_not_know(shapes) -> None:
    with pytest.raises(UnsupportedError, match="fit no head"):
        identify_head(shapes, (64, 64))


def test_head_description_survives_json_and_damage_is_named() -> None:
    head = HeadSpec("v5-raw", 4, STRIDES, ANCHORS, scale_xy=1.05, sizes="exp", bgr=True)
    assert HeadSpec.from_json(head.to_json()) == head
    for text in ("", "[]", "{}", '{"kind": "v9", "nc": 1}', '{"kind": "v5", "nc": 1, "more": 2}'):
        with pytest.raises(InputError, match=HEAD_KEY):
            HeadSpec.from_json(text)


def test_class_names() -> None:
    assert class_names({"names": "{0: 'a', 1: \"b's\"}"}) == ("a", "b's")
    assert class_names({"names": "__import__('os')"}) == () and class_names({}) == ()
    assert class_names({"names": "{0: 'a', 'b': 1}"}) == () and class_names({"names": "{[]: 1}"}) == ()


def test_candidates_of_one_image_do_not_mix() -> None:
    maps = random_maps(27)
    head = HeadSpec("v5-raw", 4, STRIDES, ANCHORS)
    alone = candidates([m[1:] for m in maps], head, 0, 0.25, False)
    np.testing.assert_array_equal(candidates(maps, head, 1, 0.25, False).boxes, alone.boxes)
    assert alone.boxes.shape != candidates(maps, head, 0, 0.25, False).boxes.shape
