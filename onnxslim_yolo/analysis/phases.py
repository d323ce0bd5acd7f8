"""Space-to-depth in all its spellings: which pixel of which channel each channel of a tensor shows.

A space-to-depth of block (b1, b2) gives output channel n, position p the value of input channel c_n at b·p + r_n, with
an offset ("phase") 0 ≤ r_n < b per axis. It is written as SpaceToDepth; as a Concat of strided slices (YOLOv5's Focus,
YOLOv2's reorg), each a chain of Slices in any order; or as Reshape, Transpose, Reshape (`pixel_unshuffle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute, permutation
from onnxslim_yolo.ir.graph import Array, Node, Tensor, has_input, input_constant, producer, sole_consumer, static_shape
from onnxslim_yolo.ops.movement import is_join, is_reshape, is_slice, is_space_to_depth, is_transpose

UNBOUNDED = 2**31 - 1
"""An end of a Slice from here on means the end of the axis, however long."""


@dataclass(frozen=True)
class Phases:
    """A space-to-depth of `base`.

    Attributes:
        block: pixels per step, one number per spatial axis.
        taps: (channels, 1 + spatial axes) integers: source channel and phase of every channel.
    """

    base: Tensor
    block: tuple[int, ...]
    taps: Array

    @property
    def is_complete(self) -> bool:
        """Whether every pixel of every channel of the base is shown exactly once."""
        channels = None if self.base.shape is None else self.base.shape[1]
        distinct = {tuple(row) for row in self.taps.tolist()}
        return isinstance(channels, int) and len(distinct) == len(self.taps) == channels * prod(self.block)


Strides = dict[int, tuple[int, int]]
"""Per axis, start and step of a slice that runs to the end of the axis."""


def phases_of(graph: gs.Graph, tensor: Tensor) -> Phases | None:
    """The space-to-depth a tensor is the result of, however it is spelt; None if it is none, or not for certain."""
    node = producer(tensor)
    if is_space_to_depth(node):
        return _of_space_to_depth(node)
    if is_join(node):
        return _of_slices(node)
    return _of_reshapes(graph, node) if is_reshape(node) else None


def _of_space_to_depth(node: Node) -> Phases | None:
    """ONNX: output channel (r1·b + r2)·C + c."""
    shape, block = node.inputs[0].shape, int(node.attrs["blocksize"])
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    grid = np.indices((block, block, shape[1])).reshape(3, -1)
    return Phases(node.inputs[0], (block, block), np.stack([grid[2], grid[0], grid[1]], axis=1))


def _of_slices(node: Node) -> Phases | None:
    if node.outputs[0].shape is None or int(attribute(node, "axis")) % len(node.outputs[0].shape) != 1:
        return None
    branches = [_slices_before(tensor) for tensor in node.inputs]
    base = next((t for t, _ in branches[0] if all(any(t is u for u, _ in other) for other in branches)), None)
    if base is None or base.shape is None or not isinstance(base.shape[1], int):
        return None
    found = [next(strides for t, strides in branch if t is base) for branch in branches]
    axes = range(2, len(base.shape))
    block = tuple(found[0].get(axis, (0, 1))[1] for axis in axes)
    starts = [tuple(strides.get(axis, (0, 1))[0] for axis in axes) for strides in found]
    steps = [tuple(strides.get(axis, (0, 1))[1] for axis in axes) for strides in found]
    if any(step != block for step in steps) or any(
        r >= b for start in starts for r, b in zip(start, block, strict=True)
    ):
        return None
    if not _divides(base, block, starts):
        return None
    channels = range(base.shape[1])
    return Phases(base, block, np.array([(c, *start) for start in starts for c in channels]))


def _divides(base: Tensor, block: tuple[int, ...], starts: list[tuple[int, ...]]) -> bool:
    """Whether every axis is a multiple of its block: as known, or since the first and last phase are of equal size."""
    for axis, size in enumerate(block):
        known = base.shape[axis + 2]
        if isinstance(known, int):
            if known % size:
                return False
        elif not {0, size - 1} <= {start[axis] for start in starts}:
            return False
    return True


def _slices_before(tensor: Tensor) -> list[tuple[Tensor, Strides]]:
    """The tensors that this one is a strided slice of, nearest first, with the strides."""
    found: list[tuple[Tensor, Strides]] = [(tensor, {})]
    while is_slice(node := producer(tensor)):
        own = _strides(node)
        if own is None:
            break
        later, tensor = found[-1][1], node.inputs[0]
        total = dict(own)
        for axis, (start, step) in later.items():
            first, stride = own.get(axis, (0, 1))
            total[axis] = (first + stride * start, stride * step)
        found.append((tensor, total))
    return found


def _strides(node: Node) -> Strides | None:
    """A Slice's start and step per spatial axis, if it runs to the end of each; else None."""
    values = [input_constant(node, index) if has_input(node, index) else None for index in range(1, 5)]
    starts, ends, axes, steps = (None if v is None else [int(i) for i in v.reshape(-1)] for v in values)
    shape = node.inputs[0].shape
    if starts is None or ends is None or shape is None or (has_input(node, 3) and axes is None):
        return None
    if has_input(node, 4) and steps is None:
        return None
    strides: Strides = {}
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        axis %= len(shape)
        if axis < 2 or step < 1 or axis in strides or not _runs_to_the_end(start, end, step, shape[axis]):
            return None
        strides[axis] = (start, step)
    return strides


def _runs_to_the_end(start: int, end: int, step: int, size: object) -> bool:
    if start < 0:
        return False
    if isinstance(size, int):
        return list(range(size))[start:end:step] == list(range(size))[start::step]
    return end >= UNBOUNDED


def _of_reshapes(graph: gs.Graph, last: Node) -> Phases | None:
    """(N, C, H, W) → (N, C, H/b, b, W/b, b) → transposed to (N, channels…, H/b, W/b) → (N, C·b·b, H/b, W/b)."""
    transpose = producer(last.inputs[0])
    first = producer(transpose.inputs[0]) if is_transpose(transpose) else None
    if transpose is None or not is_reshape(first):
        return None
    if sole_consumer(graph, transpose.outputs[0]) is None or sole_consumer(graph, first.outputs[0]) is None:
        return None
    base = first.inputs[0]
    shapes = [static_shape(t) for t in (base, first.outputs[0], last.outputs[0])]
    perm = permutation(transpose, len(transpose.outputs[0].shape or ()))
    if any(shape is None for shape in shapes) or len(perm) != 6 or sorted(perm[1:4]) != [1, 3, 5]:
        return None
    source, split, output = (shape or () for shape in shapes)
    if len(source) != 4 or len(split) != 6 or perm[0] != 0 or perm[4:] != [2, 4]:
        return None
    n, channels, height, b1, width, b2 = split
    if source != (n, channels, height * b1, width * b2) or output != (n, channels * b1 * b2, height, width):
        return None
    order = perm[1:4]
    grid = np.indices([split[axis] for axis in order]).reshape(3, -1)
    return Phases(base, (b1, b2), np.stack([grid[order.index(axis)] for axis in (1, 3, 5)], axis=1))
