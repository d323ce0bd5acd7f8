"""The one representation everything works on: an onnx-graphsurgeon graph, read and edited in the few ways passes need.

Two properties of onnx-graphsurgeon shape them: nodes and tensors compare by *value* (so membership is asked with
`is` or `id()`), and `node.inputs[i:j] = …` desynchronises the two sides of an edge (so whole lists are assigned).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import logger as gs_logger

from onnxslim_yolo.ir.origins import Origin, hand_on, set_origin

gs_logger.G_LOGGER.severity = gs_logger.G_LOGGER.CRITICAL  # passes do not print, and neither does their library

Array: TypeAlias = np.ndarray[Any, Any]
Node: TypeAlias = gs.Node
Tensor: TypeAlias = gs.Tensor

MODULE_KEY = "onnxslim_yolo.module"
"""Node metadata: the path of the PyTorch module a node was traced from."""


TRANSPOSED = ".T"
"""Ending of the name of a Linear's weight that the exporter transposed."""


def is_constant(tensor: Tensor) -> bool:
    """Whether the tensor is an initializer."""
    return isinstance(tensor, gs.Constant)


def is_empty(tensor: Tensor) -> bool:
    """Whether this stands for an omitted optional input or output."""
    return isinstance(tensor, gs.Variable) and not tensor.name


def constant_of(tensor: Tensor) -> Array | None:
    """The value of an initializer, or None. Treat it as read-only: constants may be shared between nodes."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def input_constant(node: Node, index: int) -> Array | None:
    """The value of a node's input if that input exists and is an initializer."""
    return constant_of(node.inputs[index]) if index < len(node.inputs) else None


def has_input(node: Node, index: int) -> bool:
    """Whether an optional input is given."""
    return index < len(node.inputs) and not is_empty(node.inputs[index])


def producer(tensor: Tensor) -> Node | None:
    """The node that computes the tensor, or None for initializers and graph inputs."""
    return tensor.inputs[0] if tensor.inputs else None


def consumers(tensor: Tensor) -> list[Node]:
    """The nodes that read the tensor, once each, in order of first use."""
    return list({id(node): node for node in tensor.outputs}.values())


