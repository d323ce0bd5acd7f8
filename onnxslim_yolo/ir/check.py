"""What must hold of a graph between any two passes."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, is_constant, is_empty, tensors
from onnxslim_yolo.ir.shapes import infer_shapes


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
            types = infer_shapes(graph, keep_shapes=True)
        except Exception as error:
            raise InvariantError(str(error)) from error
        check_widths(graph, types)


def check_widths(graph: gs.Graph, types: dict[str, onnx.TypeProto]) -> None:
    """Check that weights fit what they are applied to, which onnx's shape inference does not look at.

    Raises:
        InvariantError: a convolution's weight or a BatchNormalization's parameters are for another number of channels.
    """
    for node in graph.nodes:
        _check_parameters(node)
        expected = _channels_expected(node)
        if expected is None or node.inputs[0].name not in types:
            continue
        shape = types[node.inputs[0].name].tensor_type.shape.dim
        found = shape[1].dim_value if len(shape) > 1 and shape[1].HasField("dim_value") else None
        if found is not None and found != expected:
            raise InvariantError(
                f"node '{node.name}' ({node.op}) has weights for {expected} channels, "
                f"but its input '{node.inputs[0].name}' has {found}"
            )


def _check_parameters(node: Node) -> None:
    """Raises InvariantError where a layer's constants do not fit each other: weight, bias, kernel, groups."""
    shapes = [tuple(map(int, t.shape or ())) if is_constant(t) else None for t in node.inputs]
    weight = shapes[1] if len(shapes) > 1 else None
    if weight is None or node.op not in ("Conv", "ConvTranspose", "BatchNormalization"):
        return
    wrong = ""
    if 0 in weight:
        wrong = f"has an empty weight of shape {weight}"
    elif node.op == "BatchNormalization":
        uneven = [shape for shape in shapes[1:] if shape is not None and shape != weight]
        wrong = f"has parameters of shapes {[weight, *uneven]}" if uneven or len(weight) != 1 else ""
    else:
        wrong = _kernel_trouble(node, weight, shapes[2] if len(shapes) > 2 and not is_empty(node.inputs[2]) else None)
    if wrong:
        raise InvariantError(f"node '{node.name}' ({node.op}) {wrong}")


def _kernel_trouble(node: Node, weight: tuple[int, ...], bias: tuple[int, ...] | None) -> str:
    group = int(attribute(node, "group"))
    if not 1 <= group <= weight[0] or weight[0] % group or len(weight) < 3:
        return f"has a weight of shape {weight} in {group} groups"
    outputs = weight[0] if node.op == "Conv" else weight[1] * group
    if bias is not None and bias != (outputs,):
        return f"has {outputs} outputs, but a bias of shape {bias}"
    kernel = tuple(attribute(node, "kernel_shape") or weight[2:])
    return f"has a kernel_shape {kernel}, but a weight of shape {weight}" if kernel != weight[2:] else ""


def _channels_expected(node: Node) -> int | None:
    """How many channels a node's weights are for; None where it has no constant weights."""
    if node.op not in ("Conv", "ConvTranspose", "BatchNormalization") or not is_constant(node.inputs[1]):
        return None
    shape = [int(dim) for dim in node.inputs[1].shape or ()]
    if node.op == "Conv":
        return shape[1] * int(attribute(node, "group")) if len(shape) > 1 else None
    return shape[0] if shape else None


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
