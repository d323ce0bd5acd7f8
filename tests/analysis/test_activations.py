"""Activations written as several nodes: found by what they compute, and not found where they compute something else."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, inf, pi, sqrt

import numpy as np
import pytest

from onnxslim_yolo.analysis.activations import Activation, find_activations, operator_of
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build, run_onnx

NUMBERS = {"zero": 0.0, "tenth": 0.1, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "five": 5.0, "six": 6.0,
           "minus": -1.0, "sixth": 1 / 6, "third": 1 / 3, "nearly": 0.1675, "root": sqrt(2), "slope": 1 / sqrt(2),
           "bend": 0.044715, "outer": sqrt(2 / pi)}  # fmt: skip
VALUES: dict[str, Array] = {name: np.array(value) for name, value in NUMBERS.items()}
WEIGHTS = ", ".join(f"float {name}" for name in NUMBERS)
POINTS = np.linspace(-5, 5, 41, dtype=np.float32).reshape(1, 41)


def found_in(body: str, kind: str = "float", more_outputs: str = "") -> list[Activation]:
    """The activations of a graph from x, (1, 41), to y."""
    return find_activations(_model(body, kind, more_outputs).graph)


def _model(body: str, kind: str = "float", more_outputs: str = "") -> Model:
    weights = WEIGHTS.replace("float", kind)
    text = onnx_text(f"{kind}[1, 41] x, {kind}[1, 41] z", f"{kind}[1, 41] y{more_outputs}", weights, body)
    return build(text, values=VALUES)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "SiLU": lambda x: x * _sigmoid(x),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Gelu": lambda x: x / 2 * (1 + np.vectorize(erf)(x / sqrt(2))),
    "GeluTanh": lambda x: x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "Relu": lambda x: np.maximum(x, 0),
}
"""What the kinds without attributes compute, each by its paper."""

SIGMOID = "n = Neg (x) e = Exp (n) d = Add (e, one)"
CLIP = "s = Add (x, three) c = Clip (s, zero, six)"
CUBE = "p = Mul (x, x) q = Mul (p, x) k = Mul (q, bend) i = Add (x, k) t = Mul (i, outer) h = Tanh (t)"
BELL = "t = Div (x, root) h = Erf (t)"
SPELT = [
    ("SiLU", "s = Sigmoid (x) y = Mul (x, s)"),
    ("SiLU", "s = Sigmoid (x) y = Mul (s, x)"),
    ("SiLU", f"{SIGMOID} y = Div (x, d)"),
    ("SiLU", f"{SIGMOID} r = Reciprocal (d) y = Mul (x, r)"),
    ("SiLU", f"{SIGMOID} r = Div (one, d) y = Mul (r, x)"),
    ("SiLU", "n = Mul (minus, x) e = Exp (n) d = Add (one, e) y = Div (x, d)"),
    ("HardSwish", f"{CLIP} m = Mul (x, c) y = Div (m, six)"),
    ("HardSwish", f"{CLIP} g = Div (c, six) y = Mul (g, x)"),
    ("HardSwish", f"{CLIP} g = Mul (x, sixth) y = Mul (c, g)"),
    ("HardSwish", "s = Mul (x, sixth) t = Add (s, half) c = Clip (t, zero, one) y = Mul (x, c)"),
    ("HardSwish", "s = Add (x, three) l = Relu (s) c = Min (l, six) m = Mul (x, c) y = Div (m, six)"),
    ("HardSwish", "g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (x, g)"),
    ("Gelu", f"{BELL} a = Add (h, one) g = Mul (x, a) y = Mul (g, half)"),
    ("Gelu", f"{BELL} a = Add (one, h) g = Mul (x, half) y = Mul (a, g)"),
    ("Gelu", "t = Mul (x, slope) h = Erf (t) a = Mul (h, half) b = Add (a, half) y = Mul (x, b)"),
    ("Gelu", f"{BELL} a = Mul (x, half) b = Mul (x, half) c = Mul (b, h) y = Add (a, c)"),
    ("Gelu", f"{BELL} a = Div (x, two) b = Mul (h, half) c = Mul (b, x) y = Add (c, a)"),
    ("GeluTanh", f"{CUBE} a = Add (h, one) g = Mul (x, a) y = Mul (g, half)"),
    ("GeluTanh", f"{CUBE} a = Mul (x, half) b = Mul (x, half) c = Mul (b, h) y = Add (a, c)"),
    ("Mish", "s = Softplus (x) t = Tanh (s) y = Mul (x, t)"),
    ("Mish", "e = Exp (x) a = Add (e, one) l = Log (a) t = Tanh (l) y = Mul (t, x)"),
    ("Relu", "a = Max (x, zero) y = Relu (a)"),
]


@pytest.mark.parametrize("kind, body", SPELT)
def test_a_function_of_all_its_nodes(kind: str, body: str) -> None:
    model = _model(body)
    (found,) = find_activations(model.graph)
    assert (found.kind, found.input.name, found.output.name, found.attributes) == (kind, "x", "y", {})
    assert {id(node) for node in found.nodes} == {id(node) for node in model.graph.nodes}
    assert len(found.nodes) == len(model.graph.nodes)
    given = run_onnx(model, {"x": POINTS, "z": POINTS} if "z" in model.graph.tensors() else {"x": POINTS})["y"]
    assert np.allclose(given, FUNCTIONS[kind](POINTS.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize(
    "kind, body, attributes",
    [
        ("HardSigmoid", f"{CLIP} y = Div (c, six)", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", f"{CLIP} y = Mul (sixth, c)", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", "s = Mul (x, two) t = Add (s, half) y = Clip (t, zero, one)", {"alpha": 2, "beta": 0.5}),
        ("HardSigmoid", "s = Mul (x, tenth) y = Clip (s, zero, one)", {"alpha": 0.1, "beta": 0}),
        ("LeakyRelu", "a = Mul (x, tenth) y = Max (x, a)", {"alpha": 0.1}),
        ("LeakyRelu", "a = Div (x, two) y = Max (a, x)", {"alpha": 0.5}),
        ("LeakyRelu", "a = Mul (x, zero) y = Max (a, x)", {"alpha": 0}),
        ("Clip", "a = Relu (x) y = Min (six, a)", {"min": 0, "max": 6}),
        ("Clip", "a = Min (x, five) y = Max (a, two)", {"min": 2, "max": 5}),
        ("Clip", "a = Max (x, two) y = Relu (a)", {"min": 2, "max": inf}),
        ("Clip", "a = Relu (x) y = Clip (a, zero, one)", {"min": 0, "max": 1}),
    ],
)
def test_a_function_with_numbers(kind: str, body: str, attributes: dict[str, float]) -> None:
    (found,) = found_in(body)
    assert (found.kind, found.input.name, found.output.name) == (kind, "x", "y")
    assert found.attributes == pytest.approx(attributes, rel=1e-6)
    assert len(found.nodes) == body.count("=")


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid (x) y = Mul (z, s)",
        "n = Neg (x) e = Exp (n) d = Add (e, two) y = Div (x, d)",
        "n = Mul (two, x) e = Exp (n) d = Add (e, one) y = Div (x, d)",
        "e = Exp (x) d = Add (e, one) y = Div (x, d)",
        "n = Neg (x) e = Exp (n) d = Add (e, one) r = Div (two, d) y = Mul (x, r)",
        "n = Neg (x) e = Exp (n) d = Add (e, one) y = Div (z, d)",
        f"{CLIP} m = Mul (x, c) y = Mul (m, nearly)",
        f"{CLIP} m = Mul (x, c) y = Div (m, five)",
        f"{CLIP} m = Mul (z, c) y = Div (m, six)",
        "s = Add (x, two) c = Clip (s, zero, six) m = Mul (x, c) y = Div (m, six)",
        "g = HardSigmoid <alpha = 0.2, beta = 0.5> (x) y = Mul (x, g)",
        "g = HardSigmoid <alpha = 0.16666667, beta = 0.4> (x) y = Mul (x, g)",
        f"{BELL} a = Add (h, one) y = Mul (x, a)",
        f"{BELL} a = Add (h, two) g = Mul (x, a) y = Mul (g, half)",
        f"{BELL} a = Add (h, one) g = Mul (z, a) y = Mul (g, half)",
        "t = Div (x, two) h = Erf (t) a = Add (h, one) g = Mul (x, a) y = Mul (g, half)",
        "t = Add (x, root) h = Erf (t) a = Add (h, one) g = Mul (x, a) y = Mul (g, half)",
        f"{BELL} a = Mul (x, half) b = Mul (x, tenth) c = Mul (b, h) y = Add (a, c)",
        f"{BELL} a = Mul (x, tenth) b = Mul (x, half) c = Mul (b, h) y = Add (a, c)",
        f"{BELL} w = Mul (x, x) a = Mul (w, half) b = Mul (x, half) c = Mul (b, h) y = Add (a, c)",
        "t = Mul (x, outer) h = Tanh (t) a = Add (h, one) g = Mul (x, a) y = Mul (g, half)",
        f"{CUBE.replace('bend', 'tenth')} a = Add (h, one) g = Mul (x, a) y = Mul (g, half)",
        "s = Softplus (x) t = Tanh (s) y = Mul (z, t)",
        "e = Exp (x) a = Add (e, two) l = Log (a) t = Tanh (l) y = Mul (x, t)",
        "t = Tanh (x) y = Mul (x, t)",
        "a = Mul (x, two) y = Max (x, a)",
        "a = Mul (x, minus) y = Max (x, a)",
        "a = Mul (x, one) y = Max (x, a)",
        "a = Mul (z, tenth) y = Max (x, a)",
        "a = Mul (x, tenth) y = Max (x, a, z)",
        "a = Mul (x, tenth) y = Min (x, a)",
        "s = Mul (x, tenth) y = Clip (s, minus, one)",
        "s = Mul (x, tenth) y = Relu (s)",
        f"{CLIP} y = Div (c, five)",
        "y = Clip (x, zero, six)",
        "c = Clip (x, zero, six) y = Div (c, six)",
        "y = Relu (x)",
        "a = Mul (x, two) y = Mul (a, three)",
    ],
)
def test_what_is_another_function(body: str) -> None:
    assert found_in(body) == []


@pytest.mark.parametrize(
    "kind, body, start, end",
    [
        ("SiLU", "s = Sigmoid (x) a = Mul (x, s) y = Mul (a, two)", "x", "a"),
        ("HardSwish", "g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) a = Mul (x, g) y = Mul (a, two)", "x", "a"),
        ("Mish", "s = Softplus (x) t = Tanh (s) a = Mul (x, t) y = Mul (a, two)", "x", "a"),
        ("HardSigmoid", "s = Mul (x, minus) t = Add (s, half) y = Clip (t, zero, one)", "s", "y"),
    ],
)
def test_what_stands_around_it_stays(kind: str, body: str, start: str, end: str) -> None:
    (found,) = found_in(body)
    assert (found.kind, found.input.name, found.output.name) == (kind, start, end)


@pytest.mark.parametrize("name", ["n", "e", "d"])
def test_what_others_read_stays(name: str) -> None:
    body = f"{SIGMOID} y = Div (x, d)"
    assert len(found_in(body)) == 1
    assert found_in(body, more_outputs=f", float[1, 41] {name}") == []


@pytest.mark.parametrize("name, body", [("s", SPELT[0][1]), ("s", SPELT[19][1]), ("t", SPELT[19][1])])
def test_a_gate_that_others_read_stays(name: str, body: str) -> None:
    assert found_in(body, more_outputs=f", float[1, 41] {name}") == []


def test_constants_are_compared_to_the_rounding_of_their_type() -> None:
    body = f"{CLIP} m = Mul (x, c) y = Mul (m, sixth)"
    (found,) = found_in(body, "float16")
    assert found.kind == "HardSwish"
    half = VALUES | {"sixth": np.array(np.float16(1 / 6))}
    text = onnx_text("float[1, 41] x", "float[1, 41] y", WEIGHTS, body)
    assert find_activations(build(text, values=half).graph) == []


def test_the_larger_pattern_wins_and_the_order_is_the_graphs() -> None:
    relu = "a = Max (x, zero) r = Relu (a)"
    found = found_in(f"{relu} b = Add (r, three) c = Clip (b, zero, six) m = Mul (r, c) y = Div (m, six)")
    assert [one.kind for one in found] == ["Relu", "HardSwish"]
    assert [one.input.name for one in found] == ["x", "r"]
    seen = [id(node) for one in found for node in one.nodes]
    assert len(seen) == len(set(seen)) == 6


def test_a_node_taken_out_of_the_graph_is_passed_over() -> None:
    model = _model("s = Sigmoid (x) y = Mul (x, s)")
    model.graph.nodes[-1].outputs.clear()
    assert find_activations(model.graph) == []


def test_what_onnx_calls_them() -> None:
    assert operator_of("SiLU") == ("Swish", {})
    assert operator_of("GeluTanh") == ("Gelu", {"approximate": "tanh"})
    assert operator_of("Mish") == ("Mish", {})
