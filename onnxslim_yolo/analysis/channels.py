"""Which channels are tied together: the channel-label analysis.

Every tensor carries a label array, a descriptor (see `movement`) that says which channel each element belongs to; label
0 means none. Convolutions make fresh labels, data movement moves them, element-wise operators unify them. One
union-find set is one *coupled channel*: the unit that is kept or removed. The coupled channels that the same
initializer axes know form a *group*: the unit whose width is chosen.

This file holds the finished analysis. What the rules of `rules.py`, a function per operator, write to while labels are
being propagated is in `labelling.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.kept import kept
from onnxslim_yolo.analysis.labelling import AxisUse, Balance, Labelling, opaque
from onnxslim_yolo.analysis.movement import CannotMoveError, Shape, collapse
from onnxslim_yolo.analysis.rules import RULES
from onnxslim_yolo.analysis.shape_values import known_sizes
from onnxslim_yolo.ir.graph import Array, Node, Tensor, is_constant, is_empty, producer, static_shape, tensors
from onnxslim_yolo.ir.shapes import infer_shapes
from onnxslim_yolo.ops.movement import SIZED_BY, tells_sizes

NO_CHANNEL = -1
"""In a finished analysis: the class of elements that belong to no channel. They are always kept."""


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


def concrete_shapes(
    graph: gs.Graph, batch: int = 1, given: Mapping[str, tuple[int, ...]] | None = None
) -> dict[int, Shape | None]:
    """Every tensor's shape with a symbolic batch taken as `batch`, by the tensor's `id`; None where not static.

    `given`: shapes of tensors, by name, that are taken as said instead of inferred.

    Raises:
        InputError: the shapes contradict each other.
    """
    symbolic = [t for t in graph.inputs if t.shape and not isinstance(t.shape[0], (int, np.integer))]
    bare = any(t.shape is None for node in graph.nodes for t in node.outputs if not is_empty(t))
    if not symbolic and not bare and not given:
        return {id(tensor): static_shape(tensor) for tensor in tensors(graph)}
    saved = [(tensor, tensor.shape) for tensor in symbolic]
    try:
        for tensor, shape in saved:
            tensor.shape = [batch, *shape[1:]]
        types = _types(graph, given, {str(shape[0]): batch for _, shape in saved})
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


def _types(
    graph: gs.Graph, given: Mapping[str, tuple[int, ...]] | None, named: Mapping[str, int]
) -> dict[str, onnx.TypeProto]:
    """What is inferred, open sizes of these names being those. Where onnx does not follow sizes through arithmetic they
    are followed here: below opset 13 not at all, and divisions never (`chunk` of an exporter that knew no widths)."""
    sizes: dict[str, list[int]] = {}
    while True:
        types = infer_shapes(graph, strict=False, given=given, sizes=sizes)
        open_ended = [n for n in graph.nodes if n.op in SIZED_BY and not all(_is_known(types, t) for t in n.outputs)]
        targets = [t for n in open_ended for t in n.inputs[SIZED_BY[n.op] :] if t.name not in sizes and producer(t)]
        found = {t.name: known_sizes(t, types, named) for t in targets if _is_whole(types, t)}
        more = {name: value for name, value in found.items() if value is not None}
        if not more:
            return types
        sizes |= more


def _is_known(types: Mapping[str, onnx.TypeProto], tensor: Tensor) -> bool:
    kind = types.get(tensor.name)
    if kind is None or not kind.tensor_type.HasField("shape"):
        return False
    return all(dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim)


def _is_whole(types: Mapping[str, onnx.TypeProto], tensor: Tensor) -> bool:
    """Whether it may be a vector of sizes: a Resize reads factors as well."""
    kind = types.get(tensor.name)
    return kind is None or kind.tensor_type.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.INT64)


def analyse_channels(graph: gs.Graph, *, whole_heads: bool = False) -> Channels:
    """Label every tensor of the graph, which is in topological order, with shapes inferred. Kept until it changes.

    Args:
        whole_heads: an attention's heads are its channels, each with all its positions; else a position in all heads.

    Raises:
        InputError: the shapes contradict each other.
    """
    name = "channels by heads" if whole_heads else "channels"
    found = kept(graph, name, lambda: _analyse(graph, whole_heads=whole_heads))
    return replace(found, uses=list(found.uses))  # a plan adds the constants that it makes to its own


def _analyse(graph: gs.Graph, *, whole_heads: bool) -> Channels:
    state = Labelling(graph, concrete_shapes(graph), whole_heads=whole_heads)
    for node in graph.nodes:
        rule = RULES.get(node.op, opaque) if node.domain in (None, "", "ai.onnx") else opaque
        state.visit()
        try:
            rule(state, node)
            state.leave(node)
        except CannotMoveError as error:
            state.take_back(node)
            opaque(state, node, f"{node.op} '{node.name}': {error}")
    for tensor in graph.outputs:
        maker = producer(tensor)  # an open size that is an output counts what it is the size of
        counted = tells_sizes(maker)
        labels = state.labels.get(id(maker.inputs[0] if maker is not None and counted else tensor))
        if labels is not None:
            state.freeze(labels, f"reaches the output '{tensor.name}'")
    state.meet()
    state.settle()
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
        if use.role == "out":
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
