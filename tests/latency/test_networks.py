"""What is measured is what the emitter writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import int8_form
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.measure.networks import can_measure, ncnn_network


def convolution(channels: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> Model:
    """ReLU → convolution of an image 32 × 32."""
    shape = (outputs, channels // groups, kernel, kernel)
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    low = (kernel - 1) // 2
    pads = [low, low, max(kernel - stride, 0) - low, max(kernel - stride, 0) - low]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], strides=[stride] * 2, pads=pads, group=groups),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model.from_onnx(onnx.shape_inference.infer_shapes(model))


def product(rows: int) -> Model:
    """ReLU → product with a weight, 24 → 40 → convolution, since what ends a network otherwise is its decode."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(24, 40)), "k": random.normal(size=(8, rows, 1, 1))}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "map"], ["f"]),
        helper.make_node("Conv", ["f", "k"], ["y"]),
    ]
    constants.append(numpy_helper.from_array(np.array([1, rows, 5, 8]), "map"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, rows, 24]), ("y", [1, 8, 5, 8]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model.from_onnx(onnx.shape_inference.infer_shapes(model))


def convolutions(param: str) -> list[tuple[str, dict[str, str]]]:
    """Type and parameters of a .param's convolutions, but bias, activation and dilations of 1."""
    rows = [line.split() for line in param.splitlines()[2:]]
    found = []
    for row in rows:
        if row[0].startswith(("Convolution", "InnerProduct")):
            params = dict(word.split("=") for word in row[4 + int(row[2]) + int(row[3]) :])
            found.append(
                (
                    row[0],
                    {
                        k: v
                        for k, v in params.items()
                        if k not in ("5", "9") and (k, v) not in (("2", "1"), ("12", "1"))
                    },
                )
            )
    return found


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "groups"),
    [(3, 16, 6, 2, 1), (3, 13, 6, 2, 1), (3, 16, 3, 2, 1), (16, 24, 3, 1, 1), (8, 16, 6, 2, 1), (16, 16, 3, 1, 16)],
)
def test_the_measured_network_is_the_emitted_one(channels, outputs, kernel, stride, groups):
    model = convolution(channels, outputs, kernel, stride, groups)
    key = next(k for k in layers_of(model.graph) if k.family.kind in ("conv", "depthwise"))
    assert convolutions(ncnn_network(key).param) == convolutions(emit_ncnn(model).param)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("int8", [False, True])
def test_a_product_with_a_weight_is_measured_as_it_is_emitted(rows: int, int8: bool) -> None:
    model = product(rows)
    [key] = [k for k in layers_of(model.graph) if k.family.kind == "matmul"]
    assert can_measure(key.family) and not can_measure(replace(key.family, op="maps"))
    if int8:
        made = everything(model.graph)
        assert made is not None
        model, key = made, replace(key, family=int8_form(key.family))
    spec = ncnn_network(key)
    [wanted], [found] = (
        [params for kind, params in convolutions(text) if kind == "InnerProduct"]
        for text in (emit_ncnn(model).param, spec.param)
    )
    assert {k: v for k, v in found.items() if k != "1"} == {k: v for k, v in wanted.items() if k != "1"}
    assert (found.get("8") == "1") == int8
    assert spec.inputs == ([[64, 24]] if rows == 64 else [[24]])
