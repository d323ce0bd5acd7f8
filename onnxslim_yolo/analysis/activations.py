"""Activation functions that are written as several nodes, recognised by what they compute.

    SiLU       x·σ(x)                                   Mish       x·tanh(softplus(x))
    HardSwish  x·clip(x/6 + 1/2, 0, 1)                  Gelu       x/2·(1 + erf(x/√2))
    HardSigmoid  clip(α·x + β, 0, 1)                    GeluTanh   x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
    LeakyRelu  max(x, α·x), 0 ≤ α < 1                   Clip, Relu nested minima and maxima

Factors may come in any order and constants anywhere (x·clip(x + 3, 0, 6)/6 is a HardSwish). A pattern is recognised
only if nothing else reads what lies inside. Sources: Ramachandran 2017, Howard 2019, Misra 2019, Hendrycks 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf, isclose, pi, sqrt
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.scalars import Clamp, clamp, inner, lines, monomial, operand_and_scalar, product, scalar_of
from onnxslim_yolo.graph import Node, Tensor

Kind = Literal["SiLU", "HardSwish", "HardSigmoid", "Gelu", "GeluTanh", "Mish", "LeakyRelu", "Clip", "Relu"]


@dataclass(frozen=True)
class Activation:
    """One activation function, spelt as several nodes.

    Attributes:
        nodes: all its nodes; the first computes `output`.
        attributes: `alpha` and `beta` of HardSigmoid, `alpha` of LeakyRelu, `min` and `max` of Clip (±∞ if open).
    """

    kind: Kind
    nodes: tuple[Node, ...]
    input: Tensor
    attributes: dict[str, float] = field(default_factory=dict)

    @property
    def output(self) -> Tensor:
        """What the activation computes."""
        return self.nodes[0].outputs[0]


@dataclass(frozen=True)
class _Gate:
    """What x is multiplied with: a function of `input`."""

    kind: Kind
    nodes: tuple[Node, ...]
    input: Tensor


def find_activations(graph: gs.Graph) -> list[Activation]:
    """Every activation of two or more nodes, in the graph's order. No node belongs to two; the larger pattern wins."""
    found: list[Activation] = []
    taken: set[int] = set()
    for node in reversed(graph.nodes):
        activation = None if id(node) in taken else _match(graph, node)
        if activation is None or any(id(part) in taken for part in activation.nodes):
            continue
        taken.update(id(part) for part in activation.nodes)
        found.append(activation)
    return found[::-1]


def _match(graph: gs.Graph, node: Node) -> Activation | None:
    matcher = _MATCHERS.get(node.op)
    return None if matcher is None else matcher(graph, node)


def _match_product(graph: gs.Graph, node: Node) -> Activation | None:
    found = product(graph, node)
    if found is None:
        return None
    if len(found.factors) == 1:
        return _hard_sigmoid(graph, node, found.coefficient, found.factors[0], found.nodes)
    if len(found.factors) != 2:
        return None
    for x, gate_output in (found.factors, found.factors[::-1]):
        for gate in _gates(graph, gate_output, found.coefficient):
            if gate.input is x:
                return Activation(gate.kind, (*found.nodes, *gate.nodes), x)
    return None


def _gates(graph: gs.Graph, tensor: Tensor, coefficient: float) -> Iterator[_Gate]:
    """The functions g for which coefficient·x·(the tensor) is an activation, if the tensor is g(x)."""
    node = inner(graph, tensor, "Sigmoid", "HardSigmoid", "Tanh", "Add", "Clip", "Min", "Max")
    if node is None:
        return
    near = _tolerance(tensor)
    if node.op == "Sigmoid" and coefficient == 1:
        yield _Gate("SiLU", (node,), node.inputs[0])
    elif node.op == "HardSigmoid" and near(coefficient, 1):
        if near(node.attrs.get("alpha", 0.2), 1 / 6) and near(node.attrs.get("beta", 0.5), 0.5):
            yield _Gate("HardSwish", (node,), node.inputs[0])
    elif node.op == "Tanh" and near(coefficient, 1):
        softplus = inner(graph, node.inputs[0], "Softplus")
        if softplus is not None:
            yield _Gate("Mish", (node, softplus), softplus.inputs[0])
    elif node.op == "Add" and near(coefficient, 0.5):
        yield from _gelu_gates(graph, node)
    for line in _clipped_lines(graph, node, coefficient):
        if near(line[0], 1 / 6) and near(line[1], 0.5):
            yield _Gate("HardSwish", line[3], line[2])


def _gelu_gates(graph: gs.Graph, node: Node) -> Iterator[_Gate]:
    """1 + erf(x/√2), 1 + tanh(√(2/π)·(x + 0.044715·x³))."""
    operand, near = operand_and_scalar(node), _tolerance(node.outputs[0])
    function = None if operand is None else inner(graph, node.inputs[operand[0]], "Erf", "Tanh")
    if operand is None or function is None or not near(operand[1], 1):
        return
    if function.op == "Tanh":
        for x, nodes in _cubics(graph, function.inputs[0]):
            yield _Gate("GeluTanh", (node, function, *nodes), x)
        return
    for line in lines(graph, function.inputs[0]):
        if near(line.scale, 1 / sqrt(2)) and line.shift == 0:
            yield _Gate("Gelu", (node, function, *line.nodes), line.base)


