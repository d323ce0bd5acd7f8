"""Channel rules of matrix products: Gemm, MatMul, attention, and what recurrent layers read.

A product A·B sums over A's last axis and B's last but one, whichever side is constant; every other axis passes through.
A constant side is cut along the axes that the other side's channels lie on: columns that read them ("in"), or one value
for each ("channel"). Where the computed side has no channels left to pass on, the constant's own free axis makes new
ones ("out"). Channels that meet along the axis that two computed sides sum over are tied. Where rows and columns of a
product of two computed sides are channels, the columns' are held.

Where an attention's heads lie along an axis of their own, its channels vary along two: the head and the position in it.
One of the two goes by its number: a position in every head, or (`whole_heads`) a head with all its positions.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.labelling import Labelling, align, why
from onnxslim_yolo.analysis.movement import CannotMoveError, varying_axes
from onnxslim_yolo.ir.graph import Array, Node, has_input, is_constant, is_empty
from onnxslim_yolo.ops.linear import is_turned, matrix_axes


def gemm(state: Labelling, node: Node) -> None:
    """Gemm: a linear layer with a bias, with either matrix transposed or constant."""
    matmul(state, node)
    if not has_input(node, 2):
        return
    out = state.get(node.outputs[0])
    shape = state.shape(node.outputs[0])
    own = state.shape(node.inputs[2])
    padded = (1,) * (len(shape) - len(own)) + own
    if is_constant(node.inputs[2]):
        for axis in varying_axes(out):
            if padded[axis] > 1:
                state.use(node, 2, axis - len(shape) + len(own), out.reshape(-1), "channel")
        return
    bias = align(state.line(node, node.inputs[2]), len(shape))
    state.put(node.outputs[0], state.merge(node, out, bias, shape, padded))


def matmul(state: Labelling, node: Node) -> None:
    """MatMul: a linear layer with its weight on either side, or a product of two computed matrices."""
    constant = [is_constant(tensor) for tensor in node.inputs[:2]]
    shapes = [state.shape(tensor) for tensor in node.inputs[:2]]
    if all(constant) or min(map(len, shapes)) < 2:
        raise CannotMoveError("multiplies vectors, or constants")
    if any(constant):
        _linear(state, node, constant.index(True))
    else:
        _product(state, node)


def _linear(state: Labelling, node: Node, weight: int) -> None:
    data = 1 - weight
    inner, free = matrix_axes(node, data)
    own_inner, own_free = matrix_axes(node, weight)
    labels = state.line(node, node.inputs[data], (inner,))
    shape, values = state.shape(node.inputs[data]), state.shape(node.inputs[weight])
    rank = max(len(shape), len(values))
    result = align(np.array(labels), rank)
    if labels.shape[inner] > 1:
        state.use(node, weight, own_inner % len(values), labels.reshape(-1), "in")
        state.contract(node, data)
        result = np.zeros((1,) * rank, dtype=np.int64)
    varying = varying_axes(result)
    if not varying:
        made = state.fresh(node.outputs[0], -1 if weight == 1 else -2)
        return state.use(node, weight, own_free % len(values), made, "out")
    axis = varying[0] - rank
    if axis < -2 and -axis <= len(values) and values[axis] > 1:
        state.use(node, weight, axis + len(values), labels.reshape(-1), "channel")
    # What is passed on lies where the data's free axis does in the result; other axes keep their places.
    if is_turned(node, data) and axis == free:
        result = result.swapaxes(-1, -2)
    return state.put(node.outputs[0], result)


def _product(state: Labelling, node: Node) -> None:
    """Attention's products: the contracted axis is tied, the others pass through."""
    inner, turned = [matrix_axes(node, k)[0] for k in (0, 1)], [is_turned(node, k) for k in (0, 1)]
    shapes = [state.shape(tensor) for tensor in node.inputs[:2]]
    matrices = [range(len(shape) - 2) if state.whole_heads else () for shape in shapes]
    sides = [state.line(node, tensor, (*matrices[k], inner[k])) for k, tensor in enumerate(node.inputs[:2])]
    rank = max(map(len, shapes))
    contracted = [side.shape[axis] > 1 for side, axis in zip(sides, inner, strict=True)]
    if any(contracted):
        depth = (shapes[0][inner[0]],)
        rows = [side.reshape(-1) if on else np.zeros(1, np.int64) for side, on in zip(sides, contracted, strict=True)]
        state.merge(node, rows[0], rows[1], depth, depth)
        for index in (0, 1):
            if contracted[index]:
                state.contract(node, index)
    none = np.zeros((1,) * rank, dtype=np.int64)
    left, right = (
        none if on else align(side.swapaxes(-1, -2) if turn else side, rank)
        for side, on, turn in zip(sides, contracted, turned, strict=True)
    )
    if varying_axes(left) and varying_axes(right) and varying_axes(left) != varying_axes(right):
        # An element has one label. The rows' stay: of softmax(q·kᵀ)·v over channels those are the result's channels.
        state.freeze(right, why(node, "multiplies two sets of channels with each other"))
        right = none
    batch = [k for k in (*varying_axes(left), *varying_axes(right)) if k < rank - 2]
    if batch:  # matrix by matrix: the channels are the matrices
        wide = [(1,) * (rank - len(shape)) + shape for shape in shapes]
        extents = [tuple(n if k < rank - 2 else 1 for k, n in enumerate(shape)) for shape in wide]
        return state.put(node.outputs[0], state.merge(node, left, right, extents[0], extents[1]))
    return state.put(node.outputs[0], np.where(left != 0, left, right))


