"""A graph that was exported for one input size, made for another: what it holds of sizes is worked out anew.

Convolutions, pools and what computes value by value fit any size. What exporters write down of sizes does not: targets
of Reshapes, extents of a Resize, bounds of Slices, a pool's window over the whole map. Each is known by what it was at
the size of the export. A tensor's axis is a product of *factors*, each with its extent before and now; a Reshape only
groups the factors anew, in their order, so that its target follows, however many numbers happen to be equal:

    (1, 48, 44, 44) → (1, 2, 24, 44, 44)     at 40 rows instead of 44:     (1, 48, 40, 44) → (1, 2, 24, 40, 44)

Nothing is guessed. Values for each position (an anchor grid, learned positions), a number that is an extent or an area
of the old size, a part of a map, products over positions: what cannot be told is refused, with its node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    become,
    constant_of,
    input_constant,
    is_constant,
    is_empty,
    producer,
    revalue,
)
from onnxslim_yolo.ir.input_format import image_axes
from onnxslim_yolo.ops.linear import CONVOLUTIONS, is_conv, multiplies_matrices
from onnxslim_yolo.ops.movement import (
    is_expand,
    is_gather,
    is_join,
    is_reshape,
    is_slice,
    is_split,
    is_tile,
    is_transpose,
    is_view,
    reads_places,
)
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.registry import takes_best
from onnxslim_yolo.ops.spatial import POOLS, is_resize
from onnxslim_yolo.rewrites.size_factors import (
    Axis,
    Factor,
    OneSizeError,
    axis_of,
    grouped,
    inferred,
    new_of,
    old_of,
    plain,
)

END = np.iinfo(np.int64).max


def for_size(graph: gs.Graph, size: tuple[int, int]) -> int:
    """Make a graph for images of another (height, width), in place; return how many constants were written anew.

    Args:
        graph: canonical, its shapes known but for the batch, its nodes in topological order.

    Raises:
        OneSizeError: something in it holds for the old size only.
    """
    return _Writer(graph, size).run()


class _Writer:
    """Walks a graph once, with every tensor's axes as far as it has come."""

    def __init__(self, graph: gs.Graph, size: tuple[int, int]) -> None:
        self.graph, self.written = graph, 0
        self.axes: dict[int, list[Axis]] = {}
        self.known: set[Factor] = set()
        self.areas: dict[int, str] = {}
        for tensor in graph.inputs:
            shape = [side if isinstance(side, int) else 1 for side in tensor.shape or ()]
            found = [plain(side) for side in shape]
            if len(shape) == 4:
                _, places = image_axes(shape)
                for place, new in zip(places, size, strict=True):
                    found[place] = (Factor(shape[place], new),)
                self.areas[shape[places[0]]] = self.areas[shape[places[1]]] = "a side of the image"
                tensor.shape = [
                    new_of(axis) if axis[0].changed else side
                    for axis, side in zip(found, tensor.shape or (), strict=True)
                ]
            self._note(tensor, found)

    def run(self) -> int:
        """See `for_size`."""
        for node in self.graph.nodes:
            self._node(node)
        return self.written

    def _note(self, tensor: Tensor, axes: list[Axis]) -> None:
        self.axes[id(tensor)] = axes
        self.known |= {factor for axis in axes for factor in axis if factor.changed}
        if len(axes) == 4:
            _, places = image_axes([old_of(axis) for axis in axes])
            area = prod(old_of(axes[place]) for place in places)
            if any(new_of(axes[place]) != old_of(axes[place]) for place in places) and area > 1:
                self.areas.setdefault(area, "the number of positions of a map")

    def of(self, tensor: Tensor) -> list[Axis]:
        """A tensor's axes; a constant's stay as they are."""
        found = self.axes.get(id(tensor))
        if found is None:
            value = constant_of(tensor)
            found = [] if value is None else [plain(int(side)) for side in value.shape]
        return found

    def _node(self, node: Node) -> None:
        read = [self.of(tensor) for tensor in node.inputs if not is_empty(tensor)]
        made = [[int(side) if isinstance(side, int) else 1 for side in t.shape or ()] for t in node.outputs]
        moved = any(factor.changed for axes in read for axis in axes for factor in axis)
        if moved or any(_sums_up(tensor) for tensor in node.inputs):
            self._require_numbers(node)
        if not moved and not is_resize(node):
            for tensor, shape in zip(node.outputs, made, strict=True):
                self._note(tensor, [plain(side) for side in shape])
            return
        rule = next((rule for asks, rule in RULES if asks(node)), None)
        found = None if rule is None else rule(self, node, made)
        if found is None:
            found = self._inferred(node, made)
        for tensor, axes in zip(node.outputs, found, strict=True):
            self._note(tensor, axes)

    def _require_numbers(self, node: Node) -> None:
        """No number that is computed with may be of the old size: an area that sums are divided by, a side."""
        for tensor in node.inputs:
            value = constant_of(tensor)
            if value is None or value.size != 1 or value.dtype.kind != "f" or value.reshape(-1)[0] == 0:
                continue
            number = abs(float(value.reshape(-1)[0]))
            for extent, what in self.areas.items():
                if extent >= LARGE and min(abs(number / extent - 1), abs(number * extent - 1)) < 1e-5:
                    raise OneSizeError(f"it computes with {number:.6g}, which may be of {what}", node.name)

    def _inferred(self, node: Node, made: Sequence[Sequence[int]]) -> list[list[Axis]]:
        """What an operator makes by its own rules of shapes."""
        shapes = inferred(node, [None if is_empty(t) else self.of(t) for t in node.inputs], self.graph)
        read = [axes for tensor in node.inputs if not is_empty(tensor) for axes in [self.of(tensor)]]
        found = []
        for old, new in zip(made, shapes, strict=True):
            if len(old) != len(new):
                raise OneSizeError("its output would have another rank", node.name)
            sides = [Factor(*each) for each in zip(old, new, strict=True)]
            found.append([axis_of(read, place - len(old), side) for place, side in enumerate(sides)])
        return found

    def renewed(self, node: Node, index: int, values: Sequence[int]) -> None:
        """Write a constant input anew, where it is another."""
        before = input_constant(node, index)
        assert before is not None
        fresh = np.asarray(values, before.dtype).reshape(before.shape)
        if not np.array_equal(before, fresh):
            revalue(node, index, fresh)
            self.written += 1

    def only(self, old: int, node: Node) -> int:
        """What a side of a map is now that was so long. Raises OneSizeError where it cannot be told."""
        found = {factor.new for factor in self.known if factor.old == old}
        if len(found) != 1:
            raise OneSizeError(f"nothing tells what becomes of its side of {old}", node.name)
        return found.pop()


