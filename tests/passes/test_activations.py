"""silu: every spelling of an activation becomes one operator, if the opset has it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.activations import find_activations
from onnxslim_yolo.passes import Activations
from tests.numeric import assert_same, build, check_declines, check_rewrite, ops, rewritten

CONSTANTS = """{0} zero = {{0.0}}, {0} half = {{0.5}}, {0} one = {{1.0}}, {0} three = {{3.0}}, {0} six = {{6.0}},
    {0} sixth = {{0.16666667}}, {0} root2 = {{1.4142135}}, {0} invroot2 = {{0.70710677}}, {0} cubic = {{0.044715}},
    {0} rootpi = {{0.7978846}}, {0} tenth = {{0.1}}, {0} two = {{2.0}}, {0}[1,1,1,1,1] sixth5 = {{0.16666667}}"""


def graph(body: str, opset: int = 20, outputs: str = "") -> str:
    """x comes from a convolution and y goes into one, so that a control has weights to spoil."""
    return f"""<ir_version: 9, opset_import: ["": {opset}]> g (float[1,3,6,5] i) => (float[1,3,6,5] o{outputs})
        <float[4,3,1,1] w, float[3,4,1,1] v, {CONSTANTS.format("float")}>
        {{ x = Conv(i, w) {body} o = Conv(y, v) }}"""


HARD_SWISH = {
    "HardSigmoid": "a = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, a)",
    "x * clip / 6": "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
    "clip / 6 * x": "a = Add(three, x) b = Clip(a, zero, six) c = Div(b, six) y = Mul(c, x)",
    "x / 6 * clip": "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, sixth) y = Mul(c, b)",
    "clip(x / 6 + 1/2)": "a = Mul(x, sixth) b = Add(a, half) c = Clip(b, zero, one) y = Mul(x, c)",
    "relu6 as min and max": "a = Add(x, three) b = Relu(a) c = Min(b, six) d = Mul(x, c) y = Mul(d, sixth)",
}
GELU = {
    "torch": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "half first": "a = Mul(x, invroot2) b = Erf(a) c = Add(one, b) d = Mul(x, half) y = Mul(d, c)",
    "half on the gate": "a = Mul(x, invroot2) b = Erf(a) c = Add(one, b) d = Mul(c, half) y = Mul(d, x)",
}
GELU_TANH = {
    "power": """a = Pow(x, three) b = Mul(a, cubic) c = Add(x, b) d = Mul(c, rootpi) e = Tanh(d) f = Add(e, one)
        g = Mul(x, half) y = Mul(g, f)""",
    "products": """a = Mul(x, x) p = Mul(a, x) b = Mul(cubic, p) c = Add(b, x) d = Mul(rootpi, c) e = Tanh(d)
        f = Add(one, e) g = Mul(x, f) y = Mul(half, g)""",
    "factored": """a = Mul(x, x) b = Mul(cubic, a) c = Add(b, one) p = Mul(x, rootpi) d = Mul(p, c) e = Tanh(d)
        f = Add(one, e) g = Mul(x, f) y = Mul(half, g)""",
}
CASES = {
    "HardSwish": HARD_SWISH,
    "Gelu": {**GELU, **GELU_TANH},
    "Mish": {"": "a = Softplus(x) b = Tanh(a) y = Mul(b, x)"},
    "LeakyRelu": {"": "a = Mul(x, tenth) y = Max(x, a)", "swapped": "a = Mul(tenth, x) y = Max(a, x)"},
    "HardSigmoid": {
        "clip(x / 6 + 1/2)": "a = Div(x, six) b = Add(a, half) y = Clip(b, zero, one)",
        "clip(x + 3) / 6": "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
        "another slope": "a = Mul(x, tenth) b = Sub(a, tenth) c = Max(b, zero) y = Min(c, one)",
    },
    "Clip": {
        "min(relu)": "a = Relu(x) y = Min(six, a)",
        "nested": "a = Clip(x, zero, three) b = Max(a, one) y = Clip(b, , two)",
    },
    "Relu": {"": "a = Relu(x) y = Max(a, zero)"},
}
FLAT = [(op, text) for op, texts in CASES.items() for text in texts.values()]


@pytest.mark.parametrize(("op", "body"), FLAT)
def test_becomes_one_operator(op: str, body: str) -> None:
    after = check_rewrite(build(graph(body)), Activations())
    assert ops(after) == ["Conv", op, "Conv"]


@pytest.mark.parametrize(
    ("op", "body", "opset"),
    [
        ("Gelu", GELU["torch"], 19),
        ("Gelu", GELU_TANH["power"], 19),
        ("Mish", CASES["Mish"][""], 17),
        ("HardSwish", HARD_SWISH["HardSigmoid"], 13),
    ],
)
def test_opset_without_the_operator_keeps_the_pattern(op: str, body: str, opset: int) -> None:
    model = build(graph(body, opset))
    check_declines(model, Activations())
    (found,) = find_activations(model.graph)
    assert found.kind.startswith(op)
    assert len(found.nodes) == len(model.graph.nodes) - 2


def test_hard_swish_before_opset_14() -> None:
    after = check_rewrite(build(graph(HARD_SWISH["x * clip / 6"], 13)), Activations())
    assert ops(after) == ["Conv", "HardSigmoid", "Mul", "Conv"]


def test_clip_with_attributes_before_opset_11() -> None:
    body = "a = Relu(x) y = Clip<max=6.0>(a)"
    assert ops(check_rewrite(build(graph(body, 10)), Activations())) == ["Conv", "Clip", "Conv"]


def test_silu_stays_with_x_first() -> None:
    after = check_rewrite(build(graph("a = Sigmoid(x) y = Mul(a, x)")), Activations())
    check_declines(build(graph("a = Sigmoid(x) y = Mul(x, a)")), Activations())
    (found,) = find_activations(after.graph)
    assert found.kind == "SiLU"
    assert [node.op for node in found.nodes] == ["Mul", "Sigmoid"]
    assert (found.input.name, found.output.name) == ("x", "y")


@pytest.mark.parametrize("gate", [HARD_SWISH["x * clip / 6"], GELU["torch"]])
def test_float16_constants(gate: str) -> None:
    """Constants rounded to float16 are still recognised."""
    text = graph(gate).replace("float", "float16")
    names = ("zero", "half", "one", "three", "six", "sixth", "root2", "invroot2", "cubic", "rootpi", "tenth", "two")
    numbers = (0, 0.5, 1, 3, 6, 1 / 6, 2**0.5, 0.5**0.5, 0.044715, (2 / np.pi) ** 0.5, 0.1, 2)
    values = {name: np.array(number) for name, number in zip(names, numbers, strict=True)}
    declared = ", ".join(f"float16 {name}" for name in names)
    start, end = text.index("float16 zero"), text.index(">\n", text.index("float16 zero"))
    model = build(text[:start] + declared + text[end:], values=values)
    after = rewritten(model, Activations(), rewrites=1)
    assert len(ops(after)) == 3
    assert_same(model, after, rtol=8e-3)


DECLINED = {
    "inner tensor is read": "a = Sigmoid(x) b = Mul(a, x) y = Add(a, b)",
    "another tensor": "u = Sin(x) a = HardSigmoid<alpha=0.16666667, beta=0.5>(u) y = Mul(x, a)",
    "another slope": "a = HardSigmoid<alpha=0.2, beta=0.5>(x) y = Mul(x, a)",
    "another offset": "a = Add(x, two) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
    "another range": "a = Add(x, three) b = Clip(a, zero, three) c = Mul(x, b) y = Div(c, six)",
    "no half": "a = Div(x, root2) b = Erf(a) c = Add(b, one) y = Mul(x, c)",
    "erf of another scale": "a = Div(x, two) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "cube of another scale": GELU_TANH["power"].replace("cubic", "tenth"),
    "square": GELU_TANH["power"].replace("three", "two"),
    "steep": "a = Mul(x, two) y = Max(x, a)",
    "clip alone": "y = Clip(x, zero, six)",
    "constant adds an axis": "a = Mul(x, sixth5) b = Max(x, a) y = Squeeze(b, n)",
    "sigmoid of a multiple": "b = Mul(x, two) a = Sigmoid(b) y = Mul(x, a)",
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines(case: str) -> None:
    text = graph(DECLINED[case]).replace("<float[4,3", "<int64[1] n = {0}, float[4,3")
    check_declines(build(text), Activations())


def test_graph_output_inside_declines() -> None:
    body = HARD_SWISH["x * clip / 6"]
    check_declines(build(graph(body, outputs=", float[1,4,6,5] c")), Activations())


def test_larger_pattern_wins_and_order_is_the_graphs() -> None:
    body = f"""{HARD_SWISH["clip(x / 6 + 1/2)"].replace("y =", "h =")} t = Sigmoid(h) u = Mul(h, t)
        p = Softplus(u) q = Tanh(p) y = Mul(u, q)"""
    model = build(graph(body))
    assert [found.kind for found in find_activations(model.graph)] == ["HardSwish", "SiLU", "Mish"]
    assert len(find_activations(model.graph)[0].nodes) == 4