def attention(state: Labelling, node: Node) -> None:
    """Attention (opset 23): queries and keys are tied position by position in all heads, values pass on."""
    if any(has_input(node, k) for k in (4, 5)) or any(not is_empty(t) for t in node.outputs[1:3]):
        raise CannotMoveError("keeps keys and values of earlier calls")
    query, key, value = (_by_head(state, node, index) for index in range(3))
    width = (max(query.size, key.size),)
    merged = state.merge(node, query, key, width, width)
    if (merged != 0).any():
        state.contract(node, 0)
        state.contract(node, 1)
    output, shape = node.outputs[0], state.shape(node.outputs[0])
    if len(shape) == 4:
        state.put(output, value.reshape(1, 1, 1, -1))
    elif value.size > 1:
        state.put(output, np.tile(value, shape[2] // value.size).reshape(1, 1, -1))
    else:
        state.put(output, np.zeros((1, 1, 1), dtype=np.int64))
    for tensor in node.outputs[3:]:
        if not is_empty(tensor):
            state.put(tensor, np.zeros((1,) * len(state.shape(tensor)), dtype=np.int64))


def _by_head(state: Labelling, node: Node, index: int) -> Array:
    """The labels along a head's positions, tied over all heads; shape (n,) or (1,)."""
    tensor = node.inputs[index]
    rank = len(state.shape(tensor))
    labels = state.only_axis(node, tensor, rank - 1)
    if rank == 4 or labels.size == 1:
        return labels
    heads = int(node.attrs["q_num_heads" if index == 0 else "kv_num_heads"])
    parts = labels.reshape(heads, -1)
    mixed = (parts == 0).any(axis=0)
    state.freeze(parts[:, mixed], why(node, "reads it head by head, with values that no channel owns"))
    state.unify(np.broadcast_to(parts[:1], parts.shape), parts)
    return np.where(mixed, 0, parts[0])


def recurrent(state: Labelling, node: Node) -> None:
    """LSTM, GRU, RNN: the input's channels are read by W's last axis; states are nobody's."""
    labels = state.only_axis(node, node.inputs[0], 2)
    if not is_constant(node.inputs[1]):
        raise CannotMoveError("its weight is computed, not constant")
    if labels.size > 1:
        state.use(node, 1, 2, labels, "in")
        state.contract(node, 0)
    for tensor in node.outputs:
        if not is_empty(tensor):
            state.put(tensor, np.zeros((1,) * len(state.shape(tensor)), dtype=np.int64))
