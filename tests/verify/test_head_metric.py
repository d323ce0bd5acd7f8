"""The metric that importance is measured in: the same for a head decoded or raw, and its cotangents square to it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim_yolo.heads.metric import HeadMetric, layout_of
from onnxslim_yolo.heads.spec import HeadSpec, identify_head
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
    np.testing.assert_allclose(found[0], found[1], rtol=0.1)
    assert found[0][1] == pytest.approx(4 * found[0][0], rel=0.2)  # a square: twice the damage costs four times


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_cotangents_square_to_the_error(name: str, raw: bool) -> None:
    model = Model.from_onnx(onnx.load(model_path(name)))
    if raw:
        assert Head().run(model) == 1
    outputs, head = outputs_of(model)
    moved = outputs_of(spoilt(model, 1.001))[0]
    metric, rng = HeadMetric(outputs, head), np.random.default_rng(0)
    difference = [b.astype(np.float64) - a for a, b in zip(outputs, moved, strict=True)]
    draws = [
        sum(float((c * d).sum()) for c, d in zip(metric.cotangents(rng), difference, strict=True)) for _ in range(150)
    ]
    estimate = float(np.mean(np.square(draws)))
    assert estimate == pytest.approx(metric.error(moved), rel=0.4)  # χ² with 150 degrees: 12 %, and the curvature
    assert estimate != pytest.approx(2 * metric.error(moved), rel=0.4)


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
    for head in (HeadSpec("fastestdet", 3, strides=(16,)), None):
        metric = HeadMetric(maps, head)
        draws = [float((metric.cotangents(rng)[0] * (moved[0] - maps[0])).sum()) for _ in range(400)]
        assert metric.error(moved) > 0
        assert np.mean(np.square(draws)) == pytest.approx(metric.error(moved), rel=0.3)
    assert layout_of(HeadSpec("end2end", 3)) is None


def test_an_output_may_be_one_number() -> None:
    """What is fed back to it is an array all the same: onnxruntime takes no bare number."""
    (cotangent,) = HeadMetric([np.asarray(3.0, np.float32)], None).cotangents(np.random.default_rng(0))
    assert isinstance(cotangent, np.ndarray) and cotangent.shape == () and cotangent.dtype == np.float32


def test_rows_that_are_not_as_many_count_as_the_mean() -> None:
    """Outputs of a NonMaxSuppression: what they varied is lost, no more and no less."""
    rows, scores = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((1, 5), np.float32)
    metric = HeadMetric([rows, scores], None)
    lost = metric.error([np.full_like(rows, rows.mean()), scores])
    assert (
        metric.error([rows[:2], scores])
        == lost
        > metric.error([rows + 0.1, scores])
        > metric.error([rows, scores])
        == 0
    )
    assert HeadMetric([rows[:0]], None).error([rows]) == 0
