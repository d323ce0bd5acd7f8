"""The most that a tensor can have whose size depends on what is in the image; counted by hand."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.most_shapes import most_shapes, of_any_size
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """int64 ten = {10}, int64 many = {100}, int64 none = {0}, int64[1] zero = {0}, int64[1] one = {1}"""
INPUTS = "float[1, 2, 3, 4] x, float[2, 20, 4] boxes, float[2, 3, 20] scores, int64[1] k, bool[24] mask"


def graph_of(body: str, kind: str = "int64") -> gs.Graph:
    return build(onnx_text(INPUTS, f"{kind}[a, b] y", WEIGHTS, body)).graph


@pytest.mark.parametrize(
    "body, kind, most",
    [
        ("y = NonZero (x)", "int64", (4, 24)),
        ("n = NonZero (x) y = Transpose <perm = [1, 0]> (n)", "int64", (24, 4)),
        ("n = NonZero (x) m = NonZero (n) y = Identity (m)", "int64", (2, 96)),
        ("y = Compress (x, mask)", "float", (24,)),
        ("y = Compress <axis = 2> (x, mask)", "float", (1, 2, 3, 4)),
        ("y = Unique (x)", "float", (24,)),
        ("y, i = TopK (x, k)", "float", (1, 2, 3, 4)),
        ("y = Slice (x, zero, k, one)", "float", (1, 2, 3, 4)),
        ("y = NonMaxSuppression (boxes, scores, ten)", "int64", (60, 3)),
        ("y = NonMaxSuppression (boxes, scores, many)", "int64", (120, 3)),
        ("y = NonMaxSuppression (boxes, scores, none)", "int64", (0, 3)),
        ("y = NonMaxSuppression (boxes, scores)", "int64", (120, 3)),
        ("y = NonMaxSuppression (boxes, scores, k)", "int64", (120, 3)),
    ],
)
def test_at_the_most(body: str, kind: str, most: tuple[int, ...]) -> None:
    graph = graph_of(body, kind)
    assert most_shapes(graph)[id(graph.tensors()["y"])] == most
    assert of_any_size(graph) is None


@pytest.mark.parametrize(
    "body, kind, op",
    [
        ("y = ConstantOfShape (k)", "float", "ConstantOfShape"),
        ("g = GlobalAveragePool (x) y = Expand (g, k)", "float", "Expand"),
        ("y = Expand (x, k)", "float", None),  # four of something stay four, whatever they meet
        ("g = GlobalAveragePool (x) e = Expand (g, k) y = Relu (e)", "float", "Expand"),
    ],
)
def test_as_large_as_the_image_says(body: str, kind: str, op: str | None) -> None:
    graph = graph_of(body, kind)
    found = of_any_size(graph)
    assert (None if found is None else found.op) == op
    assert (most_shapes(graph)[id(graph.tensors()["y"])] is None) is (op is not None)


def test_what_shapes_say_is_known_however_it_is_computed() -> None:
    """`chunk` of an exporter that knew no widths, over an open batch: half of (channels + 1), and a view behind it."""
    body = """s = Shape (x) c = Gather (s, one) d = Add (c, one) two = Constant <value_ints = [2]> () h = Div (d, two)
        q = Slice (x, zero, h, one) t = Shape (q) n = Gather (t, zero) rest = Constant <value_ints = [-1]> ()
        j = Concat <axis = 0> (n, rest) y = Reshape (q, j)"""
    text = onnx_text("float[N, 5, 4] x", "float[a, b] y", "int64[1] zero = {0}, int64[1] one = {1}", body)
    graph = build(text).graph
    assert of_any_size(graph) is None
    assert most_shapes(graph)[id(graph.tensors()["y"])] == (1, 12)


def test_what_makes_two_of_unknown_size_and_what_is_not_followed() -> None:
    """All outputs of a TopK are as large; of another operator, however many inputs it has, nothing is said."""
    graph = graph_of("v, y = TopK (x, k)")
    found = most_shapes(graph)
    assert found[id(graph.tensors()["v"])] == found[id(graph.tensors()["y"])] == (1, 2, 3, 4)
    made = "s = Squeeze (k) r = Range (none, s, ten) y = Cast <to = 7> (r)"
    other = graph_of(f"n = NonZero (x) m = Slice (n, zero, k, one) {made}")
    assert most_shapes(other)[id(other.tensors()["r"])] is None
    assert most_shapes(other)[id(other.tensors()["m"])] == (4, 24)


def test_boxes_of_unknown_number() -> None:
    """Where the scores' shape is not known, no number of boxes is."""
    graph = graph_of("n = NonZero (x) c = Cast <to = 1> (n) y = NonMaxSuppression (boxes, scores, ten)")
    (node,) = (node for node in graph.nodes if node.op == "NonMaxSuppression")
    node.inputs[1].shape = ["a", "b", "c"]
    assert most_shapes(graph)[id(graph.tensors()["y"])] is None
