"""pad-pool: Pads go into the layers behind them, and onnxruntime's wrong fusion finds nothing to fuse."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import PadToPool
from tests.numeric import PADS_BEFORE_MAXPOOL, assert_same, build, check_declines, check_rewrite, constants, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
ZERO = np.array(0.0)
POOL = "MaxPool<kernel_shape=[2,2], strides=[1,1]>(p)"
LEAKY = "LeakyRelu<alpha=0.1>(c)"


def padded(
    layer: str = POOL,
    activation: str = LEAKY,
    pads: str = "0,0,0,0,0,0,1,1",
    *,
    size: str = "8,7",
    more: str = "",
    outputs: str = "",
    pad: str = "Pad(h, pads)",
) -> str:
    """A convolution whose outputs are mostly negative, an activation, a Pad and a layer."""
    weights = f"float[4,3,3,3] w, float[4] b, float[5,4,3,3] k, int64[8] pads = {{{pads}}}, float low"
    return f"""{HEADER} g (float[2,3,{size}] x) => (float[2,a,b,c] y{outputs}) <{weights}, float zero, float one,
        int64[2] spatial = {{-1, 2}}, int64[4] two = {{0,1,1,1}}>
        {{ c = Conv(x, w, b) h = {activation} p = {pad} y = {layer} {more} }}"""


def graph(text: str) -> Model:
    low = np.finfo(np.float16 if "float16" in text else np.float32).min
    return build(text, values={"b": np.array([-1, -2, -1.5, -3]), "zero": ZERO, "one": ZERO + 1, "low": np.array(low)})


def test_onnxruntime_changes_the_original() -> None:
    """The reason for this pass: without it, the comparison with optimisations on must fail, up to 1.31."""
    model = graph(padded())
    with pytest.raises(AssertionError, match="differs by") if PADS_BEFORE_MAXPOOL else nullcontext():
        assert_same(model, model, optimise=(True,))


WINDOWS = {
    "v3-tiny": (POOL, "0,0,0,0,0,0,1,1"),
    "stride 2": ("MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)", "0,0,1,1,0,0,1,0"),
    "3x3, both sides": ("MaxPool<kernel_shape=[3,3], strides=[2,1]>(p)", "0,0,1,2,0,0,1,0"),
    "pads of its own": ("MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(p)", "0,0,1,1,0,0,2,1"),
    "some rows beyond the last window": ("MaxPool<kernel_shape=[2,2], strides=[3,3]>(p)", "0,0,0,0,0,0,1,1"),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_zero_pad_before_max_pool(case: str) -> None:
    layer, pads = WINDOWS[case]
    after = check_rewrite(graph(padded(layer, pads=pads)), PadToPool())
    assert ops(after) == ["Conv", "LeakyRelu", "MaxPool", "Max"]


@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.parametrize("activation", ["Relu(c)", "Sigmoid(c)", "Clip(c, zero, one)"])
def test_non_negative_input_needs_no_constant(case: str, activation: str) -> None:
    layer, pads = WINDOWS[case]
    after = check_rewrite(graph(padded(layer, activation, pads)), PadToPool())
    assert ops(after)[2:] == ["MaxPool"]


INDIRECT = {
    "unknown size": (padded(size="m,n"), ["Conv", "LeakyRelu", "Conv", "MaxPool"]),
    "wider than the kernel": (padded(pads="0,0,3,0,0,0,2,2"), ["Conv", "LeakyRelu", "Conv", "MaxPool"]),
    "rounding up": (
        padded("MaxPool<kernel_shape=[2,2], strides=[3,3], ceil_mode=1>(p)", pads="0,0,0,0,0,0,2,0"),
        ["Conv", "LeakyRelu", "Conv", "MaxPool"],
    ),
    "dilated": (
        padded("MaxPool<kernel_shape=[2,2], dilations=[2,2]>(p)", "Relu(c)"),
        ["Conv", "Relu", "Conv", "MaxPool"],
    ),
}


@pytest.mark.parametrize("case", INDIRECT)
def test_zeros_padded_by_a_convolution(case: str) -> None:
    text, left = INDIRECT[case]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)} if "m,n" in text else None
    assert ops(check_rewrite(graph(text), PadToPool(), feeds=feeds)) == left


def test_pad_of_the_lowest_number_is_max_pools_own() -> None:
    after = check_rewrite(graph(padded(pad="Pad(h, pads, low)")), PadToPool())
    assert ops(after) == ["Conv", "LeakyRelu", "MaxPool"]


@pytest.mark.parametrize(
    "layer",
    [
        "Conv<strides=[2,1]>(p, k)",
        "Conv<pads=[1,0,0,2], dilations=[2,1]>(p, k)",
        'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(p, k)',
        "AveragePool<kernel_shape=[3,3]>(p)",
        "AveragePool<kernel_shape=[4,4], pads=[1,1,1,1], count_include_pad=1>(p)",
    ],
)
def test_into_convolution_and_average_pool(layer: str) -> None:
    after = check_rewrite(graph(padded(layer, pads="0,0,1,0,0,0,0,2")), PadToPool())
    assert ops(after) == ["Conv", "LeakyRelu", layer.split("<")[0]]


def test_each_reader_for_itself() -> None:
    more = "z = MaxPool<kernel_shape=[2,2]>(p) u = Sin(p)"
    text = padded("Conv(p, k)", more=more, outputs=", float[2,4,d,e] z, float[2,4,f,g] u")
    after = check_rewrite(graph(text), PadToPool(), rewrites=2)
    assert sorted(ops(after)) == ["Conv", "Conv", "LeakyRelu", "Max", "MaxPool", "Pad", "Sin"]


def test_axes_of_opset_18_and_attributes_of_opset_2() -> None:
    axes = padded(pad="Pad(h, two, zero, spatial)").replace('"": 17', '"": 18')
    assert ops(check_rewrite(graph(axes), PadToPool())) == ["Conv", "LeakyRelu", "MaxPool", "Max"]
    attributes = padded(pad="Pad<pads=[0,0,0,0,0,0,1,1], value=0.0>(h)").replace('"": 17', '"": 9')
    assert ops(check_rewrite(graph(attributes), PadToPool())) == ["Conv", "LeakyRelu", "MaxPool", "Max"]


def test_float16() -> None:
    after = check_rewrite(graph(padded().replace("float", "float16")), PadToPool(), rtol=4e-3, control=False)
    assert ops(after) == ["Conv", "LeakyRelu", "MaxPool", "Max"]
    assert all(value.dtype != np.float32 for value in constants(after).values())


DECLINED = {
    "reflection": padded(pad='Pad<mode="reflect">(h, pads)'),
    "crop": padded(pads="0,0,-1,0,0,0,1,1"),
    "channels": padded("MaxPool<kernel_shape=[2,2]>(p)", pads="0,1,0,0,0,0,1,1"),
    "other value": padded(pad="Pad(h, pads, one)"),
    "other value before a convolution": padded("Conv(p, k)", pad="Pad(h, pads, one)"),
    "average that does not count its own": padded("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(p)"),
    "average wider than its kernel": padded("AveragePool<kernel_shape=[2,2]>(p)", pads="0,0,2,0,0,0,1,1"),
    "indices": padded(outputs=", int64[2,4,d,e] i").replace("y = MaxPool", "y, i = MaxPool"),
    "other layer": padded("Sin(p)"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines(case: str) -> None:
    check_declines(graph(DECLINED[case]), PadToPool())


def test_what_it_writes_exists_at_an_old_opset():
    model = build(
        """<ir_version: 4, opset_import: ["" : 9]>
        g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) {
            p = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(x)
            y = AveragePool<kernel_shape = [3, 3]>(p)
        }"""
    )
    assert PadToPool().run(model) == 1
    known = onnx.defs.get_schema("AveragePool", 9).attributes
    assert set(model.graph.nodes[0].attrs) <= set(known)
