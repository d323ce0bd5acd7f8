"""Labelling in progress: what the channel rules of `rules.py` read and write.

A rule takes the labels of a node's inputs from a `Labelling` and puts those of its outputs there. It notes which
initializer axes hold channels (`AxisUse`), which parts must keep equally many (`Balance`), and where channels are
summed over. It ties labels (`unify`, `merge`) and forbids removing them (`freeze`). A node that it cannot label it
refuses with a `CannotMoveError`: the node is then `opaque`. `channels.py` makes the finished analysis of all that.

A tensor stays a box when channels are cut out of it, so in the end its labels may vary along one axis only. On the way
they may vary along several (heads × positions; channels × the rows and columns of a pixel shuffle's block): which one
is to be left is the affair of the operator that computes with them (`Labelling.line`), not of the Reshape that lays
them out.

The analysis ends. Every node is visited once, and a visit calls `line` on its inputs. `line` ties each position along
the axis that is left into one class, or, where a part of the position belongs to no channel, freezes the rest: it never
asks again whether that was enough, for a position that is tied or frozen is constant along all other axes. From then on
the tensor varies along one axis at most, and no later union can undo that. So the number of tensors that vary along
several axes, which `settle` brings to nought, falls with every step, and union-find's classes only ever merge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, Shape, collapse, varying_axes
from onnxslim_yolo.analysis.unionfind import UnionFind
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, is_constant, is_empty, static_shape

Role = Literal["out", "in", "channel"]
"""What an initializer's axis is to its channels: it makes them (a convolution's rows), reads them (its columns), or
holds one value for each (BatchNormalization's parameters, PReLU's slopes, biases)."""


@dataclass(frozen=True)
class AxisUse:
    """The channels along one axis of one initializer.

    Attributes:
        node: a node that reads the initializer, and `index` the input it is.
        axis: the initializer's axis.
        labels: the class of each position, shape (n,); or (groups, n) for the input axis of a grouped convolution,
            where each group's rows have channels of their own at position n.
        role: see `Role`.
    """

    node: Node
    index: int
    axis: int
    labels: Array
    role: Role

    @property
    def constant(self) -> gs.Constant:
        """The initializer as it is now."""
        tensor = self.node.inputs[self.index]
        if not isinstance(tensor, gs.Constant):
            raise TypeError(f"input {self.index} of '{self.node.name}' is no longer an initializer")
        return tensor


@dataclass(frozen=True)
class Balance:
    """Parts that must keep equally many channels each (a grouped convolution's groups).

    Attributes:
        parts: the classes of each part, shape (parts, n).
        node: the node that demands it.
    """

    parts: Array
    node: str


class Labelling:
    """What the rules read and write while labels are being propagated."""

    def __init__(self, graph: gs.Graph, shapes: dict[int, Shape | None], *, whole_heads: bool) -> None:
        self.graph = graph
        self.whole_heads = whole_heads
        self.sets = UnionFind()
        self.shapes = shapes
        self.labels: dict[int, Array | None] = {}
        self.uses: dict[tuple[int, int], list[AxisUse]] = {}
        self.contractions: list[tuple[Node, int]] = []
        self.frozen: list[tuple[Array, str]] = []
        self.balances: list[Balance] = []
        self._read: set[int] = set()

    def shape(self, tensor: Tensor) -> Shape:
        """A tensor's shape. Raises CannotMoveError if it is not static."""
        shape = static_shape(tensor) if is_constant(tensor) else self.shapes.get(id(tensor))
        if shape is None:
            raise CannotMoveError(f"'{tensor.name}' has no static shape")
        return shape

    def visit(self) -> None:
        """Begin a node: none of its inputs has been read."""
        self._read = set()

    def leave(self, node: Node) -> None:
        """End a node: what its rule has not read is not "read by nobody", but in no way that is known."""
        for index, tensor in enumerate(node.inputs):
            labels = self.labels.get(id(tensor))
            if labels is not None and id(tensor) not in self._read:
                self.freeze(labels, why(node, f"reads it as its input {index}, which no rule follows"))

    def take_back(self, node: Node) -> None:
        """Forget what was noted of a node that turned out not to be known."""
        for key, uses in self.uses.items():
            self.uses[key] = [use for use in uses if use.node is not node]
        self.contractions = [place for place in self.contractions if place[0] is not node]

    def get(self, tensor: Tensor) -> Array:
        """A tensor's labels with merged ones replaced by their representative, collapsed. Counts as reading them."""
        self._read.add(id(tensor))
        labels = self.labels.get(id(tensor))
        if labels is None:
            return np.zeros((1,) * len(self.shape(tensor)), dtype=np.int64)
        return collapse(self.sets.find(labels))

    def line(self, node: Node, tensor: Tensor, prefer: Sequence[int] = ()) -> Array:
        """A tensor's labels, tied so that they vary along one axis at most.

        Args:
            node: who asks.
            prefer: the axis that is left is the first of these along which labels vary, else the last one of all.
        """
        labels = self.get(tensor)
        varying = varying_axes(labels)
        if len(varying) > 1:
            rank = labels.ndim
            wanted = [axis % rank for axis in prefer if axis % rank in varying]
            labels = self._tie(labels, wanted[0] if wanted else varying[-1], why(node, "reads it along another axis"))
            self.labels[id(tensor)] = labels
        return labels

    def _tie(self, labels: Array, axis: int, reason: str) -> Array:
        """Every position along an axis as one class, or frozen where no channel owns all of it."""
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        whole = (rows != 0).all(axis=1)
        self.freeze(rows[~whole], reason)
        self.unify(np.broadcast_to(rows[whole, :1], rows[whole].shape), rows[whole])
        left = np.where(whole, rows[:, 0], 0)
        return collapse(self.sets.find(left).reshape([-1 if k == axis else 1 for k in range(labels.ndim)]))

    def settle(self) -> None:
        """Tie what still varies along several axes: of the layouts that nobody computes with, columns are left."""
        for key, labels in self.labels.items():
            if labels is None:
                continue
            found = collapse(self.sets.find(labels))
            varying = varying_axes(found)
            if len(varying) > 1:
                found = self._tie(
                    found, varying[-1], "is laid out along several axes, with values that no channel owns"
                )
            self.labels[key] = found

    def put(self, tensor: Tensor, labels: Array) -> None:
        """Note a tensor's labels."""
        self.labels[id(tensor)] = collapse(self.sets.find(labels))

    def fresh(self, tensor: Tensor, axis: int) -> Array:
        """New labels along one axis of a tensor; shape (n,)."""
        shape = self.shape(tensor)
        axis %= len(shape)
        labels = self.sets.fresh(shape[axis])
        self.put(tensor, labels.reshape([-1 if k == axis else 1 for k in range(len(shape))]))
        return labels

    def unify(self, first: Array, second: Array) -> None:
        """Tie labels element by element. Where one side has none, the other side is frozen by the caller's check."""
        both = (first != 0) & (second != 0)
        self.sets.union(np.broadcast_to(first, both.shape)[both], np.broadcast_to(second, both.shape)[both])

    def freeze(self, labels: Array, reason: str) -> None:
        """Forbid removing these channels."""
        wanted = np.unique(labels[labels != 0])
        if wanted.size:
            self.frozen.append((wanted, reason))

    def use(self, node: Node, index: int, axis: int, labels: Array, role: Role) -> None:
        """Note that an initializer's axis holds these channels. A second use of the same initializer ties them."""
        key = (id(node.inputs[index]), axis)
        earlier = self.uses.setdefault(key, [])
        if earlier and earlier[0].labels.shape == labels.shape:
            self.unify(earlier[0].labels, labels)
            one_sided = (earlier[0].labels == 0) != (labels == 0)
            self.freeze(
                np.concatenate([earlier[0].labels[one_sided], labels[one_sided]]), f"shares '{_name(node, index)}'"
            )
        elif earlier:
            self.freeze(labels, f"shares '{_name(node, index)}' in another layout")
            self.freeze(earlier[0].labels, f"shares '{_name(node, index)}' in another layout")
        earlier.append(AxisUse(node, index, axis, labels, role))

    def contract(self, node: Node, index: int) -> None:
        """Note that the node sums over the channels of an input."""
        self.contractions.append((node, index))

    def only_axis(self, node: Node, tensor: Tensor, axis: int) -> Array:
        """A tensor's labels along one axis, shape (n,) or (1,); channels along any other axis are frozen."""
        labels = self.line(node, tensor, (axis,))
        if any(k != axis % labels.ndim for k in varying_axes(labels)):
            self.freeze(labels, why(node, f"expects channels on axis {axis} only"))
            return np.zeros(1, dtype=np.int64)
        return labels.reshape(-1)

    def meet(self) -> None:
        """An initializer that anybody reads otherwise than by its channels cannot be cut: its channels are frozen."""
        outputs = {id(tensor) for tensor in self.graph.outputs}
        alive = {id(node) for node in self.graph.nodes}
        for (key, axis), uses in self.uses.items():
            if not uses:
                continue
            constant = uses[0].constant
            known = {(id(use.node), use.index) for use in uses}
            readers = [
                node
                for node in consumers(constant)
                for index, tensor in enumerate(node.inputs)
                if tensor is constant and (id(node), index) not in known and id(node) in alive
            ]
            if not readers and key not in outputs:
                continue
            reader = f"{readers[0].op} '{readers[0].name}'" if readers else "the graph itself"
            for use in uses:
                self.freeze(use.labels, f"shares '{constant.name}' with {reader}, which reads all of its axis {axis}")

    def merge(self, node: Node, a: Array, b: Array, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> Array:
        """Unify two aligned label arrays; channels that meet plain data of the same extent are frozen."""
        full_a, full_b = np.broadcast_arrays(a, b)
        self.unify(full_a, full_b)
        for mine, theirs, extent in ((full_a, full_b, shape_b), (full_b, full_a, shape_a)):
            lonely = (mine != 0) & (theirs == 0)
            if lonely.any() and any(extent[k] > 1 for k in varying_axes(mine)):
                self.freeze(mine[lonely], why(node, "combines them with values that no channel owns"))
        return np.asarray(np.where(full_a != 0, full_a, full_b))


Rule: TypeAlias = Callable[[Labelling, Node], None]
"""Labels a node's outputs. May raise `CannotMoveError`: the node is then `opaque`."""


def opaque(state: Labelling, node: Node, reason: str | None = None) -> None:
    """Freeze whatever goes in; what comes out belongs to no channel."""
    for tensor in node.inputs:
        labels = state.labels.get(id(tensor))
        if labels is not None:
            state.freeze(labels, reason or f"{node.op} '{node.name}' has no channel rule")
    for tensor in node.outputs:
        if is_empty(tensor):
            continue
        shape = state.shapes.get(id(tensor))
        state.labels[id(tensor)] = None if shape is None else np.zeros((1,) * len(shape), dtype=np.int64)


def why(node: Node, what: str) -> str:
    """A reason to freeze: the node and what it does."""
    return f"{node.op} '{node.name}' {what}"


def align(labels: Array, rank: int) -> Array:
    """Labels with leading axes of size 1, up to this rank, as numpy broadcasts."""
    return np.asarray(labels.reshape((1,) * (rank - labels.ndim) + labels.shape))


def _name(node: Node, index: int) -> str:
    return node.inputs[index].name
