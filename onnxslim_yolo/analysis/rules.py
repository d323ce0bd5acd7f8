"""How each operator carries channel labels: the table `RULES`, one row an operator.

A rule reads the labels of a node's inputs and notes those of its outputs, the initializer axes that hold channels, and
what ties or forbids. An operator without a row is `opaque`: correct, unpruned, and reported with its name. The rules
are in `rules_linear.py` (convolutions), `rules_product.py` (matrix products), `rules_movement.py` and `rules_norm.py`.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis import rules_linear, rules_movement, rules_norm, rules_product
from onnxslim_yolo.analysis.labelling import Labelling, Rule, align, why
from onnxslim_yolo.analysis.movement import MOVERS, varying_axes
from onnxslim_yolo.ir.graph import Array, Node, Tensor, is_constant, is_empty
from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.movement import SHAPES
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.registry import RECURRENT, SORTING
from onnxslim_yolo.ops.spatial import POOLS, SAMPLERS


def _elementwise(state: Labelling, node: Node) -> None:
    """Unify the variable operands' labels; slice the constant operands by them."""
    out_shape = state.shape(node.outputs[0])
    rank = len(out_shape)
    result, extent = np.zeros((1,) * rank, dtype=np.int64), (1,) * rank
    operands = [t for t in node.inputs if not is_empty(t) and not is_constant(t)]
    aligned = [align(state.get(t), rank) for t in operands]
    varying = {k for labels in aligned for k in varying_axes(labels)}
    for tensor, labels in zip(operands, aligned, strict=True):
        shape = (1,) * (rank - len(state.shape(tensor))) + state.shape(tensor)
        wide = {k for k in varying if shape[k] == 1}  # its own labels vary on no such axis
        if wide and (labels != 0).any():
            # A one-channel gate over many channels: the gate's channel belongs to all of them, and stays.
            state.freeze(labels, why(node, "broadcasts it over other channels"))
            labels = np.zeros((1,) * rank, dtype=np.int64)
        result = state.merge(node, result, labels, extent, shape)
        extent = tuple(max(a, b) for a, b in zip(extent, shape, strict=True))
    for tensor in node.outputs:
        if not is_empty(tensor):
            state.put(tensor, result)
    if rules_norm.centres_channels(state, node):
        state.freeze(result, why(node, "normalises over channels"))
    if any(_is_table(state, tensor) for tensor in node.inputs):
        _slice_constants(state, node, state.line(node, node.outputs[0]), rank)


def _is_table(state: Labelling, tensor: Tensor) -> bool:
    return is_constant(tensor) and any(size > 1 for size in state.shape(tensor))


def _slice_constants(state: Labelling, node: Node, labels: Array, rank: int) -> None:
    for index, tensor in enumerate(node.inputs):
        if not is_constant(tensor) or is_empty(tensor):
            continue
        shape = state.shape(tensor)
        for axis in varying_axes(labels):
            own = axis - (rank - len(shape))
            if own >= 0 and shape[own] > 1:
                state.use(node, index, own, labels.reshape(-1), "channel")


RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVERS, rules_movement.move),
    **dict.fromkeys((*FUNCTIONS, *ELEMENTWISE), _elementwise),
    **dict.fromkeys(REDUCTIONS, rules_norm.reduce),
    "Conv": rules_linear.conv,
    "ConvTranspose": rules_linear.conv_transpose,
    "DeformConv": rules_linear.deform_conv,
    "Gemm": rules_product.gemm,
    "MatMul": rules_product.matmul,
    "Attention": rules_product.attention,
    **dict.fromkeys(RECURRENT, rules_product.recurrent),
    **dict.fromkeys(NORMS, rules_norm.normalise),
    "BatchNormalization": rules_norm.per_channel,
    "InstanceNormalization": rules_norm.per_channel,
    "GroupNormalization": rules_norm.group_norm,
    **dict.fromkeys((*POOLS, "Upsample"), rules_movement.spatial),
    "Resize": rules_movement.resize,
    "Concat": rules_movement.join,
    "Reshape": rules_movement.to_target,
    "Expand": rules_movement.to_target,
    "Pad": rules_movement.pad,
    "CenterCropPad": rules_movement.center_crop_pad,
    "DepthToSpace": rules_movement.depth_to_space,
    **dict.fromkeys(SHAPES, rules_movement.shape_of),
    **dict.fromkeys(SAMPLERS, rules_movement.sample),
    **dict.fromkeys(SORTING, rules_movement.along_axis),
    "GatherElements": rules_movement.gather_elements,
}
"""Operator type → rule. Quantised operators and those with data-dependent shapes have none."""
