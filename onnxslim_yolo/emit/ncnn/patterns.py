"""Groups of ONNX nodes that are one ncnn layer, rewritten in the emitter's private copy of the graph.

Activations          as `analysis.activations` recognises them; SiLU becomes Silu, our own (ONNX has Swish since 24)
HardSwish            x · hardsigmoid(x), whatever its α and β: ncnn's has them too
LayerNormalization   (x − mean) / √(var + ε) · γ + β over the last axes

Each matcher looks at the pattern's last node and answers with its replacement, or None. Inner values that others read
too decline the match, or they would be computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.activations import find_activations, operator_of
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.emit.ncnn.rewrites import rewrite_movement
from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    constant_of,
    detach,
    is_constant,
    producer,
    sole_consumer,
    sole_producer,
    sweep,
    toposort,
)
from onnxslim_yolo.ops.arithmetic import is_difference, is_power, is_product, is_quotient
from onnxslim_yolo.ops.functions import is_swish

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Match:
    """One node in place of several: it takes over the outputs of `last`."""

    last: Node
    op: str
    inputs: list[Tensor]
    attrs: dict[str, Any] = field(default_factory=dict)


def fuse_patterns(graph: gs.Graph) -> int:
    """Rewrite every known pattern. Returns how many."""
    count = rewrite_movement(graph)
    sweep(graph)  # no pattern meets a node that was detached
    count += _activations(graph)
    for matcher in MATCHERS:
        for node in list(graph.nodes):
            match = matcher(graph, node) if node.outputs else None
            if match is not None:
                _apply(graph, match)
                count += 1
    sweep(graph)
    graph.nodes = toposort(graph)
    return count


def _apply(graph: gs.Graph, match: Match) -> None:
    last, outputs = match.last, list(match.last.outputs)
    last.outputs = []
    fused = gs.Node(match.op, last.name, match.attrs, match.inputs, outputs)
    graph.nodes[next(index for index, node in enumerate(graph.nodes) if node is last)] = fused
    last.inputs = []


def _near(tensor: Tensor, value: float) -> bool:
    constant = constant_of(tensor)
    return constant is not None and constant.size == 1 and abs(float(constant.reshape(-1)[0]) - value) < TOLERANCE


def _pairs(node: Node) -> Iterator[tuple[Tensor, Tensor]]:
    """Both orders of a commutative node's operands."""
    if len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def hard_swish(graph: gs.Graph, node: Node) -> Match | None:
    """x · hardsigmoid(x)."""
    for x, other in _pairs(node) if is_product(node) else ():
        gate = sole_producer(graph, other, "HardSigmoid")
        if gate is None or gate.inputs[0] is not x:
            continue
        alpha, beta = attribute(gate, "alpha"), attribute(gate, "beta")
        if alpha > 0:
            return Match(node, "HardSwish", [x], {"alpha": float(alpha), "beta": float(beta)})
    return None


def swish(graph: gs.Graph, node: Node) -> Match | None:
    """ONNX's own operator since opset 24."""
    if is_swish(node) and float(attribute(node, "alpha")) == 1.0:
        return Match(node, "Silu", [node.inputs[0]])
    return None


def _activations(graph: gs.Graph) -> int:
    """Every composed activation as one node. Returns how many."""
    found = find_activations(graph)
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    for activation in found:
        op, attributes = ("Silu", {}) if activation.kind == "SiLU" else operator_of(activation.kind)
        last, output = activation.nodes[0], activation.output
        for node in activation.nodes:
            detach(node)
        limits = {key: value for key, value in activation.attributes.items() if not math.isinf(value)}
        fused = gs.Node(op, last.name, {**attributes, **limits}, [activation.input], [output])
        graph.nodes[place[id(last)]] = fused
    if found:
        sweep(graph)
    return len(found)


def layer_norm(graph: gs.Graph, node: Node) -> Match | None:
    """(x − mean) / √(mean((x − mean)²) + ε), and γ, β behind it if they are constants."""
    if not is_quotient(node):
        return None
    centred, root = producer(node.inputs[0]), sole_producer(graph, node.inputs[1], "Sqrt")
    if not is_difference(centred) or root is None:
        return None
    x, mean = centred.inputs[0], sole_producer(graph, centred.inputs[1], "ReduceMean")
    plus = sole_producer(graph, root.inputs[0], "Add")
    if mean is None or mean.inputs[0] is not x or plus is None:
        return None
    variance, epsilon = next(((v, e) for v, e in _pairs(plus) if is_constant(e)), (None, None))
    spread = None if variance is None else sole_producer(graph, variance, "ReduceMean")
    if spread is None or epsilon is None or not _is_square(spread.inputs[0], centred.outputs[0]):
        return None
    size = constant_of(epsilon)
    axes = _trailing_axes(mean, x), _trailing_axes(spread, x)
    if size is None or size.size != 1 or axes[0] is None or axes[0] != axes[1]:
        return None
    shape = shape_of(x)[axes[0] :]
    last, scale = _affine(graph, node, "Mul", shape, 1.0)
    last, shift = _affine(graph, last, "Add", shape, 0.0)
    attrs = {"axis": axes[0], "epsilon": float(size.reshape(-1)[0])}
    return Match(last, "LayerNormalization", [x, scale, shift], attrs)


def _is_square(tensor: Tensor, x: Tensor) -> bool:
    node = producer(tensor)
    if node is None:
        return False
    if is_power(node):
        return node.inputs[0] is x and _near(node.inputs[1], 2.0)
    return is_product(node) and all(each is x for each in node.inputs)


def _trailing_axes(node: Node, x: Tensor) -> int | None:
    """The axis from which on a reduction takes everything, if it does and keeps the rank."""
    rank = len(shape_of(x))
    given = operand(node, "axes")
    axes = sorted(int(axis) % rank for axis in (() if given is None else given.reshape(-1)))
    if not axes or not attribute(node, "keepdims") or axes != list(range(axes[0], rank)):
        return None
    return axes[0]


def _affine(graph: gs.Graph, node: Node, op: str, shape: tuple[int, ...], neutral: float) -> tuple[Node, Tensor]:
    """The node behind that multiplies or adds a constant over the normalised axes, and the constant."""
    behind = sole_consumer(graph, node.outputs[0])
    for one, other in _pairs(behind) if behind is not None and behind.op == op else ():
        constant = constant_of(other)
        if one is node.outputs[0] and constant is not None:
            lead = constant.shape[: max(constant.ndim - len(shape), 0)]
            if behind is not None and all(extent == 1 for extent in lead) and constant.ndim <= len(shape_of(one)):
                values = np.broadcast_to(constant.reshape(constant.shape[len(lead) :]), shape)
                return behind, gs.Constant(other.name, np.ascontiguousarray(values))
    name = f"{node.outputs[0].name}__{op.lower()}"
    return node, gs.Constant(name, np.full(shape, neutral, np.float32))


MATCHERS: tuple[Callable[[gs.Graph, Node], Match | None], ...] = (
    swish,
    hard_swish,
    layer_norm,
)
