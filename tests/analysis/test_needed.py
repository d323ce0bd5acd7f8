"""Which channels anything depends on, operator by operator: of four channels, the reader's column 1 is zero."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.needed import NeededChannels
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import onnx_text
from tests.numeric import build

READER = np.ones((2, 4, 1, 1))
READER[:, 1] = 0
VALUES: dict[str, Array] = {"w": READER, "m": READER[:, :, 0, 0].T, "stem": np.ones((4, 3, 1, 1))}
WEIGHTS = "float[2, 4, 1, 1] w, float[4, 3, 1, 1] stem"


class Needs:
    """A graph from x, (1, 3, 6, 6), to y; `needs["t"]` is what is needed of t, as text: "1011"."""

    def __init__(self, body: str, weights: str = "", more_outputs: str = "", **values: Array) -> None:
        declared = f"{WEIGHTS}, {weights}" if weights else WEIGHTS
        outputs = "float[a, b, c, d] y" + more_outputs
        model = build(
            onnx_text("float[1, 3, 6, 6] x, float[1, 4, 6, 6] z", outputs, declared, body), values=VALUES | values
        )
        self.graph = model.graph
        shapes = analyse_channels(self.graph).shapes
        self.found = NeededChannels(self.graph, shapes, moments_of(self.graph, shapes))

    def __getitem__(self, name: str) -> str:
        return "".join(str(int(one)) for one in self.found.of(self.graph.tensors()[name]))


STEM, END = "a = Conv (x, stem)", "y = Conv (t, w)"


def test_a_zero_column_is_not_needed() -> None:
    needs = Needs(f"{STEM} t = Relu (a) {END}")
    assert (needs["y"], needs["t"], needs["a"], needs["x"]) == ("11", "1011", "1011", "111")


def test_everything_that_reads_a_tensor_needs_its_own() -> None:
    other = np.zeros((1, 4, 1, 1))
    other[0, 1] = 1
    body = f"{STEM} t = Relu (a) u = Conv (t, w) v = Conv (t, q) y = Add (u, v)"
    assert Needs(body, "float[1, 4, 1, 1] q", q=other)["t"] == "1111"
    other[0, 1], other[0, 2] = 0, 1
    assert Needs(body, "float[1, 4, 1, 1] q", q=other)["t"] == "1011"


def test_what_is_returned_is_needed_whole() -> None:
    assert Needs(f"{STEM} t = Relu (a) {END}", more_outputs=", float[a, b, c, d] a")["a"] == "1111"


def test_nothing_is_needed_of_what_nobody_needs() -> None:
    needs = Needs(f"{STEM} b = Relu (a) t = Relu (a) {END}")
    assert needs["b"] == "0000"
    dead = Needs(f"{STEM} t = Relu (a) {END}", w=np.zeros((2, 4, 1, 1)))
    assert (dead["t"], dead["a"], dead["x"]) == ("0000", "0000", "000")


def test_a_row_that_nobody_needs_asks_for_nothing() -> None:
    stem = np.zeros((4, 3, 1, 1))
    stem[0, 0], stem[1, 2] = 1, 1
    assert Needs(f"t = Conv (x, stem) {END}", stem=stem)["x"] == "100"


def test_groups_read_their_own() -> None:
    grouped = np.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
    needs = Needs(f"{STEM} t = Relu (a) y = Conv <group = 2> (t, g)", "float[2, 2, 1, 1] g", g=grouped)
    assert needs["t"] == "1011"


@pytest.mark.parametrize(
    "middle", ["t = Sigmoid (a)", "t = MaxPool <kernel_shape = [2, 2]> (a)", "t = Identity (a)", "t = Clip (a, low)"]
)
def test_channel_by_channel(middle: str) -> None:
    assert Needs(f"{STEM} {middle} {END}", "float low")["a"] == "1011"


def test_a_pool_that_says_where_it_found_its_maximum_needs_all() -> None:
    body = f"{STEM} t, i = MaxPool <kernel_shape = [2, 2]> (a) {END}"
    assert Needs(body, more_outputs=", int64[a, b, c, d] i")["a"] == "1111"


def test_a_norm_that_scales_by_zero_needs_nothing() -> None:
    body = f"{STEM} t = BatchNormalization (a, gamma, beta, mean, var) {END}"
    weights = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
    assert Needs(body, weights, gamma=np.array([1.0, 1, 0, 1]))["a"] == "1001"
    other = body.replace("BatchNormalization (a, gamma, beta, mean, var)", "InstanceNormalization (a, gamma, beta)")
    assert Needs(other, "float[4] gamma, float[4] beta", gamma=np.array([1.0, 1, 0, 1]))["a"] == "1011"


@pytest.mark.parametrize("op", ["Softmax <axis = 1>", "LRN <size = 3>", "CumSumLike"])
def test_what_sees_other_channels_needs_all(op: str) -> None:
    if op == "CumSumLike":
        assert Needs(f"{STEM} t = CumSum (a, one) {END}", "int64 one = {1}")["a"] == "1111"
        return
    assert Needs(f"{STEM} t = {op} (a) {END}")["a"] == "1111"


class TestSums:
    def test_each_operand_as_the_result(self) -> None:
        needs = Needs(f"{STEM} t = Add (a, z) {END}")
        assert (needs["a"], needs["z"]) == ("1011", "1011")

    def test_one_channel_for_all(self) -> None:
        narrow = "{0} b = ReduceMean <axes = [1]> (x) t = Mul (a, b) {1}"
        assert Needs(narrow.format(STEM, END))["b"] == "1"
        assert Needs(narrow.format(STEM, END), w=np.zeros((2, 4, 1, 1)))["b"] == "0"

    def test_an_operand_of_another_rank_is_needed_whole(self) -> None:
        flat = f"{STEM} s = ReduceMean <axes = [0, 1], keepdims = 0> (z) t = Mul (a, s) {END}"
        assert Needs(flat)["s"] == "111111"

    def test_an_operand_of_unknown_shape_is_needed_whole(self) -> None:
        known = Needs(f"{STEM} t = Add (a, z) {END}")
        tensors, shapes = known.graph.tensors(), dict(analyse_channels(known.graph).shapes)
        shapes[id(tensors["z"])] = None
        needs = NeededChannels(known.graph, shapes, moments_of(known.graph, shapes))
        assert needs.of(tensors["z"]).all() and needs.of(tensors["a"]).tolist() == [True, False, True, True]

    def test_beside_an_exact_zero_a_factor_is_not_needed(self) -> None:
        gate = np.ones((1, 4, 1, 1))
        gate[0, 3] = 0
        for product in ("Mul (a, g)", "Mul (g, a)"):
            body = f"{STEM} t = {product} {END}"
            assert Needs(body, "float[1, 4, 1, 1] g", g=gate)["a"] == "1010"
        assert Needs(f"{STEM} t = Add (a, g) {END}", "float[1, 4, 1, 1] g", g=gate)["a"] == "1011"
        flat = Needs(f"{STEM} t = Mul (a, g) {END}", "float[4, 1, 1] g", g=gate)
        assert flat["a"] == "1010"

    def test_of_two_zeros_the_first_stays(self) -> None:
        zero = np.ones((4, 3, 1, 1))
        zero[2] = 0
        body = f"a = Conv (x, stem) b = Conv (x, other) t = Mul (a, b) {END}"
        both = Needs(body, "float[4, 3, 1, 1] other", stem=zero, other=zero)
        assert {both["a"], both["b"]} == {"1001", "1011"}
        first = Needs(body, "float[4, 3, 1, 1] other", stem=zero, other=np.ones((4, 3, 1, 1)))
        assert (first["a"], first["b"]) == ("1011", "1001")
        second = Needs(body, "float[4, 3, 1, 1] other", other=zero)
        assert (second["a"], second["b"]) == ("1001", "1011")

    def test_one_channel_for_all_beside_zeros(self) -> None:
        """Where every channel's other factor is zero, of the one that stands for all of them nothing is needed."""
        for product in ("Mul (g, b)", "Mul (b, g)"):
            body = f"b = ReduceMean <axes = [1]> (x) t = {product} {END}"
            assert Needs(body, "float[1, 4, 1, 1] g", g=np.zeros((1, 4, 1, 1)))["b"] == "0"
            assert Needs(body, "float[1, 4, 1, 1] g", g=np.array([0.0, 1, 0, 0]).reshape(1, 4, 1, 1))["b"] == "0"
            assert Needs(body, "float[1, 4, 1, 1] g", g=np.array([0.0, 0, 1, 0]).reshape(1, 4, 1, 1))["b"] == "1"

    def test_of_fewer_axes_is_needed_whole(self) -> None:
        """A (4, 1, 6) operand has its channels in front."""
        body = f"{STEM} s = ReduceMax <axes = [0, 2], keepdims = 0> (z) u = Unsqueeze (s, one) t = Mul (a, u) {END}"
        needs = Needs(body, "int64[1] one = {1}", w=np.zeros((2, 4, 1, 1)))
        assert needs["u"] == "0"
        assert Needs(body, "int64[1] one = {1}")["u"] == "1"


