"""Channels that are constant, through what keeps them so: every value worked out by hand; NaN where it is not known."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, nearly, onnx_text

WEIGHTS = """float[4, 3, 1, 1] w, float[4] b, float[8, 3, 1, 1] w8, float[8] b8, float[4, 3, 1, 1] free,
    float[4] gamma, float[4] beta, float[4] mean, float[4] var, float[4] scales = {1, 1, 2, 2}, float[8] crop,
    int64[8] all = {0, 1, 2, 3, 3, 2, 1, 0}"""
VALUES: dict[str, Array] = {
    "w": np.zeros((4, 3, 1, 1)),
    "b": np.array([1.5, -2.25, 0, 3]),
    "w8": np.zeros((8, 3, 1, 1)),
    "gamma": np.array([0.0, 1, 2, 0]),
    "beta": np.array([7.0, 1, 0, -1]),
    "mean": np.array([5.0, 1.5, -2, 5]),
    "var": np.array([3.0, 3, 0, 3]),
}
CONSTANT = "c = Conv (x, w, b)"


def graph(body: str, outputs: str = "float[p, q, r, s] y", opset: int = 17, **values: list[float]) -> Labelled:
    given = VALUES | {name: np.array(value) for name, value in values.items()}
    return Labelled(onnx_text("float[1, 3, 6, 6] x, bool[1, 4, 6, 6] m", outputs, WEIGHTS, body, opset), given)


def constants(labelled: Labelled, name: str = "y") -> list[float]:
    """The values of what is exactly constant."""
    found = labelled.moments(name)
    return [float(v) for v in np.where(found.exact, found.mean, nan).reshape(-1)]


def same(found: list[float], *expected: float) -> bool:
    return nearly(np.array(found), *expected)


class TestCasts:
    def test_of_constants(self) -> None:
        found = graph(f"{CONSTANT} i = Cast <to = 6> (c) y = Cast <to = 1> (i)")
        assert same(constants(found, "i"), 1, -2, 0, 3) and same(constants(found), 1, -2, 0, 3)
        assert same(constants(graph(f"{CONSTANT} b1 = Cast <to = 9> (c) y = Cast <to = 1> (b1)")), 1, 1, 0, 1)

    def test_of_what_varies(self) -> None:
        body = "n = BatchNormalization (c, gamma, beta, mean, var) h = Cast <to = {}> (n) y = Cast <to = 1> (h)"
        half = graph(f"c = Conv (x, free) {body.format(10)}", var=[1.0, 1, 1, 1])
        before, after = half.moments("n"), half.moments("h")
        assert nearly(after.mean, *before.mean.reshape(-1)) and nearly(after.variance, *before.variance.reshape(-1))
        assert after.exact.reshape(-1).tolist() == [True, False, False, True]
        whole = graph(f"c = Conv (x, free) {body.format(6)}", var=[1.0, 1, 1, 1]).moments("h")
        assert nearly(whole.mean, 7, nan, nan, -1) and np.isnan(whole.variance.reshape(-1)[1:3]).all()


class TestNorm:
    def test_that_scales_by_zero(self) -> None:
        found = graph("c = Conv (x, free) y = BatchNormalization (c, gamma, beta, mean, var)")
        assert same(constants(found)[:1], 7) and same(constants(found)[3:], -1)
        assert found.moments("y").exact.reshape(-1).tolist()[1] is False

    def test_of_constants(self) -> None:
        found = graph(f"{CONSTANT} y = BatchNormalization <epsilon = 1.0> (c, gamma, beta, mean, var)")
        assert same(constants(found), 7, 1 + (-2.25 - 1.5) / 2, 0 + (0 + 2) * 2, -1)

    @pytest.mark.parametrize("epsilon", [1.0, 0.25])
    def test_gives_what_is_left_of_gamma_squared(self, epsilon: float) -> None:
        """γ²·v / (v + ε): with a running variance of the size of ε that is less than γ²."""
        gamma, var = np.array([1.0, -2, 3, 0.5]), np.array([1.0, 0.5, 4, 0.25])
        body = f"c = Conv (x, free) y = BatchNormalization <epsilon = {epsilon}> (c, gamma, beta, mean, var)"
        found = graph(body, gamma=list(gamma), var=list(var)).moments("y")
        assert nearly(found.variance, *(gamma**2 * var / (var + epsilon))) and nearly(found.mean, 7, 1, 0, -1)
        assert not found.exact.any()

    @pytest.mark.parametrize("index", [1, 2, 3, 4])
    def test_by_what_is_computed(self, index: int) -> None:
        names = ["c", "gamma", "beta", "mean", "var"]
        names[index] = "computed"
        scale = "peak = ReduceMax <keepdims = 0> (x) computed = Mul (peak, gamma)"
        found = graph(f"{CONSTANT} {scale} y = BatchNormalization ({', '.join(names)})", gamma=[0.0] * 4)
        assert not found.moments("y").exact.any()

    @pytest.mark.parametrize(
        "var, gamma, still",
        [
            ([1e-9, 1e-9, 1.0, 1e-9], [1.0, 0.01, 1, 1], [False, True, False, False]),  # γ·√(1e-9 / 1e-5) = 0.01·γ
            ([1e-12, 1e-12, 1e-7, 1.0], [1.0, 4, 0.001, 1], [True, False, False, False]),
            ([0.0, 0, 0, 1.5], [1.0, 0.01, 0.05, 1], [False, True, False, False]),  # float16 rounds 3e-8 to 0
            ([0.0, 0, 0, 1.0], [1.0, 0.01, 0.05, 1], [True, True, True, False]),  # plain zeros and ones it was not
            ([0.0, 0, 0, 0.1], [1.0, 0.01, 0.05, 1], [True, True, True, False]),  # nor what float16 has not
            (
                [0.0, 0, 0, 1.5],
                [1.0, 0.0182, 0.0184, 1],
                [False, True, False, False],
            ),  # √(2⁻²⁵ / (2⁻²⁵ + 1e-5)) = 0.0545
        ],
    )
    def test_of_what_never_varied(self, var: list[float], gamma: list[float], still: list[bool]) -> None:
        """What is left of a tiny running variance, times γ, must be less than a thousandth; without a floor, 0."""
        body = "c = Conv (x, free) y = BatchNormalization (c, gamma, beta, mean, var)"
        found = graph(body, var=var, gamma=gamma)
        y = found.model.graph.tensors()["y"]
        by_floor = moments_of(found.model.graph, found.channels.shapes, 1e-8).of(y)
        assert by_floor.exact.reshape(-1).tolist() == still
        assert not found.moments("y").exact.any()


def linear(weights: str, body: str, outputs: str = "float[p, q, r, s] y", **values: object) -> Labelled:
    """What follows `n`: the constants 2 and 0, and two channels of mean 3 and −1 and of variance 4 and 9."""
    given = {
        "gamma": np.array([0.0, 0, 2, 3]), "beta": np.array([2.0, 0, 3, -1]), "mean": np.zeros(4), "var": np.ones(4),
        **{name: np.asarray(value, float) for name, value in values.items()},
    }  # fmt: skip
    head = "c = Conv (x, free) n = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, var)"
    text = f"float[4, 3, 1, 1] free, float[4] gamma, float[4] beta, float[4] mean, float[4] var, {weights}"
    return Labelled(onnx_text("float[1, 3, 6, 6] x", outputs, text, f"{head} {body}"), given)


class TestSums:
    """Of independent channels: means times weights, variances times their squares."""

    ROWS = np.array([[1.0, -1, 0, 0], [0, 2, 0.5, 0], [2, 0, -3, 2]])

    def test_by_convolutions(self) -> None:
        found = linear("float[3, 4, 1, 1] w, float[3] v", "y = Conv (n, w, v)", w=self.ROWS, v=[1, 2, 3]).moments("y")
        assert nearly(found.mean, 2 + 1, 1.5 + 2, 4 - 9 - 2 + 3)
        assert nearly(found.variance, 0, 1, 9 * 4 + 4 * 9)
        assert found.exact.reshape(-1).tolist() == [True, False, False] and found.mean.shape == (1, 3, 1, 1)

    def test_by_several_taps(self) -> None:
        taps = np.zeros((1, 4, 3, 1))
        taps[0, 2] = [[1], [2], [-4]]
        found = linear("float[1, 4, 3, 1] w", "y = Conv (n, w)", w=taps).moments("y")
        assert nearly(found.mean, -3) and nearly(
            found.variance, 4
        )  # of the sum of the taps: a pixel's neighbours are it

    @pytest.mark.parametrize("pads, exact", [("", [True, True]), ("<pads = [1, 1, 1, 1]>", [False, True])])
    def test_that_read_zeros_at_the_border(self, pads: str, exact: list[bool]) -> None:
        rows = np.zeros((2, 4, 3, 3))
        rows[0, 0, 1, 1] = rows[1, 1, 1, 1] = 5
        found = linear("float[2, 4, 3, 3] w", f"y = Conv {pads} (n, w)", w=rows).moments("y")
        assert found.exact.reshape(-1).tolist() == exact and nearly(found.mean, 10, 0)

    def test_in_groups(self) -> None:
        rows = [[1.0, 1], [2, -1]]
        found = linear("float[2, 2, 1, 1] w", "y = Conv <group = 2> (n, w)", w=rows).moments("y")
        assert nearly(found.mean, 2, 7) and nearly(found.variance, 0, 16 + 9)
        assert found.exact.reshape(-1).tolist() == [True, False]

    def test_of_one_that_is_not_known(self) -> None:
        body = "d = Mul (c, f) e = Add (d, f) y = Conv (e, w)"
        found = linear("float[4, 1, 1] f, float[2, 4, 1, 1] w", body, f=[1, 0, 0, 1], w=[[0, 1, 2, 0], [1, 0, 0, 0]])
        assert same(constants(found), 0, nan) and np.isnan(found.moments("y").mean.reshape(-1)[1])

    def test_where_it_varies_over_rows(self) -> None:
        body = "d = Add (n, table) y = Conv (d, w)"
        found = linear("float[1, 4, 6, 1] table, float[2, 4, 1, 1] w", body)
        assert np.isnan(found.moments("y").mean).all()

    @pytest.mark.parametrize(
        "shape, known", [((3,), True), ((1, 3), True), ((1, 1), True), ((1,), True), ((5, 1), False)]
    )
    @pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.5, 2.0)])
    def test_of_vectors(self, shape: tuple[int, ...], known: bool, alpha: float, beta: float) -> None:
        """Gemm scales its product and its bias. How tokens' channels vary together is not known."""
        size = ", ".join(map(str, shape))
        bias = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
        call = f"y = Gemm <alpha = {alpha}, beta = {beta}> ({{}}, w, v)"
        shapes = "int64[2] s = {1, 4}, int64[2] five = {5, 4}"
        weights = f"float[4, 3] w, float[{size}] v, {shapes}"
        body = f"g = GlobalAveragePool (n) r = Reshape (g, s) e = Expand (r, five) {call.format('e')}"
        found = linear(weights, body, "float[p, q] y", w=self.ROWS.T, v=bias).moments("y")
        if not known:
            assert np.isnan(found.mean).all()
            return
        wanted = alpha * (self.ROWS @ [2, 0, 3, -1]) + beta * np.broadcast_to(bias.reshape(-1), (3,))
        assert nearly(found.mean, *wanted) and found.exact.reshape(-1).tolist() == [True, False, False]
        variance = np.broadcast_to(found.variance, found.mean.shape).reshape(-1)
        assert variance[0] == 0 and np.isnan(variance[1:]).all()

    def test_whose_bias_is_computed(self) -> None:
        body = "m = ReduceMax <keepdims = 0> (x) b1 = Mul (m, v) y = Conv (n, w, b1)"
        found = linear("float[3, 4, 1, 1] w, float[3] v", body, w=self.ROWS)
        assert np.isnan(found.moments("y").mean).all()


