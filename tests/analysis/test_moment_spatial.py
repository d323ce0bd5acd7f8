"""What becomes of constants through sums, samples, norms, pads, choices: exact where said, and right there."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from onnxslim_yolo.analysis.moments import Moments
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
    "reflect": ("int64[8] n = {0,0,1,2,0,0,2,1}", 'y = Pad<mode="reflect">(b, n)', {}),
    "edge": ("int64[8] n = {0,0,1,2,0,0,2,1}", 'y = Pad<mode="edge">(b, n)', {}),
    "crop": ("int64[8] n = {0,0,-1,-2,0,0,0,-1}", "y = Pad(b, n)", {}),
    "top-k": ("int64[1] k = {3}", "y, i = TopK<axis=3>(b, k)", {}),
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


def constants(found: Moments) -> list[float]:
    """The values of what is exactly constant; NaN elsewhere."""
    assert not found.variance[found.exact].any()
    return [float(v) for v in np.where(found.exact, found.mean, nan).reshape(-1)]


def same(found: Moments, *expected: float) -> bool:
    return nearly(np.array(constants(found)), *expected)


def normed(weights: str, body: str, opset: int = 17, outputs: str = "float[p,q,r,s] y", **values: object) -> Labelled:
    """What follows `a`, of which nothing is known, and `b`, the constants −2, 0, 1 and 0."""
    norm = "n.gamma, n.beta, n.mean, n.var"
    given = ", ".join(["float[4,3,1,1] w", *(f"float[4] {name}" for name in norm.split(", ")), weights])
    text = f"a = Conv(x, w) b = BatchNormalization(a, {norm}) {body}"
    fixed = {"n.gamma": np.zeros(4), "n.beta": np.array([-2.0, 0, 1, 0])}
    values = {name: np.asarray(value, float) for name, value in values.items()}
    return Labelled(onnx_text("float[1,3,6,6] x", outputs, given, text, opset), fixed | values)


class TestZeros:
    """Of a map of zeros comes one, of another constant nothing that is known."""

    @pytest.mark.parametrize(
        "weights, call",
        [
            ("float[1] t", "LpPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)"),
            ("float[1] t", "GlobalLpPool(b)"),
            ("float[1,2,3,2] t", "GridSample(b, t)"),
            ("float[1,2,3,2] t", 'GridSample<padding_mode="zeros">(b, t)'),
            ("int64 t = {2}", "CumSum(b, t)"),
            ("int64 t = {-1}", "CumSum(b, t)"),
        ],
    )
    def test_alone(self, weights: str, call: str) -> None:
        found = normed(weights, f"y = {call}").moments("y")
        assert same(found, nan, 0, nan, 0) and found.mean.shape == (1, 4, 1, 1)
        assert np.isnan(found.variance[0, [0, 2]]).all()

    @pytest.mark.parametrize("mode", ["border", "reflection"])
    def test_or_any_constant_where_nothing_else_is_put_around(self, mode: str) -> None:
        call = f'y = GridSample<padding_mode="{mode}">(b, t)'
        assert same(normed("float[1,2,3,2] t", call).moments("y"), -2, 0, 1, 0)
        assert same(normed("float[1,2,3,2] t", call, **{"n.gamma": [0, 1, 0, 1]}).moments("y"), -2, nan, 1, nan)

    @pytest.mark.parametrize("call", ["CumSum(b, t)", "Identity(a)"])
    @pytest.mark.parametrize("axis", [0, 1, -3, -4])
    def test_not_along_channels(self, call: str, axis: int) -> None:
        assert not normed(f"int64 t = {{{axis}}}", f"y = {call}").moments("y").exact.any()

    @pytest.mark.parametrize(
        "attributes, exact",
        [
            ("<axes=[2,3]>", True),
            ("<axes=[-1,-2]>", True),
            ("<axes=[1,2]>", False),
            ("<axes=[3,-3]>", False),
            ("", False),
        ],
    )
    def test_cropped_or_put_in_the_middle(self, attributes: str, exact: bool) -> None:
        size = "int64[4] t = {1,4,8,8}" if not attributes else "int64[2] t = {8,8}"
        found = normed(size, f"y = CenterCropPad{attributes}(b, t)", 18).moments("y")
        assert same(found, nan, 0, nan, 0) if exact else not found.exact.any()

    def test_of_what_varies_over_space(self) -> None:
        """Half of a map of zeros, half of ones: nothing is said of their windows."""
        for axis, columns in ((2, 12), (3, 6)):
            call = f"d = Mul(b, o) e = Concat<axis={axis}>(d, b) y = LpPool<kernel_shape=[2,2]>(e)"
            assert not normed("float[1] o = {0.0}", call).moments("y").exact.any(), columns

    def test_of_another_rank(self) -> None:
        text = "float[2,4] rois, int64[2] which = {0,0}"
        call = "y = RoiAlign<output_height=2, output_width=2>(b, rois, which)"
        assert same(normed(text, call).moments("y"), nan, 0, nan, 0)


class TestNorms:
    GAMMA, BETA = (3.0, 0.0, -2.0, 1.0), (0.5, 0.25, 4.0, -1.0)

    def test_of_one_channel(self) -> None:
        weights, call = "float[4] s, float[4] t", "y = InstanceNormalization(b, s, t)"
        found = normed(weights, call, s=self.GAMMA, t=self.BETA).moments("y")
        assert same(found, nan, 0.25, nan, -1) and nearly(found.mean, *self.BETA)
        assert nearly(found.variance, 9, 0, 4, 0) and found.mean.shape == (1, 4, 1, 1)
        live = normed(weights, call.replace("b,", "a,"), s=self.GAMMA, t=self.BETA).moments("y")
        assert same(live, nan, 0.25, nan, nan) and nearly(live.variance, 9, 0, 4, 1)

    def test_of_a_map_of_which_only_a_part_is_zero(self) -> None:
        weights, call = "float[4] s, float[4] t", "e = Concat<axis=2>(b, z) y = InstanceNormalization(e, s, t)"
        found = normed(f"{weights}, float[1,4,1,6] z", call, s=self.GAMMA, t=self.BETA, z=np.zeros((1, 4, 1, 6)))
        assert same(found.moments("y"), nan, 0.25, nan, -1)

    @pytest.mark.parametrize("computed", ["s", "t"])
    @pytest.mark.parametrize("op", ["InstanceNormalization(b, {}, {})",
                                    "GroupNormalization<num_groups=2>(b, {}, {})",
                                    "LayerNormalization<axis=1>(b, {}, {})"])  # fmt: skip
    def test_by_what_is_computed(self, op: str, computed: str) -> None:
        names = ["c" if name == computed else name for name in "st"]
        like = (4, 6, 6) if "Layer" in op else (4,)
        shape = ",".join(map(str, like))
        call = f"m = ReduceMax<keepdims=0>(x) c = Mul(m, k) y = {op.format(*names)}"
        weights = f"float[{shape}] s, float[{shape}] t, float[{shape}] k"
        found = normed(weights, call, 21 if "Group" in op else 17, s=np.zeros(like), t=np.ones(like))
        assert not found.moments("y").exact.any()

    @pytest.mark.parametrize(
        "scale, exact",
        [([3.0, 3, 3, 3], [nan] * 4), ([0.0, 3, 3, 0], [0.5, nan, nan, -1]), ([0.0, 3], [0.5, 0.5, nan, nan])],
    )
    def test_of_groups(self, scale: list[float], exact: list[float]) -> None:
        """Before opset 21 a scale and shift is a group's."""
        shift = self.BETA if len(scale) == 4 else (0.5, -1.0)
        g = normed("float[4] s, float[4] t", "y = GroupNormalization<num_groups=2>(b, s, t)", 21)
        (node,) = (n for n in g.model.graph.nodes if n.op == "GroupNormalization")
        node.inputs[1].values, node.inputs[2].values = np.float32(scale), np.float32(shift)
        found = g.moments("y")
        assert same(found, *exact) and found.mean.shape == (1, 4, 1, 1)
        assert nearly(found.mean, *np.repeat(shift, 4 // len(scale)))

    @pytest.mark.parametrize(
        "beta, zero",
        [
            ([0, 0, 1, 0], [True, True, False, False]),
            ([0, 5, 0, 0], [False, False, True, True]),
            ([0, 0, 0, 0], [True] * 4),
            ([5, 5, 5, 5], [False] * 4),
        ],
    )
    def test_of_a_group_of_zeros(self, beta: list[float], zero: list[bool]) -> None:
        weights, call = "float[4] s, float[4] t", "y = GroupNormalization<num_groups=2>(b, s, t)"
        values = {"s": np.ones(4), "t": self.BETA, "n.beta": beta}
        found = normed(weights, call, 21, **values).moments("y")
        assert found.exact.reshape(-1).tolist() == zero and nearly(found.mean, *self.BETA)
        live = normed(weights, call.replace("b,", "a,"), 21, **values).moments("y")
        assert not live.exact.any() and nearly(live.variance, 1, 1, 1, 1)

    @pytest.mark.parametrize(
        "axis, size, call, shift",
        [
            (-1, (6,), "(b, s, t)", [0.5, nan, 4, nan, nan, 1]),
            (-1, (6,), "(b, s)", [0, nan, 0, nan, nan, 0]),
            (3, (1,), "(b, s, t)", [0.5]),
            (2, (1, 6), "(b, s, t)", [0.5, nan, 4, nan, nan, 1]),
        ],
    )
    def test_of_rows(self, axis: int, size: tuple[int, ...], call: str, shift: list[float]) -> None:
        """Where γ is 0, β: and nothing is known of the others, not even a variance."""
        scale, beta = np.array([0.0, 1, 0, 2, 3, 0])[: size[-1]], np.array([0.5, 1, 4, 2, 0, 1])[: size[-1]]
        shape = ",".join(map(str, size))
        found = normed(f"float[{shape}] s, float[{shape}] t", f"y = LayerNormalization<axis={axis}>{call}",
                       s=scale, t=beta).moments("y")  # fmt: skip
        assert same(found, *shift) and found.mean.ndim == 4 and found.mean.shape[-1] == size[-1]
        assert np.isnan(found.mean[~found.exact]).all() and np.isnan(found.variance[~found.exact]).all()

    def test_of_whole_images(self) -> None:
        scale = np.ones((4, 6, 6))
        scale[1] = 0
        values = {"s": scale, "t": np.full((4, 6, 6), 3.0)}
        call = "y = LayerNormalization<axis=1>(b, s, t)"
        found = normed("float[4,6,6] s, float[4,6,6] t", call, **values).moments("y")
        assert found.exact[0].all(axis=(1, 2)).tolist() == [False, True, False, False]
        assert (found.mean[found.exact] == 3).all()

    def test_by_a_scale_of_more_axes(self) -> None:
        call = "y = LayerNormalization<axis=3>(b, s)"
        node = normed("float[6] s", call, s=np.zeros(6))
        layer = next(n for n in node.model.graph.nodes if n.op == "LayerNormalization")
        layer.inputs[1].values = np.zeros((1, 1, 1, 1, 6), np.float32)
        assert not node.moments("y").exact.any()


class TestLargest:
    @pytest.mark.parametrize("axis, known", [(3, True), (2, True), (-1, True), (1, False), (-3, False)])
    def test_of_what_is_alike(self, axis: int, known: bool) -> None:
        found = normed("int64[1] k = {2}", f"y, i = TopK<axis={axis}>(b, k)").moments("y")
        assert same(found, -2, 0, 1, 0) if known else not found.exact.any()

    def test_where_it_stood_is_not_known(self) -> None:
        g = normed("int64[1] k = {2}", "v, i = TopK<axis=3>(b, k) y = Cast<to=1>(i)")
        assert same(g.moments("v"), -2, 0, 1, 0) and not g.moments("y").exact.any()


class TestPads:
    @pytest.mark.parametrize(
        "widths, rest, exact",
        [
            ("0,0,1,0,0,0,0,0", "", [nan, 0, nan, 0]),
            ("0,0,0,0,0,0,0,2", ", v", [nan, nan, 1, nan]),
            ("0,0,-1,0,0,0,0,-2", "", [-2, 0, 1, 0]),
            ("0,0,-1,1,0,0,0,0", "", [nan, 0, nan, 0]),
            ("0,0,0,0,0,0,0,0", "", [-2, 0, 1, 0]),
            ("0,1,0,0,0,2,0,0", ", v", [1, -2, 0, 1, 0, 1, 1]),
            ("0,1,0,1,0,0,0,0", ", v", [1, nan, nan, 1, nan]),
            ("0,-1,0,0,0,2,0,0", ", v", [0, 1, 0, 1, 1]),
            ("0,2,0,0,0,-3,0,0", ", v", [1, 1, -2]),
            ("0,-2,0,0,0,-1,0,0", "", [1]),
            ("1,0,0,0,0,0,0,0", ", v", None),
            ("0,0,0,0,1,0,0,0", ", v", None),
        ],
    )
    def test_with_a_value(self, widths: str, rest: str, exact: list[float] | None) -> None:
        found = normed(f"int64[8] p = {{{widths}}}, float v = {{1.0}}", f"y = Pad(b, p{rest})").moments("y")
        assert not found.exact.any() if exact is None else same(found, *exact)

    def test_around_what_varies(self) -> None:
        values = {"n.gamma": [0, 2, 0, 1], "n.var": np.ones(4)}
        found = normed("int64[8] p = {0,1,0,0,0,0,0,0}", "y = Pad(b, p)", **values).moments("y")
        assert same(found, 0, -2, nan, 1, nan) and nearly(found.mean, 0, -2, 0, 1, 0)
        assert np.allclose(found.variance.reshape(-1), [0, 0, 4, 0, 1], rtol=1e-4)

    def test_whose_value_is_computed(self) -> None:
        call = "m = ReduceMax<keepdims=0>(x) y = Pad(b, p, m)"
        assert not normed("int64[8] p = {0,0,1,0,0,0,0,0}", call).moments("y").exact.any()

    @pytest.mark.parametrize("mode", ["reflect", "edge"])
    def test_with_what_is_there(self, mode: str) -> None:
        call = f'y = Pad<mode="{mode}">(b, p)'
        assert same(normed("int64[8] p = {0,0,1,2,0,0,0,1}", call).moments("y"), -2, 0, 1, 0)
        for widths in ("0,1,0,0,0,0,0,0", "0,0,0,0,0,1,0,0"):
            assert not normed(f"int64[8] p = {{{widths}}}", call).moments("y").exact.any()


class TestEitherOfTwo:
    def test_that_are_equal(self) -> None:
        """Whatever the condition; of two that differ nothing is known, nor of one that is not constant."""
        call = "c = Greater(a, edge) y = Where(c, b, d)"
        weights = "float edge = {0.0}, float[1,4,1,1] d"
        given = {"d": [-2, 0, 3, 0], "n.gamma": [0, 0, 0, 1]}
        found = normed(weights, call, **given).moments("y")
        assert same(found, -2, 0, nan, nan)

    def test_of_fewer_axes(self) -> None:
        weights = "float edge = {0.0}, float[4,1,1] d, float[1] one = {1.0}"
        call = "c = Greater(a, edge) y = Where(c, {}, {})"
        for sides in (("b", "d"), ("d", "b")):
            found = normed(weights, call.format(*sides), d=[-2, 0, 3, 0]).moments("y")
            assert same(found, -2, 0, nan, 0)
        assert same(normed(weights, call.format("b", "one")).moments("y"), nan, nan, 1, nan)

    def test_or_a_condition_that_is_known(self) -> None:
        weights = "float edge = {-1.0}, float[1,4,1,1] d"
        call = "c = Greater(b, edge) y = Where(c, d, b)"
        assert same(normed(weights, call, d=[5, 6, 7, 8]).moments("y"), -2, 6, 7, 8)
