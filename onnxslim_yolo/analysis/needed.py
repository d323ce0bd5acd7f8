"""Which channels of each tensor anything depends on, position by position: from the outputs back.

A channel of a tensor is needed where a reader that is needed itself reads it with a weight that is not zero. Unlike a
coupled class, this is a fact about one place: what one branch of a living shortcut computes may be needed by nobody.

1. A BatchNormalization with γ = 0 needs nothing of that channel, a convolution whose column is zero, neither.
2. A factor is not needed where another one is exactly zero; where both are, one of them stays needed.
3. Operators that work channel by channel hand on what is needed of them; Concat, Split, Slice and Gather cut it.

Everything else needs all of what it reads. Whatever is computed of a channel that nobody needs may be computed
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.analysis.movement import MOVERS, CannotMoveError, Shape
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, input_constant, is_constant, is_empty
from onnxslim_yolo.ops.arithmetic import ARITHMETIC
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer
from onnxslim_yolo.ops.movement import SAME, VIEWS
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.spatial import POOLS, RESIZES

UNARY = frozenset((*FUNCTIONS, *POOLS, *RESIZES, *(op for op, row in NORMS.items() if row.by_channel), *SAME, "Clip"))
"""Operators of one map that work channel by channel; the rest of their inputs are parameters."""


class NeededChannels:
    """What is needed of every tensor, along axis 1.

    Args:
        graph: in topological order.
        shapes: every tensor's shape at batch 1, by `id`.
        moments: what is known to be constant.
    """

    def __init__(self, graph: gs.Graph, shapes: dict[int, Shape | None], moments: MomentAnalysis) -> None:
        self._shapes, self._moments = shapes, moments
        self._needed: dict[int, Array] = {}
        self._keepalive = list(graph.nodes)
        for output in graph.outputs:
            self._add(output, None)
        for node in reversed(graph.nodes):
            self._visit(node)

    def of(self, tensor: Tensor) -> Array:
        """Per channel, shape (C,); (1,) where the tensor has no static channels."""
        found = self._needed.get(id(tensor))
        return np.zeros(self._width(tensor), dtype=bool) if found is None else found

    def shape(self, tensor: Tensor) -> Shape | None:
        """The tensor's shape at batch 1."""
        return tuple(tensor.shape) if is_constant(tensor) else self._shapes.get(id(tensor))

    def _width(self, tensor: Tensor) -> int:
        shape = self.shape(tensor)
        return 1 if shape is None or len(shape) < 2 else shape[1]

    def _add(self, tensor: Tensor, needed: Array | None) -> None:
        """Something needs these channels; None: all of them."""
        if is_constant(tensor) or is_empty(tensor):
            return
        now = self.of(tensor)
        fits = needed is not None and needed.shape == now.shape
        self._needed[id(tensor)] = now | needed if fits and needed is not None else np.ones_like(now)

    def _visit(self, node: Node) -> None:
        outputs = [tensor for tensor in node.outputs if not is_empty(tensor)]
        if not any(self.of(tensor).any() for tensor in outputs):
            return
        rule = _RULES.get(node.op) if node.domain in (None, "", "ai.onnx") else None
        known = rule(self, node) if rule is not None and all(self.shape(t) for t in outputs) else None
        for index, tensor in enumerate(node.inputs):
            self._add(tensor, None if known is None or index >= len(known) else known[index])

    def is_zero(self, tensor: Tensor, rank: int) -> Array:
        """Per channel, whether the tensor is exactly zero all over; shape (C,) or (1,)."""
        moments = self._moments.of(tensor)
        zero = moments.exact & (moments.mean == 0)
        zero = zero.reshape((1,) * (rank - zero.ndim) + zero.shape)
        return np.asarray(zero.all(axis=tuple(k for k in range(rank) if k != 1)))


Rule = Callable[[NeededChannels, Node], "list[Array | None] | None"]


