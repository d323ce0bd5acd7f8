"""Importance by output: its costs are those of the best linear compensation, and its curvature is the detector's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array, input_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning import second_order as _second_order
from onnxslim_yolo.pruning.calibration import Statistics, collect
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.coherence import Residuals
from onnxslim_yolo.pruning.curvature import curvatures
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.second_order import SecondOrder, _Block, _blocks, _weighted
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.passes.test_calibrated import images, two_branches

__all__ = ["images"]


def least_loss(x: Array, weight: Array, curvature: Array, gone: list[int]) -> float:
    """E[eᵀGe] of the best prediction of W·x from what stays, by least squares on the samples themselves."""
    y = x @ weight.T
    kept = np.delete(x, gone, axis=1)
    e = y - kept @ np.linalg.lstsq(kept, y, rcond=None)[0]
    return float(np.einsum("no,op,np->", e, curvature, e) / len(x))


def test_costs_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    x -= x.mean(axis=0)
    weight, half = rng.standard_normal((4, 6)), rng.standard_normal((4, 4))
    curvature = half @ half.T
    block = _Block(np.arange(6), _weighted(weight, curvature), np.linalg.inv(x.T @ x / len(x)))
    lost, gone = 0.0, []
    for column in (2, 5, 0):  # one after the other: the losses add up to that of all together
        lost += block.costs()[column]
        block.remove(column)
        gone.append(column)
        assert lost == pytest.approx(least_loss(x, weight, curvature, gone), rel=1e-9)
    # Control: another curvature gives another loss.
    assert lost != pytest.approx(least_loss(x, weight, np.eye(4), gone), rel=0.05)


@pytest.mark.parametrize("taps", [1, 4])
def test_very_many_outputs_take_a_small_root(taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    weight, half = rng.standard_normal((40 * taps, 6)), rng.standard_normal((40, 40))
    plain = _weighted(weight, half @ half.T)
    monkeypatch.setattr(_second_order, "WIDE", 16)
    small = _weighted(weight, half @ half.T)
    assert plain.shape == weight.shape and small.shape == (6, 6)
    np.testing.assert_allclose(small.T @ small, plain.T @ plain, rtol=1e-9, atol=1e-9 * np.abs(plain.T @ plain).max())


CHAIN = """
    a = Conv<pads=[1,1,1,1]>(x, a.weight) y = Conv(a, y.weight)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_curvature_of_a_linear_network(times: int, images: Path) -> None:
    """y = W·a: an error δ costs ‖Wδ‖² over the outputs' spread, at every position; given out twice, the same."""
    model = build(
        onnx_text("float[1,3,16,16] x", "float[a,b,c,d] y", "float[5,3,3,3] a.weight, float[4,5,1,1] y.weight", CHAIN)
    )
    model.graph.outputs = list(model.graph.outputs) * times
    head = HeadError.of(model, CalibrationImages(images, model))
    first, last = model.graph.nodes
    found, _ = curvatures(model, [first.name, last.name], head.inputs, None, probes=20)
    weight = input_constant(last, 1)
    assert weight is not None
    matrix = weight[:, :, 0, 0].astype(np.float64)
    scale = float(np.mean([1 / (o[0].std() ** 2 * o[0].size) for o in head.outputs]))
    positions = 16 * 16
    for name, expected in ((first.name, matrix.T @ matrix), (last.name, np.eye(4))):
        expected = expected * scale * positions
        difference = float(np.abs(found[name] - expected).max() / np.abs(expected).max())
        assert difference < 0.05  # 8 images × 20 draws × 256 positions: half a per cent
        assert float(np.abs(2 * found[name] - expected).max() / np.abs(expected).max()) > 0.5


def test_noise_stands_in_for_gradients(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedError("no gradient is known for Anything")

    def ranked(model: Model) -> Array:
        plan = open_plan(model)
        places = [place for place in contractions(plan.channels) if place.taps is not None]
        inputs = CalibrationImages(images, model)
        head = HeadError.of(model, inputs)
        statistics = collect(model, places, inputs, window=False)
        found = SecondOrder.of(model, places, statistics, head)
        return found.importance(plan.channels, plan.channels.prunable, None)

    with_gradients = ranked(two_branches())
    monkeypatch.setattr(_second_order, "curvatures", refuse)
    model = two_branches()
    by_noise = ranked(model)
    assert any("by noise instead of gradients" in note for note in model.notes)
    # Both see that the second branch hardly matters.
    assert [set(np.argsort(values)[:8].tolist()) for values in (with_gradients, by_noise)] == [set(range(8, 16))] * 2


def test_errors_of_an_order_are_the_costs_met_on_the_way() -> None:
    rng = np.random.default_rng(0)
    blocks = []
    for classes in ([0, 1, 2, 3], [3, 2, 5, -1]):
        root = rng.normal(size=(4, 4))
        blocks.append(
            _Block(np.array(classes), rng.normal(size=(6, 4)), np.linalg.inv(root @ root.T + 0.1 * np.eye(4)))
        )
    order, lost, expected = [3, 0, 2], 0.0, []
    work = [block.copy() for block in blocks]
    for cls in order:
        for block in work:
            for column in np.flatnonzero(block.classes == cls):
                lost += block.costs()[column]
                block.remove(int(column))
        expected.append(lost)
    predicted = SecondOrder(tuple(blocks))
    assert predicted.errors(order, [1, 3]) == pytest.approx([expected[0], expected[2]])
    assert predicted.errors(order, [1, 3]) == predicted.errors(order, [1, 3])  # nothing was touched
    alone = sum(predicted.errors([cls], [1])[0] for cls in order)
    assert expected[2] != pytest.approx(alone, rel=1e-3)  # the control: folded one after another, costs change


def test_a_grouped_layer_is_one_block_a_group() -> None:
    """Each group has its own columns of the covariance, and its own rows of the curvature."""
    model = build(onnx_text("float[1,6,8,8] x", "float[1,4,8,8] y", "float[6,6,1,1] v, float[4,3,1,1] w",
                            "a = Conv(x, v) y = Conv<group=2>(a, w)"))  # fmt: skip
    place = next(found for found in contractions(analyse_channels(model.graph)) if found.node.attrs.get("group") == 2)
    rng = np.random.default_rng(0)
    half, g = rng.standard_normal((6, 60)), rng.standard_normal((4, 4))
    covariance, curvature = half @ half.T, g @ g.T
    read = Residuals.of(place, Statistics(np.zeros(6), covariance, 100, 1))
    assert read is not None
    blocks = _blocks(place.classes, read, curvature)
    weight = input_constant(place.node, 1)
    assert weight is not None and len(blocks) == 2
    for k, block in enumerate(blocks):
        columns, rows = slice(3 * k, 3 * k + 3), slice(2 * k, 2 * k + 2)
        assert block.classes.tolist() == place.classes[columns].tolist()
        mine = weight.reshape(4, 3)[rows]
        alone = _Block(place.classes[columns], _weighted(mine, curvature[rows, rows]),
                       np.linalg.inv(covariance[columns, columns]))  # fmt: skip
        assert block.costs() == pytest.approx(alone.costs(), rel=0.05)
