"""Channel rules of operators that move, repeat, pick, enlarge or pad elements."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.labelling import Labelling, align, why
from onnxslim_yolo.analysis.movement import (
    MOVERS,
    CannotMoveError,
    axes_of,
    axis_of,
    collapse,
    concat,
    numbers_of,
    pad_value,
    pad_widths,
    varying_axes,
)
from onnxslim_yolo.analysis.targets import entry_of, read_off
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, is_empty, is_graph_output, producer
from onnxslim_yolo.ops.movement import is_expand


def move(state: Labelling, node: Node) -> None:
    """What only moves elements moves their labels."""
    shapes = [state.shape(t) for t in node.outputs if not is_empty(t)]
    moved = MOVERS[node.op](node, [state.get(node.inputs[0])], [state.shape(node.inputs[0])], shapes)
    for tensor, labels in zip(node.outputs, moved, strict=False):
        if not is_empty(tensor):
            state.put(tensor, labels)


def to_target(state: Labelling, node: Node) -> None:
    """Reshape and Expand: a target that is computed has to say the widths where slicing can change them."""
    if is_expand(node):
        _expand(state, node)
    else:
        move(state, node)
    if len(node.inputs) < 2 or constant_of(node.inputs[1]) is not None:
        return
    labels = state.line(node, node.outputs[0])
    for axis in varying_axes(labels):
        _says_width(
            state, node, node.inputs[1], axis - labels.ndim + state.shape(node.inputs[1])[0], labels.reshape(-1)
        )


def _says_width(state: Labelling, node: Node, target: Tensor, position: int, labels: Array) -> None:
    """Slicing has to keep a computed shape right: the number can be set, says "the rest", or is read off a tensor.

    What is read off a tensor is the same number only while that tensor's channels are cut alike: they are tied.

    Raises:
        CannotMoveError: the number comes out of arithmetic.
    """
    if position < 0:
        return
    entry = entry_of(target, position)
    if entry is not None and entry.value in (-1, 0, 1, len(labels)):
        return
    found = None if entry is not None else read_off(target, position)
    if found is None:
        raise CannotMoveError("its target is computed, not constant")
    there = state.line(node, found.tensor, (found.axis,))
    same = there.reshape(-1) if there.shape[found.axis] == len(labels) else np.zeros(len(labels), dtype=np.int64)
    state.merge(node, labels, same, (len(labels),), (len(labels),))


def _expand(state: Labelling, node: Node) -> None:
    labels = state.get(node.inputs[0])
    rank = len(state.shape(node.outputs[0]))
    shape = (1,) * (rank - labels.ndim) + state.shape(node.inputs[0])
    grown = [k for k in range(rank) if shape[k] == 1 and state.shape(node.outputs[0])[k] > 1]
    if (labels != 0).any() and not varying_axes(labels) and 1 + rank - labels.ndim in grown:
        state.freeze(labels, why(node, "repeats one channel"))
        labels = np.zeros_like(labels)
    state.put(node.outputs[0], align(labels, rank))


def join(state: Labelling, node: Node) -> None:
    """Concat: along another axis channels belong to all parts at once, and constants among the parts to them."""
    arrays = [state.get(tensor) for tensor in node.inputs]
    axis = axis_of(node, arrays[0].ndim)
    shapes = [state.shape(tensor) for tensor in node.inputs]
    if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
        raise CannotMoveError(f"its inputs' shapes differ beside axis {axis}")
    along = any(array.shape[axis] > 1 for array in arrays)
    crossing = [k for k, a in enumerate(arrays) if any(other != axis for other in varying_axes(a))]
    if crossing:
        _across(state, node, arrays, crossing, along)
    elif along:
        _zeros(state, node, arrays, axis)
    labels = concat([collapse(state.sets.find(a)) for a in arrays], shapes, axis)
    state.put(node.outputs[0], labels)


def _across(state: Labelling, node: Node, arrays: list[Array], crossing: list[int], along: bool) -> None:
    """Tie the channels that cross all parts. Where some lie along the axis, too, they are laid out on several axes."""
    first = arrays[crossing[0]]
    shape = state.shape(node.inputs[0])
    if not along:
        for index in crossing[1:]:
            first = state.merge(node, first, arrays[index], shape, shape)
    varying = varying_axes(first)
    for index, tensor in enumerate(node.inputs):
        if arrays[index].any():
            continue
        one_line = not along and len(varying) == 1 and not (first == 0).any()
        if one_line and _repeated_table(state, tensor, first, varying[0]):
            arrays[index] = first
            continue
        if not one_line or constant_of(tensor) is None:
            for array in arrays:
                state.freeze(array, why(node, "puts them beside values that no channel owns"))
            arrays[:] = [np.zeros((1,) * first.ndim, dtype=np.int64)] * len(arrays)
            return
        state.use(node, index, varying[0], first.reshape(-1), "channel")
        arrays[index] = first


def _repeated_table(state: Labelling, tensor: Tensor, labels: Array, axis: int) -> bool:
    """Whether a tensor is a constant that an Expand repeats along other axes (over an open batch), cut by these labels.

    Nobody else may read it: what has been read as belonging to no channel cannot be given to one.
    """
    node = producer(tensor)
    if not is_expand(node) or len(tensor.outputs) != 1 or is_graph_output(state.graph, tensor):
        return False
    table, extents = constant_of(node.inputs[0]), state.shape(tensor)
    if table is None:
        return False
    own = axis - len(extents) + table.ndim
    if own < 0 or table.shape[own] != extents[axis]:
        return False
    position = axis - len(extents) + state.shape(node.inputs[1])[0]
    if constant_of(node.inputs[1]) is None:
        _says_width(state, node, node.inputs[1], position, labels.reshape(-1))
    state.use(node, 0, own, labels.reshape(-1), "channel")
    state.put(tensor, labels)
    return True


def _zeros(state: Labelling, node: Node, arrays: list[Array], axis: int) -> None:
    """A constant of zeros beside channels (a shortcut that gets wider) is as many channels, free to be tied or go."""
    for index, tensor in enumerate(node.inputs):
        values = constant_of(tensor)
        if values is not None and values.size and values.shape[axis] > 1 and not values.any():
            made = state.sets.fresh(values.shape[axis])
            state.use(node, index, axis, made, "channel")
            arrays[index] = made.reshape([-1 if k == axis else 1 for k in range(values.ndim)])


def pad(state: Labelling, node: Node) -> None:
    """Pad: what is put beside channels are zeros, free to be tied or go; what is cropped goes."""
    labels = state.get(node.inputs[0])
    shape = state.shape(node.inputs[0])
    zero = pad_value(node) == 0
    for axis, widths in enumerate(pad_widths(node, len(shape))):
        if labels.shape[axis] == 1 or widths == (0, 0):
            continue
        if attribute(node, "mode") != "constant":
            raise CannotMoveError("reflects or repeats channels")
        if len(varying_axes(labels)) > 1:
            labels = state.line(node, node.inputs[0], (axis,))
        if labels.shape[axis] == 1:
            continue
        labels = labels.take(range(max(-widths[0], 0), shape[axis] - max(-widths[1], 0)), axis=axis)
        like = [-1 if k == axis else 1 for k in range(len(shape))]
        ends = [state.sets.fresh(max(n, 0)) if zero else np.zeros(max(n, 0), dtype=np.int64) for n in widths]
        labels = np.concatenate([ends[0].reshape(like), labels, ends[1].reshape(like)], axis=axis)
    state.put(node.outputs[0], labels)


def depth_to_space(state: Labelling, node: Node) -> None:
    """The block² channels that become one channel's pixels go together."""
    labels = state.only_axis(node, node.inputs[0], 1)
    if labels.size == 1:
        return state.put(node.outputs[0], labels.reshape(1, 1, 1, 1))
    block = int(node.attrs["blocksize"]) ** 2
    by_row = attribute(node, "mode") == "DCR"
    by_block = labels.reshape(block, -1) if by_row else labels.reshape(-1, block).T
    state.merge(node, np.broadcast_to(by_block[:1], by_block.shape), by_block, by_block.shape, by_block.shape)
    found = np.where((by_block == 0).any(axis=0), 0, by_block[0])
    return state.put(node.outputs[0], found.reshape(1, -1, 1, 1))


