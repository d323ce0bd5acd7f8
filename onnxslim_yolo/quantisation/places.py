"""Where int8 can be: convolutions, products with a constant matrix, and the tensors whose codes are handed on between.

The decode stays float: everything behind the last learned layers, whatever the head. One scale for boxes in pixels
and scores in [0, 1] would round every score to 0.

A tensor has codes where a quantised layer reads or writes it, and where an operator that onnxruntime computes
on codes makes it of such tensors, as long as something quantised reads it in the end. Operators that only move values
(a pool, a split, a gather) hand on the very codes: their tensors share one range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.decode_region import is_learned
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    input_constant,
    is_constant,
    is_empty,
    is_graph_output,
    producer,
    sole_consumer,
)
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer, is_conv, multiplies_matrices

MOVES = frozenset(
    ("MaxPool", "Resize", "Split", "Reshape", "Transpose", "Gather", "Slice", "Squeeze", "Unsqueeze", "Flatten")
)
"""Operators that hand on codes as they are."""

COMPUTES = frozenset(
    ("Sigmoid", "LeakyRelu", "Relu", "Clip", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
)
"""Operators that onnxruntime computes on codes, each of its tensors with a range of its own."""

CODES_POOLED = 12
"""The opset since which a MaxPool takes codes."""

SATURATES = frozenset(("Relu", "Clip"))
"""Operators that writing codes does by itself, behind a convolution."""


@dataclass(frozen=True)
class Places:
    """What is to be int8.

    Attributes:
        layers: those with weights, in the graph's order. writes: per layer's name, the tensor that its codes are of.
        shares: per tensor with codes, by name, the one whose range it has: itself, or what it was moved from.
        left: other layers with weights, and why they stay float.
    """

    layers: tuple[Node, ...]
    writes: dict[str, str]
    shares: dict[str, str]
    left: dict[str, str]

    @property
    def roots(self) -> list[str]:
        """The tensors that have a range of their own."""
        return list(dict.fromkeys(self.shares.values()))


def places_of(graph: gs.Graph, wanted: Callable[[Node], str | None] = lambda node: None) -> Places:
    """Where int8 can be and is wanted.

    Args:
        graph: with its nodes in topological order.
        wanted: why a layer is to stay float; None where it is to be int8.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    tail = decoding(graph)
    layers: list[Node] = []
    left: dict[str, str] = {}
    for node in graph.nodes:
        if node.op not in LINEAR or id(node) in tail:
            continue
        why = no_kernel(node) or wanted(node)
        if why is None:
            layers.append(node)
        else:
            left[node.name] = why
    writes = {node.name: _written(graph, node, tail) for node in layers}
    coded = {id(t): t for node in layers for t in (node.inputs[0], writes[node.name])}
    shares = _handed_on(graph, tail, coded)
    return Places(tuple(layers), {name: t.name for name, t in writes.items()}, shares, left)


def decoding(graph: gs.Graph) -> set[int]:
    """Ids of the nodes from which an output is reached without passing a learned layer."""
    found: set[int] = set()
    stack = [producer(tensor) for tensor in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or id(node) in found or is_learned(node):
            continue
        found.add(id(node))
        stack += [producer(tensor) for tensor in node.inputs]
    return found


def no_kernel(node: Node) -> str | None:
    """Why a layer with weights cannot be int8, or None. Raises InputError where its weights are no numbers."""
    if not is_conv(node) and not multiplies_matrices(node):
        return f"{node.op} stays float: there is no int8 kernel of it"
    weight, layer = input_constant(node, 1), LinearLayer.of(node)
    if weight is None or is_constant(node.inputs[0]):
        return "its weight is computed: there is nothing to quantise beforehand"
    if layer is None:
        return "its matrices are no layer of one weight: a batch of them, or what it reads is transposed"
    if is_conv(node) and weight.ndim != 4:
        return f"it is {weight.ndim - 2}-dimensional: there is no int8 kernel"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}: int8 is made of float32"
    if layer.has_computed_bias:
        return "its bias is computed"
    if layer.bias is not None and layer.bias.size not in (1, layer.outputs):
        return "its bias is a matrix: int8 has one number an output"
    for value in (weight, layer.bias):
        if value is not None and not np.isfinite(value).all():
            hint = "int8 has no code for that; leave --quantize out, or export the network again"
            raise InputError("a weight is NaN or infinite", node=node.name, hint=hint)
    return None


def _written(graph: gs.Graph, node: Node, tail: set[int]) -> Tensor:
    """What a layer's codes are of: behind the activation that writing codes does by itself."""
    output = node.outputs[0]
    reader = sole_consumer(graph, output)
    if reader is None or reader.op not in SATURATES or id(reader) in tail or not _bounds_known(reader):
        return output
    return reader.outputs[0]


def _bounds_known(node: Node) -> bool:
    """Whether 0 is within the bounds: codes that saturate begin or end there or beyond."""
    bounds = bounds_of(node)
    return bounds is not None and bounds[0] <= 0 <= bounds[1]


def bounds_of(node: Node | None) -> tuple[float, float] | None:
    """What a function that saturates gives lies between these; None where it is no such function, or computes them."""
    if node is None or node.op not in SATURATES:
        return None
    if node.op == "Relu":
        return 0.0, np.inf
    if len(node.inputs) == 1:
        low, high = (attribute(node, key) for key in ("min", "max"))
    else:
        low, high = (_bound(node, index) for index in (1, 2))
    return None if low is None or high is None else (float(low), float(high))


def _bound(node: Node, index: int) -> float | None:
    if index >= len(node.inputs) or is_empty(node.inputs[index]):
        return -np.inf if index == 1 else np.inf
    value = input_constant(node, index)
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])


def _handed_on(graph: gs.Graph, tail: set[int], coded: dict[int, Tensor]) -> dict[str, str]:
    """The tensors with codes, and whose range each has."""
    root: dict[int, Tensor] = {}
    made = dict(coded)
    inner: list[Node] = []
    for node in graph.nodes:
        if id(node) in tail or not _on_codes(graph, node, made):
            continue
        inner.append(node)
        for tensor in node.outputs:
            made[id(tensor)] = tensor
            if node.op in MOVES:
                root[id(tensor)] = root.get(id(node.inputs[0]), node.inputs[0])
    kept = set(coded)
    for node in reversed(inner):
        if any(id(tensor) in kept for tensor in node.outputs):
            kept |= {id(t) for t in (*_variables(node), *node.outputs)}
    return {t.name: root.get(key, t).name for key, t in made.items() if key in kept}


def _on_codes(graph: gs.Graph, node: Node, made: dict[int, Tensor]) -> bool:
    if node.op not in MOVES and node.op not in COMPUTES:
        return False
    read = list(_variables(node))
    if not read or any(id(tensor) not in made for tensor in read) or any(not t.name for t in node.outputs):
        return False
    if node.op in MOVES:
        return len(read) == 1 and read[0] is node.inputs[0] and _moves(graph, node)
    if node.op == "Clip":
        return _bounds_known(node)
    # A constant operand would need codes of its own.
    return len(read) == len(node.inputs)


def _moves(graph: gs.Graph, node: Node) -> bool:
    if any(is_graph_output(graph, tensor) for tensor in node.outputs):
        return False
    if node.op == "MaxPool":
        return graph.opset >= CODES_POOLED and len(node.outputs) == 1
    return node.op != "Resize" or attribute(node, "mode") == "nearest"


def _variables(node: Node) -> Iterator[Tensor]:
    return (tensor for tensor in node.inputs if not is_constant(tensor) and not is_empty(tensor))
