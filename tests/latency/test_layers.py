from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from onnxslim_yolo.analysis.enlarged import enlarged_inputs
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.latency import Family, LayerKey, layers_of, table_for
from onnxslim_yolo.latency.layers import describe
from onnxslim_yolo.latency.moved import as_moved
from onnxslim_yolo.pipeline import _fusing
from tests.latency.models import small, zoo
from tests.numeric import build


def test_every_layer_of_a_small_graph():
    assert layers_of(small().graph) == [
        LayerKey(Family("conv", kernel=(3, 3), stride=(2, 2), size=(16, 16)), (3,), (16,)),
        LayerKey(Family("unary", "silu", size=(16, 16)), (16,), (16,)),
        LayerKey(Family("conv", kernel=(3, 3), stride=(2, 2), size=(8, 8)), (16,), (24,), "relu"),
        LayerKey(Family("depthwise", kernel=(3, 3), size=(8, 8)), (24,), (24,)),
        LayerKey(Family("split", size=(8, 8)), (24,), (10, 14)),
        LayerKey(Family("maxpool", kernel=(5, 5), size=(8, 8)), (14,), (14,)),
        LayerKey(Family("resize", "nearest", kernel=(1, 1), size=(8, 8)), (16,), (16,)),
        LayerKey(Family("concat", size=(8, 8)), (10, 14, 16), (40,)),
        LayerKey(Family("conv", size=(8, 8)), (40,), (8,)),
    ]


def test_a_sigmoid_with_another_reader_is_a_layer_of_its_own():
    model = small()
    sigmoid = next(node for node in model.graph.nodes if node.op == "Sigmoid")
    model.graph.outputs = [*model.graph.outputs, sigmoid.outputs[0]]
    assert [layer.node.op for layer in describe(model.graph)].count("Sigmoid") == 0
    product = next(node for node in model.graph.nodes if node.op == "Mul")
    product.inputs = [product.inputs[1], product.inputs[1]]
    assert [layer.node.op for layer in describe(model.graph)].count("Sigmoid") == 1


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "v5lite-s"])
def test_fusing_changes_no_layer_but_those_that_are_moved(name):
    model = zoo(name)
    moved = as_moved(model.graph, describe(model.graph))
    assert len(moved) > len(layers_of(model.graph)), "nothing is moved here"
    before = Counter((layer.key.family, layer.key.ins, layer.key.outs) for layer in moved)
    for step in _fusing():
        step.run(model)
    after = Counter((key.family, key.ins, key.outs) for key in layers_of(model.graph))
    for counter in (before, after):
        for key in list(counter):
            if key[0].kind not in ("conv", "group-conv", "depthwise", "concat", "split", "maxpool", "resize", "binary"):
                del counter[key]
    assert before == after
    assert sum(before.values()) > 40


def test_nothing_is_moved_where_sizes_are_not_known():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,4,h,w] x) => (float[1,8,i,j] y)
        <float[8,4,1,1] c.weight, float[4] s> { u = Resize(x, , s) y = Conv(u, c.weight) }"""
    model = build(text, values={"s": np.array([1.0, 1, 2, 2])})
    assert enlarged_inputs(model.graph)
    layers = describe(model.graph)
    assert as_moved(model.graph, layers) == layers


SHUFFLED = np.arange(32).reshape(2, 16).T.reshape(-1)


@pytest.mark.parametrize(
    ("picks", "kind", "groups"),
    [
        (SHUFFLED, "gather", 32),
        (np.arange(0, 32, 2), "gather", 32),
        (np.delete(SHUFFLED, [3, 9]), "gather", 1),
        (np.arange(4, 28), "move", 1),
        (np.concatenate([np.arange(16, 32), np.arange(16)]), "move", 1),
    ],
    ids=["shuffle", "every second", "cut", "crop", "two runs"],
)
def test_channels_picked_one_by_one_are_what_the_emitter_makes_of_them(
    picks: np.ndarray, kind: str, groups: int
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,32,20,20] x) => (float[1,{len(picks)},20,20] y)
        <int64[{len(picks)}] p> {{ y = Gather<axis=1>(x, p) }}"""
    (key,) = layers_of(build(text, values={"p": picks}).graph)
    assert (key.family.kind, key.family.groups) == (kind, groups)
    if kind == "move":
        return
    written = emit_ncnn(build(text, values={"p": picks})).param
    table = table_for("ncnn", "pi5")
    convolved = table.lookup(Family("conv", size=(20, 20)), key.ins, key.outs)
    assert (table.predict(key) == convolved) == ("Convolution" in written) == (groups == 1)
    assert table_for("onnxruntime", "pi5").predict(key) < convolved  # it copies