class TestLayers:
    @pytest.mark.parametrize(
        "layer",
        ["Conv (a, v)", "Conv <pads = [0, 0, 0, 0]> (a, v)", "ConvTranspose (a, u)", "Conv (a, c)"],
    )
    def test_read_by_their_columns(self, layer: str) -> None:
        columns = np.ones((5, 4, 1, 1))
        columns[:, 2] = 0
        weights = "float[5, 4, 1, 1] v, float[4, 5, 1, 1] u, float[2, 5, 1, 1] q"
        peak = "peak = ReduceMax <keepdims = 0> (x) c = Mul (peak, v)"
        body = f"{STEM} {peak} t = {layer} y = Conv (t, q)"
        needs = Needs(body, weights, v=columns, u=columns.swapaxes(0, 1), q=np.ones((2, 5, 1, 1)))
        assert needs["a"] == ("1111" if ", c)" in layer else "1101")

    def test_of_columns_of_pixels(self) -> None:
        """A product over columns leaves channels alone, and needs them all: nothing is told of it."""
        needs = Needs(f"{STEM} t = MatMul (a, c) {END}", "float[6, 6] c")
        assert needs["a"] == "1111"

    def test_joined_maps_of_which_one_is_for_all(self) -> None:
        body = f"{STEM} m = ReduceMean <axes = [1]> (x) b = Expand (m, wide) t = Concat <axis = 3> (a, b) {END}"
        assert Needs(body, "int64[4] wide = {1, 4, 6, 6}")["b"] == "1011"


