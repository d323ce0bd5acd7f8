"""Parts of a Concat that nobody needs leave it, by position. Used by `drop-dead`.

Along the channels, a part is the range [s, e) of the Concat's result, and of whatever is computed from that channel by
channel, shifted where that is concatenated again. It leaves the Concat, and its columns every convolution that reads
the range, if on every path from the Concat

1. there are only operators that work channel by channel, and Concats, and then convolutions or ConvTransposes without
   groups;
2. each convolution reads each of the channels with a weight of zero, or finds it exactly zero, or finds it exactly a
   constant and does not pad, so that its bias takes that over.

Where a constant is read with padding, or taken apart, it stays, as the map that it is, and what computed it goes.

A pool, say, shares its channels with what it pools: as a class they live, at this place they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import alone_for
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.analysis.needed import UNARY, NeededChannels
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    input_constant,
    is_constant,
    is_graph_output,
    nodes_of,
    replace_constant,
    set_input,
    static_shape,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import ADDED, made_by_cutting, origin_of, set_origin
from onnxslim_yolo.ops.arithmetic import is_product, is_sum
from onnxslim_yolo.ops.linear import CONVOLUTIONS, LINEAR, LinearLayer, is_steady, matrix_of
from onnxslim_yolo.ops.movement import is_join
from onnxslim_yolo.ops.norms import is_batch_norm, is_norm_by_channel
from onnxslim_yolo.ops.spatial import RESIZES
from onnxslim_yolo.pruning.shift import shift_outputs
from onnxslim_yolo.rewrites.dead_operands import MayGo, constant_value
from onnxslim_yolo.rewrites.emptied import without_part


@dataclass
class _Range:
    """Where a part's channels are: per tensor's `id` the first of them; what has to be cut, input and axis."""

    width: int
    starts: dict[int, int] = field(default_factory=dict)
    cuts: list[tuple[Node, int, int, int]] = field(default_factory=list)
    shifts: list[tuple[Node, Array]] = field(default_factory=list)


def drop_part(model: Model, needs: NeededChannels, moments: MomentAnalysis, may_go: MayGo) -> bool:
    """Take one part out of one Concat; whether there was one. Shapes are stale then."""
    for node in nodes_of(model.graph, "Concat"):
        shape = needs.shape(node.outputs[0])
        if shape is None or len(shape) < 3 or int(attribute(node, "axis")) not in (1, 1 - len(shape)):
            continue
        for index, tensor in enumerate(node.inputs):
            unread = not needs.of(tensor).any() or constant_value(moments, tensor) is not None
            # A constant has no reader's needs noted, and nothing goes with it.
            if not unread or is_constant(tensor) or len(node.inputs) < 2 or not may_go(tensor):
                continue
            found = _range(model, node, index, needs, moments)
            if found is not None:
                _carry_out(model, node, index, found)
                return True
            graph = without_part(model, node, index)
            if graph is not None:
                model.graph = graph
                return True
            if _written_down(model, node, index, moments):
                return True
    return False


MOST_WRITTEN = 1 << 20
"""Numbers that a constant map may have: beyond, what computes it is the smaller file."""


def _written_down(model: Model, concat: Node, index: int, moments: MomentAnalysis) -> bool:
    """A part that is constant, but not beyond the border of who reads it with padding: the map itself is put there."""
    tensor = concat.inputs[index]
    value, shape = constant_value(moments, tensor), static_shape(tensor)
    if value is None or shape is None or int(np.prod(shape)) > MOST_WRITTEN:
        return False
    if not any(node.op in LINEAR for node in alone_for(model.graph, tensor)):
        return False
    whole = gs.Constant(Namer(model.graph)(f"{tensor.name}_constant"), np.broadcast_to(value, shape).copy())
    set_origin(whole, ADDED)
    set_input(concat, index, whole)
    return True


def _range(model: Model, concat: Node, index: int, needs: NeededChannels, moments: MomentAnalysis) -> _Range | None:
    widths = [(needs.shape(tensor) or (0, 0))[1] for tensor in concat.inputs]
    if len(widths) < 2 or min(widths) < 1:
        return None
    found = _Range(widths[index], {id(concat.outputs[0]): sum(widths[:index])})
    started = False
    for node in model.graph.nodes:
        started = started or node is concat
        if not started or node is concat or not any(id(tensor) in found.starts for tensor in node.inputs):
            continue
        if not _follow(node, found, needs, moments):
            return None
    ends = [t for node in model.graph.nodes for t in node.outputs if id(t) in found.starts]
    return None if any(is_graph_output(model.graph, tensor) for tensor in ends) else found


def _follow(node: Node, found: _Range, needs: NeededChannels, moments: MomentAnalysis) -> bool:
    """Whether a reader of the range can do without it; notes how."""
    places = [k for k, tensor in enumerate(node.inputs) if id(tensor) in found.starts]
    starts = {found.starts[id(node.inputs[k])] for k in places}
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1 or len(starts) != 1:
        return False
    start = starts.pop()
    if node.op in CONVOLUTIONS:
        return places == [0] and _reader(node, start, found, moments)
    if is_join(node):
        shapes = [needs.shape(tensor) for tensor in node.inputs]
        rank = len(shapes[0] or ())
        if (
            len(places) != 1
            or int(attribute(node, "axis")) not in (1, 1 - rank)
            or any(shape is None for shape in shapes)
        ):
            return False
        start += sum(shape[1] for shape in shapes[: places[0]] if shape is not None)
    elif is_batch_norm(node):
        if places != [0] or any(input_constant(node, k) is None for k in range(1, 5)):
            return False
        found.cuts += [(node, k, 0, start) for k in range(1, 5)]
    elif node.op in UNARY:
        resized = node.op in RESIZES and len(node.inputs) > 3  # `sizes` counts the channels, too
        if places != [0] or is_norm_by_channel(node) or resized or len(node.outputs) > 1:
            return False
    elif not (is_product(node) or is_sum(node)) or not _beside(node, places):
        return False
    before, after = needs.shape(node.inputs[places[0]]), needs.shape(node.outputs[0])
    if before is None or after is None or (not is_join(node) and before[:2] != after[:2]):
        return False
    found.starts[id(node.outputs[0])] = start
    return True


def _beside(node: Node, places: Sequence[int]) -> bool:
    """Whether every operand is of the range, or one number."""
    others = [tensor for k, tensor in enumerate(node.inputs) if k not in places]
    return all(is_constant(tensor) and int(np.prod(tensor.shape)) == 1 for tensor in others)


def _reader(node: Node, start: int, found: _Range, moments: MomentAnalysis) -> bool:
    layer = LinearLayer.of(node)
    if layer is None or layer.groups != 1 or layer.has_computed_bias:
        return False
    here = slice(start, start + found.width)
    known = moments.of(node.inputs[0])
    value = along(known.mean, 1, layer.inputs)[here]
    exact = along(known.exact, 1, layer.inputs)[here] & np.isfinite(value)
    unread = ~layer.reads[here]
    if not (unread | (exact & ((value == 0) | is_steady(node)))).all():
        return False
    used = exact & ~unread & (value != 0)
    if used.any():
        found.shifts.append((node, np.asarray(matrix_of(layer)[:, here][:, used] @ value[used])))
    found.cuts.append((node, 1, layer.reading_axis, start))
    return True


def _carry_out(model: Model, concat: Node, index: int, found: _Range) -> None:
    name = Namer(model.graph)
    for node, shift in found.shifts:
        shift_outputs(model, node, shift, name)
    for node, k, axis, start in found.cuts:
        old = node.inputs[k]
        width = int(old.shape[axis])
        kept = [i for i in range(width) if not start <= i < start + found.width]
        move = partial(np.take, indices=kept, axis=axis)
        made = made_by_cutting(origin_of(old), tuple(old.shape), move, {axis: kept})
        replace_constant(node, k, move(old.values), origin=made)  # type: ignore[attr-defined]
    concat.inputs = [tensor for k, tensor in enumerate(concat.inputs) if k != index]
