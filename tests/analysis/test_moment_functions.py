"""Element-wise operators on distributions and constants: by hand, against numpy, and against onnxruntime."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from onnxslim_yolo.analysis.moment_functions import FUNCTIONS, from_samples
from onnxslim_yolo.analysis.moments import NODES
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, nearly, onnx_text
from tests.analysis.test_moments import BETA, GAMMA, graph
from tests.numeric import random_feeds, run_onnx

SECOND = "float[4,3,1,1] c.weight, float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var"
OTHER = "c = Conv(x, c.weight) d = BatchNormalization<epsilon=0.0>(c, m.gamma, m.beta, m.mean, m.var)"
OTHERS = {"m.gamma": np.array([0.5, 1, 2, 0]), "m.beta": np.array([1.0, 2, 3, 4]), "m.var": np.ones(4)}
MEAN, VARIANCE = OTHERS["m.beta"], OTHERS["m.gamma"] ** 2


def two(body: str, more: str = "", values: dict[str, Array] | None = None) -> Labelled:
    """What follows two normalised maps `b` and `d`, of which the last channel is constant: −0.7 and 4."""
    weights = f"{SECOND}, {more}" if more else SECOND
    return graph(weights, f"{OTHER} {body}", values=OTHERS | (values or {}))


def last(g: Labelled, name: str = "y") -> float:
    """What the constant channel is said to be; NaN where it is not said to be constant."""
    found = g.moments(name)
    return float(np.where(found.exact, found.mean, np.nan).reshape(-1)[-1])


class TestOfTwoVariables:
    @pytest.mark.parametrize(
        "body, mean, variance",
        [
            ("y = Add(b, d)", BETA + MEAN, GAMMA**2 + VARIANCE),
            ("y = Sum(b, d)", BETA + MEAN, GAMMA**2 + VARIANCE),
            ("y = Sub(b, d)", BETA - MEAN, GAMMA**2 + VARIANCE),
            ("y = Sub(d, b)", MEAN - BETA, GAMMA**2 + VARIANCE),
            ("y = Mul(b, d)", BETA * MEAN, GAMMA**2 * VARIANCE + GAMMA**2 * MEAN**2 + VARIANCE * BETA**2),
        ],
    )
    def test_that_are_independent(self, body: str, mean: Array, variance: Array) -> None:
        found = two(body).moments("y")
        assert nearly(found.mean, *mean) and nearly(found.variance, *variance)
        assert found.exact.reshape(-1).tolist() == [False] * 3 + [True]

    @pytest.mark.parametrize(
        "op, value", [("Div", -0.7 / 4), ("Max", 4.0), ("Min", -0.7), ("Mean", 1.65), ("Pow", 0.7**4)]
    )
    def test_constants_alone_decide(self, op: str, value: float) -> None:
        found = two(f"y = {op}(b, d)").moments("y")
        assert nearly(found.mean, nan, nan, nan, value) and nearly(found.variance, nan, nan, nan, 0)

    def test_that_are_not_as_wide(self) -> None:
        found = two("m = ReduceMean<axes=[1]>(c) y = Max(d, m)").moments("y")
        assert found.mean.shape == (1, 4, 1, 1) and np.isnan(found.mean).all() and not found.exact.any()

    @pytest.mark.parametrize(
        "body, exact",
        [
            ("y = Mul(b, z)", True),
            ("y = Mul(z, b)", True),
            ("y = Mul(a, z)", True),
            ("y = Div(z, positive)", True),
            ("y = Div(z, d)", False),
            ("y = Div(d, z)", False),
            ("y = Add(a, z)", False),
            ("y = Sub(z, a)", False),
            ("y = Max(a, z)", False),
        ],
    )
    def test_a_factor_of_zero(self, body: str, exact: bool) -> None:
        """Whatever the other is, known or not; a quotient's numerator where nothing is divided by zero."""
        start = "positive = Max(a, least) z = Sub(f, f)"
        constants = "float[1] least = {0.1}, float[4,1,1] f"
        values = {"m.beta": np.array([1.0, 2, 3, 0])}
        g = two(f"{start} {body}", constants, values)
        found = g.moments("y")
        assert found.exact.all() == exact
        assert not exact or (nearly(found.mean, *[0.0] * found.mean.size) and not found.variance.any())

    def test_a_constant_of_zero_times_what_is_not_known(self) -> None:
        found = graph("float[3,1,1] f = {0.0, 1.0, 0.0}", "y = Mul(x, f)").moments("y")
        assert found.exact.reshape(-1).tolist() == [True, False, True]
        assert nearly(found.mean, 0, nan, 0) and nearly(found.variance, 0, nan, 0)