def is_graph_output(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether the tensor is one of the graph's outputs."""
    return any(tensor is output for output in graph.outputs)


def sole_consumer(graph: gs.Graph, tensor: Tensor) -> Node | None:
    """The one node that reads the tensor, or None when there are several or the graph itself returns it."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def sole_producer(graph: gs.Graph, tensor: Tensor, op: str) -> Node | None:
    """The node computing the tensor, if it is an `op` and nobody but one consumer sees the tensor."""
    node = producer(tensor)
    if node is None or node.op != op or sole_consumer(graph, tensor) is None:
        return None
    return node


def tensors(graph: gs.Graph) -> Iterator[Tensor]:
    """Every tensor of the graph once, by identity, in order of appearance."""
    found = {id(tensor): tensor for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            found[id(tensor)] = tensor
        for tensor in node.outputs:
            found[id(tensor)] = tensor
    found |= {id(tensor): tensor for tensor in graph.outputs}
    return (tensor for tensor in found.values() if tensor.name or not is_empty(tensor))


def initializers(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every initializer of the graph once, by identity."""
    return (tensor for tensor in tensors(graph) if isinstance(tensor, gs.Constant))


class Namer:
    """Hands out tensor and node names that the graph does not use when the first is asked for."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph

    @cached_property
    def _used(self) -> set[str]:
        return {tensor.name for tensor in _all_tensors(self._graph)} | {node.name for node in self._graph.nodes}

    def __call__(self, stem: str) -> str:
        """A name that is `stem` if free, else `stem` with a number behind it."""
        name, count = stem, 0
        while name in self._used:
            count += 1
            name = f"{stem}_{count}"
        self._used.add(name)
        return name


def set_input(node: Node, index: int, tensor: Tensor) -> None:
    """Connect a node's input, adding omitted inputs before it where necessary.

    The other inputs stay as they are: graphsurgeon's own assignment looks each up among all readers, by value.
    """
    while len(node.inputs) <= index:
        node.inputs.append(gs.Variable.empty())
    _forget(node.inputs[index].outputs, node)
    list.__setitem__(node.inputs, index, tensor)
    list.append(tensor.outputs, node)


def replace_input(node: Node, old: Tensor, new: Tensor) -> None:
    """Let a node read `new` wherever it reads `old`."""
    for index, tensor in enumerate(node.inputs):
        if tensor is old:
            set_input(node, index, new)


def _forget(ends: list[Node], node: Node) -> None:
    """Take one entry of a node out of a tensor's readers or producers."""
    list.__delitem__(ends, next(k for k, each in enumerate(ends) if each is node))


def replace_constant(
    node: Node, index: int, values: Array, name: str | None = None, origin: Origin | None = None
) -> None:
    """Give a node's input a fresh constant. Other users of the old constant keep the old one.

    The name is kept where the old constant has no other user, so that initializers keep the names of the state_dict.
    `origin` says what the new one was made from (see `origins`); nothing said, the source's plan cannot speak of it.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    if name is None:
        if old is None or not isinstance(old, gs.Constant):
            raise ValueError(f"input {index} of '{node.name}' is no constant: a name is needed")
        name = old.name if len(old.outputs) == 1 else f"{old.name}__{node.name}"
    fresh = gs.Constant(name, np.asarray(values, order="C"))  # a scalar stays one
    if origin is not None:
        set_origin(fresh, origin)
    set_input(node, index, fresh)


def revalue(node: Node, index: int, values: Array) -> None:
    """Give a node's constant input other values, position by position: `replace_constant`, of the same origin."""
    old = node.inputs[index]
    replace_constant(node, index, values)
    if tuple(old.shape) == values.shape:
        hand_on(old, node.inputs[index])


def become(node: Node, op: str, attributes: Mapping[str, Any], inputs: Iterable[Tensor] | None = None) -> None:
    """Make another operator of a node, in its place and with its outputs; with its inputs where no others are given."""
    node.op, node.attrs = op, dict(attributes)
    if inputs is not None:
        node.inputs = list(inputs)


def replace_uses(graph: gs.Graph, old: Tensor, new: Tensor) -> None:
    """Let every reader of `old`, the graph's outputs included, read `new` instead.

    A graph output keeps its name: `new` takes it over, unless `new` is itself an input, an output or a constant of the
    graph, in which case an Identity stays between them.
    """
    for node in consumers(old):
        replace_input(node, old, new)
    if not is_graph_output(graph, old):
        return
    fixed = is_constant(new) or is_graph_output(graph, new) or any(new is tensor for tensor in graph.inputs)
    if fixed:
        old.inputs.clear()
        graph.nodes.append(gs.Node("Identity", Namer(graph)(f"{old.name}_identity"), inputs=[new], outputs=[old]))
        return
    old_name, old.name = old.name, f"{old.name}__replaced"
    new.name, new.dtype, new.shape = (
        old_name,
        old.dtype or new.dtype,
        old.shape if old.shape is not None else new.shape,
    )
    graph.outputs = [new if tensor is old else tensor for tensor in graph.outputs]


def bypass(graph: gs.Graph, node: Node, source: int = 0) -> None:
    """Take a single-output node out: its readers read its input `source` instead."""
    output, kept = node.outputs[0], node.inputs[source]
    detach(node)
    replace_uses(graph, output, kept)


def detach(node: Node) -> None:
    """Disconnect a node from all its tensors. It stays in `graph.nodes` until `sweep`."""
    for tensor in node.inputs:
        _forget(tensor.outputs, node)
    for tensor in node.outputs:
        _forget(tensor.inputs, node)
    list.clear(node.inputs)
    list.clear(node.outputs)


def sweep(graph: gs.Graph) -> int:
    """Remove the nodes from which no graph output can be reached. Linear in the graph's size.

    Returns how many, without those that were detached before: whoever detached them has counted them.
    """
    live: set[int] = set()
    stack = [producer(tensor) for tensor in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or id(node) in live:
            continue
        live.add(id(node))
        stack += [producer(tensor) for tensor in node.inputs]
    dead = [node for node in graph.nodes if id(node) not in live]
    graph.nodes = [node for node in graph.nodes if id(node) in live]
    removed = sum(1 for node in dead if node.outputs)
    for node in dead:
        detach(node)
    return removed


def toposort(graph: gs.Graph) -> list[Node]:
    """The nodes in topological order, stable with respect to their present order.

    Raises:
        ValueError: the graph has a cycle; the message names a node on it.
    """
    if _in_order(graph.nodes):
        return list(graph.nodes)
    position = {id(node): index for index, node in enumerate(graph.nodes)}
    order: list[Node] = []
    state: dict[int, int] = {}
    for root in graph.nodes:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                state[id(node)] = 2
                order.append(node)
                continue
            if state.get(id(node)) == 2:
                continue
            if state.get(id(node)) == 1:
                raise ValueError(f"the graph has a cycle through node '{node.name}'")
            state[id(node)] = 1
            stack.append((node, True))
            before = [p for p in map(producer, node.inputs) if p is not None and state.get(id(p)) != 2]
            if any(state.get(id(p)) == 1 for p in before):
                raise ValueError(f"the graph has a cycle through node '{node.name}'")
            stack += [(p, False) for p in sorted(before, key=lambda p: -position.get(id(p), -1))]
    return order


def _in_order(nodes: Iterable[Node]) -> bool:
    """Whether every node stands behind those that it reads, as after most passes."""
    seen: set[int] = set()
    for node in nodes:
        if any(id(before) not in seen for tensor in node.inputs for before in tensor.inputs):
            return False
        seen.add(id(node))
    return True


def static_shape(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape if every dimension is a known number, else None."""
    shape = tensor.shape
    if shape is None:
        return None
    for dim in shape:
        if not isinstance(dim, (int, np.integer)) or dim < 0:
            return None
    return tuple([int(dim) for dim in shape])


def parameter_count(graph: gs.Graph) -> int:
    """The number of floating-point weights in all initializers."""
    return sum(math.prod(tensor.shape) for tensor in initializers(graph) if _is_floating(tensor.dtype))


def copy_graph(graph: gs.Graph) -> gs.Graph:
    """A deep copy of the structure that shares the weights' arrays."""
    twins: dict[int, Tensor] = {}

    def twin(tensor: Tensor) -> Tensor:
        if is_empty(tensor):
            return gs.Variable.empty()
        if id(tensor) not in twins:
            twins[id(tensor)] = _copy_tensor(tensor)
        return twins[id(tensor)]

    nodes = [
        gs.Node(
            node.op,
            node.name,
            dict(node.attrs),
            [twin(tensor) for tensor in node.inputs],
            [twin(tensor) for tensor in node.outputs],
            node.domain,
        )
        for node in graph.nodes
    ]
    return gs.Graph(
        nodes=nodes,
        inputs=[twin(tensor) for tensor in graph.inputs],
        outputs=[twin(tensor) for tensor in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=graph.import_domains,
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        functions=list(graph.functions),
        ir_version=graph.ir_version,
    )


def _copy_tensor(tensor: Tensor) -> Tensor:
    if isinstance(tensor, gs.Constant):
        twin = gs.Constant(tensor.name, tensor._values)
        hand_on(tensor, twin)
        return twin
    shape: Sequence[int | str] | None = None if tensor.shape is None else list(tensor.shape)
    return gs.Variable(tensor.name, tensor.dtype, shape)


def _all_tensors(graph: gs.Graph) -> Iterator[Tensor]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs
    yield from graph.outputs


def _is_floating(dtype: Any) -> bool:
    try:
        return bool(np.issubdtype(np.dtype(dtype), np.floating))
    except TypeError:  # an ONNX element type that numpy lacks (bfloat16, float8)
        return True


def nodes_of(graph: gs.Graph, *ops: str) -> list[Node]:
    """The graph's nodes of these operator types, as a list that stays valid while the graph is edited."""
    wanted: Iterable[str] = frozenset(ops)
    return [node for node in graph.nodes if node.op in wanted]
