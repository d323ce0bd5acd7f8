"""What a graph's first layers tell about the pixels that it expects: every form of the map, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.first_layers import format_of_first_layers
from onnxslim_yolo.ir.input_format import BYTES, UNIT, InputFormat
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[2,3,1,1] w, float[3] gamma, float[3] beta, float[3] mean, float[3] var, float[1,3,1,1] each,
    float[2] two, float[1,3,4,4] map"""
VALUES = {"gamma": np.full(3, 1.0), "beta": np.zeros(3), "mean": np.full(3, 120.0), "var": np.full(3, 3600.0)}


def shown(body: str, kind: str = "float", more: str = "", **constants: float) -> tuple[InputFormat, str] | None:
    declared = ", ".join([WEIGHTS, *(f"float {name}" for name in constants)])
    values = VALUES | {name: np.array(value) for name, value in constants.items()}
    values["each"] = np.array([255.0, 250.0, 240.0])
    text = onnx_text(f"{kind}[1,3,4,4] x{more}", "float[a,b,c,d] y", declared, f"{body} y = Conv(h, w)")
    return format_of_first_layers(build(text, values=values).graph)


@pytest.mark.parametrize(
    "body, constants, found",
    [
        ("h = Div(x, k)", {"k": 255}, BYTES),
        ("h = Div(x, each)", {}, BYTES),
        ("h = Mul(x, k)", {"k": 1 / 16}, BYTES),
        ("h = Mul(x, k)", {"k": 1 / 15.9}, None),
        ("h = Mul(k, x)", {"k": -1 / 255}, BYTES),
        ("h = Sub(x, k)", {"k": 8}, BYTES),
        ("h = Sub(x, k)", {"k": 7.9}, None),
        ("h = Add(x, k)", {"k": -120}, BYTES),
        ("h = Sub(k, x)", {"k": 120}, BYTES),
        ("h = Mul(x, k)", {"k": 2}, UNIT),
        ("h = Mul(x, k)", {"k": -2}, UNIT),
        ("h = Mul(x, k)", {"k": 1}, None),
        ("h = Mul(x, k)", {"k": 0.5}, None),
        ("a = Sub(x, k) h = Div(a, d)", {"k": 0.5, "d": 0.25}, UNIT),
        ("a = Sub(x, k) h = Div(a, d)", {"k": 120, "d": 60}, BYTES),
        ("a = Sub(x, k) h = Mul(a, d)", {"k": 20, "d": 2}, BYTES),
        ("a = Identity(x) h = Div(a, each)", {}, BYTES),
        ("a = Div(x, d) h = Sub(a, k)", {"k": 4.2, "d": 0.5}, UNIT),  # 2x − 4.2 is nothing at 2.1
        ("a = Mul(x, d) h = Sub(a, k)", {"k": 4.2, "d": 0.5}, BYTES),  # and 0.5x − 4.2 at 8.4
        ("a = Identity(x) b = Cast<to=1>(a) h = Div(b, k)", {"k": 255}, BYTES),
        ("a = Identity(x) h = Cast<to=1>(a)", {}, None),
        ("h = BatchNormalization(x, gamma, beta, mean, var)", {}, BYTES),
        ("h = Mul(x, k)", {"k": 0}, None),
        ("h = Div(x, k)", {"k": 0}, None),
        ("h = Sub(x, k)", {"k": np.inf}, None),
        ("h = Add(x, map)", {}, None),
        ("h = Relu(x)", {}, None),
        ("h = Identity(x)", {}, None),
        ("k = Constant<value_float=255.0>() h = Div(x, k)", {}, BYTES),
        ("k = Constant<value = float {255.0}>() h = Div(x, k)", {}, BYTES),
        ("k = Constant<value_floats=[255.0]>() h = Div(x, k)", {}, BYTES),
        ("s = Shape(x) a = Reshape(x, s) h = Div(a, k)", {"k": 255}, None),
        (
            "s = Shape(x) f = Cast<to=1>(s) m = ReduceMax(f) a = Div(x, k) h = Mul(a, m)",
            {"k": 255},
            BYTES,
        ),
        ("r = Relu(x) a = Div(x, k) h = Add(a, r)", {"k": 255}, None),
        ("a = Div(x, k) r = Relu(x) h = Add(a, r)", {"k": 255}, None),
    ],
)
def test_of_floats(body: str, constants: dict[str, float], found: InputFormat | None) -> None:
    result = shown(body, **constants)
    assert (None if result is None else result[0]) == found
    if result is not None:
        assert ("normalises pixels (" if found == BYTES else "normalises values in [0, 1] (") in result[1]


def test_the_first_node_that_does_something_is_named() -> None:
    found = shown("a = Identity(x) b = Div(a, k) h = Sub(b, d)", k=255, d=0.5)
    assert found is not None and found[1].startswith("the graph normalises pixels (Div 'Div")


def test_of_integers_and_of_several_inputs() -> None:
    assert shown("c = Cast<to=1>(x) h = Mul(c, k)", "uint8", k=2) == (BYTES, "its type is uint8")
    assert shown("h = Div(x, k)", more=", float[1] z", k=255) is None


@pytest.mark.parametrize("literal", ["value_float=255.0", "value_floats=[255.0]", "value = float {255.0}"])
def test_a_literal_that_is_returned_stays_a_node(literal: str) -> None:
    outputs, body = "float[a,b,c,d] y, float k", f"k = Constant<{literal}>() h = Div(x, k) y = Conv(h, w)"
    model = build(onnx_text("float[1,3,4,4] x", outputs, WEIGHTS, body))
    assert "Constant" in [node.op for node in model.graph.nodes]
    found = format_of_first_layers(model.graph)
    assert found is not None and found[0] == BYTES
    model.graph.nodes[0].attrs.clear()
    assert format_of_first_layers(model.graph) is None


def test_what_a_rewrite_took_out_tells_nothing() -> None:
    graph = build(onnx_text("float[1,3,4,4] x", "float[a,b,c,d] y", WEIGHTS, "h = Div(x, each) y = Conv(h, w)")).graph
    graph.nodes[0].outputs.clear()
    assert format_of_first_layers(graph) is None
