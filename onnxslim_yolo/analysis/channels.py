"""Which channels are tied together: the channel-label analysis.

Every tensor carries a label array, a descriptor (see `movement`) that says which channel each element belongs to; label
0 means none. Convolutions make fresh labels, data movement moves them, element-wise operators unify them. One
union-find set is one *coupled channel*: the unit that is kept or removed. The coupled channels that the same
initializer axes know form a *group*: the unit whose width is chosen.

The rules are in `rules.py`, a function per operator. This file holds what they write to and what comes out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, Shape, collapse, varying_axes
from onnxslim_yolo.analysis.unionfind import UnionFind
from onnxslim_yolo.graph import Array, Node, Tensor, is_constant, is_empty, producer, static_shape, tensors
from onnxslim_yolo.shapes import infer_shapes

NO_CHANNEL = -1
"""In a finished analysis: the class of elements that belong to no channel. They are always kept."""

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


@dataclass(frozen=True)
class Group:
    """Coupled channels with the same members, whose number is chosen together.

    Attributes:
        id: position in `Channels.groups`.
        classes: the coupled channels, ascending.
        members: names of the layers (convolutions, linear layers) that make these channels.
        frozen: why none of them can be pruned, or None.
    """

    id: int
    classes: Array
    members: tuple[str, ...]
    frozen: str | None

    @property
    def width(self) -> int:
        """How many coupled channels there are."""
        return len(self.classes)


@dataclass
class Channels:
    """The result of the analysis.

    Attributes:
        count: number of coupled channels (classes), numbered 0 … count-1 in order of appearance.
        labels: per tensor (by `id`), its descriptor of classes.
        shapes: per tensor (by `id`), its shape with batch 1; None where it is not static.
        uses: every initializer axis that knows channels.
        contractions: (node, input index) at which channels are summed over: where a mask has its effect.
        frozen: per class, why it cannot be pruned; None where it can.
        groups: see `Group`.
        balances: see `Balance`.
        sections: sequences of classes that are one tensor's axis; none may become empty.
        group_of: per class, the id of its group; shape (count,).
        keepalive: the tensors themselves, since `labels` and `shapes` know them by `id` only.
    """

    count: int
    labels: dict[int, Array]
    shapes: dict[int, Shape | None]
    uses: list[AxisUse]
    contractions: list[tuple[Node, int]]
    frozen: list[str | None]
    groups: list[Group]
    balances: list[Balance]
    sections: list[Array]
    group_of: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    keepalive: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def prunable(self) -> Array:
        """Per class, whether it may be removed; shape (count,)."""
        return np.array([reason is None for reason in self.frozen], dtype=bool)

    def labels_of(self, tensor: Tensor) -> Array | None:
        """A tensor's descriptor of classes, or None if its rank is not known."""
        return self.labels.get(id(tensor))


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


def _name(node: Node, index: int) -> str:
    return node.inputs[index].name


def concrete_shapes(graph: gs.Graph) -> dict[int, Shape | None]:
    """Every tensor's shape with a symbolic batch taken as 1, by the tensor's `id`; None where not static.

    Raises:
        InputError: the shapes contradict each other.
    """
    symbolic = [t for t in graph.inputs if t.shape and not isinstance(t.shape[0], (int, np.integer))]
    bare = any(t.shape is None for node in graph.nodes for t in node.outputs if not is_empty(t))
    if not symbolic and not bare:
        return {id(tensor): static_shape(tensor) for tensor in tensors(graph)}
    saved = [(tensor, tensor.shape) for tensor in symbolic]
    try:
        for tensor, shape in saved:
            tensor.shape = [1, *shape[1:]]
        types = infer_shapes(graph, strict=False)
    finally:
        for tensor, shape in saved:
            tensor.shape = shape
    shapes: dict[int, Shape | None] = {}
    for tensor in tensors(graph):
        if is_constant(tensor):
            shapes[id(tensor)] = static_shape(tensor)
            continue
        kind = types.get(tensor.name)
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.tensor_type.shape.dim] if kind else [-1]
        known = kind is not None and kind.tensor_type.HasField("shape") and min(dims, default=0) >= 0
        shapes[id(tensor)] = tuple(dims) if known else None
    return shapes