def _unary(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    before, after = needs.shape(node.inputs[0]), needs.shape(node.outputs[0])
    if before is None or after is None or len(before) < 2 or before[:2] != after[:2] or len(node.outputs) > 1:
        return None
    needed = needs.of(node.outputs[0])
    gamma = input_constant(node, 1) if node.op == "BatchNormalization" else None
    return [needed if gamma is None else needed & (gamma != 0)]


def _view(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    """A view of vectors: one number a channel, before and after."""
    before, after = needs.shape(node.inputs[0]), needs.shape(node.outputs[0])
    if before is None or after is None or min(len(before), len(after)) < 2 or before[:2] != after[:2]:
        return None
    return [needs.of(node.outputs[0])] if max(*before[2:], *after[2:], 1, 1) == 1 else None


def _elementwise(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    shape = needs.shape(node.outputs[0])
    if shape is None or len(shape) < 2:
        return None
    needed, found = needs.of(node.outputs[0]), list[Array | None]()
    # Of several zero factors the first that is read stays: only what stands before or behind it may be anything.
    nothing = np.zeros_like(needed)
    for index, tensor in enumerate(node.inputs):
        others = [t for k, t in enumerate(node.inputs) if k != index] if node.op == "Mul" and index == 0 else []
        dead = nothing if not others else nothing | needs.is_zero(others[0], len(shape))
        if node.op == "Mul" and index == 1:
            first = needs.is_zero(node.inputs[0], len(shape))
            dead = nothing | (first & ~needs.is_zero(tensor, len(shape)))
        here, mine = needs.shape(tensor), needed & ~dead
        whole = here is not None and len(here) == len(shape) and here[1] == shape[1]
        narrow = here is not None and len(here) == len(shape) and here[1] == 1
        found.append(mine if whole else np.array([mine.any()]) if narrow else None)
    return found


def _linear(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    layer, shape = LinearLayer.of(node), needs.shape(node.inputs[0])
    if layer is None or not layer.samples_in_place or shape is None:
        return None
    if layer.channel_axis % len(shape) != 1 or layer.inputs != shape[1]:
        return None
    rows = needs.of(node.outputs[0]).reshape(layer.groups, -1)
    blocks = layer.blocks
    return [np.asarray(((blocks != 0).any(axis=3) & rows[:, :, None]).any(axis=1).reshape(-1))]


def _concat(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    shapes = [needs.shape(tensor) for tensor in node.inputs]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return None
    axis = int(attribute(node, "axis"))
    if axis not in (1, 1 - len(shapes[0] or ())):
        same = all(shape is not None and shape[1] == needs.of(node.outputs[0]).size for shape in shapes)
        return [needs.of(node.outputs[0])] * len(shapes) if same else None
    ends = np.cumsum([shape[1] for shape in shapes if shape is not None])
    return list(np.split(needs.of(node.outputs[0]), ends[:-1]))


def _split(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    shape = needs.shape(node.inputs[0])
    if shape is None or len(shape) < 2 or int(attribute(node, "axis")) not in (1, 1 - len(shape)):
        return None
    return [np.concatenate([needs.of(tensor) for tensor in node.outputs])]


def _taken(needs: NeededChannels, node: Node) -> list[Array | None] | None:
    """Slice and Gather: the channels that are taken, as often as they are."""
    before, after = needs.shape(node.inputs[0]), needs.shape(node.outputs[0])
    if before is None or after is None or len(before) != len(after) or len(before) < 2:
        return None
    numbers = np.arange(before[1]).reshape(1, -1, *[1] * (len(before) - 2))
    try:
        moved = MOVERS[node.op](node, [numbers], [before], [after])[0]
    except CannotMoveError:
        return None
    if moved.shape[1] != after[1] or moved.size != after[1]:
        return None
    needed = np.zeros(before[1], dtype=bool)
    needed[moved.reshape(-1)[needs.of(node.outputs[0])]] = True
    return [needed]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys((*ARITHMETIC, "PRelu"), _elementwise),
    **dict.fromkeys(LINEAR, _linear),
    "Concat": _concat,
    "Split": _split,
    "Slice": _taken,
    "Gather": _taken,
}
