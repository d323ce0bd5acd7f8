"""A ScatterND that writes a whole box is a cut and a Concat. Used by the pass `canonicalise`.

torch writes `x[:, :c] = y` so, and `boxes[..., :2] = y`: the place of every element is listed, or computed from the
batch. Where the places are those of a box, [s, s + n) along each axis, one after the other,

    ScatterND(x, box, y) = Concat(x[:s], inner, x[s + n:])      along the first axis that the box does not fill,

where inner is y, or the same of x[s : s + n] along the next such axis. Exact. A box that fills everything is y. Where x
and y are both transposed by one permutation (torch's dynamo exporter brings the axis to the front), the cut is made
before and the result is transposed.

Places that depend on the batch are computed at two batches: along each axis they have to fill it at both, or to be the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.folding import fold
from onnxslim_yolo.ir.attributes import attribute, permutation
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, become, constant_of, is_empty, nodes_of, producer
from onnxslim_yolo.ir.origins import ADDED, set_origin
from onnxslim_yolo.ops.movement import SIZED_BY, is_expand, is_filled, is_transpose, tells_shape

BATCHES = (2, 3)
DEEPEST = 64
"""How many nodes a place may be away from what it is computed from."""

Shapes = Mapping[int, tuple[int, ...] | None]
Span = tuple[int, int] | None
"""Where a box begins and ends along an axis; None: it fills it."""


def boxes_for_scatters(graph: gs.Graph) -> int:
    """Rewrite every ScatterND that writes a box; return how many."""
    nodes = [node for node in nodes_of(graph, "ScatterND") if attribute(node, "reduction") in (None, "none")]
    if not nodes:
        return 0
    trials, name, done = [_Values(concrete_shapes(graph, batch), graph.opset) for batch in BATCHES], Namer(graph), 0
    for node in nodes:
        spans = _agreed([_spans(node, trial) for trial in trials]) if len(node.inputs) == 3 and node.outputs else None
        if spans is not None:
            _write(graph, node, spans, name)
            done += 1
    return done


@dataclass
class _Values:
    """What integers are at one batch, where they follow from shapes and constants."""

    shapes: Shapes
    opset: int
    known: dict[int, Array | None] = field(default_factory=dict)

    def of(self, tensor: Tensor, depth: int = 0) -> Array | None:
        """A tensor's value; None where it is not known."""
        value = constant_of(tensor)
        if value is not None or is_empty(tensor):
            return value
        if id(tensor) not in self.known:
            self.known[id(tensor)] = self._computed(tensor, depth) if depth < DEEPEST else None
        return self.known[id(tensor)]

    def _computed(self, tensor: Tensor, depth: int) -> Array | None:
        node = producer(tensor)
        if node is None:
            return None
        if tells_shape(node):
            shape = self._shape(node.inputs[0], depth)
            if shape is None:
                return None
            return np.asarray(shape[slice(attribute(node, "start"), attribute(node, "end"))], dtype=np.int64)
        values = [None if is_empty(read) else self.of(read, depth + 1) for read in node.inputs]
        if not values or any(v is None and not is_empty(t) for v, t in zip(values, node.inputs, strict=True)):
            return None
        inputs = [
            t if v is None else gs.Constant(f"i{k}", v)
            for k, (v, t) in enumerate(zip(values, node.inputs, strict=True))
        ]
        grown = _grown(node, values)
        shapes = [grown or self.shapes.get(id(each)) for each in node.outputs]
        outputs = [gs.Variable(f"o{k}", t.dtype, shapes[k]) for k, t in enumerate(node.outputs)]
        copy = gs.Node(node.op, node.name, node.attrs, inputs, outputs, domain=node.domain)
        results = fold(copy, self.opset)
        place = next(k for k, each in enumerate(node.outputs) if each is tensor)
        return None if results is None else results[place]

    def _shape(self, tensor: Tensor, depth: int) -> tuple[int, ...] | None:
        shape = self.shapes.get(id(tensor))
        value = self.of(tensor, depth + 1) if shape is None else None
        return shape if value is None else value.shape


