"""Where a computed shape says a number: what slicing can change in it, and what follows by itself.

A Reshape's target is often a Concat of the batch, read off a Shape, and of numbers: `[batch, 64, 20·20]`. An entry that
is a constant part of such a Concat can be set; one that a Shape yields follows when the tensor it is of is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim_yolo.analysis.movement import CannotMoveError, slice_ranges
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, input_constant, producer, static_shape
from onnxslim_yolo.ops.movement import is_gather, is_join, is_slice, keeps_order, tells_shape


@dataclass(frozen=True)
class Entry:
    """One number of a computed shape: the node that reads the constant it is in, which input, and which element."""

    node: Node
    index: int
    element: int
    value: int


def entry_of(tensor: Tensor, position: int) -> Entry | None:
    """Where the number at a position of a computed shape is a constant; None if it is computed."""
    node = producer(tensor)
    while keeps_order(node):
        value = constant_of(node.inputs[0])
        if value is not None:
            return Entry(node, 0, position, int(value.reshape(-1)[position])) if position < value.size else None
        node = producer(node.inputs[0])
    if not is_join(node):
        return None
    for index, part in enumerate(node.inputs):
        size = static_shape(part)
        if size is None or len(size) != 1:
            return None
        if position < size[0]:
            value = constant_of(part)
            if value is not None:
                return Entry(node, index, position, int(value[position]))
            return entry_of(part, position)
        position -= size[0]
    return None


@dataclass(frozen=True)
class ReadOff:
    """A number that is the extent of a tensor along an axis, without any arithmetic."""

    tensor: Tensor
    axis: int


def read_off(tensor: Tensor, position: int) -> ReadOff | None:
    """Which tensor's extent the number at a position of a computed shape is."""
    node = producer(tensor)
    if node is None:
        return None
    if tells_shape(node):
        rank = len(node.inputs[0].shape or ())
        start = int(attribute(node, "start"))
        return ReadOff(node.inputs[0], (start + rank if start < 0 else start) + position)
    if keeps_order(node):
        return read_off(node.inputs[0], position)
    if is_join(node):
        for part in node.inputs:
            size = static_shape(part)
            if size is None or len(size) != 1:
                return None
            if position < size[0]:
                return read_off(part, position)
            position -= size[0]
        return None
    return _picked(node, position)


def _picked(node: Node, position: int) -> ReadOff | None:
    if is_gather(node):
        indices = input_constant(node, 1)
        size = static_shape(node.inputs[0])
        if indices is None or size is None:
            return None
        return read_off(node.inputs[0], int(indices.reshape(-1)[position]) % size[0])
    if is_slice(node):
        size = static_shape(node.inputs[0])
        try:
            taken = slice_ranges(node, size or (0,)).get(0)
        except CannotMoveError:
            return None
        return None if size is None or taken is None else read_off(node.inputs[0], taken[position])
    return None
