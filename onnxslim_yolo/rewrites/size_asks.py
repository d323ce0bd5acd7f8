"""What operators must not do where an image's size changes, if their own rules of shapes do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, Tensor, input_constant, is_constant, is_empty
from onnxslim_yolo.ops.linear import is_conv
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.rewrites.size_factors import Axis, OneSizeError, moves, new_of, old_of
from onnxslim_yolo.rewrites.size_windows import ORDINARY_PAD, require_pads, steps_behind


class Known(Protocol):
    """How far a graph was walked: its tensors' axes, and which of them come of its inputs."""

    graph: gs.Graph
    live: set[int]

    def of(self, tensor: Tensor) -> list[Axis]:
        """A tensor's axes."""
        ...


def split(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """No positions are parted."""
    read = known.of(node.inputs[0])
    axis = read[int(attribute(node, "axis")) % len(read)]
    if moves(axis):
        raise OneSizeError("it parts positions", node.name)


def gather(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """No single positions are picked."""
    read = known.of(node.inputs[0])
    axis = read[int(attribute(node, "axis")) % len(read)]
    if moves(axis):
        raise OneSizeError("it picks single positions", node.name)


def layer(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """What has weights for every channel has none for every position."""
    read = known.of(node.inputs[0])
    if len(read) > 1 and moves(read[1]):
        raise OneSizeError("it has weights for every position", node.name)
    if is_conv(node):
        pads(node, read[2:])
    window = [int(side) for side in attribute(node, "kernel_shape") or ()] if is_conv(node) else []
    if window and max(window) > 1 and window == [old_of(axis) for axis in read[2:]] and set(made[0][2:]) == {1}:
        raise OneSizeError("its window is the whole map", node.name)


def product(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """No weights are summed over positions."""
    weights = [is_constant(tensor) for tensor in node.inputs[:2]]
    for tensor, other in zip(node.inputs[:2], weights[::-1], strict=True):
        summed = known.of(tensor)[-1 if tensor is node.inputs[0] else -2 :][:1]
        if other and any(moves(axis) for axis in summed):
            raise OneSizeError("it has weights for every position", node.name)


def normed(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """One with weights is of channels; without, it may be over positions, as an attention's Softmax is."""
    read = known.of(node.inputs[0])
    over = NORMS[node.op].over(node, len(read), known.graph.opset)
    weighed = over if any(is_constant(tensor) for tensor in node.inputs[1:]) else []
    if NORMS[node.op].per_channel:
        weighed = [1]
    if any(moves(read[place]) for place in weighed):
        raise OneSizeError("it has weights for every position", node.name)


def best(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """As many are kept as before."""
    read, count = known.of(node.inputs[0]), input_constant(node, 1)
    axis = read[int(attribute(node, "axis"))]
    if count is None or int(count.reshape(-1)[0]) > new_of(axis):
        raise OneSizeError("it keeps more than there would be", node.name)
    if moves(axis) and int(count.reshape(-1)[0]) == old_of(axis):
        raise OneSizeError("it keeps all: nothing tells whether for their number", node.name)


def join(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """No values for every position are joined, nor such are joined to them."""
    live = [known.of(tensor) for tensor in node.inputs if id(tensor) in known.live]
    joined = [axes[int(attribute(node, "axis")) % len(axes)] for axes in live]
    if any(moves(axis) for axis in joined) and sum(map(old_of, joined)) == sum(map(new_of, joined)):
        raise OneSizeError("it has as many positions as before, in other rows", node.name)
    for tensor in node.inputs:
        read = known.of(tensor)
        if id(tensor) in known.live:
            continue
        along = int(attribute(node, "axis")) % len(read)
        if any(
            extent > 1 and (place == along or any(moves(axes[place]) for axes in live))
            for place, extent in enumerate(old_of(axis) for axis in read)
        ):
            raise OneSizeError("values for every position are joined to it", node.name)


def places(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """No single positions are read or written."""
    if any(is_constant(tensor) for tensor in node.inputs[1:2]):
        raise OneSizeError("it reads or writes single positions", node.name)


def pads(node: Node, axes: Sequence[Axis]) -> None:
    """Uneven padding of a window is of its stride, and what is left of the map's side."""
    given = [int(pad) for pad in attribute(node, "pads") or [0] * 2 * len(axes)]
    steps = attribute(node, "strides") or [1] * len(axes)
    reach = attribute(node, "kernel_shape") or [ORDINARY_PAD] * len(axes)
    for axis, front, behind, step, side in zip(axes, given, given[len(axes) :], steps, reach, strict=False):
        if moves(axis) and (front != behind or front + behind > max(ORDINARY_PAD, 2 * int(side))):
            require_pads(node, axis, front, behind, [int(step)])


def pad(known: Known, node: Node, made: Sequence[Sequence[int]]) -> None:
    """Padding of positions is what it was."""
    read = known.of(node.inputs[0])
    amounts = input_constant(node, 1)
    axes = input_constant(node, 3) if len(node.inputs) > 3 and not is_empty(node.inputs[3]) else np.arange(len(read))
    if amounts is None or axes is None:
        raise OneSizeError("its padding is computed", node.name)
    values, where = amounts.reshape(-1).tolist(), [int(place) % len(read) for place in axes.reshape(-1)]
    for place, front, behind in zip(where, values, values[len(where) :], strict=False):
        if moves(read[place]):
            require_pads(node, read[place], front, behind, steps_behind(node))