def _grown(node: Node, values: Sequence[Array | None]) -> tuple[int, ...] | None:
    """The shape that a node is told to make, as inference does not follow such numbers; None for other nodes."""
    told = values[SIZED_BY[node.op]] if is_expand(node) or is_filled(node) else None
    if told is None:
        return None
    target = tuple(int(size) for size in told.reshape(-1))
    own = values[0] if is_expand(node) else None
    try:
        return target if own is None else np.broadcast_shapes(own.shape, target)
    except ValueError:
        return None  # it does not run


def _spans(node: Node, values: _Values) -> list[Span] | None:
    """The box that is written, an entry an axis that places are told of; None where it is no box."""
    shape, places = values.shapes.get(id(node.inputs[0])), values.of(node.inputs[1])
    if shape is None or places is None or not places.size or places.ndim != places.shape[-1] + 1:
        return None
    spans: list[Span] = []
    for axis, extent in enumerate(shape[: places.shape[-1]]):
        along, count = places[..., axis], places.shape[axis]
        along = np.where(along < 0, along + extent, along)
        start = int(along.reshape(-1)[0])
        steps = np.arange(start, start + count).reshape([-1 if k == axis else 1 for k in range(along.ndim)])
        if start < 0 or start + count > extent or (along != steps).any():
            return None
        spans.append(None if count == extent else (start, start + count))
    return spans


def _agreed(found: Sequence[list[Span] | None]) -> list[Span] | None:
    first = found[0]
    return first if all(each == first for each in found) else None


def _write(graph: gs.Graph, node: Node, spans: Sequence[Span], name: Namer) -> None:
    """Put cuts and Concats in the node's place."""
    data, _, written = node.inputs
    axes = [(axis, span) for axis, span in enumerate(spans) if span is not None]
    makers = [producer(tensor) for tensor in (data, written)]
    order = _common_order(makers, data)
    if order is not None:
        data, written = (maker.inputs[0] for maker in makers if maker is not None)
        axes = sorted((order[axis], span) for axis, span in axes)
    result = _put(graph, node, data, written, axes, name)
    if order is None:
        become(node, "Identity", {}, [result])
    else:
        become(node, "Transpose", {"perm": order}, [result])


def _common_order(makers: Sequence[Node | None], data: Tensor) -> list[int] | None:
    """The permutation by which both are transposed; None where they are not."""
    if data.shape is None or any(maker is None or not is_transpose(maker) for maker in makers):
        return None
    orders = [permutation(maker, len(data.shape)) for maker in makers if maker is not None]
    return orders[0] if orders[0] == orders[1] else None


def _put(
    graph: gs.Graph, node: Node, data: Tensor, written: Tensor, axes: Sequence[tuple[int, tuple[int, int]]], name: Namer
) -> Tensor:
    """`data` with `written` in the box that spans these axes."""
    if not axes:
        return written
    (axis, (start, end)), *rest = axes
    inner = _put(graph, node, _cut(graph, node, data, axis, start, end, name), written, rest, name) if rest else written
    extent = None if data.shape is None else data.shape[axis]
    parts = [_cut(graph, node, data, axis, 0, start, name)] if start else []
    parts.append(inner)
    if extent != end:
        parts.append(_cut(graph, node, data, axis, end, np.iinfo(np.int64).max, name))
    joined = gs.Variable(name(f"{node.name}_joined"), data.dtype, data.shape)
    graph.nodes.append(gs.Node("Concat", name(f"{node.name}_join"), {"axis": axis}, parts, [joined]))
    return joined


def _cut(graph: gs.Graph, node: Node, data: Tensor, axis: int, start: int, end: int, name: Namer) -> Tensor:
    numbers = []
    for word, value in (("starts", start), ("ends", end), ("axes", axis)):
        constant = gs.Constant(name(f"{node.name}_{word}"), np.asarray([value], np.int64))
        set_origin(constant, ADDED)
        numbers.append(constant)
    part = gs.Variable(name(f"{node.name}_part"), data.dtype)
    graph.nodes.append(gs.Node("Slice", name(f"{node.name}_cut"), {}, [data, *numbers], [part]))
    return part
