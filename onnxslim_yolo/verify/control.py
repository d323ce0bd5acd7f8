"""The control: the last layers of every branch spoiled by 1 %, which every kind of output column has to show.

A tolerance proves nothing by itself: on weights that hardly matter everything agrees. So the layers from which
scores, boxes, masks, key points come are spoiled one after the other, and what that does to each kind of column is
measured. Only the tail behind them is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.heads.decode_region import UnrecognisedError, part_of, part_runner
from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    Tensor,
    input_constant,
    is_constant,
    is_empty,
    producer,
    set_input,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import PLAIN
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.ruler import Ruler

SPOILED_BY = 0.01

MOST = 24
"""So many last layers are spoiled; of more, evenly picked ones."""


@dataclass(frozen=True)
class Control:
    """What spoiling shows in one kind of column.

    Attributes:
        kind: "box", "class", …; "output" where the head is not known.
        layer: whose spoiling shows most there. worst: |Δ| / movement of the column that shows it most.
        blind: no column of this kind moves beyond rounding: nothing could show.
    """

    kind: str
    layer: str
    worst: float
    blind: bool = False


def controls(tail: Tail, values: Feeds, rulers: dict[str, Ruler]) -> list[Control]:
    """Spoil the last layers one by one; the result per kind of column, the least visible first.

    Args:
        tail: of what was written. values: what it reads, for one of the inputs. rulers: of the reference's outputs.
    """
    if not tail.layers:
        return []
    try:
        run = tail.runner(values)
        plain = run(None)
        shown: dict[str, Control] = {}
        for node in tail.layers[:: -(-len(tail.layers) // MOST)]:
            spoiled = run(node)
            for found in _shown(node.name, plain, spoiled, rulers):
                known = shown.get(found.kind)
                if known is None or found.worst > known.worst:
                    shown[found.kind] = found
    except UnrecognisedError:
        return []
    return sorted(shown.values(), key=lambda control: (control.blind, control.worst))


def last_layers(model: Model) -> list[Node]:
    """The last layers with weights before each output."""
    return Tail(model).layers


def _shown(layer: str, plain: Feeds, spoiled: Feeds, rulers: dict[str, Ruler]) -> list[Control]:
    found: list[Control] = []
    for name, ruler in rulers.items():
        if name not in plain or not plain[name].size or plain[name].shape != spoiled[name].shape:
            continue
        if plain[name].ndim and ruler.meaning.table(plain[name]).shape[1] != ruler.meaning.count:
            continue
        delta = ruler.delta(plain[name], spoiled[name]).max(axis=0)
        visible = ~ruler.blind
        share = np.where(visible, delta / np.where(ruler.movement > 0, ruler.movement, 1.0), 0.0)
        kinds = np.array([ruler.meaning.kind(column) for column in range(ruler.meaning.count)])
        for kind in dict.fromkeys(kinds.tolist()):
            mine = kinds == kind
            found.append(Control(kind, layer, float(share[mine].max()), not visible[mine].any()))
    return found


class Tail:
    """The last layers with weights before each output, and what is behind them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layers: list[Node] = []
        inside: dict[int, Node] = {}
        self._sources: dict[int, Tensor] = {}
        stack = list(model.graph.outputs)
        while stack:
            tensor = stack.pop()
            node = producer(tensor)
            if is_constant(tensor) or is_empty(tensor):
                continue
            if node is None:
                self._sources[id(tensor)] = tensor
                continue
            if id(node) in inside:
                continue
            inside[id(node)] = node
            if _spoilable(node):
                self.layers.append(node)
                read = [t for t in node.inputs if not is_constant(t) and not is_empty(t)]
                self._sources |= {id(t): t for t in read}
                continue
            stack += reversed(node.inputs)
        order = {id(node): index for index, node in enumerate(model.graph.nodes)}
        self._nodes = sorted(inside.values(), key=lambda node: order[id(node)])
        made = {id(tensor) for node in self._nodes for tensor in node.outputs}
        self._sources = {key: tensor for key, tensor in self._sources.items() if key not in made}

    def inputs(self) -> list[Tensor]:
        """What the tail reads."""
        return list(self._sources.values())

    def inner(self) -> list[str]:
        """Names of what the tail reads and the graph neither is fed nor returns; none where nothing is spoiled."""
        if not self.layers:
            return []
        known = {tensor.name for tensor in (*self.model.graph.inputs, *self.model.graph.outputs)}
        return [tensor.name for tensor in self.inputs() if tensor.name not in known]

    def runner(self, values: Feeds) -> Callable[[Node | None], Feeds]:
        """Computes the outputs from what the tail reads, with one layer's weights 1 % off where one is given.

        One session for all: the weights are fed to it.

        Raises:
            UnrecognisedError: the tail cannot be run by itself. So does what is returned.
        """
        outputs = self.model.graph.outputs
        part = part_of(self.model.graph, self._nodes, self.inputs(), outputs)
        twins = {node.name: node for node in part.nodes}
        weights = {}
        for layer in self.layers:
            index, weight = _weight(layer)
            name = f"{layer.name}__weight"
            set_input(twins[layer.name], index, gs.Variable(name, weight.dtype, weight.shape))
            part.inputs.append(twins[layer.name].inputs[index])
            weights[name] = weight
        run = part_runner(part, "its tail")
        plain = weights | {tensor.name: values[tensor.name] for tensor in self.inputs()}

        def spoiled(layer: Node | None) -> Feeds:
            name = "" if layer is None else f"{layer.name}__weight"
            results = run(plain | ({name: spoiled_weight(weights[name])} if name else {}))
            return {tensor.name: value for tensor, value in zip(outputs, results, strict=True)}

        return spoiled


def _spoilable(node: Node) -> bool:
    return node.op in PLAIN and any(True for _ in _weights(node))


def _weight(node: Node) -> tuple[int, Array]:
    return next(_weights(node))


def _weights(node: Node) -> Iterator[tuple[int, Array]]:
    """A layer's learned factors: the inputs' indices and values."""
    for index in (0, 1):
        value = input_constant(node, index)
        if value is not None and value.dtype.kind == "f" and value.ndim > 1 and not _counts(value):
            yield index, value


def _counts(weight: Array) -> bool:
    """0, 1, 2, …: what takes an expectation over bins is not learned."""
    flat = weight.ravel()
    return weight.shape[0] == 1 and len(flat) > 1 and bool(np.array_equal(flat, np.arange(len(flat))))


def spoiled_weight(weight: Array, seed: int = 0) -> Array:
    """A weight 1 % off, up or down at random: a normalisation behind it cannot undo that."""
    signs = np.random.default_rng(seed).choice([-SPOILED_BY, SPOILED_BY], size=weight.shape)
    return np.asarray((weight * (1 + signs)).astype(weight.dtype))
