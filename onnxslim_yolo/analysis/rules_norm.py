"""Channel rules of normalisations and reductions."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.labelling import Labelling, why
from onnxslim_yolo.analysis.movement import CannotMoveError, axes_of, varying_axes
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, is_constant, is_empty, producer
from onnxslim_yolo.ops.arithmetic import is_difference
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.reductions import REDUCTIONS, is_mean


def per_channel(state: Labelling, node: Node) -> None:
    """BatchNormalization, InstanceNormalization: no channel sees another, and some parameters hold one value each."""
    channels, places = state.only_axis(node, node.inputs[0], 1), NORMS[node.op].per_channel
    if not all(is_constant(node.inputs[index]) for index in places):
        raise CannotMoveError("its parameters are computed, not constant")
    if any(not is_empty(tensor) for tensor in node.outputs[1:]):
        raise CannotMoveError("is in training mode")
    state.put(node.outputs[0], state.get(node.inputs[0]))
    if channels.size > 1:
        for index in places:
            state.use(node, index, 0, channels, "channel")


def group_norm(state: Labelling, node: Node) -> None:
    """GroupNormalization: a group's channels go together; before opset 21 a scale and shift is a group's."""
    channels = state.only_axis(node, node.inputs[0], 1)
    if not all(is_constant(tensor) for tensor in node.inputs[1:3]):
        raise CannotMoveError("its parameters are computed, not constant")
    shape = state.shape(node.inputs[0])
    if channels.size > 1:
        groups = int(node.attrs["num_groups"])
        parts = channels.reshape(groups, -1)
        whole = (parts != 0).all(axis=1)
        state.freeze(parts[~whole], why(node, "normalises over them and values that no channel owns"))
        state.unify(np.broadcast_to(parts[whole, :1], parts[whole].shape), parts[whole])
        per_group = np.where(whole, parts[:, 0], 0)
        channels = np.repeat(per_group, shape[1] // groups)
        for index in (1, 2):
            size = state.shape(node.inputs[index])[0]
            if size > 1:
                state.use(node, index, 0, channels if size == shape[1] else per_group, "channel")
    state.put(node.outputs[0], channels.reshape([1, -1] + [1] * (len(shape) - 2)))


def normalise(state: Labelling, node: Node) -> None:
    """What normalises over some axes: channels there are frozen, elsewhere they pass."""
    rank = len(state.shape(node.inputs[0]))
    over = {axis % rank for axis in NORMS[node.op].over(node, rank, int(state.graph.opset))}
    labels = state.line(node, node.inputs[0], [k for k in range(rank) if k not in over])
    if set(varying_axes(labels)) & over:
        state.freeze(labels, why(node, "normalises over channels"))
    for tensor in node.outputs:
        if not is_empty(tensor):
            state.put(tensor, labels if len(state.shape(tensor)) == rank else np.zeros(1, dtype=np.int64))


def centres_channels(state: Labelling, node: Node) -> bool:
    """Whether a node takes the mean over channels off each of them, as a LayerNormalization that is written out does.

    Of a channel that is zero, minus the mean is left, and counts in the variance: leaving it out is not the same.
    """
    if not is_difference(node) or len(node.inputs) != 2:
        return False
    mean = producer(node.inputs[1])
    if not is_mean(mean) or mean.inputs[0] is not node.inputs[0]:
        return False
    labels, given = state.get(node.inputs[0]), axes_of(mean)
    axes = {axis % labels.ndim for axis in given} if given else set(range(labels.ndim))
    return bool(set(varying_axes(labels)) & axes)


def reduce(state: Labelling, node: Node) -> None:
    """Reductions: over space channels pass; sums and extremes over channels read them, others freeze them."""
    given = axes_of(node)
    if not given and attribute(node, "noop_with_empty_axes"):
        return state.put(node.outputs[0], state.get(node.inputs[0]))
    shape = state.shape(node.inputs[0])
    rank = len(shape)
    axes = {axis % rank for axis in given} if given else set(range(rank))
    labels = state.line(node, node.inputs[0], [k for k in range(rank) if k not in axes])
    if set(varying_axes(labels)) & axes:
        row = REDUCTIONS[node.op]
        if not row.adds_up and row.beside_zero is None:
            state.freeze(labels, why(node, "reduces over channels"))
        else:
            state.contract(node, 0)
        labels = np.zeros((1,) * rank, dtype=np.int64)
    if not attribute(node, "keepdims"):
        labels = labels.reshape([labels.shape[k] for k in range(rank) if k not in axes])
    return state.put(node.outputs[0], labels)