def _cubics(graph: gs.Graph, tensor: Tensor) -> Iterator[tuple[Tensor, tuple[Node, ...]]]:
    """Every x with tensor = √(2/π)·(x + 0.044715·x³) or √(2/π)·x·(1 + 0.044715·x²), and the nodes that compute it."""
    root = inner(graph, tensor, "Mul", "Div")
    found = None if root is None else product(graph, root)
    if found is None or not _tolerance(tensor)(found.coefficient, sqrt(2 / pi)):
        return
    if len(found.factors) == 1:
        for x, nodes in _sums_with_power(graph, found.factors[0], 3):
            yield x, (*found.nodes, *nodes)
    elif len(found.factors) == 2:
        for x, total in (found.factors, found.factors[::-1]):
            for _, nodes in _sums_with_power(graph, total, 2, x):
                yield x, (*found.nodes, *nodes)


def _sums_with_power(
    graph: gs.Graph, tensor: Tensor, degree: int, variable: Tensor | None = None
) -> Iterator[tuple[Tensor, tuple[Node, ...]]]:
    """x + 0.044715·x^degree for any x, or 1 + 0.044715·variable^degree."""
    added, near = inner(graph, tensor, "Add"), _tolerance(tensor)
    if added is None:
        return
    for one, other in (added.inputs, added.inputs[::-1]):
        if variable is not None and not near(scalar_of(one, other) or 0, 1):
            continue
        x = one if variable is None else variable
        power = monomial(graph, other, x)
        if power is not None and near(power[0], 0.044715) and power[1] == degree:
            yield x, (added, *power[2])


def _clipped_lines(
    graph: gs.Graph, node: Node, coefficient: float
) -> Iterator[tuple[float, float, Tensor, tuple[Node, ...]]]:
    """(α, β, x, nodes) with coefficient·node = clip(α·x + β, 0, 1)."""
    clip = clamp(graph, node)
    if clip is None or clip.low != 0 or not _tolerance(node.outputs[0])(coefficient * clip.high, 1):
        return
    for line in lines(graph, clip.base):
        if line.scale > 0:
            yield line.scale * coefficient, line.shift * coefficient, line.base, (*clip.nodes, *line.nodes)


def _hard_sigmoid(
    graph: gs.Graph, node: Node, coefficient: float, factor: Tensor, outer: tuple[Node, ...]
) -> Activation | None:
    """coefficient·clip(s·x + t, 0, 1/coefficient). Without an s or t it is a Clip, which needs no other name."""
    clip = inner(graph, factor, "Clip", "Min", "Max", "Relu") if outer else node
    found = [] if clip is None else list(_clipped_lines(graph, clip, coefficient))
    if len(found) < 2:
        return None
    alpha, beta, x, nodes = found[-1]
    return Activation("HardSigmoid", (*outer, *nodes), x, {"alpha": alpha, "beta": beta})


def _match_clamp(graph: gs.Graph, node: Node) -> Activation | None:
    leaky = _leaky_relu(graph, node) if node.op == "Max" else None
    if leaky is not None:
        return leaky
    hard = _hard_sigmoid(graph, node, 1.0, node.outputs[0], ())
    return hard if hard is not None else _nested(clamp(graph, node))


def _nested(found: Clamp | None) -> Activation | None:
    if found is None or len(found.nodes) < 2:
        return None
    if (found.low, found.high) == (0, inf):
        return Activation("Relu", found.nodes, found.base)
    return Activation("Clip", found.nodes, found.base, {"min": found.low, "max": found.high})


def _leaky_relu(graph: gs.Graph, node: Node) -> Activation | None:
    if len(node.inputs) != 2:
        return None
    for x, scaled in (node.inputs, node.inputs[::-1]):
        slope = inner(graph, scaled, "Mul", "Div")
        found = None if slope is None else product(graph, slope)
        if found is None or len(found.factors) != 1 or found.factors[0] is not x:
            continue
        if 0 <= found.coefficient < 1:
            return Activation("LeakyRelu", (node, *found.nodes), x, {"alpha": found.coefficient})
    return None


def _tolerance(tensor: Tensor) -> Callable[[float, float], bool]:
    """How to compare constants: to the rounding of the graph's float type."""
    relative = 1e-3 if tensor.dtype == np.float16 else 2e-6
    return lambda found, expected: isclose(found, expected, rel_tol=relative)


_Matcher = Callable[[gs.Graph, Node], Activation | None]
_MATCHERS: dict[str, _Matcher] = {
    "Mul": _match_product,
    "Div": _match_product,
    "Clip": _match_clamp,
    "Min": _match_clamp,
    "Max": _match_clamp,
    "Relu": _match_clamp,
}
