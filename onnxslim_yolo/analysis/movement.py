"""Data movement on arrays that describe a tensor element by element.

A *descriptor* of a tensor is an array broadcastable to the tensor's shape: it has size 1 along every axis on which it
is constant. A feature map's channel labels have the shape (1, C, 1, 1). Moving a descriptor with the very operation
that moves the tensor is all that Concat, Split, Slice, Transpose, Reshape and their like need, whatever is described:
channel labels, per-channel constants, element numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxslim_yolo.ir.attributes import attribute, is_computed, operand, permutation
from onnxslim_yolo.ir.graph import Array, Node, input_constant

Shape = tuple[int, ...]


class CannotMoveError(Exception):
    """The operator's parameters are not constant, or its effect on a descriptor is not defined. The text says why."""


def collapse(array: Array) -> Array:
    """Give size 1 to every axis along which the descriptor is constant."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis=axis)
            if (array == first).all():
                array = first
    return array


def varying_axes(array: Array) -> list[int]:
    """The axes along which a collapsed descriptor varies."""
    return [axis for axis in range(array.ndim) if array.shape[axis] > 1]


def expand_axis(array: Array, axis: int, size: int) -> Array:
    """The descriptor with its full size along one axis."""
    if array.shape[axis] == size:
        return array
    return np.repeat(array, size, axis=axis)


def reshape(array: Array, before: Shape, after: Shape) -> Array:
    """Reshape a descriptor of a tensor of shape `before` as a row-major reshape to `after` does.

    Axes are matched in runs of equal size, so that only the runs in which the descriptor varies are expanded:
    (N, C, H, W) → (N, C, H·W) costs C elements, not C·H·W.
    """
    if 0 in before or 0 in after:
        raise CannotMoveError(f"a reshape of an empty tensor, {before} to {after}")
    if int(np.prod(before, dtype=np.int64)) != int(np.prod(after, dtype=np.int64)):
        raise CannotMoveError(f"a reshape from {before} to {after}, which differ in size")
    sizes_in: list[int] = []
    sizes_out: list[int] = []
    for axes_in, axes_out in _runs(before, after):
        varies = any(array.shape[axis] > 1 for axis in axes_in)
        sizes_in += [before[axis] if varies else 1 for axis in axes_in]
        sizes_out += [after[axis] if varies else 1 for axis in axes_out]
    return collapse(np.broadcast_to(array, sizes_in).reshape(sizes_out))


def _runs(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Split the axes of two shapes of equal size into the shortest consecutive runs of equal product."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        axes_in, axes_out, size_in, size_out = [], [], 1, 1
        if i < len(before):
            axes_in, size_in, i = [i], before[i], i + 1
        if j < len(after):
            axes_out, size_out, j = [j], after[j], j + 1
        while size_in != size_out:
            if size_in < size_out:
                axes_in.append(i)
                size_in, i = size_in * before[i], i + 1
            else:
                axes_out.append(j)
                size_out, j = size_out * after[j], j + 1
        runs.append((axes_in, axes_out))
    return runs


def numbers_of(node: Node, name: str, what: str = "") -> list[int] | None:
    """The integers of an operand (see `ir.attributes`); None where it is not given.

    Raises:
        CannotMoveError: it is computed. `what` is what the reason calls it.
    """
    if is_computed(node, name):
        raise CannotMoveError(f"{what or name} that are computed, not constant")
    values = operand(node, name)
    return None if values is None else [int(value) for value in values.reshape(-1)]


def axes_of(node: Node) -> list[int] | None:
    """The `axes` of a node; None when not given. Raises CannotMoveError where they are computed."""
    return numbers_of(node, "axes")


def axis_of(node: Node, rank: int) -> int:
    """The `axis` attribute, counted from the front."""
    axis = int(attribute(node, "axis"))
    return axis + rank if axis < 0 else axis


Mover = Callable[[Node, list[Array], list[Shape], list[Shape]], list[Array]]
"""(node, descriptors of the inputs, shapes of the inputs, shapes of the outputs) → descriptors of the outputs."""


def _with_mask(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    """A mask is as wide as what it is of."""
    return arrays[:1] * len(outputs)


def _same(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    return [arrays[0]]


def _reshape(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    return [reshape(arrays[0], inputs[0], outputs[0])]


def _transpose(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    return [arrays[0].transpose(permutation(node, len(inputs[0])))]


def concat(arrays: Sequence[Array], shapes: Sequence[Shape], axis: int) -> Array:
    """Concatenate descriptors along an axis; along the others they are expanded where they differ in extent."""
    full = [expand_axis(array, axis, shape[axis]) for array, shape in zip(arrays, shapes, strict=True)]
    rank = full[0].ndim
    extent = [max(array.shape[a] for array in full) for a in range(rank)]
    same = [np.broadcast_to(a, [a.shape[k] if k == axis else extent[k] for k in range(rank)]) for a in full]
    return collapse(np.concatenate(same, axis=axis))


def _concat(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    return [concat(arrays, inputs, axis_of(node, len(inputs[0])))]


def split_sizes(node: Node, size: int) -> list[int]:
    """How a Split cuts an axis of the given size.

    Raises:
        CannotMoveError: the sizes are computed.
    """
    given = numbers_of(node, "split", "split sizes")
    if given is not None:
        return given
    parts = len(node.outputs)
    chunk = -(-size // parts)
    return [min(chunk, size - chunk * index) for index in range(parts)]


def _split(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    axis = axis_of(node, len(inputs[0]))
    array = arrays[0]
    if array.shape[axis] == 1:
        return [array] * len(node.outputs)
    sizes = split_sizes(node, inputs[0][axis])
    bounds = np.cumsum(sizes)[:-1]
    return [collapse(part) for part in np.split(array, bounds, axis=axis)]


def slice_ranges(node: Node, shape: Shape) -> dict[int, range]:
    """What a Slice takes, as a range per sliced axis.

    Raises:
        CannotMoveError: the bounds are computed.
    """
    starts, ends, axes, steps = (numbers_of(node, k, "slice bounds") for k in ("starts", "ends", "axes", "steps"))
    if starts is None or ends is None:
        raise CannotMoveError("slice bounds that are not given")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    ranges: dict[int, range] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis % len(shape)
        ranges[axis] = range(*slice(_clip(start), _clip(end), step).indices(shape[axis]))
        if step < 0 and end < -shape[axis]:  # "to the beginning": Python's slice would wrap around
            ranges[axis] = range(*slice(_clip(start), None, step).indices(shape[axis]))
    return ranges


def _clip(bound: Any) -> int:
    return int(np.clip(int(bound), -(2**31), 2**31))


def _slice(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    array = arrays[0]
    if _leaves_alone(node, array):
        return [array]
    for axis, taken in slice_ranges(node, inputs[0]).items():
        if array.shape[axis] > 1:
            array = array.take(list(taken), axis=axis)
    return [collapse(array)]


def _leaves_alone(node: Node, array: Array) -> bool:
    """Whether a Slice, whatever its bounds, slices along axes on which the descriptor is constant only."""
    axes = operand(node, "axes")
    return axes is not None and all(array.shape[int(axis) % array.ndim] == 1 for axis in axes.reshape(-1))


def gather_indices(node: Node, size: int) -> Array:
    """The indices of a Gather, counted from the front.

    Raises:
        CannotMoveError: the indices are computed.
    """
    indices = input_constant(node, 1)
    if indices is None:
        raise CannotMoveError("gather indices that are computed, not constant")
    return np.asarray(np.where(indices < 0, indices + size, indices), dtype=np.int64)


def _gather(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    axis = axis_of(node, len(inputs[0]))
    array = arrays[0]
    if array.shape[axis] == 1:  # whichever are picked
        ones = (1,) * (len(outputs[0]) - len(inputs[0]) + 1)
        return [array.reshape(array.shape[:axis] + ones + array.shape[axis + 1 :])]
    return [collapse(array.take(gather_indices(node, inputs[0][axis]), axis=axis))]


def pad_widths(node: Node, rank: int) -> list[tuple[int, int]]:
    """The (before, after) widths of a Pad per axis. Raises CannotMoveError when they are computed."""
    pads, given = numbers_of(node, "pads"), axes_of(node)
    if pads is None:
        raise CannotMoveError("pads that are not given")
    axes = list(range(rank)) if given is None else [axis % rank for axis in given]
    widths = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        widths[axis] = (pads[index], pads[index + len(axes)])
    return widths


def pad_value(node: Node) -> float | None:
    """What a Pad pads with; None where it is computed."""
    value = operand(node, "constant_value")
    return None if value is None else float(value.reshape(-1)[0])


def _tile(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    array = arrays[0]
    repeats = [after // before if before else 1 for before, after in zip(inputs[0], outputs[0], strict=True)]
    return [np.tile(array, [r if array.shape[k] > 1 else 1 for k, r in enumerate(repeats)])]


def _expand(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    array = arrays[0]
    return [array.reshape((1,) * (len(outputs[0]) - array.ndim) + array.shape)]


def _space_to_depth(node: Node, arrays: list[Array], inputs: list[Shape], outputs: list[Shape]) -> list[Array]:
    array, block = arrays[0], int(attribute(node, "blocksize"))
    if array.shape[2] > 1 or array.shape[3] > 1:
        raise CannotMoveError("labels that vary over space")
    # SpaceToDepth puts the block's position first: output channel = (block position)·C + channel.
    return [np.tile(array, (1, block * block if array.shape[1] > 1 else 1, 1, 1))]


MOVERS: dict[str, Mover] = {
    "Identity": _same,
    "Dropout": _with_mask,
    "Cast": _same,
    "CastLike": _same,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Tile": _tile,
    "Expand": _expand,
    "SpaceToDepth": _space_to_depth,
}
"""The operators that only move elements, by ONNX operator type."""
