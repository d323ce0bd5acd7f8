"""The metric that importance is measured in: the same for a head decoded or raw, and its cotangents square to it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim_yolo.heads import worth
from onnxslim_yolo.heads.layout import layout_of
from onnxslim_yolo.heads.metric import HeadMetric
from onnxslim_yolo.heads.spec import HeadSpec, identify_head
from onnxslim_yolo.heads.worth import NOISE, SHIFT
from onnxslim_yolo.ir.graph import Array, input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.head import Head
from onnxslim_yolo.pruning.head_error import run_images
from tests.zoo import model_path

HEADS = ("yolov5n", "yolov8n")


def image_of(model: Model) -> Array:
    return np.random.default_rng(0).random(model.graph.inputs[0].shape, np.float32)


def spoilt(model: Model, factor: float) -> Model:
    """The first convolution's weight times a factor."""
    other = model.copy()
    node = next(n for n in other.graph.nodes if n.op == "Conv")
    weight = input_constant(node, 1)
    assert weight is not None
    replace_constant(node, 1, np.asarray(weight * np.float32(factor)))
    return other


def outputs_of(model: Model) -> tuple[list[Array], HeadSpec]:
    outputs = run_images(model, [image_of(model)])[0]
    size = model.graph.inputs[0].shape[2:]
    return outputs, identify_head([o.shape for o in outputs], (size[0], size[1]), model.metadata)


@pytest.mark.parametrize("name", HEADS)
def test_decoded_and_raw_heads_agree(name: str) -> None:
    decoded = Model.from_onnx(onnx.load(model_path(name)))
    raw = decoded.copy()
    assert Head().run(raw) == 1
    found = []
    for model in (decoded, raw):
        outputs, head = outputs_of(model)
        metric = HeadMetric(outputs, head)
        assert metric.error(outputs) == 0
        found.append([metric.error(outputs_of(spoilt(model, factor))[0]) for factor in (1.001, 1.002)])
        squares = [squared(metric, outputs, outputs_of(spoilt(model, 1.001))[0])]
        found[-1] += squares
    np.testing.assert_allclose(found[0], found[1], rtol=0.1)
    assert found[0][1] == pytest.approx(2 * found[0][0], rel=0.1)  # of what is seen: twice the damage costs twice


def squared(metric: HeadMetric, outputs: list[Array], moved: list[Array]) -> float:
    """What the cotangents say that the way from one to the other costs: the mean of (g·Δ)²."""
    rng, pairs = np.random.default_rng(0), list(zip(outputs, moved, strict=True))
    draws = [
        sum(
            float((c * (b.astype(np.float64) - a)).sum())
            for c, (a, b) in zip(metric.cotangents(rng), pairs, strict=True)
        )
        for _ in range(150)
    ]
    return float(np.mean(np.square(draws)))


V5 = HeadSpec("v5-raw", 3, strides=(8,), anchors=(((30.0, 30.0),),))
V8 = HeadSpec("v8-raw", 3, strides=(8,), reg_max=1)
NOISY = {"objectness": (V5, 8, slice(4, 5)), "edges": (V8, 7, slice(0, 4)), "classes": (V8, 7, slice(4, 7))}


@pytest.mark.parametrize("name", NOISY)
def test_noise_of_typical_size_costs_what_the_cotangents_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missed objects, false alarms and shifted boxes in one unit, and its square form is true to it."""
    monkeypatch.setattr(worth, "CLASSES", 0.0)  # what objects stand for besides is not seen on the image
    head, channels, where = NOISY[name]
    rng = np.random.default_rng(0)
    maps = rng.normal(-4, 1.5, (1, channels, 8, 8)).astype(np.float32)
    maps[:, :4] = rng.uniform(2.5, 3.5, (1, 4, 8, 8)) if head is V8 else 0.0
    metric, found, size = HeadMetric([maps], head), [], NOISE
    if name == "edges":
        size = SHIFT * 6  # in cells, of boxes that are six cells wide
    for _ in range(40):
        moved = maps.copy()
        moved[:, where] += size * rng.standard_normal(moved[:, where].shape).astype(np.float32)
        found.append((metric.error([moved]), squared(metric, [maps], [moved])))
    error, square = np.mean(found, axis=0)
    assert 0.85 * error < square < 1.2 * error
    faint = HeadMetric([maps - np.float32(2) * (np.arange(channels) >= 4)[:, None, None]], head)
    assert squared(faint, [maps], [moved]) < 0.7 * error  # the control: what is seen less is worth less


def test_a_false_alarm_costs_as_much_as_a_miss() -> None:
    """One detection appears, one vanishes, one becomes of another class: one each, two for the last."""
    empty, one = np.full((1, 7, 8, 8), -12, np.float32), np.full((1, 7, 8, 8), -12, np.float32)
    for maps in (empty, one):
        maps[:, :4] = 1.0
    one[0, 4, 3, 3] = 12
    other = one.copy()
    other[0, 4:6, 3, 3] = -12, 12
    assert HeadMetric([one], V8).error([empty]) == pytest.approx(1, abs=0.01)
    assert HeadMetric([empty], V8).error([one]) == pytest.approx(1, abs=0.01)
    assert HeadMetric([one], V8).error([other]) == pytest.approx(2, abs=0.01)
    far = one.copy()
    far[0, :4, 3, 3] = 3.0
    assert HeadMetric([one], V8).error([far]) == pytest.approx(1, abs=0.01)  # a box elsewhere finds nothing


def test_cells_of_one_object_share_it() -> None:
    """Twice as many cells that find it are no second object; of another class they are."""
    maps = np.full((1, 7, 8, 8), -12, np.float32)
    maps[:, :4] = 3.0
    maps[0, 4, 3, 3] = maps[0, 4, 3, 4] = 6
    gone = maps.copy()
    gone[:, 4:] = -12
    assert HeadMetric([maps], V8).error([gone]) == pytest.approx(1, abs=0.02)
    maps[0, 4:6, 3, 4] = -12, 6
    assert HeadMetric([maps], V8).error([gone]) == pytest.approx(2, abs=0.02)


def test_a_table_goes_there_and_back() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.standard_normal((1, 2 * 8, 4, 4)), rng.standard_normal((1, 2 * 8, 2, 2))]
    anchors = (((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0), (62.0, 45.0)))
    layout = layout_of(HeadSpec("v5-raw", 3, strides=(8, 16), anchors=anchors))
    assert layout is not None
    table = layout.to_table(levels)
    assert table.shape == (40, 8)
    np.testing.assert_array_equal(table[16], levels[0][0, 8:, 0, 0])  # the second anchor's first cell
    for back, level in zip(layout.to_outputs(table, levels), levels, strict=True):
        np.testing.assert_array_equal(back, level)


def test_fastestdet_and_networks_without_a_head() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.uniform(0.1, 0.9, (1, 8, 3, 4)).astype(np.float32)]
    moved = [maps[0] + np.float32(1e-3)]
    metric = HeadMetric(maps, None)
    draws = [float((metric.cotangents(rng)[0] * (moved[0] - maps[0])).sum()) for _ in range(400)]
    assert np.mean(np.square(draws)) == pytest.approx(metric.error(moved), rel=0.3)
    assert HeadMetric(maps, HeadSpec("fastestdet", 3, strides=(16,))).error(moved) > 0
    assert layout_of(HeadSpec("end2end", 3)) is None
