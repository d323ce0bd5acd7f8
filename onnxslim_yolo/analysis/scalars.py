"""Reading arithmetic with scalar constants off a graph: products, lines, clamps and powers, however they are spelt.

All look through nodes whose result nothing else reads, so that a match can be replaced as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir import attributes
from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, producer, sole_consumer
from onnxslim_yolo.ops.arithmetic import AFFINE, line


@dataclass(frozen=True)
class Product:
    """coefficient · Π factors, computed by `nodes` (last first)."""

    coefficient: float
    factors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Line:
    """scale · base + shift."""

    scale: float
    shift: float
    base: Tensor
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Clamp:
    """min(max(base, low), high)."""

    low: float
    high: float
    base: Tensor
    nodes: tuple[Node, ...]


def scalar_of(tensor: Tensor, like: Tensor | None = None) -> float | None:
    """The value of a constant of one element (that does not raise the rank of `like`), else None."""
    values = constant_of(tensor)
    if values is None or values.size != 1 or values.dtype.kind not in "fiu":
        return None
    if like is not None and values.ndim > (0 if like.shape is None else len(like.shape)):
        return None
    return float(values.reshape(-1)[0])


def inner(graph: gs.Graph, tensor: Tensor, *ops: str) -> Node | None:
    """The node that computes a tensor which only one node reads, if it is one of `ops`."""
    node = producer(tensor)
    return node if node is not None and node.op in ops and sole_consumer(graph, tensor) is not None else None


def operand_and_scalar(node: Node) -> tuple[int, float] | None:
    """Of a node with two inputs, the index of the one that is no constant, and the value of the other, a scalar."""
    if len(node.inputs) != 2:
        return None
    for index in (0, 1):
        value = scalar_of(node.inputs[1 - index], node.inputs[index])
        if value is not None and constant_of(node.inputs[index]) is None:
            return index, value
    return None


DEPTH = 16
"""How many nodes deep a product or clamp is followed; no activation comes near it."""


def product(graph: gs.Graph, node: Node, depth: int = DEPTH) -> Product | None:
    """A tree of Mul, and Div by scalars, as one product; None if the node is none."""
    if node.op not in ("Mul", "Div"):
        return None
    scalar = operand_and_scalar(node)
    if node.op == "Div":
        if scalar is None or scalar[0] != 0 or scalar[1] == 0:
            return None
        coefficient, parts = 1 / scalar[1], [node.inputs[0]]
    else:
        coefficient, parts = (1.0, list(node.inputs)) if scalar is None else (scalar[1], [node.inputs[scalar[0]]])
    factors: list[Tensor] = []
    nodes = [node]
    for part in parts:
        below = inner(graph, part, "Mul", "Div") if depth else None
        deeper = None if below is None else product(graph, below, depth - 1)
        if deeper is None:
            factors.append(part)
            continue
        coefficient *= deeper.coefficient
        factors += deeper.factors
        nodes += deeper.nodes
    return Product(coefficient, tuple(factors), tuple(nodes))


def lines(graph: gs.Graph, tensor: Tensor) -> list[Line]:
    """The tensor as scale·base + shift, for every base it can be written with, the tensor itself first."""
    found = [Line(1.0, 0.0, tensor, ())]
    while len(found) <= DEPTH and (node := inner(graph, found[-1].base, *AFFINE)) is not None:
        operand = operand_and_scalar(node)
        told = None if operand is None else line(node.op, np.asarray(operand[1]), operand[0])
        if operand is None or told is None:
            break
        (scale, shift), last = map(float, told), found[-1]
        base = node.inputs[operand[0]]
        found.append(Line(last.scale * scale, last.scale * shift + last.shift, base, (*last.nodes, node)))
    return found


def clamp(graph: gs.Graph, node: Node, depth: int = DEPTH) -> Clamp | None:
    """A chain of Clip, Relu, and Min and Max with scalars as one clamp; None if the node is none."""
    bounds = _bounds(node)
    if bounds is None:
        return None
    index, low, high = bounds
    base = node.inputs[index]
    below = inner(graph, base, "Clip", "Relu", "Min", "Max") if depth else None
    first = None if below is None else clamp(graph, below, depth - 1)
    if first is None:
        return Clamp(low, high, base, (node,))
    # min(max(min(max(x, l1), h1), l2), h2): the outer clamp applies to the inner one's bounds.
    return Clamp(min(max(first.low, low), high), min(max(first.high, low), high), first.base, (node, *first.nodes))


def _bounds(node: Node) -> tuple[int, float, float] | None:
    """The index of the input that a node clamps, and between what."""
    if node.op == "Relu":
        return 0, 0.0, inf
    if node.op in ("Min", "Max"):
        operand = operand_and_scalar(node)
        if operand is None:
            return None
        return (operand[0], -inf, operand[1]) if node.op == "Min" else (operand[0], operand[1], inf)
    if node.op != "Clip":
        return None
    limits = []
    for name, none in (("min", -inf), ("max", inf)):
        value = attributes.operand(node, name)
        if attributes.is_computed(node, name) or (value is not None and value.size != 1):
            return None
        limits.append(none if value is None else float(value.reshape(())))
    return 0, limits[0], limits[1]


def monomial(
    graph: gs.Graph, tensor: Tensor, variable: Tensor, depth: int = DEPTH
) -> tuple[float, float, tuple[Node, ...]] | None:
    """(c, n, nodes) if the tensor is c·variableⁿ, else None."""
    if tensor is variable:
        return 1.0, 1.0, ()
    node = inner(graph, tensor, "Mul", "Div", "Pow") if depth else None
    if node is None:
        return None
    if node.op == "Pow":
        power, base = scalar_of(node.inputs[1]), monomial(graph, node.inputs[0], variable, depth - 1)
        if power is None or base is None:
            return None
        return float(base[0] ** power), base[1] * power, (node, *base[2])
    found = product(graph, node)
    if found is None:
        return None
    coefficient, degree, nodes = found.coefficient, 0.0, found.nodes
    for factor in found.factors:
        part = monomial(graph, factor, variable, depth - 1)
        if part is None:
            return None
        coefficient, degree, nodes = coefficient * part[0], degree + part[1], (*nodes, *part[2])
    return coefficient, degree, nodes


@dataclass(frozen=True)
class Polynomial:
    """Σ coefficient·xⁿ: power → coefficient, none of them zero."""

    terms: dict[float, float]
    nodes: tuple[Node, ...]


def polynomial(graph: gs.Graph, tensor: Tensor, variable: Tensor, depth: int = DEPTH) -> Polynomial | None:
    """The tensor as a polynomial of the variable, however it is written; None if it is none."""
    if tensor is variable:
        return Polynomial({1.0: 1.0}, ())
    value = scalar_of(tensor, variable)
    if value is not None:
        return Polynomial({0.0: value} if value else {}, ())
    node = inner(graph, tensor, "Add", "Sub", "Mul", "Div", "Neg", "Pow") if depth else None
    parts = [] if node is None else [polynomial(graph, part, variable, depth - 1) for part in node.inputs]
    if node is None or any(part is None for part in parts):
        return None
    given = [part for part in parts if part is not None]
    terms = _combined(node.op, *(part.terms for part in given))
    if terms is None or len(terms) > DEPTH:
        return None
    return Polynomial(terms, (node, *(inside for part in given for inside in part.nodes)))


def _combined(
    op: str, first: dict[float, float], second: dict[float, float] | None = None
) -> dict[float, float] | None:
    """What an operator makes of polynomials; None where that is no polynomial."""
    if op == "Neg":
        return {n: -c for n, c in first.items()}
    if second is None:
        return None
    constant = second.get(0.0, 0.0) if not second.keys() - {0.0} else None
    terms: dict[float, float] = {}
    if op in ("Add", "Sub"):
        sign = 1.0 if op == "Add" else -1.0
        terms = {n: first.get(n, 0.0) + sign * second.get(n, 0.0) for n in first.keys() | second.keys()}
    elif op == "Mul":
        for n, c in first.items():
            for m, d in second.items():
                terms[n + m] = terms.get(n + m, 0.0) + c * d
    elif op == "Div" and constant:
        terms = {n: c / constant for n, c in first.items()}
    elif op == "Pow" and constant is not None and len(first) == 1:
        ((n, c),) = first.items()
        if constant != int(constant) or not 0 < constant <= DEPTH:
            return None
        terms = {n * constant: c**constant}
    else:
        return None
    return {n: c for n, c in terms.items() if c}