def analyse_channels(graph: gs.Graph) -> Channels:
    """Label every tensor of the graph. The graph is in topological order, with shapes inferred.

    Raises:
        InputError: the shapes contradict each other.
    """
    from onnxslim_yolo.analysis.rules import RULES, opaque

    state = Labelling(graph, concrete_shapes(graph))
    for node in graph.nodes:
        rule = RULES.get(node.op, opaque) if node.domain in (None, "", "ai.onnx") else opaque
        try:
            rule(state, node)
        except CannotMoveError as error:
            opaque(state, node, f"{node.op} '{node.name}': {error}")
    for tensor in graph.outputs:
        labels = state.labels.get(id(tensor))
        if labels is not None:
            state.freeze(labels, f"reaches the output '{tensor.name}'")
    return _finish(state)


def _finish(state: Labelling) -> Channels:
    """Number the classes in order of appearance and derive groups and sections."""
    roots = state.sets.find(np.arange(len(state.sets)))
    distinct = np.unique(roots)
    number = np.full(len(roots), NO_CHANNEL, dtype=np.int64)
    number[distinct] = np.arange(len(distinct)) - 1  # label 0 sorts first and becomes NO_CHANNEL
    to_class = number[roots]
    count = len(distinct) - 1

    frozen: list[str | None] = [None] * count
    for labels, reason in state.frozen:
        for cls in np.unique(to_class[labels]).tolist():
            if cls != NO_CHANNEL and frozen[cls] is None:
                frozen[cls] = reason
    uses = [
        AxisUse(use.node, use.index, use.axis, to_class[use.labels], use.role)
        for same in state.uses.values()
        for use in same
    ]
    named = {key: collapse(to_class[array]) for key, array in state.labels.items() if array is not None}
    groups, group_of = _groups(count, uses, frozen)
    return Channels(
        count=count,
        labels=named,
        shapes=state.shapes,
        uses=uses,
        contractions=state.contractions,
        frozen=frozen,
        groups=groups,
        balances=[Balance(to_class[balance.parts], balance.node) for balance in state.balances],
        sections=_sections(state.graph, named),
        keepalive=list(tensors(state.graph)),
        group_of=group_of,
    )


def _groups(count: int, uses: Iterable[AxisUse], frozen: list[str | None]) -> tuple[list[Group], Array]:
    signature: list[list[int]] = [[] for _ in range(count)]
    makers: dict[int, str] = {}
    for number, use in enumerate(uses):
        if use.role == "out" and use.index == 1:
            makers[number] = layer_name(use)
        for cls in np.unique(use.labels).tolist():
            if cls != NO_CHANNEL:
                signature[cls].append(number)
    by_signature: dict[tuple[str | None, tuple[int, ...]], list[int]] = defaultdict(list)
    for cls in range(count):
        by_signature[(frozen[cls], tuple(signature[cls]))].append(cls)
    group_of = np.zeros(count, dtype=np.int64)
    groups: list[Group] = []
    for (reason, numbers), classes in by_signature.items():
        members = tuple(dict.fromkeys(makers[number] for number in numbers if number in makers))
        group_of[classes] = len(groups)
        groups.append(Group(len(groups), np.asarray(classes, dtype=np.int64), members, reason))
    return groups, group_of


def layer_name(use: AxisUse) -> str:
    """What people call the layer: the name of its weight without `.weight`, else the node's name."""
    name = use.constant.name
    return name[: -len(".weight")] if name.endswith(".weight") else use.node.name


def _sections(graph: gs.Graph, labels: dict[int, Array]) -> list[Array]:
    """The distinct sequences of classes along any computed tensor's axis."""
    found: dict[bytes, Array] = {}
    for tensor in tensors(graph):
        array = labels.get(id(tensor))
        if array is None or is_constant(tensor) or is_empty(tensor) or producer(tensor) is None:
            continue
        classes = array.reshape(-1)
        if (classes != NO_CHANNEL).any():
            found.setdefault(classes.tobytes(), classes)
    return list(found.values())
