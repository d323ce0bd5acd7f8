"""Channel rules of the linear operators: convolutions and matrix products.

They make new channels: the rows of their weight carry the labels of what they compute, its columns those of what they
read and sum over. Two exceptions: a depthwise convolution passes its input's labels on, and a product of two computed
matrices (attention) ties what it contracts.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.labelling import Balance, Labelling, align, why
from onnxslim_yolo.analysis.movement import CannotMoveError, varying_axes
from onnxslim_yolo.graph import Array, Node, has_input, is_constant


def conv(state: Labelling, node: Node) -> None:
    """Conv: depthwise ones pass labels on, in grouped ones all groups keep equally many channels."""
    weight = state.shape(node.inputs[1])
    groups = int(node.attrs.get("group", 1))
    if not is_constant(node.inputs[1]):
        raise CannotMoveError("its weight is computed, not constant")
    labels = state.only_axis(node, state.get(node.inputs[0]), 1)
    cin = state.shape(node.inputs[0])[1]
    if groups == cin and weight[1] == 1 and groups > 1:
        return _depthwise_conv(state, node, labels, weight[0] // cin)
    out = state.fresh(node.outputs[0], 1)
    state.use(node, 1, 0, out, "out")
    _bias(state, node, out)
    state.contract(node, 0)
    if groups == 1:
        if labels.size > 1:
            state.use(node, 1, 1, labels, "in")
        return None
    state.balances.append(Balance(out.reshape(groups, -1), node.name))
    if labels.size > 1:
        parts = labels.reshape(groups, -1)
        state.balances.append(Balance(parts, node.name))
        state.use(node, 1, 1, parts, "in")
    return None


def _depthwise_conv(state: Labelling, node: Node, labels: Array, multiplier: int) -> None:
    if labels.size == 1:  # the input is no channel's: its copies are new channels that cannot be told apart
        labels = np.zeros(state.shape(node.inputs[0])[1], dtype=np.int64)
    out = np.repeat(labels, multiplier)
    rank = len(state.shape(node.outputs[0]))
    state.put(node.outputs[0], out.reshape([1, -1] + [1] * (rank - 2)))
    state.use(node, 1, 0, out, "channel")
    _bias(state, node, out)


def _bias(state: Labelling, node: Node, out: Array) -> None:
    if not has_input(node, 2):
        return
    if is_constant(node.inputs[2]):
        state.use(node, 2, 0, out, "channel")
    else:
        state.freeze(out, why(node, "has a computed bias"))


def conv_transpose(state: Labelling, node: Node) -> None:
    """ConvTranspose: as Conv, with the weight's axes the other way round."""
    if not is_constant(node.inputs[1]):
        raise CannotMoveError("its weight is computed, not constant")
    weight = state.shape(node.inputs[1])
    groups = int(node.attrs.get("group", 1))
    labels = state.only_axis(node, state.get(node.inputs[0]), 1)
    if groups > 1 and weight[0] == groups and labels.size > 1:
        out = np.repeat(labels, weight[1])
        rank = len(state.shape(node.outputs[0]))
        state.put(node.outputs[0], out.reshape([1, -1] + [1] * (rank - 2)))
        state.use(node, 1, 0, labels, "channel")
        return _bias(state, node, out)
    out = state.fresh(node.outputs[0], 1)
    if groups > 1:  # the weight's axis 1 is shared by the groups: position p of every group goes together
        parts = out.reshape(groups, -1)
        state.unify(np.broadcast_to(parts[:1], parts.shape), parts)
        if labels.size > 1:
            state.balances.append(Balance(labels.reshape(groups, -1), node.name))
    state.use(node, 1, 1, out.reshape(groups, -1)[0], "out")
    _bias(state, node, out)
    state.contract(node, 0)
    if labels.size > 1:
        state.use(node, 1, 0, labels, "in")
    return None


def gemm(state: Labelling, node: Node) -> None:
    """Gemm: a linear layer with a bias."""
    if not is_constant(node.inputs[1]) or node.attrs.get("transA", 0):
        raise CannotMoveError("its weight is computed, not constant, or its input is transposed")
    columns = 1 if node.attrs.get("transB", 0) else 0
    labels = state.only_axis(node, state.get(node.inputs[0]), 1)
    out = state.fresh(node.outputs[0], 1)
    state.use(node, 1, 1 - columns, out, "out")
    state.contract(node, 0)
    if labels.size > 1:
        state.use(node, 1, columns, labels, "in")
    if not has_input(node, 2):
        return
    if not is_constant(node.inputs[2]):
        state.freeze(out, why(node, "has a computed bias"))
    elif state.shape(node.inputs[2])[-1:] == (len(out),) and len(out) > 1:
        state.use(node, 2, len(state.shape(node.inputs[2])) - 1, out, "channel")


def matmul(state: Labelling, node: Node) -> None:
    """MatMul: a linear layer, or a product of two computed matrices."""
    first, second = node.inputs
    if is_constant(second) and len(state.shape(second)) == 2 and not is_constant(first):
        return _linear(state, node)
    if is_constant(first) or is_constant(second):
        raise CannotMoveError("multiplies by a constant that is not a plain weight matrix on the right")
    return _product(state, node)


def _linear(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    last = labels.ndim - 1
    if [k for k in varying_axes(labels) if k != last]:
        raise CannotMoveError("its input's channels are not on the last axis")
    out = state.fresh(node.outputs[0], -1)
    state.use(node, 1, 1, out, "out")
    state.contract(node, 0)
    if labels.size > 1:
        state.use(node, 1, 0, labels.reshape(-1), "in")


def _product(state: Labelling, node: Node) -> None:
    """Attention's products: the contracted axis is tied, the others pass through."""
    first, second = node.inputs
    shape_a, shape_b = state.shape(first), state.shape(second)
    if min(len(shape_a), len(shape_b)) < 2:
        raise CannotMoveError("multiplies vectors")
    rank = max(len(shape_a), len(shape_b))
    a, b = align(state.get(first), rank), align(state.get(second), rank)
    shape_a, shape_b = (1,) * (rank - len(shape_a)) + shape_a, (1,) * (rank - len(shape_b)) + shape_b
    contracted_a = a.shape[-1] > 1
    contracted_b = b.shape[-2] > 1
    if contracted_a or contracted_b:
        rows = a.take([0], axis=-2).swapaxes(-1, -2) if contracted_a else np.zeros((1,) * rank, dtype=np.int64)
        cols = b.take([0], axis=-1) if contracted_b else np.zeros((1,) * rank, dtype=np.int64)
        depth = (shape_a[-1],)
        state.merge(node, rows.reshape(-1), cols.reshape(-1), depth, depth)
        state.contract(node, 0)
        state.contract(node, 1)
    a = np.zeros((1,) * rank, dtype=np.int64) if contracted_a else a
    b = np.zeros((1,) * rank, dtype=np.int64) if contracted_b else b
    if (varying_axes(a) and a.shape[-2] == 1) or (varying_axes(b) and b.shape[-1] == 1):
        raise CannotMoveError("has channels on a batch axis")
    state.put(node.outputs[0], np.where(a != 0, a, b) if not (varying_axes(a) and varying_axes(b)) else _refuse(node))


def _refuse(node: Node) -> Array:
    raise CannotMoveError("multiplies two sets of channels with each other")