class TestClip:
    @pytest.mark.parametrize(
        "call, low, high",
        [
            ("Clip(b)", -np.inf, np.inf),
            ("Clip(b, low)", -0.5, np.inf),
            ("Clip(b, , high)", -np.inf, 0.25),
            ("Clip(b, low, high)", -0.5, 0.25),
            ("Clip(b, computed, high)", -0.6, 0.25),
            ("Clip(b, low, computed)", -0.5, -0.6),
            ("Clip(b, , computed)", -np.inf, -0.6),
        ],
    )
    def test_by_its_bounds(self, call: str, low: float, high: float) -> None:
        weights = "float low = {-0.5}, float high = {0.25}, float half = {-0.3}"
        found = graph(weights, f"computed = Add(half, half) y = {call}").moments("y")
        values = np.minimum(np.maximum(NODES[:, None] * GAMMA + BETA, low), high)
        expected = from_samples(values, GAMMA == 0, 0)
        if "computed" in call:  # of two things that vary, constants alone decide
            assert nearly(found.mean, nan, nan, nan, values[0, 3])
        else:
            assert nearly(found.mean, *expected.mean) and nearly(found.variance, *expected.variance)

    def test_by_attributes(self) -> None:
        norm = "n.gamma, n.beta, n.mean, n.var"
        weights = "float[4,3,1,1] w, " + ", ".join(f"float[4] {name}" for name in norm.split(", "))
        body = f"a = Conv(x, w) b = BatchNormalization<epsilon=0.0>(a, {norm}) y = Clip<min=-0.5, max=0.25>(b)"
        text = onnx_text("float[1,3,6,6] x", "float[p,q,r,s] y", weights, body, opset=10)
        found = Labelled(text, {"n.gamma": GAMMA, "n.beta": BETA, "n.var": np.ones(4)}).moments("y")
        values = np.clip(NODES[:, None] * GAMMA + BETA, -0.5, 0.25)
        assert nearly(found.mean, *from_samples(values, GAMMA == 0, 0).mean)


JUMPS = {"Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
         "Equal": np.equal}  # fmt: skip


class TestJumps:
    @pytest.mark.parametrize("swapped", [False, True])
    @pytest.mark.parametrize("edge", [-0.7001, -0.6999, 0.7])
    @pytest.mark.parametrize("op", JUMPS)
    def test_a_comparison_beside_its_edge(self, op: str, edge: float, swapped: bool) -> None:
        sides = "edge, b" if swapped else "b, edge"
        g = graph(f"float edge = {{{edge}}}", f"c = {op}({sides}) y = Cast<to=1>(c)")
        wanted = JUMPS[op](edge, -0.7) if swapped else JUMPS[op](-0.7, edge)
        assert last(g) == float(wanted) == run_onnx(g.model, random_feeds(g.model))["y"][0, 3, 0, 0]

    @pytest.mark.parametrize("op", sorted(set(JUMPS) - {"Equal"}))
    @pytest.mark.parametrize("near", [1, 1 + 1e-6, 1 - 1e-6])
    @pytest.mark.parametrize("constant", [-0.7, 0.7])
    def test_what_rounding_would_decide_is_not_known(self, op: str, near: float, constant: float) -> None:
        """A constant on a comparison's edge may fall either way in float32."""
        beta = {"n.beta": np.array([0.2, -0.5, 1.0, constant])}
        g = graph(f"float edge = {{{constant * near!r}}}", f"c = {op}(b, edge) y = Cast<to=1>(c)", values=beta)
        assert np.isnan(last(g))

    def test_with_what_is_not_known(self) -> None:
        for sides in ("a, edge", "edge, a"):
            g = graph("float edge = {-1000.0}", f"c = Less({sides}) y = Cast<to=1>(c)")
            assert not g.moments("y").exact.any() and np.isnan(g.moments("y").mean).all()

    @pytest.mark.parametrize(
        "op, value, wanted",
        [
            ("Floor", -0.7, -1), ("Floor", -1.0, nan), ("Floor", -1.0000001, nan), ("Floor", 1.1, 1),
            ("Floor", 0.9999999, nan), ("Ceil", 1.0, nan), ("Ceil", -0.7, 0), ("Round", 0.5, nan), ("Round", 0.6, 1),
            ("Sign", -0.7, -1), ("Sign", 0.0, 0),
        ],
    )  # fmt: skip
    def test_a_rounding_beside_its_edge(self, op: str, value: float, wanted: float) -> None:
        found = last(graph("", f"y = {op}(b)", values={"n.beta": np.array([0.2, -0.5, 1.0, value])}))
        assert found == wanted or (np.isnan(found) and np.isnan(wanted))


