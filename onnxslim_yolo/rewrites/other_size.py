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

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    become,
    constant_of,
    input_constant,
    is_empty,
    producer,
    revalue,
)
from onnxslim_yolo.ir.input_format import image_axes
from onnxslim_yolo.ops.arithmetic import BROADCASTING
from onnxslim_yolo.ops.linear import CONVOLUTIONS, multiplies_matrices
from onnxslim_yolo.ops.movement import (
    is_expand,
    is_gather,
    is_join,
    is_pad,
    is_reshape,
    is_slice,
    is_split,
    is_tile,
    is_transpose,
    is_view,
    reads_places,
)
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.registry import takes_best
from onnxslim_yolo.ops.spatial import POOLS, is_resize
from onnxslim_yolo.rewrites import size_asks
from onnxslim_yolo.rewrites.size_factors import (
    Axis,
    Factor,
    OneSizeError,
    axis_of,
    grouped,
    inferred,
    moves,
    new_of,
    old_of,
    plain,
)
from onnxslim_yolo.rewrites.size_numbers import Numbers
from onnxslim_yolo.rewrites.size_windows import FAR, is_met, window_now

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
        self.graph, self.written, self.image = graph, 0, size
        self.axes: dict[int, list[Axis]] = {}
        self.known: set[Factor] = set()
        self.numbers = Numbers()
        self.live: set[int] = set()
        self.sides: tuple[set[tuple[int, int]], set[tuple[int, int]]] = (set(), set())
        self.extents: set[int] = set()
        self.claimed: list[tuple[Node, str]] = []
        for tensor in graph.inputs:
            shape = [side if isinstance(side, int) else 1 for side in tensor.shape or ()]
            found = [plain(side) for side in shape]
            if len(shape) == 4:
                _, places = image_axes(shape)
                for place, new in zip(places, size, strict=True):
                    found[place] = (Factor(shape[place], new),)
                self.numbers.note(shape[places[0]], shape[places[1]], 1, "the image")
                tensor.shape = [
                    new_of(axis) if axis[0].changed else side
                    for axis, side in zip(found, tensor.shape or (), strict=True)
                ]
            self._note(tensor, found)
            self.live.add(id(tensor))

    def run(self) -> int:
        """See `for_size`."""
        for node in self.graph.nodes:
            self._node(node)
        for node, reason in self.claimed:
            if not is_met(node, self.of):
                raise OneSizeError(reason, node.name)
        for tensor in self.graph.outputs:
            if id(tensor) not in self.live:
                raise OneSizeError(f"its output '{tensor.name}' is a constant", getattr(producer(tensor), "name", ""))
        return self.written

    def _note(self, tensor: Tensor, axes: list[Axis], node: Node | None = None) -> None:
        self.axes[id(tensor)] = axes
        found = {factor for axis in axes for factor in axis if factor.changed}
        if any(1 in (factor.old, factor.new) for factor in found):
            raise OneSizeError("it has a map of one row or column", node.name if node is not None else "")
        self.known |= found
        self.extents |= {old_of(axis) for axis in axes if moves(axis)}
        if len(axes) != 4 or not found:
            return
        channel, places = image_axes([old_of(axis) for axis in axes])
        rows, columns = (axes[place] for place in places)
        if moves(rows) or moves(columns):
            self.numbers.note(old_of(rows), old_of(columns), old_of(axes[channel]), "a map")
            self.extents.add(old_of(rows) * old_of(columns))
            for kept, axis in zip(self.sides, (rows, columns), strict=True):
                if len(rows) == len(columns) == 1 < old_of(axis):
                    kept.add((old_of(axis), new_of(axis)))
                    self.extents.add(old_of(axis))

    def of(self, tensor: Tensor) -> list[Axis]:
        """A tensor's axes; a constant's stay as they are."""
        found = self.axes.get(id(tensor))
        if found is None:
            value = constant_of(tensor)
            found = [] if value is None else [plain(int(side)) for side in value.shape]
        return found

    def _node(self, node: Node) -> None:
        given = [tensor for tensor in node.inputs if not is_empty(tensor)]
        read = [self.of(tensor) for tensor in given]
        made = [[int(side) if isinstance(side, int) else 1 for side in t.shape or ()] for t in node.outputs]
        if any(id(tensor) in self.live for tensor in given):
            self.live |= {id(tensor) for tensor in node.outputs}
            self.numbers.require(node)
            self._require_broadcast(node, given, made[0])
        if not any(moves(axis) for axes in read for axis in axes) and not is_resize(node):
            for tensor, shape in zip(node.outputs, made, strict=True):
                self._note(tensor, [plain(side) for side in shape])
            return
        rule = next((rule for asks, rule in RULES if asks(node)), None)
        found = None if rule is None else rule(self, node, made)
        if found is None:
            found = self._inferred(node, made)
        for tensor, axes in zip(node.outputs, found, strict=True):
            self._note(tensor, axes, node)

    def _require_broadcast(self, node: Node, given: Sequence[Tensor], made: Sequence[int]) -> None:
        """Nothing that is known beforehand may have a value for every position, and nothing be repeated for each."""
        if node.op not in BROADCASTING and not is_expand(node) and not is_tile(node):
            return
        live = [self.of(tensor) for tensor in given if id(tensor) in self.live]
        dead = [self.of(tensor) for tensor in given if id(tensor) not in self.live and node.op in BROADCASTING]
        for place in range(-len(made), 0):
            ours = [axes[place] for axes in live if len(axes) >= -place]
            theirs = [old_of(axes[place]) for axes in dead if len(axes) >= -place]
            if any(moves(axis) for axis in ours) and max(theirs, default=1) > 1:
                raise OneSizeError("what it reads does not fit: it has values for every position", node.name)
            if made[place] > max((old_of(axis) for axis in ours), default=1) and made[place] in self.extents:
                raise OneSizeError("it repeats something for every position", node.name)

    def _inferred(self, node: Node, made: Sequence[Sequence[int]]) -> list[list[Axis]]:
        """What an operator makes by its own rules of shapes."""
        shapes = inferred(node, [None if is_empty(t) else self.of(t) for t in node.inputs], self.graph)
        read = [axes for tensor in node.inputs if not is_empty(tensor) for axes in [self.of(tensor)]]
        found = []
        for old, new in zip(made, shapes, strict=True):
            if len(old) != len(new):
                raise OneSizeError("its output would have another rank", node.name)
            sides = [Factor(*each) for each in zip(old, new, strict=True)]
            axes = [axis_of(read, place - len(old), side) for place, side in enumerate(sides)]
            if None in axes:
                raise OneSizeError("it has as many positions as before, in other rows", node.name)
            found.append([axis for axis in axes if axis is not None])
        return found

    def renewed(self, node: Node, index: int, values: Sequence[int]) -> None:
        """Write a constant input anew, where it is another."""
        before = input_constant(node, index)
        assert before is not None
        fresh = np.asarray(values, before.dtype).reshape(before.shape)
        if not np.array_equal(before, fresh):
            revalue(node, index, fresh)
            self.written += 1

    def side(self, which: int, old: int, node: Node) -> int:
        """What rows (0) or columns (1) of a map are now that were so many. Raises OneSizeError where nothing tells."""
        found = {new for before, new in self.sides[which] if before == old}
        if len(found) != 1:
            raise OneSizeError(f"nothing tells what becomes of its side of {old}", node.name)
        return found.pop()

    def only(self, old: int, node: Node) -> int:
        """What a side of a map is now that was so long. Raises OneSizeError where it cannot be told."""
        found = {factor.new for factor in self.known if factor.old == old}
        if len(found) != 1:
            raise OneSizeError(f"nothing tells what becomes of its side of {old}", node.name)
        return found.pop()


