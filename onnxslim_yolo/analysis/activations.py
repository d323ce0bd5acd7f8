"""Activation functions that are written as several nodes, recognised by what they compute.

    SiLU       x·σ(x), σ(x) = 1/(1 + exp(−x))           Mish       x·tanh(softplus(x))
    HardSwish  x·clip(x/6 + 1/2, 0, 1)                  Gelu       x/2·(1 + erf(x/√2))
    HardSigmoid  clip(α·x + β, 0, 1)                    GeluTanh   x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
    LeakyRelu  max(x, α·x), 0 ≤ α < 1                   Clip, Relu nested minima and maxima

Factors may come in any order, constants anywhere (x·clip(x + 3, 0, 6)/6 is a HardSwish), products may be written out
(x/2 + x/2·erf(x/√2)) and polynomials in any form (x + k·x³, x·(1 + k·x²)). A pattern is recognised only if nothing else
reads what lies inside, and only if its constants are the function's own to the rounding of their type (`_tolerance`):
x·clip(x + 3, 0, 6)·0.1675 is another function. Sources: Ramachandran 2017, Howard 2019, Misra 2019, Hendrycks 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf, isclose, pi, sqrt
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.scalars import (
    Clamp,
    clamp,
    inner,
    lines,
    monomial,
    operand_and_scalar,
    polynomial,
    product,
    scalar_of,
)
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, Tensor, producer, sole_consumer

Kind = Literal["SiLU", "HardSwish", "HardSigmoid", "Gelu", "GeluTanh", "Mish", "LeakyRelu", "Clip", "Relu"]


_OPERATORS: dict[Kind, tuple[str, dict[str, Any]]] = {
    "SiLU": ("Swish", {}),
    "GeluTanh": ("Gelu", {"approximate": "tanh"}),
}


def operator_of(kind: Kind) -> tuple[str, dict[str, Any]]:
    """What ONNX calls an activation, and the attributes that make it that one."""
    return _OPERATORS.get(kind, (kind, {}))


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
        # A node that a rewrite has just taken out has no outputs until the graph is swept.
        activation = None if id(node) in taken or not node.outputs else _match(graph, node)
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
        for gate in _gates(graph, gate_output, found.coefficient, x):
            if gate.input is x:
                return Activation(gate.kind, (*found.nodes, *gate.nodes), x)
    return None


def _match_sum(graph: gs.Graph, node: Node) -> Activation | None:
    """x/2 + x/2·f(x), the product of a Gelu written out."""
    for one, other in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        root = inner(graph, other, "Mul", "Div")
        found = None if root is None else product(graph, root)
        if found is None or len(found.factors) != 2 or not _tolerance(other)(found.coefficient, 0.5):
            continue
        for x, function in (found.factors, found.factors[::-1]):
            half = monomial(graph, one, x)
            if half is None or half[1] != 1 or not _tolerance(one)(half[0], 0.5):
                continue
            for gate in _bell(graph, function, x):
                return Activation(gate.kind, (node, *half[2], *found.nodes, *gate.nodes), x)
    return None


def _match_quotient(graph: gs.Graph, node: Node) -> Activation | None:
    """x/(1 + exp(−x)); a scalar below makes a product."""
    total = None if len(node.inputs) < 2 else inner(graph, node.inputs[1], "Add")
    found = None if total is None else _one_and_exp(graph, total, -1.0)
    if found is None or found[0] is not node.inputs[0]:
        return _match_product(graph, node)
    return Activation("SiLU", (node, *found[1]), found[0])


def _gates(graph: gs.Graph, tensor: Tensor, coefficient: float, x: Tensor) -> Iterator[_Gate]:
    """The functions g for which coefficient·x·(the tensor) is an activation, if the tensor is g(x)."""
    near = _tolerance(tensor)
    node = producer(tensor)
    if node is None or sole_consumer(graph, tensor) is None:
        return
    sigmoid = _sigmoid(graph, node)
    if sigmoid is not None and coefficient == 1:
        yield _Gate("SiLU", sigmoid[1], sigmoid[0])
    if node.op == "HardSigmoid" and near(coefficient, 1) and _slope_of_hard_swish(node, near):
        yield _Gate("HardSwish", (node,), node.inputs[0])
    if node.op == "Tanh" and near(coefficient, 1):
        softplus = _softplus(graph, node.inputs[0])
        if softplus is not None:
            yield _Gate("Mish", (node, *softplus[1]), softplus[0])
    for line in lines(graph, tensor)[1:]:
        if near(coefficient * line.scale, 0.5) and near(coefficient * line.shift, 0.5):
            for gate in _bell(graph, line.base, x):
                yield _Gate(gate.kind, (*line.nodes, *gate.nodes), x)
    for clipped in _clipped_lines(graph, node, coefficient):
        if near(clipped[0], 1 / 6) and near(clipped[1], 0.5):
            yield _Gate("HardSwish", clipped[3], clipped[2])


def _slope_of_hard_swish(node: Node, near: Callable[[float, float], bool]) -> bool:
    return near(attribute(node, "alpha"), 1 / 6) and near(attribute(node, "beta"), 0.5)


def _sigmoid(graph: gs.Graph, node: Node) -> tuple[Tensor, tuple[Node, ...]] | None:
    """The x of σ(x), 1/(1 + exp(−x)), and the nodes that compute it."""
    if node.op == "Sigmoid":
        return node.inputs[0], (node,)
    if node.op not in ("Div", "Reciprocal"):
        return None
    if node.op == "Div" and scalar_of(node.inputs[0], node.inputs[1]) != 1:
        return None
    total = inner(graph, node.inputs[-1], "Add")
    found = None if total is None else _one_and_exp(graph, total, -1.0)
    return None if found is None else (found[0], (node, *found[1]))


def _softplus(graph: gs.Graph, tensor: Tensor) -> tuple[Tensor, tuple[Node, ...]] | None:
    """The x of softplus(x), log(1 + exp(x)), and the nodes that compute it."""
    node = inner(graph, tensor, "Softplus", "Log")
    if node is None or node.op == "Softplus":
        return None if node is None else (node.inputs[0], (node,))
    total = inner(graph, node.inputs[0], "Add")
    found = None if total is None else _one_and_exp(graph, total, 1.0)
    return None if found is None else (found[0], (node, *found[1]))


def _one_and_exp(graph: gs.Graph, total: Node, sign: float) -> tuple[Tensor, tuple[Node, ...]] | None:
    """The x of 1 + exp(sign·x), and its nodes."""
    operand = operand_and_scalar(total)
    power = None if operand is None or operand[1] != 1 else inner(graph, total.inputs[operand[0]], "Exp")
    if power is None:
        return None
    if sign == 1:
        return power.inputs[0], (total, power)
    turned = inner(graph, power.inputs[0], "Neg", "Mul")
    if turned is None:
        return None
    scalar = (0, -1.0) if turned.op == "Neg" else operand_and_scalar(turned)
    return None if scalar is None or scalar[1] != -1 else (turned.inputs[scalar[0]], (total, power, turned))


def _bell(graph: gs.Graph, tensor: Tensor, x: Tensor) -> Iterator[_Gate]:
    """erf(x/√2), tanh(√(2/π)·(x + 0.044715·x³))."""
    function, near = inner(graph, tensor, "Erf", "Tanh"), _tolerance(tensor)
    found = None if function is None else polynomial(graph, function.inputs[0], x)
    if function is None or found is None:
        return
    wanted = {1.0: 1 / sqrt(2)} if function.op == "Erf" else {1.0: sqrt(2 / pi), 3.0: 0.044715 * sqrt(2 / pi)}
    if found.terms.keys() == wanted.keys() and all(near(found.terms[n], wanted[n]) for n in wanted):
        yield _Gate("Gelu" if function.op == "Erf" else "GeluTanh", (function, *found.nodes), x)


def _clipped_lines(
    graph: gs.Graph, node: Node, coefficient: float
) -> Iterator[tuple[float, float, Tensor, tuple[Node, ...]]]:
    """(α, β, x, nodes) with coefficient·node = clip(α·x + β, 0, 1)."""
    clip = clamp(graph, node)
    if clip is None or clip.low != 0 or not 0 < clip.high < inf:
        return
    if not _tolerance(node.outputs[0])(coefficient, 1 / clip.high):
        return
    coefficient = 1 / clip.high  # whose rounding is not to be found again in α and β
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
    """How to compare constants: to the rounding of the graph's float type.

    1/6 as half precision has it, in a float32 graph, is another function: 2e-4 of x are more than checks let pass.
    """
    relative = 1e-3 if tensor.dtype == np.float16 else 2e-6
    return lambda found, expected: isclose(found, expected, rel_tol=relative)


_Matcher = Callable[[gs.Graph, Node], Activation | None]
_MATCHERS: dict[str, _Matcher] = {
    "Mul": _match_product,
    "Div": _match_quotient,
    "Add": _match_sum,
    "Clip": _match_clamp,
    "Min": _match_clamp,
    "Max": _match_clamp,
    "Relu": _match_clamp,
}