class TestMoved:
    def test_joined_along_the_channels(self) -> None:
        for axis in (1, -3):
            body = f"p = Conv (x, one) q = Conv (x, three) t = Concat <axis = {axis}> (p, q) {END}"
            needs = Needs(body, "float[1, 3, 1, 1] one, float[3, 3, 1, 1] three")
            assert (needs["p"], needs["q"]) == ("1", "011")

    @pytest.mark.parametrize("axis", [2, 3, -1])
    def test_joined_along_another_axis(self, axis: int) -> None:
        needs = Needs(f"{STEM} t = Concat <axis = {axis}> (a, z) {END}")
        assert (needs["a"], needs["z"]) == ("1011", "1011")

    def test_split(self) -> None:
        reader = np.array([0.0, 1.0]).reshape(1, 2, 1, 1)
        for axis in (1, -3):
            body = f"{STEM} p, q = Split <axis = {axis}> (a) u = Conv (p, r) v = Relu (q) y = Add (u, v)"
            needs = Needs(body, "float[1, 2, 1, 1] r", r=reader)
            assert (needs["p"], needs["q"], needs["a"]) == ("01", "11", "0111")
        body = f"{STEM} p, q = Split <axis = 2> (a) t = Relu (q) u = Conv (p, w) v = Conv (t, w) y = Add (u, v)"
        assert Needs(body)["a"] == "1111"

    def test_taken(self) -> None:
        body = f"{STEM} b = Concat <axis = 1> (a, z) t = Slice (b, start, end, axis, step) {END}"
        ones = "int64[1] start = {7}, int64[1] end = {0}, int64[1] axis = {1}, int64[1] step = {-2}"
        needs = Needs(body, ones)  # channels 7, 5, 3, 1, of which 5 is not needed
        assert (needs["a"], needs["z"]) == ("0101", "0001")
        order = "int64[4] order = {3, 2, 3, 0}"
        assert Needs(f"{STEM} t = Gather <axis = 1> (a, order) {END}", order)["a"] == "1001"
        assert Needs(f"{STEM} t = Gather <axis = 2> (a, order) {END}", order)["a"] == "1011"

    def test_bounds_that_are_computed_need_all(self) -> None:
        body = f"{STEM} s = Shape (x) e = Slice (s, one, two) t = Slice (a, zero, e, one) y = Relu (t)"
        assert Needs(body, "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}")["a"] == "1111"

    def test_vectors_are_viewed(self) -> None:
        pool, flat = f"{STEM} p = GlobalAveragePool (a)", "int64[2] flat = {1, 4}, int64[4] wide = {1, 4, 1, 1}"
        needs = Needs(f"{pool} f = Reshape (p, flat) t = Reshape (f, wide) {END}", flat)
        assert (needs["t"], needs["f"], needs["p"], needs["a"]) == ("1011",) * 4
        maps = Needs(f"{STEM} f = Reshape (a, wide) t = Reshape (f, back) {END}", "int64[3] wide = {1, 4, 36}, "
                     "int64[4] back = {1, 4, 6, 6}")  # fmt: skip
        assert maps["a"] == "1111"  # maps are cut by position, of which nothing is told

    def test_matrices(self) -> None:
        body = f"{STEM} p = GlobalAveragePool (a) f = Flatten (p) g = {{}} y = Reshape (g, wide)"
        wide = "float[4, 2] m, float[2, 4] turned, int64[4] wide = {1, 2, 1, 1}"
        assert Needs(body.format("Gemm (f, m)"), wide)["f"] == "1011"
        assert Needs(body.format("MatMul (f, m)"), wide)["a"] == "1011"
        turned = VALUES["m"].T
        assert Needs(body.format("Gemm <transB = 1> (f, turned)"), wide, turned=turned)["f"] == "1011"


