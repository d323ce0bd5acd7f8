"""Normalisation over channels, groups and trailing axes: one function an ONNX operator."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Param, Weight
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, Value, normal_axis, unsupported
from onnxslim_yolo.emit.ncnn.ops_nn import constant_weight
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, input_constant


def batch_norm(low: Lowering, node: Node) -> None:
    """BatchNorm in inference: one scale and shift a channel."""
    source = low.input(node, 0)
    scale, shift, mean, variance = (constant_weight(node, index) for index in range(1, 5))
    source = _channels_first(low, node, source)
    weights = [Weight(values) for values in (scale, mean, variance, shift)]
    params: dict[int, Param] = {0: scale.size, 1: float(attribute(node, "epsilon"))}
    low.emit(node, "BatchNorm", [source], source.dims, params, weights, to=node.outputs[0])


def _channels_first(low: Lowering, node: Node, source: Value) -> Value:
    """The value in a blob whose outermost dim is ONNX axis 1."""
    if len(source.shape) < 2 or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, …)")
    if source.dims[0] == source.shape[1]:
        return source
    rest = int(np.prod(source.shape[2:], dtype=np.int64))
    return low.view(source, (source.shape[1], rest))


def instance_norm(low: Lowering, node: Node) -> None:
    """InstanceNorm, whose blob must have three or four dims."""
    source, scale, shift = low.input(node, 0), constant_weight(node, 1), constant_weight(node, 2)
    if len(source.shape) < 3 or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, …)")
    rest = source.shape[2:]
    dims = (source.shape[1], *rest) if len(rest) == 2 else (source.shape[1], 1, int(np.prod(rest)))
    params: dict[int, Param] = {0: scale.size, 1: float(attribute(node, "epsilon")), 2: 1}
    low.emit(
        node, "InstanceNorm", [low.view(source, dims)], dims, params, [Weight(scale), Weight(shift)], to=node.outputs[0]
    )


def group_norm(low: Lowering, node: Node) -> None:
    """GroupNorm. Until opset 20 ONNX scales per group, from 21 on per channel."""
    source, scale, shift = low.input(node, 0), constant_weight(node, 1), constant_weight(node, 2)
    source = _channels_first(low, node, source)
    groups, channels = int(node.attrs["num_groups"]), source.shape[1]
    scale, shift = (np.repeat(v, channels // v.size) for v in (scale.reshape(-1), shift.reshape(-1)))
    params: dict[int, Param] = {0: groups, 1: channels, 2: float(attribute(node, "epsilon")), 3: 1}
    low.emit(node, "GroupNorm", [source], source.dims, params, [Weight(scale), Weight(shift)], to=node.outputs[0])


def layer_norm(low: Lowering, node: Node) -> None:
    """LayerNorm over all axes from `axis` on, merged into the innermost dim."""
    source, scale, shift = low.input(node, 0), constant_weight(node, 1), input_constant(node, 2)
    axis = normal_axis(node, int(attribute(node, "axis")), len(source.shape))
    size = int(np.prod(source.shape[axis:], dtype=np.int64))
    rows = int(np.prod(source.shape[:axis], dtype=np.int64))
    scale = np.broadcast_to(scale, source.shape[axis:]).reshape(-1)
    shift = np.zeros(size, np.float32) if shift is None else np.broadcast_to(shift, source.shape[axis:]).reshape(-1)
    if source.dims[-1] != size:
        source = low.view(source, (size,) if rows == 1 else (rows, size))
    params: dict[int, Param] = {0: size, 1: float(attribute(node, "epsilon")), 2: 1}
    low.emit(node, "LayerNorm", [source], source.dims, params, [Weight(scale), Weight(shift)], to=node.outputs[0])


NORM_OPS: dict[str, Lower] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
}
