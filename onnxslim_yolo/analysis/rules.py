"""How each operator carries channel labels: the table `RULES`, one row an operator.

A rule reads the labels of a node's inputs and notes those of its outputs, the initializer axes that hold channels, and
what ties or forbids. An operator without a row is `opaque`: correct, unpruned, and reported with its name. The rules of
convolutions and matrix products are in `rules_linear.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxslim_yolo.analysis.labelling import Labelling, Rule, align, why
from onnxslim_yolo.analysis.movement import (
    MOVERS,
    CannotMoveError,
    axes_of,
    axis_of,
    collapse,
    expand_axis,
    pad_widths,
    varying_axes,
)
from onnxslim_yolo.analysis.rules_linear import conv, conv_transpose, gemm, matmul
from onnxslim_yolo.graph import Array, Node, input_constant, is_constant, is_empty, is_graph_output


def _move(state: Labelling, node: Node) -> None:
    inputs = [t for t in node.inputs if not is_empty(t)]
    data = inputs if node.op == "Concat" else inputs[:1]
    arrays = [state.get(tensor) for tensor in data]
    if node.op == "Concat":
        _tie_across(state, node, arrays)
        arrays = [state.get(tensor) for tensor in data]
    outputs = [state.shape(t) for t in node.outputs if not is_empty(t)]
    moved = MOVERS[node.op](node, arrays, [state.shape(t) for t in data], outputs)
    for tensor, labels in zip(node.outputs, moved, strict=False):
        if not is_empty(tensor):
            state.put(tensor, labels)


def _tie_across(state: Labelling, node: Node, arrays: list[Array]) -> None:
    """Channels along an axis that is not concatenated belong to all parts at once."""
    axis = axis_of(node, arrays[0].ndim)
    shapes = [state.shape(tensor) for tensor in node.inputs]
    if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
        raise CannotMoveError(f"its inputs' shapes differ beside axis {axis}")
    crossing = [a for a in arrays if any(k != axis for k in varying_axes(a))]
    if not crossing:
        return
    for array, shape in zip(arrays, shapes, strict=True):
        for other in crossing:
            if other is array or other.shape[axis] > 1 or array.shape[axis] > 1:
                continue
            state.merge(node, array, other, shape, shape)
    if any(array.shape[axis] > 1 for array in arrays):
        for array in arrays:
            state.freeze(array, why(node, f"mixes channels on axis {axis} with channels on another axis"))


def _elementwise(state: Labelling, node: Node) -> None:
    """Unify the variable operands' labels; slice the constant operands by them."""
    out_shape = state.shape(node.outputs[0])
    rank = len(out_shape)
    result, extent = np.zeros((1,) * rank, dtype=np.int64), (1,) * rank
    operands = [t for t in node.inputs if not is_empty(t) and not is_constant(t)]
    aligned = [align(state.get(t), rank) for t in operands]
    for tensor, labels in zip(operands, aligned, strict=True):
        shape = (1,) * (rank - len(state.shape(tensor))) + state.shape(tensor)
        wide = {k for other in aligned if other is not labels for k in varying_axes(other) if shape[k] == 1}
        if wide and (labels != 0).any():
            # A one-channel gate over many channels: the gate's channel belongs to all of them, and stays.
            state.freeze(labels, why(node, "broadcasts it over other channels"))
            labels = np.zeros((1,) * rank, dtype=np.int64)
        result = state.merge(node, result, labels, extent, shape)
        extent = tuple(max(a, b) for a, b in zip(extent, shape, strict=True))
    for tensor in node.outputs:
        if not is_empty(tensor):
            state.put(tensor, result)
    _slice_constants(state, node, state.get(node.outputs[0]), rank)


