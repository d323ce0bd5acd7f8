"""Groups of ONNX nodes that are one ncnn layer, rewritten in the emitter's private copy of the graph.

Silu (internal; an ONNX operator only since opset 24)   x · sigmoid(x)
Mish                 x · tanh(softplus(x))
HardSigmoid          clip(x + 3, 0, 6) / 6
HardSwish            x · hardsigmoid(x) with α = 1/6, or x · clip(x + 3, 0, 6) / 6
Gelu                 x (1 + erf(x / √2)) / 2, or x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
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

from onnxslim_yolo.emit.ncnn_prepare import shape_of
from onnxslim_yolo.emit.ncnn_rewrites import rewrite_movement
from onnxslim_yolo.graph import (
    Node,
    Tensor,
    constant_of,
    input_constant,
    is_constant,
    producer,
    sole_consumer,
    sole_producer,
    sweep,
    toposort,
)

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


def _scaled_by(node: Node | None, factor: float) -> Tensor | None:
    """The x of x · factor, x / (1 / factor), or None."""
    if node is None:
        return None
    if node.op == "Div" and _near(node.inputs[1], 1 / factor):
        return node.inputs[0]
    if node.op == "Mul":
        return next((x for x, scale in _pairs(node) if _near(scale, factor)), None)
    return None


def _plus(node: Node | None, term: float) -> Tensor | None:
    """The x of x + term, or None."""
    if node is None or node.op != "Add":
        return None
    return next((x for x, other in _pairs(node) if _near(other, term)), None)


def _relu6_of_plus_3(graph: gs.Graph, tensor: Tensor) -> Tensor | None:
    """The x of clip(x + 3, 0, 6)."""
    clip = sole_producer(graph, tensor, "Clip")
    if clip is None:
        return None
    low, high = (input_constant(clip, index) for index in (1, 2))
    bounds = (
        clip.attrs.get("min") if low is None else float(low.reshape(-1)[0]),
        clip.attrs.get("max") if high is None else float(high.reshape(-1)[0]),
    )
    if bounds != (0.0, 6.0):
        return None
    return _plus(sole_producer(graph, clip.inputs[0], "Add"), 3.0)


def hard_sigmoid(graph: gs.Graph, node: Node) -> Match | None:
    """clip(x + 3, 0, 6) / 6."""
    clipped = _scaled_by(node, 1 / 6)
    x = None if clipped is None else _relu6_of_plus_3(graph, clipped)
    return None if x is None else Match(node, "HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})


def hard_swish(graph: gs.Graph, node: Node) -> Match | None:
    """x · hardsigmoid(x), or (x · clip(x + 3, 0, 6)) / 6."""
    product = _scaled_by(node, 1 / 6)
    inner = None if product is None else sole_producer(graph, product, "Mul")
    for x, clipped in _pairs(inner) if inner is not None else ():
        if _relu6_of_plus_3(graph, clipped) is x:
            return Match(node, "HardSwish", [x])
    for x, other in _pairs(node) if node.op == "Mul" else ():
        gate = sole_producer(graph, other, "HardSigmoid")
        if gate is None or gate.inputs[0] is not x:
            continue
        alpha, beta = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
        if alpha > 0:
            return Match(node, "HardSwish", [x], {"alpha": float(alpha), "beta": float(beta)})
    return None


def silu(graph: gs.Graph, node: Node) -> Match | None:
    """x · sigmoid(x)."""
    if node.op == "Swish" and float(node.attrs.get("alpha", 1.0)) == 1.0:
        return Match(node, "Silu", [node.inputs[0]])
    for x, other in _pairs(node) if node.op == "Mul" else ():
        gate = sole_producer(graph, other, "Sigmoid")
        if gate is not None and gate.inputs[0] is x:
            return Match(node, "Silu", [x])
    return None


def mish(graph: gs.Graph, node: Node) -> Match | None:
    """x · tanh(softplus(x))."""
    for x, other in _pairs(node) if node.op == "Mul" else ():
        gate = sole_producer(graph, other, "Tanh")
        soft = sole_producer(graph, gate.inputs[0], "Softplus") if gate is not None else None
        if soft is not None and soft.inputs[0] is x:
            return Match(node, "Mish", [x])
    return None


def gelu(graph: gs.Graph, node: Node) -> Match | None:
    """Start at erf or tanh, and follow it to the product."""
    if node.op not in ("Erf", "Tanh"):
        return None
    x = _erf_argument(graph, node) if node.op == "Erf" else _tanh_argument(graph, node)
    plus = sole_consumer(graph, node.outputs[0])
    if x is None or plus is None or _plus(plus, 1.0) is not node.outputs[0]:
        return None
    product = sole_consumer(graph, plus.outputs[0])
    if product is None or product.op != "Mul":
        return None
    attrs = {"approximate": "none" if node.op == "Erf" else "tanh"}
    other = next(other for one, other in _pairs(product) if one is plus.outputs[0])
    if _scaled_by(sole_producer(graph, other, "Mul"), 0.5) is x:
        return Match(product, "Gelu", [x], attrs)
    half = sole_consumer(graph, product.outputs[0])
    if other is x and half is not None and _scaled_by(half, 0.5) is product.outputs[0]:
        return Match(half, "Gelu", [x], attrs)
    if _near(other, 0.5):
        last = half
        if last is not None and last.op == "Mul" and any(o is product.outputs[0] and t is x for t, o in _pairs(last)):
            return Match(last, "Gelu", [x], attrs)
    return None


def _erf_argument(graph: gs.Graph, node: Node) -> Tensor | None:
    inner = producer(node.inputs[0])
    return None if sole_consumer(graph, node.inputs[0]) is None else _scaled_by(inner, math.sqrt(0.5))


def _tanh_argument(graph: gs.Graph, node: Node) -> Tensor | None:
    polynomial = _scaled_by(producer(node.inputs[0]), math.sqrt(2 / math.pi))
    total = None if polynomial is None else sole_producer(graph, polynomial, "Add")
    for x, cubic in _pairs(total) if total is not None else ():
        cube = _scaled_by(sole_producer(graph, cubic, "Mul"), 0.044715)
        if cube is not None and _is_cube(cube, x):
            return x
    return None


def _is_cube(tensor: Tensor, x: Tensor) -> bool:
    node = producer(tensor)
    if node is None:
        return False
    if node.op == "Pow":
        return node.inputs[0] is x and _near(node.inputs[1], 3.0)
    if node.op != "Mul":
        return False
    for one, other in _pairs(node):
        square = producer(other)
        if one is x and square is not None and square.op == "Mul" and all(each is x for each in square.inputs):
            return True
    return False


def layer_norm(graph: gs.Graph, node: Node) -> Match | None:
    """(x − mean) / √(mean((x − mean)²) + ε), and γ, β behind it if they are constants."""
    if node.op != "Div":
        return None
    centred, root = producer(node.inputs[0]), sole_producer(graph, node.inputs[1], "Sqrt")
    if centred is None or centred.op != "Sub" or root is None:
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
    if node.op == "Pow":
        return node.inputs[0] is x and _near(node.inputs[1], 2.0)
    return node.op == "Mul" and all(each is x for each in node.inputs)


def _trailing_axes(node: Node, x: Tensor) -> int | None:
    """The axis from which on a reduction takes everything, if it does and keeps the rank."""
    rank = len(shape_of(x))
    given = input_constant(node, 1)
    axes = sorted(int(axis) % rank for axis in (node.attrs.get("axes", []) if given is None else given.reshape(-1)))
    if not axes or not node.attrs.get("keepdims", 1) or axes != list(range(axes[0], rank)):
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
    silu,
    mish,
    hard_sigmoid,
    hard_swish,
    gelu,
    layer_norm,
)
