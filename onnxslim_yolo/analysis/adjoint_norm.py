"""Adjoints of normalisations and reductions: the tables `NORMALISATIONS` and `REDUCTIONS`, one row an operator.

x̂ = (x − μ) / σ with μ and σ over some axes, y = γ·x̂ + β: of the cotangent ĝ = γ·g of x̂ the mean goes, and what lies
along x̂, (ĝ − mean(ĝ) − x̂·mean(ĝ·x̂)) / σ. Without μ (RMSNormalization, LpNormalization) the first mean stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, Cotangents, Found, Rule, given, refusal, shape_of
from onnxslim_yolo.analysis.movement import axes_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, has_input, input_constant, is_constant

LEAST_LENGTH = 1e-12
"""What a length is at least, where it is divided by: 0 has no direction."""

MVN_EPSILON = 1e-9
"""MeanVarianceNormalization's, which is added to the deviation; of the variance it is next to nothing."""


def _constant(node: Node, index: int, rank: int, start: int) -> Array | None:
    """A factor, broadcast from axis `start` on; None where there is none."""
    if not has_input(node, index):
        return None
    value = input_constant(node, index)
    if value is None:
        raise refusal(node, "its scale is not constant")
    return value.reshape(*value.shape, *[1] * (rank - start - value.ndim))


def _normalised(
    adjoint: Adjoint, x: Any, cotangent: Any, axes: Sequence[int], count: int, *, epsilon: float, centred: bool = True
) -> Any:
    """The cotangent of x from that of x̂."""

    def mean(value: Any) -> Any:
        return adjoint.add("Mul", [adjoint.sum_over(value, axes), np.asarray(1.0 / count)])

    away = adjoint.add("Sub", [x, mean(x)]) if centred else x
    variance = mean(adjoint.add("Mul", [away, away]))
    deviation = adjoint.add("Sqrt", [adjoint.add("Add", [variance, np.asarray(epsilon)])])
    unit = adjoint.add("Div", [away, deviation])
    along = adjoint.add("Mul", [unit, mean(adjoint.add("Mul", [cotangent, unit]))])
    left = adjoint.add("Sub", [cotangent, along])
    if centred:
        left = adjoint.add("Sub", [left, mean(cotangent)])
    return adjoint.add("Div", [left, deviation])


def _over_last(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """LayerNormalization and RMSNormalization: over `axis` and all behind it."""
    shape = shape_of(node.inputs[0])
    axis = int(attribute(node, "axis")) % len(shape)
    gamma = input_constant(node, 1)
    if gamma is None:
        raise refusal(node, "its scale is not constant")
    axes = list(range(axis, len(shape)))
    scaled = adjoint.add("Mul", [given(values), gamma])
    count = int(np.prod(shape[axis:]))
    epsilon, centred = float(attribute(node, "epsilon")), node.op == "LayerNormalization"
    return {0: _normalised(adjoint, node.inputs[0], scaled, axes, count, epsilon=epsilon, centred=centred)}


def _instance(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape = shape_of(node.inputs[0])
    gamma = _constant(node, 1, len(shape), 1)
    if gamma is None:
        raise refusal(node, "its scale is not constant")
    scaled = adjoint.add("Mul", [given(values), gamma])
    axes, count = list(range(2, len(shape))), int(np.prod(shape[2:]))
    return {0: _normalised(adjoint, node.inputs[0], scaled, axes, count, epsilon=float(attribute(node, "epsilon")))}


def _group(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape, groups = shape_of(node.inputs[0]), int(attribute(node, "num_groups"))
    gamma = input_constant(node, 1)
    if gamma is None:
        raise refusal(node, "its scale is not constant")
    wide = np.repeat(gamma, shape[1] // len(gamma))  # before opset 21 there is one per group
    scaled = adjoint.add("Mul", [given(values), wide.reshape(-1, *[1] * (len(shape) - 2))])
    flat = (shape[0], groups, int(np.prod(shape[1:])) // groups)
    x, cotangent = adjoint.reshape(node.inputs[0], flat), adjoint.reshape(scaled, flat)
    found = _normalised(adjoint, x, cotangent, [2], flat[2], epsilon=float(attribute(node, "epsilon")))
    return {0: adjoint.reshape(found, shape)}


def _mean_variance(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape = shape_of(node.inputs[0])
    axes = [int(a) % len(shape) for a in np.atleast_1d(attribute(node, "axes"))]
    count = int(np.prod([shape[a] for a in axes]))
    return {0: _normalised(adjoint, node.inputs[0], given(values), axes, count, epsilon=MVN_EPSILON)}


def _length(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """LpNormalization by the Euclidean length: x̂ = x / ‖x‖, which is √n times smaller than by the mean square."""
    shape = shape_of(node.inputs[0])
    if int(attribute(node, "p")) != 2:
        raise refusal(node, "only the Euclidean length is known")
    axis = int(attribute(node, "axis")) % len(shape)
    count = shape[axis]
    cotangent = adjoint.add("Mul", [given(values), np.asarray(1 / np.sqrt(count))])
    return {0: _normalised(adjoint, node.inputs[0], cotangent, [axis], count, epsilon=0.0, centred=False)}


def _kept(adjoint: Adjoint, node: Node, value: Any) -> tuple[Any, list[int]]:
    """A reduction's tensor with the reduced axes at 1, and those axes."""
    shape = shape_of(node.inputs[0])
    axes = axes_of(node)
    if not axes and not node.op.startswith("Global") and attribute(node, "noop_with_empty_axes"):
        return value, []
    gone = sorted(
        {a % len(shape) for a in axes or ()} or (range(2, len(shape)) if node.op.startswith("Global") else ())
    )
    gone = gone or list(range(len(shape)))
    return adjoint.reshape(value, [1 if k in gone else n for k, n in enumerate(shape)]), gone


def _sum(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    if any(not is_constant(t) for t in node.inputs[1:]):
        raise refusal(node, "its axes are not constant")
    value, _ = _kept(adjoint, node, given(values))
    return {0: adjoint.add("Mul", [value, np.ones(shape_of(node.inputs[0]), dtype=np.float32)])}


def _extreme(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """The largest (smallest) of several: those that are it share the cotangent."""
    if any(not is_constant(t) for t in node.inputs[1:]):
        raise refusal(node, "its axes are not constant")
    value, axes = _kept(adjoint, node, given(values))
    if not axes:
        return {0: value}
    found, _ = _kept(adjoint, node, node.outputs[0])
    hits = adjoint.hits(node.inputs[0], found)
    share = adjoint.add("Div", [value, adjoint.sum_over(hits, axes)])
    return {0: adjoint.add("Mul", [hits, share])}


def _norm(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Σ|x|, Σx² or √Σx²: sign x, 2x or x / y times the cotangent."""
    value, _ = _kept(adjoint, node, given(values))
    x = node.inputs[0]
    if node.op == "ReduceL1":
        return {0: adjoint.add("Mul", [adjoint.add("Sign", [x]), value])}
    if node.op == "ReduceSumSquare":
        return {0: adjoint.add("Mul", [adjoint.add("Mul", [x, np.asarray(2.0)]), value])}
    length, _ = _kept(adjoint, node, node.outputs[0])
    share = adjoint.add("Div", [value, adjoint.at_least(length, LEAST_LENGTH)])
    return {0: adjoint.add("Mul", [x, share])}


NORMALISATIONS: dict[str, Rule] = {
    "LayerNormalization": _over_last,
    "RMSNormalization": _over_last,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _length,
}

REDUCTIONS: dict[str, Rule] = {
    "ReduceSum": _sum,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "GlobalMaxPool"), _extreme),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), _norm),
}
