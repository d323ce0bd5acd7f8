"""pad-pool: constant Pads go into the layers behind them, where that is the same in every runtime."""

from __future__ import annotations

import onnx
import pytest

from onnxslim_yolo.passes import PadToPool
from tests.numeric import build, check_declines, check_rewrite, ops
from tests.passes.pads import WINDOWS, graph, padded


@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.parametrize("activation", ["Relu(c)", "Sigmoid(c)", "Clip(c, zero, one)"])
def test_non_negative_input_needs_no_constant(case: str, activation: str) -> None:
    layer, pads = WINDOWS[case]
    after = check_rewrite(graph(padded(layer, activation, pads)), PadToPool())
    assert ops(after)[2:] == ["MaxPool"]


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
    after = check_rewrite(graph(text), PadToPool())
    assert sorted(ops(after)) == ["Conv", "Conv", "LeakyRelu", "MaxPool", "Pad", "Sin"]


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
    "maximum of what may be negative": padded(),
    "wider than the maximum's kernel": padded(activation="Relu(c)", pads="0,0,3,0,0,0,2,2"),
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