def _sums_up(tensor: Tensor) -> bool:
    """Whether a tensor is sums over something."""
    before = None if is_empty(tensor) else producer(tensor)
    return before is not None and before.op in REDUCTIONS


LARGE = 8
"""Smaller extents are numbers like others."""


Made = Sequence[Sequence[int]]
Rule = Callable[["_Writer", Node, Made], "list[list[Axis]] | None"]


def _view(writer: _Writer, node: Node, made: Made) -> list[list[Axis]]:
    """The same factors in the same order, grouped anew."""
    factors = [factor for axis in writer.of(node.inputs[0]) for factor in axis]
    if any(factor.old == 1 and factor.changed for factor in factors):
        raise OneSizeError("a map of one row or column is reshaped", node.name)
    axes = grouped(factors, made[0])
    if axes is None:
        raise OneSizeError("it parts positions: rows or columns are folded into windows of a fixed number", node.name)
    target = input_constant(node, 1) if len(node.inputs) > 1 else None
    if target is not None and is_reshape(node):
        values = [int(v) if v in (0, -1) else new_of(axis) for v, axis in zip(target.reshape(-1), axes, strict=True)]
        writer.renewed(node, 1, values)
    elif is_reshape(node):
        raise OneSizeError("its target is computed", node.name)
    return [axes]


def _transpose(writer: _Writer, node: Node, made: Made) -> list[list[Axis]]:
    axes = writer.of(node.inputs[0])
    order = attribute(node, "perm") or range(len(axes))[::-1]
    return [[axes[place] for place in order]]