def spatial(state: Labelling, node: Node) -> None:
    """Pooling and resizing: channels are handled one by one."""
    labels = state.only_axis(node, node.inputs[0], 1)
    shape = state.shape(node.inputs[0])
    if any(tensor.outputs or is_graph_output(state.graph, tensor) for tensor in node.outputs[1:]):
        # MaxPool's indices count through all channels in front: none of those may go.
        state.freeze(labels, why(node, "hands out positions that count through all channels"))
    for tensor in node.outputs:
        if is_empty(tensor):
            continue
        after = state.shape(tensor)
        if after[:2] != shape[:2]:
            raise CannotMoveError("changes the number of channels")
        state.put(tensor, labels.reshape([1, -1] + [1] * (len(after) - 2)))


def resize(state: Labelling, node: Node) -> None:
    """Resize: channels one by one; sizes that are computed have to say the width where slicing can change it."""
    spatial(state, node)
    labels = state.get(node.outputs[0])
    sizes = node.inputs[3] if len(node.inputs) > 3 and not is_empty(node.inputs[3]) else None
    if sizes is None or labels.size == 1 or constant_of(sizes) is not None:
        return
    axes = [axis % labels.ndim for axis in axes_of(node) or range(labels.ndim)]
    if 1 in axes:
        _says_width(state, node, sizes, axes.index(1), labels.reshape(-1))


