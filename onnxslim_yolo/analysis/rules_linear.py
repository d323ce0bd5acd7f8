"""Channel rules of convolutions.

They make new channels: the rows of their weight carry the labels of what they compute, its columns those of what they
read and sum over. A depthwise convolution passes its input's labels on.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.labelling import Balance, Labelling, why
from onnxslim_yolo.analysis.movement import CannotMoveError
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, has_input, is_constant
from onnxslim_yolo.ops.linear import Layout


def conv(state: Labelling, node: Node, bias: int = 2) -> None:
    """Conv: depthwise ones pass labels on, in grouped ones all groups keep equally many channels."""
    layout = _layout(state, node)
    groups, labels = layout.groups, state.only_axis(node, node.inputs[0], 1)
    if layout.is_depthwise:
        if labels.size == 1:  # the input is no channel's: its copies are new channels that cannot be told apart
            labels = np.zeros(layout.inputs, dtype=np.int64)
        return _depthwise(state, node, layout, labels, bias)
    out = state.fresh(node.outputs[0], 1)
    state.use(node, 1, layout.making_axis, out, "out")
    _bias(state, node, out, bias)
    if labels.size > 1:
        state.contract(node, 0)
    if groups == 1:
        if labels.size > 1:
            state.use(node, 1, layout.reading_axis, labels, "in")
        return None
    state.balances.append(Balance(out.reshape(groups, -1), node.name))
    if labels.size > 1:
        parts = labels.reshape(groups, -1)
        state.balances.append(Balance(parts, node.name))
        state.use(node, 1, layout.reading_axis, parts, "in")
    return None


def _layout(state: Labelling, node: Node) -> Layout:
    if not is_constant(node.inputs[1]):
        raise CannotMoveError("its weight is computed, not constant")
    return Layout.of_shape(node, state.shape(node.inputs[1]))


def _depthwise(state: Labelling, node: Node, layout: Layout, labels: Array, bias: int = 2) -> None:
    """Each channel becomes as many as there are outputs an input; axis 0 of the weight is what it stores whole."""
    out = np.repeat(labels, layout.outputs // layout.inputs)
    rank = len(state.shape(node.outputs[0]))
    state.put(node.outputs[0], out.reshape([1, -1] + [1] * (rank - 2)))
    state.use(node, 1, 0, out if layout.outputs_first else labels, "channel")
    _bias(state, node, out, bias)


def deform_conv(state: Labelling, node: Node) -> None:
    """DeformConv: as Conv; where it looks (offset, mask) stays, and every offset group keeps equally many channels."""
    conv(state, node, bias=3)
    labels = state.only_axis(node, node.inputs[0], 1)
    parts = int(attribute(node, "offset_group"))
    if parts > 1 and labels.size > 1:
        state.balances.append(Balance(labels.reshape(parts, -1), node.name))


def _bias(state: Labelling, node: Node, out: Array, index: int = 2) -> None:
    if not has_input(node, index):
        return
    if is_constant(node.inputs[index]):
        state.use(node, index, 0, out, "channel")
    else:
        state.freeze(out, why(node, "has a computed bias"))


def conv_transpose(state: Labelling, node: Node) -> None:
    """ConvTranspose: as Conv, with the weight's axes the other way round."""
    layout = _layout(state, node)
    groups, labels = layout.groups, state.only_axis(node, node.inputs[0], 1)
    if layout.is_depthwise and labels.size > 1:
        return _depthwise(state, node, layout, labels)
    out = state.fresh(node.outputs[0], 1)
    if groups > 1:  # the weight's axis 1 is shared by the groups: position p of every group goes together
        parts = out.reshape(groups, -1)
        state.unify(np.broadcast_to(parts[:1], parts.shape), parts)
        if labels.size > 1:
            state.balances.append(Balance(labels.reshape(groups, -1), node.name))
    state.use(node, 1, layout.making_axis, out.reshape(groups, -1)[0], "out")
    _bias(state, node, out)
    if labels.size > 1:
        state.contract(node, 0)
        state.use(node, 1, layout.reading_axis, labels, "in")
    return None
