"""Constants per channel given back in the layers that read a tensor; every sum worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.carriers import carriers
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import onnx_text
from tests.numeric import build

VALUES: dict[str, Array] = {
    "w": np.array([[1.0, 2, 3], [0, 1, 0]]).reshape(2, 3, 1, 1),
    "wide": np.array([[1.0, 2, 3, 4, 5, 6]]).reshape(1, 6, 1, 1),
    "one": np.array([2.0]).reshape(1, 1, 1, 1),
    "two": np.array([[1.0, 10]]).reshape(1, 2, 1, 1),
    "m": np.array([[1.0, 0], [2, 1], [3, 0]]),
}
WEIGHTS = """float[2, 3, 1, 1] w, float[1, 6, 1, 1] wide, float[1, 1, 1, 1] one, float[1, 2, 1, 1] two, float[3, 2] m,
    float[2, 3, 3, 3] big, float[3, 1, 1] flat, float[3, 2, 1, 1] back, int64[2] sizes = {1, 2}"""
CONSTANT = np.array([1.0, 10, 100])


def given_back(body: str, outputs: str = "float[a, b, c, d] y") -> dict[str, list[float]] | str:
    """Of t, relu(x): what each layer has to yield more, by the name of what it yields."""
    text = onnx_text("float[1, 3, 4, 4] x, float[1, 3, 4, 4] z, float[2] s", outputs, WEIGHTS, f"t = Relu (x) {body}")
    graph = build(text, values=VALUES).graph
    found = carriers(graph, graph.tensors()["t"], CONSTANT)
    return found if isinstance(found, str) else {node.outputs[0].name: shift.tolist() for node, shift in found}


@pytest.mark.parametrize(
    "body, found",
    [
        ("y = Conv (t, w)", {"y": [321, 10]}),
        ("u = Conv (t, w) v = Conv (t, w) y = Add (u, v)", {"u": [321, 10], "v": [321, 10]}),
        ("u = Identity (t) y = Conv (u, w)", {"y": [321, 10]}),
        ("u = MaxPool <kernel_shape = [2, 2]> (t) y = Conv (u, w)", {"y": [321, 10]}),
        ("u = Add (t, z) y = Conv (u, w)", {"y": [321, 10]}),
        ("u = Add (z, t) y = Conv (u, w)", {"y": [321, 10]}),
        ("u = Add (t, t) y = Conv (u, w)", {"y": [642, 20]}),
        ("u = Add (t, flat) y = Conv (u, w)", {"y": [321, 10]}),
        ("u = Sum (t, z, t) y = Conv (u, w)", {"y": [642, 20]}),
        ("u = Concat <axis = 1> (t, z) y = Conv (u, wide)", {"y": [321]}),
        ("u = Concat <axis = -3> (z, t) y = Conv (u, wide)", {"y": [654]}),
        (
            "u, v = Split <axis = 1> (t, sizes) p = Conv (u, one) q = Conv (v, two) y = Add (p, q)",
            {"p": [2], "q": [1010]},
        ),
        (
            "u, v = Split <axis = -3> (t, sizes) p = Conv (u, one) q = Conv (v, two) y = Add (p, q)",
            {"p": [2], "q": [1010]},
        ),
    ],
)
def test_where_it_is_exact(body: str, found: dict[str, list[float]]) -> None:
    assert given_back(body) == found


@pytest.mark.parametrize(
    "body, why",
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (t, big)", "'Conv_1' (Conv) does more with it than multiply"),
        ("y = ConvTranspose (t, back)", "(ConvTranspose) does more"),
        ("y = Conv (t, w, s)", "(Conv) does more"),
        ("u = Sigmoid (t) y = Conv (u, w)", "(Sigmoid) does more"),
        ("u = Mul (t, z) y = Conv (u, w)", "(Mul) does more"),
        ("u = Sub (t, z) y = Conv (u, w)", "(Sub) does more"),
        ("u = Concat <axis = 2> (t, z) y = Conv (u, w)", "(Concat) does more"),
        ("u, v = Split <axis = 2> (t) p = Add (u, v) y = Conv (p, w)", "(Split) does more"),
        ("u = Softmax <axis = 1> (t) y = Conv (u, w)", "(Softmax) does more"),
        ("u = LpNormalization <axis = 1> (t) y = Conv (u, w)", "(LpNormalization) does more"),
        ("y = MatMul (t, z)", "(MatMul) does more"),
        ("y = Identity (t)", "'y' is returned"),
        ("y = Relu (z)", "nothing reads 't'"),
    ],
)
def test_where_it_is_not(body: str, why: str) -> None:
    found = given_back(body)
    assert isinstance(found, str) and why in found


def test_what_is_returned_itself() -> None:
    assert given_back("y = Conv (t, w)", "float[a, b, c, d] y, float[a, b, c, d] t") == "'t' is returned"
    found = given_back("u = Identity (t) y = Conv (u, w)", "float[a, b, c, d] y, float[a, b, c, d] u")
    assert found == "'u' is returned"
    maximum = "u, i = MaxPool <kernel_shape = [2, 2]> (t) v = Cast <to = 1> (i) y = Conv (u, w)"
    assert "(MaxPool) does more" in str(given_back(maximum, "float[a, b, c, d] y, float[e, f, g, h] v"))


def test_a_sum_that_broadcasts_it() -> None:
    body = "u = GlobalMaxPool (t) v = Add (u, z) y = Conv (v, w)"
    assert isinstance(given_back(body), str)


def test_rows_of_a_matrix_lie_along_another_axis() -> None:
    text = onnx_text("float[1, 3] x", "float[a, b] y", WEIGHTS, "t = Relu (x) y = Gemm (t, m)")
    graph = build(text, values=VALUES).graph
    found = carriers(graph, graph.tensors()["t"], CONSTANT)
    assert isinstance(found, str) and "(Gemm) does more" in found


@pytest.mark.parametrize(
    "body",
    [
        "u = Concat <axis = 1> (t, z) y = Conv (u, wide)",
        "u, v = Split <axis = 1> (t, sizes) p = Conv (u, one) q = Conv (v, two) y = Add (p, q)",
    ],
)
def test_parts_of_unknown_width(body: str) -> None:
    text = onnx_text("float[1, 3, 4, 4] x, float[1, 3, 4, 4] z", "float[a, b, c, d] y", WEIGHTS, f"t = Relu (x) {body}")
    graph = build(text, values=VALUES).graph
    node = graph.nodes[1]
    part = node.inputs[1] if node.op == "Concat" else node.outputs[1]
    for shape in ((1, "c", 4, 4), None):
        part.shape = shape
        assert "does more" in str(carriers(graph, graph.tensors()["t"], CONSTANT))
    if node.op == "Split":
        part.shape = (1, 5, 4, 4)
        assert "does more" in str(carriers(graph, graph.tensors()["t"], CONSTANT))
