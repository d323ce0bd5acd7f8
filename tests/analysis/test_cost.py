"""Multiply-accumulates and parameters of every layer, counted by hand."""

from __future__ import annotations

from onnxslim_yolo.analysis.cost import cost_of
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[6,3,3,3] a.weight, float[6] a.bias, float[6,2,1,1] g.weight, float[6,1,3,3] d.weight,
    float[6,4,2,2] t.weight, int64[3] rows = {1, 4, -1}, float[64,5] m.weight"""
BODY = """a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, a.weight, a.bias) g = Conv<group=3>(a, g.weight)
    d = Conv<group=6, pads=[1,1,1,1]>(g, d.weight) t = ConvTranspose<strides=[2,2]>(d, t.weight)
    r = Reshape(t, rows) m = MatMul(r, m.weight) q = Transpose<perm=[0,2,1]>(m) y = MatMul(m, q)"""


def test_every_kind_of_layer() -> None:
    graph = build(onnx_text("float[1,3,8,8] x", "float[a,b,c] y", WEIGHTS, BODY)).graph
    found = cost_of(graph)
    layers = [(layer.op, layer.macs, layer.parameters) for layer in found.layers]
    assert layers == [
        ("Conv", 16 * 6 * 27, 6 * 27),
        ("Conv", 16 * 6 * 2, 12),
        ("Conv", 16 * 6 * 9, 54),
        ("ConvTranspose", 16 * 6 * 4 * 4, 96),
        ("MatMul", 4 * 64 * 5, 320),
        ("MatMul", 4 * 5 * 4, 0),
    ]
    assert found.macs == sum(macs for _, macs, _ in layers) and found.nodes == len(graph.nodes)
    assert found.parameters == 6 * 27 + 6 + 12 + 54 + 96 + 320


def test_what_has_no_known_shape_or_matrix_counts_nothing() -> None:
    text = onnx_text("float[1,3,h,w] x", "float[a,b,c,d] y", "float[6,3,3,3] a.weight", "y = Conv(x, a.weight)")
    (layer,) = cost_of(build(text).graph).layers
    assert (layer.macs, layer.parameters) == (0, 162)
    for end in ("inputs", "outputs"):
        graph = build(onnx_text("float[1,3,4,4] x", "float[a,b,c,d] y", "float[6,3,3,3] w", "y = Conv(x, w)")).graph
        assert cost_of(graph).macs == 4 * 162
        getattr(graph, end)[0].shape = [1, "c", 4, 4]
        assert cost_of(graph).macs == 0
    body = "w = Mul(a.weight, two) y = Conv(x, w)"
    text = onnx_text("float[1,3,4,4] x", "float[a,b,c,d] y", "float[6,3,3,3] a.weight, float two", body)
    (layer,) = cost_of(build(text).graph).layers
    assert (layer.macs, layer.parameters) == (0, 0)
