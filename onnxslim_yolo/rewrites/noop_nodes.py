"""Nodes that change nothing go. Used by the pass `canonicalise`.

Identity, Dropout, a Concat of one, and casts, views, slices and paddings to what the tensor is already. A Transpose of
a Transpose is one of what that reads, and so may change nothing.
An output keeps its name: a node between the graph's output and an input, a constant or another output stays.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, axes_of, pad_widths, slice_ranges
from onnxslim_yolo.ir.attributes import attribute, permutation
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    bypass,
    has_input,
    input_constant,
    is_constant,
    is_graph_output,
    nodes_of,
    producer,
    set_input,
    static_shape,
)
from onnxslim_yolo.ops.movement import (
    is_cast,
    is_dropout,
    is_expand,
    is_identity,
    is_join,
    is_pad,
    is_slice,
    is_transpose,
    is_view,
)
from onnxslim_yolo.ops.reductions import REDUCTIONS


def drop_noops(graph: gs.Graph) -> int:
    """Take out the nodes that change nothing; return how many."""
    dropped = sum(_transpose_once(node) for node in nodes_of(graph, "Transpose"))
    for node in list(graph.nodes):
        if not node.inputs or not node.outputs or not _does_nothing(node):
            continue
        if any(is_graph_output(graph, tensor) for tensor in node.outputs[1:]):
            continue  # a Dropout's mask
        if is_graph_output(graph, node.outputs[0]) and _must_stay(graph, node.inputs[0]):
            continue
        bypass(graph, node)
        dropped += 1
    return dropped


def _transpose_once(node: Node) -> bool:
    """Whether a Transpose read another, and now reads what that does: axis i of it is axis p[q[i]] of that."""
    maker = producer(node.inputs[0]) if node.inputs else None
    if maker is None or not is_transpose(maker) or node.inputs[0].shape is None:
        return False
    rank = len(node.inputs[0].shape)
    first, second = permutation(maker, rank), permutation(node, rank)
    set_input(node, 0, maker.inputs[0])
    node.attrs["perm"] = [first[axis] for axis in second]
    return True


def _must_stay(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether an output cannot simply take this tensor's place: it is an input, a constant or an output itself."""
    return is_constant(tensor) or is_graph_output(graph, tensor) or any(tensor is item for item in graph.inputs)


def _does_nothing(node: Node) -> bool:
    if is_identity(node):
        return True
    if is_dropout(node):
        training = input_constant(node, 2)
        unused_mask = all(not tensor.outputs for tensor in node.outputs[1:])
        return unused_mask and (not has_input(node, 2) or (training is not None and not training.any()))
    if is_view(node) or is_expand(node):
        return _same_shape(node)
    if is_cast(node):
        return node.inputs[0].dtype is not None and node.inputs[0].dtype == node.outputs[0].dtype
    if is_transpose(node):
        shape = node.outputs[0].shape
        return shape is not None and permutation(node, len(shape)) == list(range(len(shape)))
    if is_join(node):
        return len(node.inputs) == 1
    if node.op in REDUCTIONS and REDUCTIONS[node.op].one is None:
        return bool(attribute(node, "noop_with_empty_axes")) and _reduces_nothing(node)
    return _keeps_everything(node)


def _reduces_nothing(node: Node) -> bool:
    try:
        return not axes_of(node)
    except CannotMoveError:
        return False


def _same_shape(node: Node) -> bool:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after):
        return False
    pairs = list(zip(before, after, strict=True))
    # One symbolic dimension may differ in name only: the number of elements settles it.
    symbolic = [a for a, _ in pairs if not isinstance(a, (int, np.integer))]
    return len(symbolic) <= 1 and all(a == b or not isinstance(a, (int, np.integer)) for a, b in pairs)


def _keeps_everything(node: Node) -> bool:
    shape = static_shape(node.inputs[0])
    rank = len(node.inputs[0].shape or ())
    try:
        if is_pad(node) and rank:
            return all(width == (0, 0) for width in pad_widths(node, rank))
        if is_slice(node) and shape is not None:
            return all(taken == range(shape[axis]) for axis, taken in slice_ranges(node, shape).items())
    except CannotMoveError:
        return False
    return False
