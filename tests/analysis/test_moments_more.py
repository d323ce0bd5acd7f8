"""What becomes of constants through sums, samples, norms, pads, comparisons: exact where said, and right there."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, nearly, onnx_text
from tests.analysis.test_moments import graph
from tests.numeric import random_feeds, run_onnx

Case = tuple[str, str, dict[str, Array]]

EXACT: dict[str, Case] = {
    "where": ("float[1,4,1,1] zero", "z = Mul(b, zero) c = Greater(b, z) y = Where(c, z, zero)", {"zero": np.zeros(4)}),
    "tile": ("int64[4] n = {1,1,2,1}", "y = Tile(b, n)", {}),
    "expand": ("int64[4] n = {1,4,5,5}", "g = GlobalAveragePool(b) y = Expand(g, n)", {}),
    "l1": ("", "y = ReduceL1<axes=[2,3]>(b)", {}),
    "l2": ("", "y = ReduceL2<axes=[2,3]>(b)", {}),
    "sum": ("int64[2] n = {2,3}", "y = ReduceSum(b, n)", {}),
    "square": ("", "y = ReduceSumSquare<axes=[2]>(b)", {}),
    "floor": ("", "y = Floor(b)", {}),
    "round": ("", "y = Round(b)", {}),
    "sign": ("", "y = Sign(b)", {}),
    "greater": ("float half = {0.5}", "c = Greater(b, half) y = Cast<to=1>(c)", {}),
    "less-or-equal": ("float half = {-0.7001}", "c = LessOrEqual(b, half) y = Cast<to=1>(c)", {}),
    "reflect": ("int64[8] n = {0,0,1,2,0,0,2,1}", 'y = Pad<mode="reflect">(b, n)', {}),
    "edge": ("int64[8] n = {0,0,1,2,0,0,2,1}", 'y = Pad<mode="edge">(b, n)', {}),
    "crop": ("int64[8] n = {0,0,-1,-2,0,0,0,-1}", "y = Pad(b, n)", {}),
    "celu": ("", "y = Celu<alpha=0.5>(b)", {}),
    "shrink": ("", "y = Shrink<lambd=0.2, bias=0.1>(b)", {}),
    "top-k": ("int64[1] k = {3}", "y, i = TopK<axis=3>(b, k)", {}),
    "max-of-two": ("", "s = Neg(b) t = GlobalMaxPool(b) y = Max(s, t)", {}),
    "border-samples": ("float[1,5,5,2] gscale", 'y = GridSample<padding_mode="border">(b, gscale)', {}),
}

ZERO: dict[str, Case] = {
    "instance-norm": ("float[4] s, float[4] t", "y = InstanceNormalization(b, s, t)", {}),
    "grid-sample": ("float[1,5,5,2] g", "y = GridSample(b, g)", {}),
    "running sum": ("int64 two = {2}", "y = CumSum(b, two)", {}),
    "lp-pool": ("", "y = LpPool<kernel_shape=[2,2]>(b)", {}),
    "pad-channels": ("int64[8] n = {0,1,1,0,0,2,0,1}", "y = Pad(b, n)", {}),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_constant_stays_one(name: str) -> None:
    compare(EXACT[name], -0.7)


@pytest.mark.parametrize("name", ZERO)
def test_a_map_of_zeros_is_known(name: str) -> None:
    compare(ZERO[name], 0.0)


@pytest.mark.parametrize("axis", [1, -3, 0, -4])
def test_a_running_sum_over_channels_of_which_one_is_zero_is_not_known(axis: int) -> None:
    values = {"n.beta": np.array([0.2, -0.5, 1.0, 0.0])}
    assert not graph(f"int64 axis = {{{axis}}}", "y = CumSum(b, axis)", values=values).moments("y").exact.any()


@pytest.mark.parametrize(
    ("gamma", "beta", "exact"),
    [([0, 0, 0, 0], [0.3] * 4, True), ([0, 0, 0, 0], [0.3, 0.3, 0.3, 0.4], False), ([1, 0, 0, 0], [0.3] * 4, False)],
)
def test_pixels_from_several_channels_are_one_constant_where_these_are(
    gamma: list[float], beta: list[float], exact: bool
) -> None:
    values = {"n.gamma": np.array(gamma, float), "n.beta": np.array(beta)}
    found = graph("", "y = DepthToSpace<blocksize=2>(b)", values=values).moments("y")
    assert found.exact.reshape(-1).tolist() == [exact]
    assert not exact or nearly(found.mean, 0.3)


def test_what_is_normalised_over_groups_has_gamma_squared_about_beta() -> None:
    values = {"gamma": np.array([1.0, -2.0, 3.0, 0.0]), "beta": np.array([0.5, 1.0, -1.0, 2.0])}
    text = onnx_text(
        "float[1,3,6,6] x",
        "float[p,q,r,s] y",
        "float[4,3,1,1] w, float[4] gamma, float[4] beta",
        "a = Conv(x, w) y = GroupNormalization<num_groups=2>(a, gamma, beta)",
        opset=21,
    )
    found = Labelled(text, values).moments("y")
    assert nearly(found.mean, *values["beta"]) and nearly(found.variance, 1, 4, 9, 0)
    assert found.exact.reshape(-1).tolist() == [False, False, False, True]


def compare(case: Case, constant: float) -> None:
    """The constant channel is said to be exact, no other is, and the number is what onnxruntime computes."""
    weights, body, values = case
    beta = np.array([0.2, -0.5, 1.0, constant])
    g = graph(weights, body, values={"n.beta": beta, **values})
    found = g.moments("y")
    result, other = (run_onnx(g.model, random_feeds(g.model, seed))["y"] for seed in (0, 1))
    width = result.shape[1]
    exact = np.broadcast_to(found.exact, result.shape)
    assert exact.reshape(result.shape[0], width, -1).all(axis=(0, 2)).sum() >= 1
    varying = [c for c in range(width) if np.ptp(np.stack([result[:, c], other[:, c]])) > 1e-5]
    assert not any(exact[:, c].any() for c in varying)
    wanted = np.broadcast_to(found.mean, result.shape)[exact]
    np.testing.assert_allclose(result[exact], wanted, rtol=1e-5, atol=1e-6)


def test_what_rounding_would_decide_is_not_known() -> None:
    """The control: a constant on a comparison's edge may fall either way in float32."""
    g = graph("float edge = {-0.7}", "c = Greater(b, edge) y = Cast<to=1>(c)")
    assert not np.isfinite(g.moments("y").mean.reshape(-1)[3])
    g = graph("", "y = Floor(b)", values={"n.beta": np.array([0.2, -0.5, 1.0, -1.0])})
    assert not np.isfinite(g.moments("y").mean.reshape(-1)[3])