def _resize(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """Extents that are written down follow the input's in the ratio they had, or are those of the map they were."""
    sizes = input_constant(node, 3) if len(node.inputs) > 3 else None
    if sizes is None or not sizes.size:
        return None
    read = writer.of(node.inputs[0])
    chosen = list(attribute(node, "axes") or range(len(read)))
    values = []
    for place, size in zip(chosen, sizes.reshape(-1).tolist(), strict=True):
        old, new = old_of(read[place]), new_of(read[place])
        if old != new:
            values.append(size * new // old if size * new % old == 0 else writer.only(size, node))
        elif size != old and any(factor.old == size for factor in writer.known):
            values.append(writer.only(size, node))
        else:
            values.append(size)
    writer.renewed(node, 3, values)
    return None


def _slice(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """Bounds at the end of an axis of positions are at its end again; a part of one that is counted out is refused."""
    read = writer.of(node.inputs[0])
    bounds = [input_constant(node, index) for index in (1, 2)]
    if any(bound is None for bound in bounds):
        raise OneSizeError("its bounds are computed", node.name)
    starts, ends = ([int(v) for v in bound.reshape(-1)] for bound in bounds if bound is not None)
    given = input_constant(node, 3) if len(node.inputs) > 3 else None
    steps = input_constant(node, 4) if len(node.inputs) > 4 else None
    places = range(len(starts)) if given is None else [int(v) % len(read) for v in given.reshape(-1)]
    strides = [1] * len(starts) if steps is None else [int(v) for v in steps.reshape(-1)]
    fresh = []
    for place, start, end, step in zip(places, starts, ends, strides, strict=True):
        old, new = old_of(read[place]), new_of(read[place])
        if old != new and (not 0 <= start < step or 0 < end < old):
            raise OneSizeError("it takes a part of the positions that is counted out", node.name)
        if old != new and new % step != old % step:
            raise OneSizeError(f"it takes every {step}th of {new} positions", node.name)
        fresh.append(END if old != new and end >= old else end)
    writer.renewed(node, 2, fresh)
    return None


def _split(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    read = writer.of(node.inputs[0])
    axis = read[int(attribute(node, "axis")) % len(read)]
    if new_of(axis) != old_of(axis):
        raise OneSizeError("it parts positions", node.name)
    return None


def _gather(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    read = writer.of(node.inputs[0])
    axis = read[int(attribute(node, "axis")) % len(read)]
    if new_of(axis) != old_of(axis):
        raise OneSizeError("it picks single positions", node.name)
    return None


def _repeat(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """Repeating is for channels and the batch: how often a position is repeated would be a size."""
    read, extents = writer.of(node.inputs[0]), made[0]
    before = [1] * (len(extents) - len(read)) + [old_of(axis) for axis in read]
    grown = [new for old, new in zip(before, extents, strict=True) if new != old]
    if any(factor.old == extent for extent in grown for factor in writer.known):
        raise OneSizeError("it repeats something for every position", node.name)
    target = input_constant(node, 1)
    if target is None:
        raise OneSizeError("its extents are computed", node.name)
    if is_expand(node):
        axes = [plain(1)] * (len(extents) - len(read)) + list(read)
        values = [
            new_of(axis) if old_of(axis) == extent else extent
            for axis, extent in zip(axes[-target.size :], target.reshape(-1).tolist(), strict=True)
        ]
        writer.renewed(node, 1, values)
    return None


def _pool(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """A window over the whole map is one again."""
    read, row = writer.of(node.inputs[0]), POOLS[node.op]
    window = [int(side) for side in attribute(node, "kernel_shape") or ()]
    sides = [old_of(axis) for axis in read[2:]]
    if row.whole or not window:
        return None
    if window == sides and all(side == 1 for side in made[0][2:]) and not any(attribute(node, "pads") or ()):
        become(node, next(op for op, other in POOLS.items() if other.whole and other.kind == row.kind), {})
        writer.written += 1
    elif any(2 * w >= s > 1 for w, s in zip(window, sides, strict=True)) and not any(attribute(node, "pads") or ()):
        raise OneSizeError("its window may be a share of the map's", node.name)
    return None


def _layer(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """What has weights for every channel has none for every position."""
    read = writer.of(node.inputs[0])
    if len(read) > 1 and new_of(read[1]) != old_of(read[1]):
        raise OneSizeError("it has weights for every position", node.name)
    window = [int(side) for side in attribute(node, "kernel_shape") or ()] if is_conv(node) else []
    if window and max(window) > 1 and window == [old_of(axis) for axis in read[2:]] and set(made[0][2:]) == {1}:
        raise OneSizeError("its window is the whole map", node.name)
    return None


def _product(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    weights = [is_constant(tensor) for tensor in node.inputs[:2]]
    for tensor, other in zip(node.inputs[:2], weights[::-1], strict=True):
        summed = writer.of(tensor)[-1 if tensor is node.inputs[0] else -2 :][:1]
        if other and any(new_of(axis) != old_of(axis) for axis in summed):
            raise OneSizeError("it has weights for every position", node.name)
    return None


def _normed(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """One with weights is of channels; without, it may be over positions, as an attention's Softmax is."""
    read = writer.of(node.inputs[0])
    over = NORMS[node.op].over(node, len(read), writer.graph.opset)
    weighed = over if any(is_constant(tensor) for tensor in node.inputs[1:]) else []
    if NORMS[node.op].per_channel:
        weighed = [1]
    if any(new_of(read[place]) != old_of(read[place]) for place in weighed):
        raise OneSizeError("it has weights for every position", node.name)
    return None


def _best(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    read, count = writer.of(node.inputs[0]), input_constant(node, 1)
    axis = read[int(attribute(node, "axis"))]
    if count is None or int(count.reshape(-1)[0]) > new_of(axis):
        raise OneSizeError("it keeps more than there would be", node.name)
    return None


def _join(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    axis = int(attribute(node, "axis"))
    for tensor in node.inputs:
        value = constant_of(tensor)
        if value is not None and value.shape[axis] > 1:
            raise OneSizeError("values for every position are joined to it", node.name)
    return None


def _places(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    if any(is_constant(tensor) for tensor in node.inputs[1:2]):
        raise OneSizeError("it reads or writes single positions", node.name)
    return None


RULES: tuple[tuple[Callable[[Node], bool], Rule], ...] = (
    (is_view, _view), (is_transpose, _transpose), (is_resize, _resize), (is_slice, _slice), (is_split, _split),
    (is_gather, _gather), (lambda node: is_expand(node) or is_tile(node), _repeat), (takes_best, _best),
    (lambda node: node.op in POOLS, _pool), (lambda node: node.op in CONVOLUTIONS, _layer),
    (multiplies_matrices, _product), (lambda node: node.op in NORMS, _normed), (is_join, _join),
    (reads_places, _places),
)  # fmt: skip
"""What an operator asks, where its own rule of shapes is not enough."""
