"""What must hold of a graph between any two passes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxslim_yolo.graph import is_constant, is_empty, tensors
from onnxslim_yolo.shapes import infer_shapes


class InvariantError(Exception):
    """A graph breaks an invariant; the message says which, and where."""


def check_graph(graph: gs.Graph, *, shapes: bool = True) -> None:
    """Check names, producers, order and, on a weightless skeleton, shapes.

    Raises:
        InvariantError: a tensor or node name stands for two things, a tensor has two producers or none, a node comes
            before what it reads, or (with `shapes`) strict shape inference finds a contradiction.
    """
    _check_names(graph)
    _check_order(graph)
    if shapes:
        try:
            infer_shapes(graph, keep_shapes=True)
        except Exception as error:
            raise InvariantError(str(error)) from error


def _check_names(graph: gs.Graph) -> None:
    owner: dict[str, int] = {}
    for tensor in tensors(graph):
        if owner.setdefault(tensor.name, id(tensor)) != id(tensor):
            raise InvariantError(f"two tensors are called '{tensor.name}'")
    node_names: set[str] = set()
    for node in graph.nodes:
        if node.name in node_names:
            raise InvariantError(f"two nodes are called '{node.name}'")
        node_names.add(node.name)


def _check_order(graph: gs.Graph) -> None:
    inputs = {id(tensor) for tensor in graph.inputs}
    known = set(inputs)
    for node in graph.nodes:
        for tensor in node.inputs:
            if id(tensor) not in known and not is_constant(tensor) and not is_empty(tensor):
                raise InvariantError(
                    f"node '{node.name}' ({node.op}) reads '{tensor.name}' before anything computes it"
                )
        for tensor in node.outputs:
            if is_empty(tensor):
                continue
            if id(tensor) in known or is_constant(tensor):
                raise InvariantError(f"tensor '{tensor.name}' has two producers; one is node '{node.name}'")
            known.add(id(tensor))
    for tensor in graph.outputs:
        if id(tensor) not in known:
            raise InvariantError(f"nothing computes the graph's output '{tensor.name}'")
