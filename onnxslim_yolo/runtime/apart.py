"""A model as onnxruntime reads it, with its large weights beside it: they are read where they lie.

A session made of one string of bytes costs two copies of every weight, one in the message and one in the string. Here
the message names them as external, and onnxruntime is handed the arrays (`SessionOptions.add_external_initializers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxslim_yolo.ir.graph import Array, initializers
from onnxslim_yolo.ir.model import Model

LARGE = 1 << 16
"""Weights of so many bytes lie beside the message; what is smaller is not worth it."""


@dataclass(frozen=True)
class Apart:
    """A model in two parts.

    Attributes:
        data: the model as a file has it, in which `weights` are external.
        weights: float32 arrays by name. They have to live as long as a session made of this.
    """

    data: bytes
    weights: dict[str, Array] = field(default_factory=dict)


def apart(model: Model | onnx.ModelProto) -> Apart:
    """Split a model. It is not edited, and not to be edited in place while a session of this lives."""
    proto, weights = _of_model(model) if isinstance(model, Model) else _of_proto(model)
    return Apart(bytes(proto.SerializeToString()), weights)


def _of_model(model: Model) -> tuple[onnx.ModelProto, dict[str, Array]]:
    copy = model.copy()
    kept = {id(tensor) for tensor in copy.graph.outputs}
    weights: dict[str, Array] = {}
    for constant in initializers(copy.graph):
        if constant.dtype == np.float32 and _is_large(constant.shape) and id(constant) not in kept:
            weights[constant.name] = np.ascontiguousarray(constant.values)
            constant.values = np.zeros(0, np.float32)
    proto = copy.to_onnx()
    read = _leave_unread_out(proto.graph)
    weights = {name: values for name, values in weights.items() if name in read}
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            _make_external(tensor, weights[tensor.name])
    return proto, weights


def _leave_unread_out(graph: onnx.GraphProto) -> set[str]:
    """Take out the nodes that no output needs, which onnxruntime would run, too, and the constants that only they
    read; returns the names of what is read. `graph` is in topological order."""
    read = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            read.update(node.input)
            nodes.append(node)
    if len(nodes) < len(graph.node):
        left = onnx.GraphProto(node=reversed(nodes), initializer=[t for t in graph.initializer if t.name in read])
        graph.ClearField("node")
        graph.ClearField("initializer")
        graph.MergeFrom(left)
    return read


def _of_proto(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    kept = {output.name for output in copy.graph.output}
    weights: dict[str, Array] = {}
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and _is_large(tensor.dims) and tensor.name not in kept:
            weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
            _make_external(tensor, weights[tensor.name])
    return copy, weights


def _is_large(shape: object) -> bool:
    return bool(4 * np.prod(np.array(shape, np.float64)) >= LARGE)


def _make_external(tensor: onnx.TensorProto, values: Array) -> None:
    for part in ("raw_data", "float_data", "dims"):
        tensor.ClearField(part)
    tensor.dims.extend(values.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside")  # never opened: onnxruntime is handed the array