class TestProducts:
    """Of two matrices, of which a row or a column of zeros makes zeros."""

    TOKENS = "r = Reshape (n, s) t = Transpose <perm = [0, 2, 1]> (r)"
    SHAPE = "int64[3] s = {1, 4, 36}"

    def test_by_a_constant(self) -> None:
        rows = TestSums.ROWS.T
        found = linear(f"float[4, 3] w, {self.SHAPE}", f"{self.TOKENS} y = MatMul (t, w)", "float[p, q, r] y", w=rows)
        assert same(constants(found), 2, nan, nan) and nearly(found.moments("y").mean, 2, 1.5, -7)

    def test_of_rows_and_columns_of_zeros(self) -> None:
        body = f"{self.TOKENS} q = MatMul (r, t) k = Softmax (q) y = MatMul (k, r)"
        found = linear(self.SHAPE, body, "float[p, q, r] y")
        left = found.moments("q")
        zero = np.zeros((4, 4), bool)
        zero[1] = zero[:, 1] = True
        assert np.broadcast_to(left.exact, (1, 4, 4))[0].tolist() == zero.tolist()
        assert (left.mean[left.exact] == 0).all() and np.isnan(left.mean[~left.exact]).all()
        assert not found.moments("y").exact.any()

    @pytest.mark.parametrize("body", ["y = MatMul (r, u)", "y = MatMul (u, t)"])
    def test_with_a_vector(self, body: str) -> None:
        found = linear(
            f"{self.SHAPE}, float[36] ones, int64[1] zero = {{0}}",
            f"{self.TOKENS} m = ReduceMax <keepdims = 0> (x) u = Mul (m, ones) {body}", "float[p, q] y",
        )  # fmt: skip
        assert not found.moments("y").exact.any()