def sample(state: Labelling, node: Node) -> None:
    """GridSample, RoiAlign: only input 0 has channels, the sampling positions must not."""
    for tensor in node.inputs[1:]:
        labels = state.labels.get(id(tensor))
        if labels is not None:
            state.freeze(labels, why(node, "takes positions from it"))
    labels = state.only_axis(node, node.inputs[0], 1)
    rank = len(state.shape(node.outputs[0]))
    state.put(node.outputs[0], labels.reshape([1, -1] + [1] * (rank - 2)))


def shape_of(state: Labelling, node: Node) -> None:
    """A shape belongs to no channel, and follows by itself when channels are cut."""
    state.get(node.inputs[0])
    for tensor in node.outputs:
        if not is_empty(tensor):
            state.labels[id(tensor)] = np.zeros((1,) * len(state.shape(tensor)), dtype=np.int64)


def along_axis(state: Labelling, node: Node) -> None:
    """What sorts, counts or sums up along one axis: channels there are frozen, elsewhere they pass."""
    tensor = node.inputs[0]
    rank = len(state.shape(tensor))
    axis = _axis(node, rank)
    labels = state.line(node, tensor, [k for k in range(rank) if k != axis])
    if labels.shape[axis] > 1:
        state.freeze(labels, why(node, "works along its channels"))
        labels = np.zeros((1,) * rank, dtype=np.int64)
    for output in node.outputs:
        if not is_empty(output):
            kept = len(state.shape(output)) == rank
            state.put(output, labels if kept else labels.reshape(np.delete(labels.shape, axis)))


def _axis(node: Node, rank: int) -> int:
    given = numbers_of(node, "axis", "its axis is")
    return given[0] % rank if given else 0


def gather_elements(state: Labelling, node: Node) -> None:
    """GatherElements: channels pass on, tied to those of the positions, where it does not gather among them."""
    rank = len(state.shape(node.inputs[0]))
    axis = axis_of(node, rank)
    others = [k for k in range(rank) if k != axis]
    data, where = (state.line(node, tensor, others) for tensor in node.inputs[:2])
    if data.shape[axis] > 1 or where.shape[axis] > 1:
        raise CannotMoveError("picks among channels")
    if constant_of(node.inputs[1]) is not None:
        raise CannotMoveError("its positions are a table as wide as the channels")
    shapes = [state.shape(tensor) for tensor in node.inputs[:2]]
    if any(shapes[0][k] != shapes[1][k] for k in (*varying_axes(data), *varying_axes(where))):
        raise CannotMoveError("picks some of the channels only")
    state.put(node.outputs[0], state.merge(node, data, where, shapes[0], shapes[1]))


def center_crop_pad(state: Labelling, node: Node) -> None:
    """CenterCropPad: channels pass on along the axes whose extent it keeps."""
    labels = state.get(node.inputs[0])
    before, after = state.shape(node.inputs[0]), state.shape(node.outputs[0])
    if any(before[k] != after[k] for k in varying_axes(labels)):
        raise CannotMoveError("crops or pads channels")
    rank = len(before)
    axes = [axis % rank for axis in axes_of(node) or range(rank)]
    if set(axes) & set(varying_axes(labels)):
        raise CannotMoveError("says how many channels there are")
    state.put(node.outputs[0], labels)
