"""What is claimed about activations without data, against sampling; what is claimed to be exact, against running."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.defs import get_schema

from onnxslim_yolo.analysis.moment_functions import FUNCTIONS
from onnxslim_yolo.analysis.moment_rules import RULES, moments_of
from onnxslim_yolo.analysis.moments import LARGEST, MomentAnalysis
from onnxslim_yolo.analysis.movement import CannotMoveError
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, nearly, onnx_text
from tests.numeric import random_feeds, run_onnx

NORM = "n.gamma, n.beta, n.mean, n.var"
GAMMA, BETA = np.array([1.0, -0.6, 0.3, 0.0]), np.array([0.2, -0.5, 1.0, -0.7])
VALUES = {"n.gamma": GAMMA, "n.beta": BETA, "n.var": np.ones(4)}
WEIGHTS = "float[4,3,1,1] a.weight, " + ", ".join(f"float[4] {name}" for name in NORM.split(", "))
STEM = f"a = Conv(x, a.weight) b = BatchNormalization<epsilon=0.0>(a, {NORM})"
SAMPLES = np.random.default_rng(0).standard_normal((400_000, 1)) * GAMMA + BETA


def graph(
    weights: str, body: str, outputs: str = "float[p,q,r,s] y", values: dict[str, Array] | None = None
) -> Labelled:
    """What follows `b`, a BatchNorm's output of four channels; the last one is the constant −0.7."""
    weights = f"{WEIGHTS}, {weights}" if weights else WEIGHTS
    return Labelled(onnx_text("float[1,3,6,6] x", outputs, weights, f"{STEM} {body}"), VALUES | (values or {}))


UNARY = {
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "Abs": np.abs,
    "Exp": np.exp,
    "Neg": np.negative,
    "Erf": lambda x: np.tanh(1.1283792 * x + 0.1009 * x**3),  # within 4e-4
}


@pytest.mark.parametrize("op", UNARY)
def test_quadrature_against_sampling(op: str) -> None:
    found = graph("", f"y = {op}(b)").moments("y")
    values = UNARY[op](SAMPLES)
    np.testing.assert_allclose(found.mean.reshape(-1), values.mean(axis=0), atol=6e-3)
    np.testing.assert_allclose(found.variance.reshape(-1), values.var(axis=0), atol=6e-3, rtol=0.02)
    assert found.exact.reshape(-1).tolist() == [False, False, False, True]


