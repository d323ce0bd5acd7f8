"""Blocks that a network can do without and stay whole: found from the graph, no names.

1. *branch*: an operand of an Add or Sum that is computed from another operand of it, which has the result's shape.
   Without it that operand is the result.
2. *part*: an operand of a Concat along the channels, with others beside it. Without it what reads the Concat reads
   the rest.
3. *chain*: layers in a row between two tensors of one shape. Without them the first is the second.

4. *layer*: a layer whose channels all go, a width of 0. Whether the graph stays whole without it shows on trying.

A block is what is computed for its end alone; it has a linear layer at least. Its contribution is the operand, the
part, or the difference between the two tensors. What a branch or a chain contributes on average may stay behind, as a
constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    Tensor,
    consumers,
    input_constant,
    is_constant,
    is_graph_output,
    producer,
    sole_consumer,
    static_shape,
)
from onnxslim_yolo.ir.origins import ADDED, set_origin
from onnxslim_yolo.ops.arithmetic import is_clip, is_product, is_sum
from onnxslim_yolo.ops.functions import FUNCTIONS, is_sigmoid
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.ops.movement import is_join
from onnxslim_yolo.ops.norms import is_batch_norm

LONGEST_CHAIN = 2
"""Linear layers of a chain at most: two convolutions that were trained in a row hardly ever compute an identity."""

Kind = Literal["branch", "part", "chain", "layer"]


@dataclass(frozen=True)
class Block:
    """One block, by names, so that it is found in a copy of the graph as well.

    Attributes:
        kind: see the module.
        node: name of the node that reads its end: the sum, the Concat; of a chain or a layer the one that yields it.
        index: which of the node's inputs the end is; -1 for a chain or a layer, which the node yields.
        start: name of the tensor that a chain begins with; "" otherwise.
        nodes: names of the nodes that go with it, in the graph's order. The sum goes too, if two were summed.
        layers: the linear ones of these.
        mean: per channel, what stands in the place of a branch's or a chain's contribution: a constant that is added;
            empty for nothing.
    """

    kind: Kind
    node: str
    index: int
    start: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    mean: tuple[float, ...] = ()


def find_blocks(graph: gs.Graph) -> list[Block]:
    """All of them, in the graph's order; they may lie within each other."""
    return [*_branches(graph), *_parts(graph), *_chains(graph)]


def find_layers(graph: gs.Graph, wanted: Callable[[Array], bool]) -> list[Block]:
    """The layers that end in a BatchNormalization or an activation of one, in the graph's order.

    Args:
        wanted: of the BatchNormalization's γ, whether the layer is asked for.
    """
    found, alone = [], _Alone(graph)
    for norm in graph.nodes:
        gamma = input_constant(norm, 1) if is_batch_norm(norm) else None
        last = _activated(graph, norm) if gamma is not None and wanted(gamma) else None
        if last is not None and not is_graph_output(graph, last.outputs[0]):
            block = _block("layer", last, -1, "", alone.nodes(last.outputs[0]))
            found += [] if block is None else [block]
    return found


def _activated(graph: gs.Graph, norm: Node) -> Node | None:
    """The activation behind a BatchNormalization, x·sigmoid(x) as the product; the norm itself without one."""
    readers = consumers(norm.outputs[0])
    gated = next((reader for reader in readers if is_product(reader)), None)
    if gated is not None and len(readers) == 2 and any(is_sigmoid(reader) for reader in readers):
        return gated
    reader = sole_consumer(graph, norm.outputs[0])
    return reader if reader is not None and (reader.op in FUNCTIONS or is_clip(reader)) else norm


def alone_for(graph: gs.Graph, tensor: Tensor) -> list[Node]:
    """The nodes that compute a tensor and nothing else that is read, in the graph's order."""
    return _Alone(graph).nodes(tensor)


class _Alone:
    """What is computed for one tensor alone, asked of many tensors of a graph that stays as it is."""

    def __init__(self, graph: gs.Graph) -> None:
        self._place = {id(node): place for place, node in enumerate(graph.nodes)}
        self._returned = {id(output) for output in graph.outputs}

    def nodes(self, tensor: Tensor) -> list[Node]:
        """See `alone_for`; the work grows with what is found, not with the graph."""
        first = producer(tensor)
        if first is None or any(output.outputs for output in first.outputs if output is not tensor):
            return []
        found, waiting = {id(first): first}, [first]
        while waiting:
            for node in map(producer, waiting.pop().inputs):
                if node is not None and id(node) not in found and self._read_by(node, found):
                    found[id(node)] = node
                    waiting.append(node)
        return sorted(found.values(), key=lambda node: self._place[id(node)])

    def _read_by(self, node: Node, found: Mapping[int, Node]) -> bool:
        """Whether all that read a node's outputs are found already: asked again with each of them."""
        if any(id(output) in self._returned for output in node.outputs):
            return False
        return all(id(reader) in found for output in node.outputs for reader in output.outputs)


def node_named(graph: gs.Graph, name: str) -> Node | None:
    """The node of that name, if there is one."""
    return next((node for node in graph.nodes if node.name == name), None)


