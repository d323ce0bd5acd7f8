"""Folding for one contraction, by hand: nothing left to fold into, means that are not known, taps, and layouts."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.pruning.calibration import Statistics
from onnxslim_yolo.pruning.fold_removed import fold, matrices, regression, ridge_regression, weight_of
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build
from tests.passes.cutting import onnx_text

RNG = np.random.default_rng(0)


def place(layer: str, weight: str) -> tuple[Contraction, int]:
    """A layer that reads the four channels of `h`, and how many classes there are."""
    text = onnx_text(
        "float[1,3,4,4] x", "float[i,j,k,l] y", f"float[4,3,1,1] a, {weight}", f"h = Conv(x, a) {layer}", 17
    )
    plan = open_plan(build(text))
    return next(p for p in contractions(plan.channels) if p.node.inputs[1].name == "w"), plan.channels.count


def kept(there: Contraction, count: int, gone: list[int]) -> Array:
    keep = np.ones(count, dtype=bool)
    keep[there.classes[gone]] = False
    return keep


def statistics(columns: int, taps: int = 1) -> tuple[Statistics, Array]:
    rows = RNG.standard_normal((400, columns)) @ RNG.standard_normal((columns, columns)) + np.arange(columns)
    return Statistics(rows.mean(axis=0), np.cov(rows.T, bias=True), 400, taps), rows


@pytest.mark.parametrize("taps", [1, 9])
def test_the_rest_is_the_least_squares(taps: int) -> None:
    """Of a 3×3 window's columns, or of channels alone: then every kernel position is a row of its own."""
    there, count = place("y = Conv<pads=[1,1,1,1]>(h, w)", "float[2,4,3,3] w")
    weight = np.asarray(there.node.inputs[1].values, np.float64)
    known, rows = statistics(4 * taps, taps)
    folded = fold(there, weight, kept(there, count, [1, 3]), known, 1e-12, np.zeros(4))
    assert folded is not None
    gone = np.repeat([False, True, False, True], taps)
    wide = np.c_[rows[:, ~gone], np.ones(len(rows))]
    fit = np.linalg.lstsq(wide, rows[:, gone], rcond=None)[0]
    before = weight.reshape(2, 36) if taps == 9 else weight.transpose(0, 2, 3, 1).reshape(18, 4)
    after = folded.weight.reshape(2, 36) if taps == 9 else folded.weight.transpose(0, 2, 3, 1).reshape(18, 4)
    assert after[:, ~gone] == pytest.approx(before[:, ~gone] + before[:, gone] @ fit[:-1].T, abs=1e-6)
    assert folded.shift == pytest.approx((before[:, gone] @ fit[-1]).reshape(2, -1).sum(axis=1), abs=1e-6)


def test_with_nothing_left_the_means_go_into_the_bias() -> None:
    there, count = place("y = Conv(h, w)", "float[2,4,1,1] w")
    weight = np.asarray(there.node.inputs[1].values, np.float64)
    known, _ = statistics(4)
    folded = fold(there, weight, kept(there, count, [0, 1, 2, 3]), known, 1e-2, np.zeros(4))
    assert folded is not None and folded.shift == pytest.approx(weight[:, :, 0, 0] @ known.mean)
    assert fold(there, weight, kept(there, count, []), known, 1e-2, np.zeros(4)) is None


def test_what_is_not_finite_is_what_is_expected_and_tells_nothing_of_others() -> None:
    there, count = place("y = Conv(h, w)", "float[2,4,1,1] w")
    weight = np.asarray(there.node.inputs[1].values, np.float64)
    known, _ = statistics(4)
    known.mean[1], known.covariance[2, :], known.covariance[:, 2] = np.inf, np.nan, np.nan
    expected = np.array([10.0, 20.0, np.nan, 40.0])
    keep = kept(there, count, [1, 2, 3])
    folded = fold(there, weight, keep, known, 1e-12, expected)
    assert folded is not None
    predict = known.covariance[3, 0] / known.covariance[0, 0]
    w = weight[:, :, 0, 0]
    assert folded.weight[:, 0, 0, 0] == pytest.approx(w[:, 0] + w[:, 3] * predict)
    lost = w[:, 1] * 20.0 + w[:, 3] * (known.mean[3] - predict * known.mean[0])  # nothing is known of channel 2
    assert folded.shift == pytest.approx(lost)


def test_a_transposed_convolution_shares_out_what_is_lost() -> None:
    there, count = place("y = ConvTranspose<strides=[2,2]>(h, w)", "float[4,3,2,2] w")
    weight = np.asarray(there.node.inputs[1].values, np.float64)
    known, _ = statistics(4)
    folded = fold(there, weight, kept(there, count, [0, 1, 2, 3]), known, 1e-2, np.zeros(4))
    assert folded is not None
    assert folded.shift == pytest.approx(np.einsum("i,ioyx->o", known.mean, weight) / 4)


def test_ridge() -> None:
    inner, cross = np.diag([1.0, 3.0]), np.array([[2.0, 6.0]])
    assert ridge_regression(cross, inner, 0.5) == pytest.approx(np.array([[2 / 2, 6 / 4]]))
    assert ridge_regression(np.ones((1, 2)), np.zeros((2, 2)), 0.0) == pytest.approx(np.full((1, 2), 1e30))
    assert regression(inner, np.array([True, True]), np.array([False, False]), 0.5).shape == (2, 0)


def node(op: str, shape: tuple[int, ...], **attributes: int) -> tuple[Node, Array]:
    weight = RNG.standard_normal(shape)
    inputs = [gs.Variable("x"), gs.Constant("w", weight)]
    return gs.Node(op, "n", attributes, inputs, [gs.Variable("y", np.float32, (1, 2, 3, 3))]), weight


@pytest.mark.parametrize(
    "op, shape, attributes, taps, found",
    [
        ("Conv", (6, 2, 3, 3), {"group": 2}, 1, (2, 27, 2)),
        ("Conv", (6, 2, 3, 3), {"group": 2}, 9, (2, 3, 18)),
        ("Conv", (6, 4, 1, 1), {}, 1, (1, 6, 4)),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}, 1, (2, 12, 2)),
        ("Gemm", (4, 6), {}, 1, (1, 6, 4)),
        ("Gemm", (6, 4), {"transB": 1}, 1, (1, 6, 4)),
        ("MatMul", (4, 6), {}, 1, (1, 6, 4)),
    ],
)
def test_matrices_and_back(
    op: str, shape: tuple[int, ...], attributes: dict[str, int], taps: int, found: tuple[int, ...]
) -> None:
    layer, weight = node(op, shape, **attributes)
    blocks = matrices(layer, weight, taps)
    assert blocks.shape == found
    assert weight_of(layer, blocks, shape, taps) == pytest.approx(weight)
    if op == "Conv" and taps == 1:
        row = 9 * 2 + 5 if shape[2] == 3 else 2  # the third output's kernel position (1, 2)
        assert blocks[0, row] == pytest.approx(weight[2, :, 1, 2] if shape[2] == 3 else weight[2, :, 0, 0])