def _slice_constants(state: Labelling, node: Node, labels: Array, rank: int) -> None:
    for index, tensor in enumerate(node.inputs):
        if not is_constant(tensor) or is_empty(tensor):
            continue
        shape = state.shape(tensor)
        for axis in varying_axes(labels):
            own = axis - (rank - len(shape))
            if own >= 0 and shape[own] > 1:
                state.use(node, index, own, labels.reshape(-1), "channel")


def _batch_norm(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    channels = state.only_axis(node, labels, 1)
    if not all(is_constant(tensor) for tensor in node.inputs[1:5]):
        raise CannotMoveError("its parameters are computed, not constant")
    state.put(node.outputs[0], labels)
    for tensor in node.outputs[1:]:
        if not is_empty(tensor):
            raise CannotMoveError("is in training mode")
    if channels.size > 1:
        for index in range(1, 5):
            state.use(node, index, 0, channels, "channel")


def _instance_norm(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    channels = state.only_axis(node, labels, 1)
    state.put(node.outputs[0], labels)
    for index in (1, 2):
        if not is_constant(node.inputs[index]):
            raise CannotMoveError("its parameters are computed, not constant")
        if channels.size > 1:
            state.use(node, index, 0, channels, "channel")


def _normalise_over(first_axis: Callable[[Node, int], list[int]]) -> Rule:
    """A rule for what normalises over some axes: channels there are frozen, elsewhere they pass."""

    def rule(state: Labelling, node: Node) -> None:
        labels = state.get(node.inputs[0])
        if set(varying_axes(labels)) & set(first_axis(node, labels.ndim)):
            state.freeze(labels, why(node, "normalises over channels"))
        for tensor in node.outputs:
            if not is_empty(tensor):
                state.put(tensor, labels if len(state.shape(tensor)) == labels.ndim else np.zeros(1, dtype=np.int64))

    return rule


def _softmax(state: Labelling, node: Node) -> None:
    """Before opset 13, Softmax flattens everything from its axis on, which is 1 by default."""
    old = state.graph.opset < 13
    axes = (lambda n, rank: list(range(axis_of(n, rank, 1), rank))) if old else (lambda n, rank: [axis_of(n, rank, -1)])
    _normalise_over(axes)(state, node)


def _layer_norm_axes(node: Node, rank: int) -> list[int]:
    return list(range(axis_of(node, rank, -1), rank))


def _channel_axis(node: Node, rank: int) -> list[int]:
    return list(range(1, rank))


def _spatial(state: Labelling, node: Node) -> None:
    """Pooling and resizing: channels are handled one by one."""
    labels = state.get(node.inputs[0])
    state.only_axis(node, labels, 1)
    shape = state.shape(node.inputs[0])
    if any(tensor.outputs or is_graph_output(state.graph, tensor) for tensor in node.outputs[1:]):
        # MaxPool's indices count through all channels in front: none of those may go.
        state.freeze(labels, why(node, "hands out positions that count through all channels"))
    for tensor in node.outputs:
        if is_empty(tensor):
            continue
        if state.shape(tensor)[:2] != shape[:2]:
            raise CannotMoveError("changes the number of channels")
        state.put(tensor, labels)


ADDS_UP = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
"""Reductions to which a channel of zeros adds nothing."""


def _reduce(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    given = axes_of(node)
    if given is None and node.attrs.get("noop_with_empty_axes", 0):
        return state.put(node.outputs[0], labels)
    rank = labels.ndim
    axes = {axis % rank for axis in given} if given else set(range(rank))
    if set(varying_axes(labels)) & axes:
        if node.op not in ADDS_UP:
            state.freeze(labels, why(node, "reduces over channels"))
        else:
            state.contract(node, 0)
    kept = labels
    for axis in sorted(axes, reverse=True):
        kept = kept.take([0], axis=axis) if labels.shape[axis] == 1 else np.zeros((1,) * kept.ndim, dtype=np.int64)
    if not node.attrs.get("keepdims", 1):
        kept = kept.reshape([kept.shape[k] for k in range(rank) if k not in axes])
    return state.put(node.outputs[0], kept)


def _pad(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    shape = state.shape(node.inputs[0])
    for axis, (before, after) in enumerate(pad_widths(node, len(shape))):
        if labels.shape[axis] == 1 or (before == 0 and after == 0):
            continue
        if node.attrs.get("mode", "constant") != "constant" or before < 0 or after < 0:
            raise CannotMoveError("reflects or crops channels")
        ends = [np.zeros([n if k == axis else 1 for k in range(len(shape))], dtype=np.int64) for n in (before, after)]
        labels = np.concatenate([ends[0], expand_axis(labels, axis, shape[axis]), ends[1]], axis=axis)
    state.put(node.outputs[0], collapse(labels))


def _expand(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    rank = len(state.shape(node.outputs[0]))
    shape = (1,) * (rank - labels.ndim) + state.shape(node.inputs[0])
    grown = [k for k in range(rank) if shape[k] == 1 and state.shape(node.outputs[0])[k] > 1]
    if varying_axes(labels) and input_constant(node, 1) is None:
        raise CannotMoveError("expands to a computed shape")
    if (labels != 0).any() and not varying_axes(labels) and 1 + rank - labels.ndim in grown:
        state.freeze(labels, why(node, "repeats one channel"))
        labels = np.zeros_like(labels)
    state.put(node.outputs[0], align(labels, rank))


def _depth_to_space(state: Labelling, node: Node) -> None:
    """The block² channels that become one channel's pixels go together."""
    labels = state.only_axis(node, state.get(node.inputs[0]), 1)
    if labels.size == 1:
        return state.put(node.outputs[0], np.zeros((1, 1, 1, 1), dtype=np.int64))
    block = int(node.attrs["blocksize"]) ** 2
    by_block = (
        labels.reshape(block, -1) if node.attrs.get("mode", b"DCR") in ("DCR", b"DCR") else labels.reshape(-1, block).T
    )
    state.merge(node, np.broadcast_to(by_block[:1], by_block.shape), by_block, by_block.shape, by_block.shape)
    return state.put(node.outputs[0], by_block[0].reshape(1, -1, 1, 1))


def _shape(state: Labelling, node: Node) -> None:
    """A shape belongs to no channel, and follows by itself when channels are cut."""
    opaque_outputs = [t for t in node.outputs if not is_empty(t)]
    for tensor in opaque_outputs:
        state.labels[id(tensor)] = np.zeros(1, dtype=np.int64)


def _shuffle_pixels(state: Labelling, node: Node) -> None:
    """GridSample, RoiAlign: only input 0 has channels, the sampling positions must not."""
    for tensor in node.inputs[1:]:
        labels = state.labels.get(id(tensor))
        if labels is not None:
            state.freeze(labels, why(node, "takes positions from it"))
    labels = state.get(node.inputs[0])
    state.only_axis(node, labels, 1)
    state.put(node.outputs[0], labels)


_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Ceil", "Celu", "Clip"),
    *("Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
    *("HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod"),
    *("Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where"),
    "Xor",
)

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVERS, _move),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _normalise_over(_layer_norm_axes),
    "RMSNormalization": _normalise_over(_layer_norm_axes),
    "GroupNormalization": _normalise_over(_channel_axis),
    "LRN": _normalise_over(_channel_axis),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Hardmax": _softmax,
    "MaxPool": _spatial,
    "AveragePool": _spatial,
    "LpPool": _spatial,
    "GlobalAveragePool": _spatial,
    "GlobalMaxPool": _spatial,
    "GlobalLpPool": _spatial,
    "Resize": _spatial,
    "Upsample": _spatial,
    "Pad": _pad,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "Shape": _shape,
    "Size": _shape,
    "GridSample": _shuffle_pixels,
    "RoiAlign": _shuffle_pixels,
}
"""Operator type → rule. Quantised operators, recurrent ones and those with data-dependent shapes have none."""
