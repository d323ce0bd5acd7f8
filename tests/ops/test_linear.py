"""Linear layers as blocks: what onnxruntime computes with them, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import nodes_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import (
    LINEAR,
    Layout,
    LinearLayer,
    is_steady,
    is_turned,
    matrix_axes,
    matrix_of,
    product_macs,
)
from tests.kinds import text_of
from tests.numeric import build, random_feeds, run_onnx

MAPS = "float[1,6,7,7] x", "float[a,b,c,d] y"
ROWS = "float[3,6] x", "float[a,b] y"
LAYERS = {
    "conv": (*MAPS, "float[4,6,3,3] w", "y = Conv(x, w)", 6, 4, False),
    "grouped": (*MAPS, "float[4,3,3,3] w", "y = Conv<group=2>(x, w)", 6, 4, False),
    "depthwise": (*MAPS, "float[12,1,3,3] w", "y = Conv<group=6>(x, w)", 6, 12, True),
    "deconv": (*MAPS, "float[6,4,3,3] w", "y = ConvTranspose(x, w)", 6, 4, False),
    "grouped deconv": (*MAPS, "float[6,2,3,3] w", "y = ConvTranspose<group=2>(x, w)", 6, 4, False),
    "depthwise deconv": (*MAPS, "float[6,2,3,3] w", "y = ConvTranspose<group=6>(x, w)", 6, 12, True),
    "gemm": (*ROWS, "float[6,4] w", "y = Gemm(x, w)", 6, 4, False),
    "gemm, transposed": (*ROWS, "float[4,6] w", "y = Gemm<transB=1>(x, w)", 6, 4, False),
    "matmul": (*ROWS, "float[6,4] w", "y = MatMul(x, w)", 6, 4, False),
}


def layer_of(model: Model) -> LinearLayer:
    layer = LinearLayer.of(nodes_of(model.graph, *LINEAR)[0])
    assert layer is not None
    return layer


@pytest.mark.parametrize("case", LAYERS)
def test_blocks_say_what_the_runtime_computes(case: str) -> None:
    given, made, weight, body, inputs, outputs, depthwise = LAYERS[case]
    model = build(text_of(given, made, weight, body))
    layer = layer_of(model)
    assert (layer.inputs, layer.outputs, layer.is_depthwise) == (inputs, outputs, depthwise)
    assert layer.blocks.shape == (layer.groups, outputs // layer.groups, inputs // layer.groups, layer.taps)
    assert np.array_equal(layer.stored(layer.blocks).astype(np.float32), layer.weight)
    values = np.random.default_rng(0).standard_normal(inputs)
    wide = (1, inputs, 7, 7) if layer.channel_axis == 1 else (3, inputs)
    shape = (1, inputs, 1, 1) if layer.channel_axis == 1 else (1, inputs)
    y = run_onnx(model, {"x": np.broadcast_to(values.reshape(shape), wide).astype(np.float32)})["y"]
    one = y[0, :, y.shape[2] // 2, y.shape[3] // 2] if y.ndim == 4 else y[1]
    np.testing.assert_allclose(matrix_of(layer) @ values, one, rtol=1e-4, atol=1e-5)
    spoiled = matrix_of(layer) * 1.01
    assert np.abs(spoiled @ values - one).max() > 1e-3


@pytest.mark.parametrize("body", ["y = Gemm<transA=1>(x, w)", "y = MatMul(w, x)", "y = MatMul(x, x)", "y = Relu(x)"])
def test_what_is_no_layer(body: str) -> None:
    model = build(text_of("float[4,4] x", "float[a,b] y", "float[4,4] w", body))
    assert LinearLayer.of(model.graph.nodes[0]) is None


def test_a_constant_is_steady_where_nothing_pads_overlaps_or_moves() -> None:
    rows = {
        "y = Conv(x, w)": True,
        "y = Conv<pads=[0,0,1,0]>(x, w)": False,
        'y = Conv<auto_pad="SAME_UPPER">(x, w)': False,
        'y = Conv<auto_pad="VALID">(x, w)': True,
        "y = ConvTranspose<strides=[2,2]>(x, w)": False,
    }
    for body, steady in rows.items():
        model = build(text_of("float[1,4,5,5] x", "float[a,b,c,d] y", "float[4,4,3,3] w", body))
        assert is_steady(model.graph.nodes[0]) is steady
        ones = run_onnx(model, {"x": np.ones((1, 4, 5, 5), np.float32)})["y"]
        assert bool(ones.std(axis=(2, 3)).max() < 1e-6) == steady
    for body, made in (("y = Conv<strides=[2,2]>(x, w)", 1), ("y = ConvTranspose<strides=[2,2]>(x, w)", 4)):
        assert (
            layer_of(build(text_of("float[1,4,5,5] x", "float[a,b,c,d] y", "float[4,4,3,3] w", body))).overlap == made
        )


def test_biases() -> None:
    text = text_of("float[1,4] x", "float[a,b] y", "float[4,3] w, float[3] b", "c = Relu(b) y = Gemm(x, w, c)")
    layer = LinearLayer.of(build(text).graph.nodes[1])
    assert layer is not None and layer.has_computed_bias and layer.bias is None


@pytest.mark.parametrize("case", LAYERS)
def test_the_shape_of_a_weight_alone_says_the_same(case: str) -> None:
    given, made, weight, body, *_ = LAYERS[case]
    model = build(text_of(given, made, weight, body))
    layer = layer_of(model)
    layout = Layout.of_shape(layer.node, layer.weight.shape)
    assert (layout.inputs, layout.outputs, layout.taps) == (layer.inputs, layer.outputs, layer.taps)
    assert {layout.making_axis, layout.reading_axis} == {0, 1}
    x, y = (1, 6, 7, 7) if "7,7" in given else (3, 6), run_onnx(model, random_feeds(model))["y"]
    # A multiplication per output element, input channel of its group and tap; of ConvTranspose per input element.
    transposed = "Transpose" in body
    least = int(np.prod(x)) * layer.outputs if transposed else y.size * layer.inputs
    assert layout.macs(x, y.shape) == least * layer.taps // layer.groups


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_matrices_are_summed_along_the_axes_that_it_says(turned: tuple[int, int]) -> None:
    body = f"y = Gemm<transA={turned[0]}, transB={turned[1]}>(a, b)"
    shapes = [(5, 3) if turned[0] else (3, 5), (4, 5) if turned[1] else (5, 4)]
    declared = ", ".join(f"float[{s[0]},{s[1]}] {n}" for s, n in zip(shapes, "ab", strict=True))
    node = build(text_of(declared, "float[m,n] y", "", body)).graph.nodes[0]
    axes = [matrix_axes(node, side) for side in (0, 1)]
    assert [shape[summed] for shape, (summed, _) in zip(shapes, axes, strict=True)] == [5, 5]
    assert [shape[free] for shape, (_, free) in zip(shapes, axes, strict=True)] == [3, 4]
    assert [is_turned(node, side) for side in (0, 1)] == [bool(each) for each in turned]
    assert product_macs(node, shapes[0], 12) == 3 * 4 * 5
