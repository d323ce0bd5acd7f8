"""Labelling in progress: what the channel rules of `rules.py` read and write.

A rule takes the labels of a node's inputs from a `Labelling` and puts those of its outputs there. It notes which
initializer axes hold channels (`AxisUse`), which parts must keep equally many (`Balance`), and where channels are
summed over. It ties labels (`unify`, `merge`) and forbids removing them (`freeze`). A node that it cannot label it
refuses with a `CannotMoveError`: the node is then `opaque`. `channels.py` makes the finished analysis of all that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, Shape, collapse, varying_axes
from onnxslim_yolo.analysis.unionfind import UnionFind
from onnxslim_yolo.graph import Array, Node, Tensor, is_constant, is_empty, static_shape

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

    def __init__(self, graph: gs.Graph, shapes: dict[int, Shape | None]) -> None:
        self.graph = graph
        self.sets = UnionFind()
        self.shapes = shapes
        self.labels: dict[int, Array | None] = {}
        self.uses: dict[tuple[int, int], list[AxisUse]] = {}
        self.contractions: list[tuple[Node, int]] = []
        self.frozen: list[tuple[Array, str]] = []
        self.balances: list[Balance] = []

    def shape(self, tensor: Tensor) -> Shape:
        """A tensor's shape. Raises CannotMoveError if it is not static."""
        shape = static_shape(tensor) if is_constant(tensor) else self.shapes.get(id(tensor))
        if shape is None:
            raise CannotMoveError(f"'{tensor.name}' has no static shape")
        return shape

    def get(self, tensor: Tensor) -> Array:
        """A tensor's labels with merged ones replaced by their representative, collapsed."""
        labels = self.labels.get(id(tensor))
        if labels is None:
            return np.zeros((1,) * len(self.shape(tensor)), dtype=np.int64)
        return collapse(self.sets.find(labels))

    def put(self, tensor: Tensor, labels: Array) -> None:
        """Note a tensor's labels. Channels laid out along several axes at once are tied until one axis is left.

        A tensor stays a box when channels are cut out of it: with labels along two axes (heads × positions), cutting
        has to cut whole rows or whole columns. Columns are chosen: position p of every row goes together.
        """
        labels = collapse(labels)
        while len(varying := varying_axes(labels)) > 1:
            rows = labels.take([0], axis=varying[0])
            self.unify(np.broadcast_to(rows, labels.shape), labels)
            labels = collapse(self.sets.find(labels))
        self.labels[id(tensor)] = labels

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

    def only_axis(self, node: Node, labels: Array, axis: int) -> Array:
        """The labels along one axis, shape (n,) or (1,); channels along any other axis are frozen."""
        if any(k != axis for k in varying_axes(labels)):
            self.freeze(labels, why(node, f"expects channels on axis {axis} only"))
            return np.zeros(1, dtype=np.int64)
        return labels.reshape(-1)

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
