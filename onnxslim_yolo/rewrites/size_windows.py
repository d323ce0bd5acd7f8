"""Windows, padding and extents of maps that an exporter worked out for one size of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, Tensor, input_constant
from onnxslim_yolo.ops.arithmetic import BROADCASTING
from onnxslim_yolo.ops.movement import is_join, is_slice
from onnxslim_yolo.rewrites.size_factors import Axis, OneSizeError, moves, new_of, old_of

FAR = 1 << 30
"""Bounds beyond are those of an axis, however long it is."""

FEW = 8
"""So few rows may be what a pool was asked to leave of any map."""

ORDINARY_PAD = 12
"""Padding in front and behind together that a window asks for at most."""


def window_now(node: Node, axes: Sequence[Axis], made: Sequence[int]) -> list[int]:
    """A pool's window: over all rows, or all columns, again. Raises OneSizeError where it is a share."""
    window = [int(side) for side in attribute(node, "kernel_shape")]
    strides = [int(step) for step in attribute(node, "strides") or [1] * len(window)]
    padded = any(attribute(node, "pads") or ())
    found = []
    for axis, side, step, one in zip(axes, window, strides, made, strict=True):
        old, now = old_of(axis), new_of(axis)
        found.append(side)
        if padded or not moves(axis):
            continue
        if side == old and one == 1:
            found[-1] = now
        elif 2 * side >= old or (step == side and old % side == 0 and (side > 2 or one < FEW)):
            raise OneSizeError("its window may be a share of the map's", node.name)
    return found


def require_pads(node: Node, axis: Axis, front: int, behind: int, steps: Sequence[int]) -> None:
    """Padding of an axis must be what it is at either size, were it made for a multiple of something, or for `steps`.

    Raises:
        OneSizeError: it may be of the old size.
    """
    old, new, total = old_of(axis), new_of(axis), front + behind
    if not total and not front:
        return
    ordinary = total <= 3 or (abs(front - behind) <= 1 and total <= ORDINARY_PAD)
    rounded = [2**power for power in range(1, 12) if 2**power > total and (old + total) % 2**power == 0]
    uneven = [step for step in steps if front != behind]
    if min(front, behind) < 0 or not ordinary or any((new - old) % each for each in (*rounded, *uneven)):
        raise OneSizeError("its padding may be of the old size", node.name)


def steps_behind(node: Node) -> list[int]:
    """The strides of what reads a node's output."""
    readers = [reader for tensor in node.outputs for reader in tensor.outputs]
    return [int(step) for reader in readers for step in reader.attrs.get("strides") or ()]


def require_bounds(nodes: Iterable[Node]) -> None:
    """Raises OneSizeError where a Slice ends behind its input, which another size may have more of.

    Asked of a graph as it was exported: such a Slice does nothing there, and is gone once it is canonical.
    """
    for node in nodes:
        ends = input_constant(node, 2) if is_slice(node) and len(node.inputs) > 2 else None
        shape = node.inputs[0].shape if ends is not None else None
        if ends is None or shape is None:
            continue
        axes = input_constant(node, 3) if len(node.inputs) > 3 else None
        places = range(ends.size) if axes is None else axes.reshape(-1).tolist()
        for place, end in zip(places, ends.reshape(-1).tolist(), strict=False):
            if isinstance(shape[place], int) and shape[place] < end < FAR:
                raise OneSizeError(f"it ends at {end}, behind what it reads", node.name)


def is_met(node: Node, axes_of: Callable[[Tensor], Sequence[Axis]]) -> bool:
    """Whether what a node makes is put together, position by position, with a map that it did not make."""
    inside: set[int] = set()
    readers: list[Node] = []
    front = list(node.outputs)
    while front:
        tensor = front.pop()
        if id(tensor) in inside:
            continue
        inside.add(id(tensor))
        readers += tensor.outputs
        front += [made for reader in tensor.outputs for made in reader.outputs]
    for reader in readers:
        if reader.op not in BROADCASTING and not is_join(reader):
            continue
        ours = [axes_of(tensor) for tensor in reader.inputs if id(tensor) in inside]
        others = [axes_of(tensor) for tensor in reader.inputs if id(tensor) not in inside]
        joined = int(attribute(reader, "axis")) % len(ours[0]) - len(ours[0]) if is_join(reader) else 0
        if any(_share(one, other, joined) for one in ours for other in others):
            return True
    return False


def _share(one: Sequence[Axis], other: Sequence[Axis], joined: int) -> bool:
    places = [-place for place in range(1, min(len(one), len(other)) + 1) if -place != joined]
    return any(moves(one[place]) and moves(other[place]) for place in places)