class TestChoices:
    @pytest.mark.parametrize("edge, negated, chosen", [(0.0, "", 5), (-2.0, "", 3), (0.0, "Not", 3), (-2.0, "Not", 5)])
    def test_by_a_condition_that_is_known(self, edge: float, negated: str, chosen: float) -> None:
        weights = f"float edge = {{{edge}}}, float three = {{3.0}}, float five = {{5.0}}"
        turned = f"d = {negated}(c)" if negated else "d = Identity(c)"
        g = graph(weights, f"c = Greater(b, edge) {turned} y = Where(d, three, five)")
        found = g.moments("y")
        assert last(g) == chosen == run_onnx(g.model, random_feeds(g.model))["y"][0, 3, 0, 0]
        assert not found.exact.reshape(-1)[:3].any()

    def test_by_one_that_is_not(self) -> None:
        weights = "float edge = {0.0}, float three = {3.0}, float five = {5.0}"
        body = "c = Greater(a, edge) n = Not(c) y = Where(n, three, five)"
        assert not graph(weights, body).moments("y").exact.any()


def test_a_slope_of_its_own_for_each_channel() -> None:
    found = graph("float[4,1,1] slope = {0.1, 0.2, 0.3, 0.4}", "y = PRelu(b, slope)").moments("y")
    values = NODES[:, None] * GAMMA + BETA
    values = np.where(values < 0, values * [0.1, 0.2, 0.3, 0.4], values)
    expected = from_samples(values, GAMMA == 0, 0)
    assert nearly(found.mean, *expected.mean) and nearly(found.variance, *expected.variance)
    assert nearly(found.mean[0, 3], -0.28)


def test_every_function_is_given_what_its_operator_reads() -> None:
    assert {"Relu", "Add", "Clip", "Where", "Not", "Greater", "Floor", "PRelu"} <= set(FUNCTIONS)


EXACT = {
    "floor": ("", "y = Floor(b)"),
    "round": ("", "y = Round(b)"),
    "sign": ("", "y = Sign(b)"),
    "celu": ("", "y = Celu<alpha=0.5>(b)"),
    "shrink": ("", "y = Shrink<lambd=0.2, bias=0.1>(b)"),
    "max of two": ("", "s = Neg(b) t = GlobalMaxPool(b) y = Max(s, t)"),
    "prelu": ("float[4,1,1] slope", "y = PRelu(b, slope)"),
}


@pytest.mark.parametrize("name", EXACT)
def test_of_a_constant_as_onnxruntime_has_it(name: str) -> None:
    weights, body = EXACT[name]
    g = graph(weights, body)
    np.testing.assert_allclose(last(g), run_onnx(g.model, random_feeds(g.model))["y"][0, 3], rtol=1e-5)