def test_an_operator_of_another_domain_needs_all() -> None:
    model = build(
        onnx_text("float[1, 3, 6, 6] x", "float[a, b, c, d] y", WEIGHTS, f"{STEM} t = Relu (a) {END}"), values=VALUES
    )
    model.graph.nodes[1].domain = "another"
    shapes = analyse_channels(model.graph).shapes
    found = NeededChannels(model.graph, shapes, moments_of(model.graph, shapes))
    assert found.of(model.graph.tensors()["a"]).tolist() == [True] * 4
    assert found.of(model.graph.tensors()["t"]).tolist() == [True, False, True, True]


class TestRanks:
    """Channels lie along axis 1 of matrices as well; a vector has none, and is needed whole or not at all."""

    @pytest.mark.parametrize(
        "body",
        [
            "t = Relu (f)",
            "t = Add (f, r)",
            "t = Add (r, f)",
            "t = Mul (f, f)",
            "p, q = Split <axis = 1> (f, halves) t = Concat <axis = -1> (p, q)",
            "t = Concat <axis = 1> (f)",
            "t = Gather <axis = 1> (f, same)",
            "t = Slice (f, zero, four, one)",
            "t = Reshape (f, flat)",
        ],
    )
    def test_matrices(self, body: str) -> None:
        ints = """int64[2] halves = {2, 2}, int64[4] same = {0, 1, 2, 3}, int64[1] zero = {0}, int64[1] four = {4},
            int64[1] one = {1}, int64[2] flat = {1, 4}, int64[4] wide = {1, 2, 1, 1}, float[4, 2] m, float[1, 4] r"""
        start = f"{STEM} g = GlobalAveragePool (a) f = Flatten (g)"
        assert Needs(f"{start} {body} o = Gemm (t, m) y = Reshape (o, wide)", ints)["f"] == "1011"

    @pytest.mark.parametrize("w, needed", [(np.ones((2, 4, 1, 1)), "1"), (np.zeros((2, 4, 1, 1)), "0")])
    @pytest.mark.parametrize(
        "body",
        [
            "t = Relu (f)",
            "t = Add (f, f)",
            "p, q = Split <axis = 0> (f) t = Concat <axis = 0> (p, q)",
            "t = Gather (f, order)",
            "t = Slice (f, zero, four)",
        ],
    )
    def test_vectors(self, body: str, w: Array, needed: str) -> None:
        ints = (
            """int64[4] order = {3, 2, 1, 0}, int64[1] zero = {0}, int64[1] four = {4}, int64[4] wide = {1, 4, 1, 1}"""
        )
        start = f"{STEM} f = ReduceMean <axes = [0, 2, 3], keepdims = 0> (a)"
        needs = Needs(f"{start} {body} o = Reshape (t, wide) y = Conv (o, w)", ints, w=w)
        assert (needs["f"], needs["a"]) == (needed, needed * 4)
