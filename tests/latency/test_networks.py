"""What is measured is what the emitter writes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.measure.networks import ncnn_network


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


def convolutions(param: str) -> list[tuple[str, dict[str, str]]]:
    """Type and parameters of a .param's convolutions, but bias, activation and dilations of 1."""
    rows = [line.split() for line in param.splitlines()[2:]]
    found = []
    for row in rows:
        if row[0].startswith("Convolution"):
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