class TestTransposed:
    def test_what_reads_zeros_alone_is_the_bias(self) -> None:
        rows = np.zeros((4, 3, 2, 2))
        rows[1, 0], rows[0, 1], rows[1, 2], rows[3, 2] = 1, 1, 5, 1
        for bias, wanted in ((", v", [7, nan, nan]), ("", [0, nan, nan])):
            body = f"y = ConvTranspose <strides = [2, 2]> (n, w{bias})"
            found = linear("float[4, 3, 2, 2] w, float[3] v", body, w=rows, v=[7, 8, 9])
            assert same(constants(found), *wanted) and nearly(found.moments("y").mean, *wanted)

    def test_in_groups(self) -> None:
        rows = np.array([[0.0, 1], [3, 3], [0, 0], [0, 1]]).reshape(4, 2, 1, 1)
        found = linear(
            "float[4, 2, 1, 1] w, float[4] v", "y = ConvTranspose <group = 2> (n, w, v)", w=rows, v=[1, 2, 3, 4]
        )
        assert same(constants(found), 1, nan, 3, nan)

    @pytest.mark.parametrize(
        "body",
        [
            "m = ReduceMax <keepdims = 0> (x) b1 = Mul (m, v) y = ConvTranspose (n, w, b1)",
            "m = ReduceMax <keepdims = 0> (x) w1 = Mul (m, w) y = ConvTranspose (n, w1, v)",
            "d = Mul (n, table) y = ConvTranspose (d, w, v)",
        ],
    )
    def test_by_what_is_not_known(self, body: str) -> None:
        table = np.ones((1, 4, 6, 1))
        table[0, :, 3] = 2
        weights = "float[4, 3, 2, 2] w, float[3] v, float[1, 4, 6, 1] table"
        assert not linear(weights, body, w=np.zeros((4, 3, 2, 2)), table=table).moments("y").exact.any()