COMPOSED = {
    "silu": ("", "s = Sigmoid(b) y = Mul(b, s)", lambda x: x / (1 + np.exp(-x))),
    "mish": ("", "s = Softplus(b) t = Tanh(s) y = Mul(b, t)", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "hard-swish": (
        "float three = {3.0}, float zero = {0.0}, float six = {6.0}",
        "s = Add(b, three) t = Clip(s, zero, six) u = Mul(b, t) y = Div(u, six)",
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
    ),
    "gelu": (
        "float root = {1.4142135}, float one = {1.0}, float half = {0.5}",
        "s = Div(b, root) t = Erf(s) u = Add(t, one) v = Mul(b, u) y = Mul(v, half)",
        None,
    ),
    "square": ("float two = {2.0}", "y = Pow(b, two)", np.square),
    "with-itself": ("", "y = Sub(b, b)", np.zeros_like),
    "prelu": (
        "float[4,1,1] slope = {0.1, 0.2, 0.3, 0.4}",
        "y = PRelu(b, slope)",
        lambda x: np.where(x > 0, x, x * [0.1, 0.2, 0.3, 0.4]),
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_functions_of_one_variable_stay_exact_distributions(name: str) -> None:
    """x·σ(x) is a function of x: taking its factors for independent would be wrong by a factor."""
    weights, body, function = COMPOSED[name]
    found = graph(weights, body).moments("y")
    values = gelu(SAMPLES) if function is None else function(SAMPLES)
    np.testing.assert_allclose(found.mean.reshape(-1), values.mean(axis=0), atol=6e-3)
    np.testing.assert_allclose(found.variance.reshape(-1), values.var(axis=0), atol=1e-2, rtol=0.02)


def gelu(x: Array) -> Array:
    from math import erf

    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def test_the_quadrature_is_exact_for_polynomials() -> None:
    found = graph("float four = {4.0}", "y = Pow(b, four)").moments("y")
    m, v = BETA, GAMMA**2
    np.testing.assert_allclose(found.mean.reshape(-1), m**4 + 6 * m**2 * v + 3 * v**2, rtol=1e-6)


def test_sums_of_independent_variables() -> None:
    more = "float[4,3,1,1] c.weight, float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var"
    body = "c = Conv(x, c.weight) d = BatchNormalization<epsilon=0.0>(c, m.gamma, m.beta, m.mean, m.var)"
    values = {"m.gamma": np.array([0.5, 1, 2, 0]), "m.beta": np.array([1.0, 2, 3, 4]), "m.var": np.ones(4)}
    g = graph(more, f"{body} y = Add(b, d)", values=values)
    assert nearly(g.moments("y").mean, *(BETA + values["m.beta"]))
    assert nearly(g.moments("y").variance, *(GAMMA**2 + values["m.gamma"] ** 2))
    g = graph(more, f"{body} y = Mul(b, d)", values=values)
    assert nearly(g.moments("y").mean, *(BETA * values["m.beta"]))
    assert g.moments("y").exact.reshape(-1).tolist() == [False, False, False, True]
    g = graph(more, f"{body} y = Max(b, d)", values=values)
    assert np.isnan(g.moments("y").mean.reshape(-1)[:3]).all()  # of constants alone it is known all the same
    assert g.moments("y").exact.reshape(-1).tolist() == [False, False, False, True]


EXACT = {
    "norm": ("", "y = Identity(b)"),
    "moved": ("int64[4] order = {3,2,1,0}", "y = Gather<axis=1>(b, order)"),
    "concat": ("", "s = Relu(b) y = Concat<axis=1>(b, s)"),
    "max-pool": ("", "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)"),
    "average-pool": ("", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)"),
    "average-pool-counting-pads": ("", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(b)"),
    "global-pool": ("", "y = GlobalAveragePool(b)"),
    "mean": ("", "y = ReduceMean<axes=[2,3]>(b)"),
    "maximum": ("", "y = ReduceMax<axes=[-1]>(b)"),
    "mean-over-channels": ("", "y = ReduceMean<axes=[1]>(b)"),
    "resize": ("float[0] roi, float[4] f = {1.0,1.0,2.0,2.0}", 'y = Resize<mode="linear">(b, roi, f)'),
    "pad-zero": ("int64[8] p = {0,0,1,1,0,0,1,1}", "y = Pad(b, p)"),
    "pad-same": ("int64[8] p = {0,0,1,1,0,0,1,1}, float v = {-0.7}", "y = Pad(b, p, v)"),
    "pad-channels": ("int64[8] p = {0,1,0,0,0,0,0,0}", "y = Pad(b, p)"),
    "depthwise": ("float[4,1,3,3] w, float[4] v", "y = Conv<group=4>(b, w, v)"),
    "depthwise-padded": ("float[4,1,3,3] w, float[4] v", "y = Conv<group=4, pads=[1,1,1,1]>(b, w, v)"),
    "reads-constants-only": ("float[2,4,1,1] w = {0.0,0.0,0.0,2.0,1.0,0.0,0.0,1.0}, float[2] v", "y = Conv(b, w, v)"),
    "reads-constants-only-padded": (
        "float[1,4,1,1] w = {0.0,0.0,0.0,2.0}",
        "y = Conv<pads=[1,1,1,1]>(b, w)",
    ),
    "grouped": ("float[2,2,1,1] w = {1.0,1.0,0.0,3.0}", "y = Conv<group=2>(b, w)"),
    "zero-filters": (
        "float[2,4,3,3] w = {" + ",".join(["0.0"] * 72) + "}, float[2] v",
        "y = Conv<pads=[1,1,1,1]>(b, w, v)",
    ),
    "zero-filters-transposed": (
        "float[4,2,2,2] w = {" + ",".join(["0.0"] * 32) + "}, float[2] v",
        "y = ConvTranspose<strides=[2,2]>(b, w, v)",
    ),
    "transposed": ("float[4,1,2,2] w", "y = ConvTranspose<group=4>(b, w)"),
    "dead-transposed": ("float zero = {0.0}, float[4,1,2,2] w", "h = Max(b, zero) y = ConvTranspose<group=4>(h, w)"),
    "gate": ("", "m = GlobalAveragePool(x) s = ReduceMean<axes=[1]>(m) y = Mul(b, s)"),
    "dead-gate": ("float zero = {0.0}", "h = Max(b, zero) m = ReduceMean<axes=[1]>(x) y = Mul(h, m)"),
    "depth-to-space": ("", "y = DepthToSpace<blocksize=2>(b)"),
    "depth-to-space-constant": (
        "int64[4] order = {3,3,3,3}",
        "h = Gather<axis=1>(b, order) y = DepthToSpace<blocksize=2>(h)",
    ),
    "table": ("float[1,4,6,6] t", "y = Add(b, t)"),
    "table-pooled": ("float[1,4,6,6] t", "h = Add(b, t) p = AveragePool<kernel_shape=[2,2]>(h) y = Relu(p)"),
    "table-padded": ("float[1,4,6,6] t, int64[8] p = {0,0,1,1,0,0,1,1}", "h = Add(b, t) q = Pad(h, p) y = Relu(q)"),
    "table-transposed": ("float[1,4,6,6] t, float[4,1,2,2] w", "h = Add(b, t) y = ConvTranspose<group=4>(h, w)"),
    "softmax": ("", "y = Softmax<axis=1>(b)"),
    "norm-again": (
        "float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var",
        "y = BatchNormalization(b, m.gamma, m.beta, m.mean, m.var)",
    ),
    "flat": ("", "y = Flatten(b)"),
    "tokens": ("int64[3] s = {1,4,36}", "r = Reshape(b, s) y = Transpose<perm=[0,2,1]>(r)"),
    "dead-values": (
        "int64[3] s = {1,4,36}, float zero = {0.0}",
        "h = Max(b, zero) v = Reshape(h, s) t = Reshape(x3, s3) q = Transpose<perm=[0,2,1]>(t) p = MatMul(q, t)"
        " w = Softmax(p) y = MatMul(v, w)",
    ),
    "gemm": (
        "float[4,2] w = {0.0,1.0,0.0,0.0,0.0,0.0,2.0,1.0}, float[2] v",
        "m = GlobalAveragePool(b) f = Flatten(m) y = Gemm<alpha=0.5, beta=2.0>(f, w, v)",
    ),
    "gemm-bias-matrix": (
        "float[4,2] w, float[36,2] v, int64[2] s = {4, 36}",
        "f = Reshape(b, s) t = Transpose<perm=[1,0]>(f) y = Gemm(t, w, v)",
    ),
}
RANKS = {"flat": 2, "gemm": 2, "gemm-bias-matrix": 2, "tokens": 3, "dead-values": 3}
CONSTANT = {
    "norm": [3],
    "moved": [0],
    "concat": [3, 7],
    "max-pool": [3],
    "average-pool": [3],
    "average-pool-counting-pads": [],
    "global-pool": [3],
    "mean": [3],
    "maximum": [3],
    "mean-over-channels": [],
    "resize": [3],
    "pad-zero": [],
    "pad-same": [3],
    "depthwise": [3],
    "depthwise-padded": [],
    "reads-constants-only": [0],
    "reads-constants-only-padded": [],
    "grouped": [1],
    "zero-filters": [0, 1],
    "zero-filters-transposed": [0, 1],
    "transposed": [],
    "dead-transposed": [3],
    "gate": [],
    "dead-gate": [3],
    "depth-to-space": [],
    "depth-to-space-constant": [0],
    "softmax": [],
    "norm-again": [3],
    "tokens": [3],
    "dead-values": [3],
    "gemm": [0],
}


@pytest.mark.parametrize("case", EXACT)
def test_exactness(case: str) -> None:
    """What is called exact is that very number for every input; and what must be found is found."""
    weights, body = EXACT[case]
    if case == "dead-values":
        weights += ", int64[3] s3 = {1,3,36}"
        body = body.replace("x3", "x")
    rank = RANKS.get(case, 4)
    g = graph(weights, body, f"float[{','.join('pqrs'[:rank])}] y")
    found = g.moments("y")
    outputs = [run_onnx(g.model, random_feeds(g.model, seed))["y"] for seed in (0, 1)]
    exact = np.broadcast_to(found.exact, outputs[0].shape)
    mean = np.broadcast_to(found.mean, outputs[0].shape)
    for output in outputs:
        np.testing.assert_allclose(output[exact], mean[exact], rtol=1e-5, atol=1e-6)
    if case in CONSTANT:
        axis = 2 if case in ("tokens",) else 1
        flags = np.moveaxis(found.exact, axis, 0).reshape(found.exact.shape[axis], -1).all(axis=1)
        flags = np.broadcast_to(flags, outputs[0].shape[axis : axis + 1])
        assert np.flatnonzero(flags).tolist() == CONSTANT[case]


def test_linear_maps_carry_means() -> None:
    """A convolution without padding: E[Wx + b] = W·E[x] + b."""
    g = graph("float[2,4,3,3] w, float[2] v", "h = Relu(b) y = Conv(h, w, v)")
    before = g.moments("h").mean.reshape(-1)
    w, v = (g.model.graph.tensors()[name].values.astype(np.float64) for name in "wv")  # type: ignore[attr-defined]
    np.testing.assert_allclose(g.moments("y").mean.reshape(-1), w.sum(axis=(2, 3)) @ before + v, rtol=1e-6)


def test_a_variance_below_epsilon() -> None:
    """With ε = 1e-5 and a running variance of 1e-5, half the variance is left."""
    text = onnx_text(
        "float[1,3,6,6] x", "float[p,q,r,s] y", WEIGHTS, f"a = Conv(x, a.weight) y = BatchNormalization(a, {NORM})"
    )
    g = Labelled(text, VALUES | {"n.var": np.full(4, 1e-5)})
    np.testing.assert_allclose(g.moments("y").variance.reshape(-1), GAMMA**2 / 2, rtol=1e-3)


def test_nothing_is_claimed_about_inputs_and_unknown_operators() -> None:
    g = graph("int64 one = {1}", "y = CumSum(b, one)")
    assert np.isnan(g.moments("x").mean).all() and not g.moments("x").exact.any()
    assert np.isnan(g.moments("y").mean).all() and not g.moments("y").exact.any()


def test_every_function_of_one_operand_agrees_with_onnxruntime() -> None:
    later = ("Mish", "Gelu", "Swish")  # than these graphs' operator set
    unary = [op for op in FUNCTIONS if get_schema(op).max_input == 1 and op not in (*later, "Not")]
    assert len(unary) > 25
    first = {**dict.fromkeys(("Log", "Sqrt", "Reciprocal"), "Exp"), "Acosh": "Cosh"}
    first |= dict.fromkeys(("Asin", "Acos", "Atanh"), "Tanh")
    for op in unary:
        g = graph("", f"h = {first[op]}(b) y = {op}(h)" if op in first else f"y = {op}(b)")
        output = run_onnx(g.model, random_feeds(g.model))["y"]
        np.testing.assert_allclose(output[0, 3], g.moments("y").mean.reshape(-1)[3], rtol=1e-5, atol=1e-6)


class TestWhatIsKnown:
    def test_of_large_constants(self) -> None:
        """Of what is larger than `LARGEST` nothing is said, be it given or computed."""
        for extra, known in ((0, True), (1, False)):
            width = LARGEST + extra
            g = Labelled(onnx_text("float[1] x", "float[n] y", f"float[{width}] w, float[{width}] v", "y = Add(w, v)"))
            tensors = g.model.graph.tensors()
            moments = moments_of(g.model.graph, g.channels.shapes)
            assert moments.of(tensors["w"]).exact.all() == known and moments.of(tensors["y"]).exact.all() == known
            assert moments.of(tensors["w"]).mean.size == (width if known else 1)
        wide = g.moments("y")
        assert wide.mean.shape == (1,) and np.isnan(wide.mean).all() and np.isnan(wide.variance).all()

    def test_of_constants_that_are_no_numbers(self) -> None:
        g = graph("bool[4,1,1] mask, float[4,1,1] other", "y = Where(mask, b, other)")
        found = moments_of(g.model.graph, g.channels.shapes).of(g.model.graph.tensors()["mask"])
        assert found.mean.shape == (1, 1, 1) and np.isnan(found.mean).all() and not found.exact.any()

    @pytest.mark.parametrize("domain, known", [("", True), ("ai.onnx", True), (None, True), ("another", False)])
    def test_of_operators_of_other_domains(self, domain: str | None, known: bool) -> None:
        g = graph("", "y = Relu(b)")
        (node,) = (node for node in g.model.graph.nodes if node.op == "Relu")
        node.domain = domain
        assert MomentAnalysis(g.model.graph, g.channels.shapes, RULES).of(node.outputs[0]).exact.any() == known

    def test_of_outputs_and_inputs_whose_shape_is_not(self) -> None:
        g = graph("", "c = Relu(b) y = Sigmoid(c)")
        tensors, shapes = g.model.graph.tensors(), dict(g.channels.shapes)
        shapes[id(tensors["c"])] = None
        found = MomentAnalysis(g.model.graph, shapes, RULES)
        assert not found.of(tensors["y"]).exact.any() and not found.of(tensors["c"]).exact.any()
        with pytest.raises(CannotMoveError, match="unknown shape"):
            found.shape(tensors["c"])
        assert found.shape(tensors["b"]) == (1, 4, 6, 6) and found.shape(tensors["a.weight"]) == (4, 3, 1, 1)

    def test_an_analysis_answers_for_floors_that_no_variance_lies_between(self) -> None:
        g = graph("", "y = Relu(b)", values={"n.var": np.array([1.0, 1e-6, 2.0, 1.0])})
        shapes = g.channels.shapes
        found = MomentAnalysis(g.model.graph, shapes, RULES, 1e-8)
        assert found.least_variance == pytest.approx(1e-6)
        assert found.answers(shapes, 1e-8) and found.answers(shapes, 0.0) and found.answers(shapes, 1e-7)
        assert not found.answers(shapes, 1e-5) and not found.answers({**shapes, 0: None}, 1e-8)
        above = MomentAnalysis(g.model.graph, shapes, RULES, 1e-5)
        assert above.answers(shapes, 1e-5) and not above.answers(shapes, 1e-8) and not above.answers(shapes, 1e-4)

    def test_a_variance_is_below_a_floor_or_not(self) -> None:
        found = MomentAnalysis(graph("", "y = Relu(b)").model.graph, {}, {}, 0.5)
        assert found.below_floor(np.array([0.25, 0.5, 0.75, np.nan])).tolist() == [True, False, False, False]
        assert found.least_variance == 0.25
        found.below_floor(np.array([2.0]))
        assert found.least_variance == 0.25