Made = Sequence[Sequence[int]]
Rule = Callable[["_Writer", Node, Made], "list[list[Axis]] | None"]


def _view(writer: _Writer, node: Node, made: Made) -> list[list[Axis]]:
    """The same factors in the same order, grouped anew."""
    factors = [factor for axis in writer.of(node.inputs[0]) for factor in axis]
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
    """Extents that are written down are those of a map that it is put together with, or of the image."""
    sizes = input_constant(node, 3) if len(node.inputs) > 3 else None
    if sizes is None or not sizes.size:
        return None
    read = writer.of(node.inputs[0])
    chosen = [int(place) % len(read) for place in attribute(node, "axes") or range(len(read))]
    _, places = image_axes([old_of(axis) for axis in read]) if len(read) == 4 else (1, (-1, -1))
    wanted = [int(size) for size in sizes.reshape(-1)]
    values = []
    for place, size in zip(chosen, wanted, strict=True):
        stays = not moves(read[place])
        if stays and (size == old_of(read[place]) or size not in writer.extents):
            values.append(size)
        elif place in places:
            values.append(writer.side(places.index(place), size, node))
        else:
            values.append(writer.only(size, node))
    if values != wanted and values[-2:] != list(writer.image):
        said = "x".join(str(size) for size in wanted[-2:])
        writer.claimed.append((node, f"nothing tells whether {said} is a map's size or a number like others"))
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
        if not moves(read[place]) or (start == step == -1 and end < -FAR):
            fresh.append(end)
            continue
        if not 0 <= start < step or 0 < end < old or old < end < min(new, FAR):
            raise OneSizeError("it takes a part of the positions that is counted out", node.name)
        if new % step != old % step:
            raise OneSizeError(f"it takes every {step}th of {new} positions", node.name)
        fresh.append(END if end == old or end >= FAR else end)
    writer.renewed(node, 2, fresh)
    return None


def _repeat(writer: _Writer, node: Node, made: Made) -> list[list[Axis]] | None:
    """Repeating is for channels and the batch: how often a position is repeated would be a size."""
    read, extents = writer.of(node.inputs[0]), made[0]
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
    if row.whole or not attribute(node, "kernel_shape"):
        return None
    before, now = list(attribute(node, "kernel_shape")), window_now(node, read[2:], made[0][2:])
    size_asks.pads(node, read[2:])
    if before != now:
        writer.written += 1
        if now == [new_of(axis) for axis in read[2:]]:
            become(node, next(op for op, other in POOLS.items() if other.whole and other.kind == row.kind), {})
        else:
            node.attrs["kernel_shape"] = now
    return None


def _asks(question: Callable[[size_asks.Known, Node, Made], None]) -> Rule:
    """A rule of an operator whose own rule of shapes is enough, once something is asked."""

    def rule(writer: _Writer, node: Node, made: Made) -> None:
        question(writer, node, made)

    return rule


RULES: tuple[tuple[Callable[[Node], bool], Rule], ...] = (
    (is_view, _view), (is_transpose, _transpose), (is_resize, _resize), (is_slice, _slice),
    (is_split, _asks(size_asks.split)), (is_gather, _asks(size_asks.gather)),
    (lambda node: is_expand(node) or is_tile(node), _repeat), (takes_best, _asks(size_asks.best)),
    (lambda node: node.op in POOLS, _pool), (lambda node: node.op in CONVOLUTIONS, _asks(size_asks.layer)),
    (multiplies_matrices, _asks(size_asks.product)), (lambda node: node.op in NORMS, _asks(size_asks.normed)),
    (is_join, _asks(size_asks.join)), (reads_places, _asks(size_asks.places)), (is_pad, _asks(size_asks.pad)),
)  # fmt: skip
"""What an operator asks, where its own rule of shapes is not enough."""