class TestReduced:
    @pytest.mark.parametrize(
        "op, axes, kept, wanted",
        [
            ("ReduceMean", [2, 3], 1, [2, 0, nan, nan]),
            ("ReduceMean", [-1], 1, [2, 0, nan, nan]),
            ("ReduceMax", [2, -1], 0, [2, 0, nan, nan]),
            ("ReduceMin", [0, 2, 3], 0, [2, 0, nan, nan]),
            ("ReduceMean", [1], 1, [nan]),
            ("ReduceL1", [3], 1, [12, 0, nan, nan]),
            ("ReduceProd", [2, 3], 0, [2.0**36, 0, nan, nan]),
            ("ReduceSumSquare", [2, 3], 1, [144, 0, nan, nan]),
            ("ReduceLogSum", [2], 1, [np.log(12), nan, nan, nan]),
            ("ReduceSumSquare", [0, 2, 3], 1, [nan]),
        ],
    )
    def test_constants(self, op: str, axes: list[int], kept: int, wanted: list[float]) -> None:
        rank = 4 if kept else 4 - len(axes)
        outputs = f"float[{', '.join('pqrs'[:rank])}] y"
        found = linear("float[1] t", f"y = {op} <axes = {axes}, keepdims = {kept}> (n)", outputs)
        assert same(constants(found), *wanted) and found.moments("y").mean.ndim == rank
        assert np.isfinite(found.moments("y").mean[found.moments("y").exact]).all()

    def test_over_all_of_them_or_none(self) -> None:
        whole = linear("float[1] t", "d = Mul (n, t) y = ReduceMax <keepdims = 0> (d)", "float y", t=[0.0])
        assert constants(whole) == [0.0]
        for attributes, wanted in (("<noop_with_empty_axes = 1>", [2, 0, nan, nan]), ("", [nan])):
            found = linear("float[1] t", f"y = ReduceSum {attributes} (n)")
            assert same(constants(found), *wanted)

    def test_over_positions_that_are_put_together(self) -> None:
        """A row of twos under six of ones: what stands there is counted."""
        body = "d = Mul (n, z) e = Concat <axis = 2> (d, row) y = ReduceSum (e, axes)"
        weights = "float[1] z, float[1, 4, 1, 6] row, int64[2] axes = {2, 3}"
        found = linear(weights, body, z=[0.0], row=np.full((1, 4, 1, 6), 2.0))
        assert same(constants(found), *[12.0] * found.moments("y").mean.size)


