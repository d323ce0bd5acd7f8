"""Shifts what a layer yields per output channel: what removed channels contributed, moved into biases."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.ir.graph import Array, Namer, Node, has_input, input_constant, revalue, set_input, sole_consumer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import ADDED, set_origin
from onnxslim_yolo.ops.arithmetic import is_sum
from onnxslim_yolo.ops.linear import factors_of, is_matmul
from onnxslim_yolo.ops.norms import is_batch_norm


def shift_outputs(model: Model, node: Node, shift: Array, name: Namer) -> bool:
    """Add `shift` to what the node yields per output channel."""
    if not np.any(shift):
        return False
    alpha, beta = factors_of(node)
    shift = shift * alpha
    reader = sole_consumer(model.graph, node.outputs[0])
    if is_matmul(node):
        return _shift_matmul(model, node, shift, name)
    if has_input(node, 2) and beta:
        bias = input_constant(node, 2)
        if bias is None:
            return False
        full = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, shift.shape))
        revalue(node, 2, (full + shift / beta).astype(bias.dtype))
        _label(model, node, 2)
        return True
    if is_batch_norm(reader) and input_constant(reader, 3) is not None:
        mean = np.asarray(input_constant(reader, 3))
        revalue(reader, 3, (mean - shift).astype(mean.dtype))
        return True
    dtype = np.asarray(input_constant(node, 1)).dtype
    stem = node.inputs[1].name
    stem = f"{stem[: -len('.weight')]}.bias" if stem.endswith(".weight") else f"{stem}_bias"
    node.attrs.pop("beta", None)  # it was of no bias, or of one that it left out
    set_input(node, 2, gs.Constant(name(stem), shift.astype(dtype)))
    set_origin(node.inputs[2], ADDED)
    _label(model, node, 2)
    return True


def _label(model: Model, node: Node, index: int) -> None:
    """Tell the plan's analysis about a per-channel constant that it has not seen, so that `slice` cuts it, too."""
    channels = None if model.plan is None else model.plan.channels
    labels = None if channels is None else channels.labels_of(node.outputs[0])
    width = int(node.inputs[index].shape[-1])
    if channels is None or labels is None or labels.size != width or width == 1:
        return
    if not any(use.node is node and use.index == index for use in channels.uses):
        axis = len(node.inputs[index].shape) - 1
        channels.uses.append(AxisUse(node, index, axis, labels.reshape(-1), "channel"))


def _shift_matmul(model: Model, node: Node, shift: Array, name: Namer) -> bool:
    reader = sole_consumer(model.graph, node.outputs[0])
    if is_sum(reader):
        for index, tensor in enumerate(reader.inputs):
            value = input_constant(reader, index)
            if tensor is not node.outputs[0] and value is not None and value.shape[-1:] == shift.shape:
                revalue(reader, index, (value + shift).astype(value.dtype))
                return True
    output = node.outputs[0]
    dtype = np.asarray(input_constant(node, 1)).dtype
    inner = gs.Variable(name(f"{output.name}_unshifted"), output.dtype, output.shape)
    node.outputs = [inner]
    bias = gs.Constant(name(f"{node.name}_bias"), shift.astype(dtype))
    set_origin(bias, ADDED)
    add = gs.Node("Add", name(f"{node.name}_shift"), {}, [inner, bias], [output])
    place = next(index for index, each in enumerate(model.graph.nodes) if each is node)
    model.graph.nodes.insert(place + 1, add)  # analyses follow the order of nodes
    _label(model, add, 1)
    return True
