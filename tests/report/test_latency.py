"""Latency told apart by layer: what is entered adds up to what the table predicts for the whole graph."""

import copy

import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.latency.by_layer import add_latency, kind_text, kinds_of
from onnxslim_yolo.latency.layers import Family
from onnxslim_yolo.latency.shipped import table_for
from tests.numeric import build

NETWORK = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] x) => (float[1,8,16,16] y)'
    " <float[16,3,3,3] stem.weight, float[8,16,1,1] neck.weight>"
    " { a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, stem.weight) s = Sigmoid(a) b = Mul(a, s)"
    " p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b) y = Conv(p, neck.weight) }"
)


def entered(table):
    graph = build(NETWORK).graph
    cost = {"layers": [{"name": c.name, "op": c.op} for c in cost_of(graph).layers]}
    add_latency(cost, graph, table)
    return graph, cost


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_layers_and_kinds_add_up(runtime):
    table = table_for(runtime, "avx2")
    graph, cost = entered(table)
    whole = table.predict_graph(graph)
    assert len(cost["layers"]) == 2 and all(layer["latency_us"] > 0 for layer in cost["layers"])
    assert sum(kind["us"] for kind in cost["latency_kinds"]) == pytest.approx(whole, abs=0.02)
    assert 0 < sum(layer["latency_us"] for layer in cost["layers"]) < whole, "what does not multiply takes time, too"
    named = {kind["kind"] for kind in cost["latency_kinds"]}
    assert {"convolution 3×3, stride 2", "convolution 1×1", "max pooling"} < named
    times = [kind["us"] for kind in cost["latency_kinds"]]
    assert times == sorted(times, reverse=True)


def test_before_and_after_are_joined_by_kind():
    rows = [{"kind": "a", "layers": 2, "us": 3.0}, {"kind": "b", "layers": 1, "us": 1.0}]
    report = {"before": {"latency_kinds": rows}, "after": {"latency_kinds": copy.deepcopy(rows[1:])}}
    report["after"]["latency_kinds"].append({"kind": "c", "layers": 1, "us": 2.0})
    assert kinds_of(report) == [("a", 3.0, 0.0), ("b", 1.0, 1.0), ("c", 0.0, 2.0)]
    assert kinds_of({"before": {}, "after": {}}) == []


def test_kinds_have_names():
    assert kind_text(Family("conv", kernel=(5, 5))) == "convolution 5×5"
    assert kind_text(Family("unary", "silu")) == "activation or scale: silu"
    assert kind_text(Family("something")) == "something"