def end_of(block: Block, node: Node) -> Tensor:
    """What a block contributes to the result of its node: an operand, or of a chain or a layer the result itself."""
    return node.outputs[0] if block.index < 0 else node.inputs[block.index]


def stand_in(block: Block, end: Tensor, name: str) -> gs.Constant:
    """The constant that a block leaves behind; it broadcasts to the block's end."""
    dtype = np.dtype(np.float32 if end.dtype is None else end.dtype)
    axes = (1, len(block.mean), *[1] * (len(end.shape) - 2))
    constant = gs.Constant(name, np.asarray(block.mean, dtype=dtype).reshape(axes))
    set_origin(constant, ADDED)
    return constant


def _block(kind: Kind, node: Node, index: int, start: str, nodes: list[Node]) -> Block | None:
    layers = tuple(n.name for n in nodes if n.op in LINEAR)
    return Block(kind, node.name, index, start, tuple(n.name for n in nodes), layers) if layers else None


def _branches(graph: gs.Graph) -> Iterator[Block]:
    alone = _Alone(graph)
    for node in graph.nodes:
        shape = static_or_open(node.outputs[0]) if is_sum(node) else None
        if shape is None or len(node.inputs) < 2:
            continue
        whole = [t for t in node.inputs if not is_constant(t) and static_or_open(t) == shape]
        for index, end in enumerate(node.inputs):
            others = [t for t in whole if t is not end]
            if sole_consumer(graph, end) is not node or not any(end is t for t in whole) or not others:
                continue
            nodes = alone.nodes(end)
            if not any(t is other for n in nodes for t in n.inputs for other in others):
                continue
            found = _block("branch", node, index, "", nodes)
            if found is not None:
                yield found


def _parts(graph: gs.Graph) -> Iterator[Block]:
    alone = _Alone(graph)
    for node in graph.nodes:
        rank = len(node.outputs[0].shape or ()) if is_join(node) else 0
        if rank < 4 or int(node.attrs["axis"]) not in (1, 1 - rank) or is_graph_output(graph, node.outputs[0]):
            continue
        if len({id(tensor) for tensor in node.inputs}) < 2:
            continue
        for index, end in enumerate(node.inputs):
            if sole_consumer(graph, end) is not node:
                continue
            found = _block("part", node, index, "", alone.nodes(end))
            if found is not None:
                yield found


def _chains(graph: gs.Graph) -> Iterator[Block]:
    for last in graph.nodes:
        end = last.outputs[0]
        if is_graph_output(graph, end) or static_or_open(end) is None or len(end.shape) != 4 or _goes_on(graph, end):
            continue
        for nodes, start in _chains_to(end):
            joined = any(is_sum(n) and any(t is start for t in n.inputs) for n in consumers(end))
            found = None if joined else _block("chain", last, -1, start.name, nodes)
            if found is not None:
                yield found


def _goes_on(graph: gs.Graph, end: Tensor) -> bool:
    """Whether what reads a tensor still belongs to the layer that made it."""
    reader = sole_consumer(graph, end)
    if reader is None:
        return any(is_sigmoid(n) for n in consumers(end))
    return not any(n.op in LINEAR for n in (reader,)) and len([t for t in reader.inputs if not is_constant(t)]) == 1


def _chains_to(end: Tensor) -> Iterator[tuple[list[Node], Tensor]]:
    """The layers in a row that end in a tensor, from each tensor before them of its shape, the nearest first."""
    shape, nodes, linear = static_or_open(end), list[Node](), 0
    here = end
    while (node := producer(here)) is not None:
        step = _before(node)
        if step is None:
            break
        was = static_or_open(here)
        here, passed = step
        nodes = [*passed, *nodes]
        linear += node.op in LINEAR
        begins = node.op in LINEAR or was != shape  # not within what belongs to the layer before
        if linear and begins and static_or_open(here) == shape and producer(here) is not None:
            yield nodes, here
        if linear >= LONGEST_CHAIN or len(here.outputs) != len(passed):
            break  # another layer reads it as well


def _before(node: Node) -> tuple[Tensor, list[Node]] | None:
    """What a node of a row is computed from, and the nodes between: itself, or x·sigmoid(x) as two."""
    computed = [t for t in node.inputs if not is_constant(t) and t.name]
    if len(node.outputs) == 1 and len(computed) == 1:
        return computed[0], [node]
    if is_product(node) and len(computed) == 2:
        for gate, data in (computed, computed[::-1]):
            before = producer(gate)
            if is_sigmoid(before) and before.inputs[0] is data and len(gate.outputs) == 1:
                return (data, [before, node]) if len(data.outputs) == 2 else None
    return None


def static_or_open(tensor: Tensor) -> tuple[int, ...] | None:
    """A tensor's shape, an open batch as 0; None where more is open."""
    shape = tensor.shape
    if shape is None or len(shape) < 3 or static_shape(tensor) is None:
        numbers = None if shape is None or len(shape) < 3 else list(shape[1:])
        if numbers is None or not all(isinstance(n, int) for n in numbers):
            return None
        return (0, *numbers)
    return static_shape(tensor)