class TestMoved:
    def test_with_what_is_not_known(self) -> None:
        found = linear("int64[4] s = {3, 2, 1, 0}", "e = Concat <axis = 1> (c, n) y = Relu (e)").moments("e")
        assert nearly(found.mean, *[nan] * 4, 2, 0, 3, -1) and nearly(found.variance, *[nan] * 4, 0, 0, 4, 9)

    def test_in_parts(self) -> None:
        found = linear("float[1] t", "a, b = Split <axis = 1> (n) y = Concat <axis = 1> (b, a)")
        assert nearly(found.moments("a").mean, 2, 0) and nearly(found.moments("b").variance, 4, 9)
        assert nearly(found.moments("y").mean, 3, -1, 2, 0)


class TestPixels:
    @pytest.mark.parametrize(
        "mode, values, expected",
        [
            ("DCR", [5, 1, 5, 2, 5, 1, 5, 1], [5, nan]),
            ("DCR", [5, 1, 5, 1, 5, 1, 5, 1], [5, 1]),
            ("CRD", [5, 5, 5, 5, 1, 1, 2, 1], [5, nan]),
            ("CRD", [5, 1, 5, 1, 5, 1, 5, 1], [nan, nan]),
        ],
    )
    def test_of_one_channel_are_known_where_they_are_alike(
        self, mode: str, values: list[float], expected: list[float]
    ) -> None:
        found = graph(f'c = Conv (x, w8, b8) y = DepthToSpace <blocksize = 2, mode = "{mode}"> (c)', b8=values)
        assert same(constants(found), *expected)

    def test_of_channels_that_are_all_alike(self) -> None:
        found = graph(f"{CONSTANT} g = Gather <axis = 1> (c, all) y = DepthToSpace <blocksize = 2> (g)", b=[3.0] * 4)
        assert same(constants(found), 3)

    def test_that_are_not_constant(self) -> None:
        found = graph("c = Conv (x, w8, b8) d = Relu (c) y = DepthToSpace <blocksize = 2> (d)", b8=[-1.0] * 8)
        assert constants(found)[0] == 0
        parts = "a = Conv (x, free) e = Concat <axis = 1> (a, a) r = Relu (e)"
        free = graph(f"{parts} y = DepthToSpace <blocksize = 2> (r)")
        assert np.isnan(constants(free)).all()


class TestWindows:
    POOL = "AveragePool <kernel_shape = [3, 3]{}> (c)"

    @pytest.mark.parametrize(
        "attributes, zero_only",
        [
            ("", False),
            (", count_include_pad = 1", False),
            (", pads = [1, 1, 1, 1]", False),
            (", pads = [1, 1, 1, 1], count_include_pad = 1", True),
        ],
    )
    def test_a_mean_of_constants(self, attributes: str, zero_only: bool) -> None:
        found = graph(f"{CONSTANT} y = {self.POOL.format(attributes)}")
        assert same(constants(found), *([nan, nan, 0, nan] if zero_only else [1.5, -2.25, 0, 3]))

    @pytest.mark.parametrize("pool", ["MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>", "GlobalAveragePool",
                                      "GlobalMaxPool"])  # fmt: skip
    def test_the_constant_itself(self, pool: str) -> None:
        assert same(constants(graph(f"{CONSTANT} y = {pool} (c)")), 1.5, -2.25, 0, 3)

    @pytest.mark.parametrize("pool", ["MaxPool <kernel_shape = [3, 3]>", "AveragePool <kernel_shape = [3, 3]>"])
    def test_of_maps_put_together_from_several(self, pool: str) -> None:
        found = graph(f"{CONSTANT} d = Conv (x, w) e = Concat <axis = 2> (c, d) y = {pool} (e)")
        assert np.isnan(constants(found)).any()

    def test_resized(self) -> None:
        assert same(constants(graph(f"{CONSTANT} y = Resize (c, , scales)")), 1.5, -2.25, 0, 3)
        cut = 'Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (c, crop, scales)'
        assert np.isnan(constants(graph(f"{CONSTANT} y = {cut}"))).all()


class TestChoices:
    def test_between_constants(self) -> None:
        body = f"{CONSTANT} d = Relu (c) y = Where (m, c, d)"
        assert same(constants(graph(body)), 1.5, nan, 0, 3)

    def test_sums_over_a_map(self) -> None:
        axes = "axes = Constant <value = int64[2] {2, 3}> ()"
        found = graph(f"{axes} {CONSTANT} y = ReduceSum <keepdims = 1> (c, axes)")
        assert same(constants(found), 54, -81, 0, 108)
        flat = graph(f"{CONSTANT} y = ReduceMean <axes = [2, 3], keepdims = 0> (c)", "float[p, q] y")
        assert same(constants(flat), 1.5, -2.25, 0, 3)
