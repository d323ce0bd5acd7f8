"""Moments through element-wise operators: a table of functions, and how one of them acts on distributions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxslim_yolo.analysis.moments import NODES, WEIGHTS, MomentAnalysis, Moments, Rule, gaussian_samples, known
from onnxslim_yolo.analysis.sign import is_positive
from onnxslim_yolo.ir.attributes import operand
from onnxslim_yolo.ir.graph import Array, Node, has_input, is_constant, is_empty
from onnxslim_yolo.ops import arithmetic
from onnxslim_yolo.ops.arithmetic import ARITHMETIC, COMPARISONS, SUMS
from onnxslim_yolo.ops.functions import FUNCTIONS as ROWS
from onnxslim_yolo.ops.functions import apply


def from_samples(samples: Array, exact: Array, base: int) -> Moments:
    """Moments of what has these values at the quadrature nodes; exact values are taken as they are."""
    weights = WEIGHTS.reshape((-1,) + (1,) * (samples.ndim - 1))
    mean = (weights * samples).sum(axis=0)
    variance = (weights * (samples - mean[None]) ** 2).sum(axis=0)
    mean = np.where(exact, samples[len(NODES) // 2], mean)
    return Moments(mean, np.where(exact, 0.0, variance), np.broadcast_to(exact, mean.shape), base, samples)


def align(array: Array, rank: int, lead: int = 0) -> Array:
    """The array with axes of size 1 put in front (behind `lead` axes), up to a rank."""
    return np.asarray(array.reshape(array.shape[:lead] + (1,) * (rank - array.ndim + lead) + array.shape[lead:]))


def elementwise(function: Callable[..., Array]) -> Rule:
    """Any element-wise operator: a function of one random base keeps its exact distribution."""

    def rule(analysis: MomentAnalysis, node: Node) -> list[Moments]:
        rank = len(analysis.shape(node.outputs[0]))
        operands = [t for t in node.inputs if not is_empty(t)]
        moments = [analysis.of(t) for t in operands]
        exact = np.ones((1,) * rank, dtype=bool)
        for m in moments:
            exact = exact & align(m.exact, rank)
        bases = {m.base or id(t) for t, m in zip(operands, moments, strict=True) if not is_constant(t)}
        if len(bases) > 1:
            return [_independent(node, [_aligned(m, rank) for m in moments], exact, function)]
        samples = [align(m.samples if m.samples is not None else gaussian_samples(m), rank, lead=1) for m in moments]
        result = np.asarray(function(node, *samples), dtype=np.float64)
        zero = _is_zero(node, [_aligned(m, rank) for m in moments])
        if zero.any():
            result, exact = np.where(zero, 0.0, result), exact | zero
        return [from_samples(result, exact, next(iter(bases), 0))]

    return rule


def _aligned(moments: Moments, rank: int) -> Moments:
    return Moments(align(moments.mean, rank), align(moments.variance, rank), align(moments.exact, rank))


def _independent(node: Node, parts: list[Moments], exact: Array, function: Callable[..., Array]) -> Moments:
    """Sums and products of independent variables; for other operators, what constants alone decide."""
    mean, variance = parts[0].mean, parts[0].variance
    for other in parts[1:]:
        if node.op in SUMS:
            mean, variance = mean + other.mean, variance + other.variance
        elif node.op == "Sub":
            mean, variance = mean - other.mean, variance + other.variance
        elif node.op == "Mul":
            square = variance * other.variance + variance * other.mean**2 + other.variance * mean**2
            mean, variance = mean * other.mean, square
    if node.op not in (*SUMS, "Sub", "Mul"):  # of constants alone it is known all the same
        value = np.asarray(function(node, *(part.mean for part in parts)), dtype=np.float64)
        mean, variance = np.where(exact, value, np.nan), np.full_like(value, np.nan)
    zero = _is_zero(node, parts)
    if zero.any():
        mean, variance, exact = np.where(zero, 0.0, mean), np.where(zero, 0.0, variance), exact | zero
    return known(mean, variance, exact & ~np.isnan(mean))


def _is_zero(node: Node, factors: list[Moments]) -> Array:
    """Where a product is zero because a factor is, or a quotient because its numerator is, whatever the others are."""
    if node.op == "Div" and is_positive(node.inputs[1]):
        factors = factors[:1]
    elif node.op != "Mul":
        return np.zeros((1,) * factors[0].mean.ndim, dtype=bool)
    zero = np.zeros((1,) * factors[0].mean.ndim, dtype=bool)
    for factor in factors:
        zero = zero | (factor.exact & (factor.mean == 0))
    return zero


def _clip(node: Node, x: Array, *bounds: Array) -> Array:
    given, low, high = list(bounds), operand(node, "min"), operand(node, "max")
    if has_input(node, 1):
        low = given.pop(0)
    if has_input(node, 2):
        high = given.pop(0)
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _row(op: str) -> Callable[..., Array]:
    return lambda node, x: apply(op, node.attrs, x)


NEAR = 1e-5
"""Relative rounding that a jump must not turn on: float32 arithmetic in front of it is not what is done here."""


def _comparing(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """A comparison: 1 or 0, and not known where a side is not, or where rounding would decide."""

    def compared(node: Node, a: Array, b: Array) -> Array:
        up, down = (function(a * (1 + near), b * (1 - near)) for near in (NEAR, -NEAR))
        return np.where(np.isnan(a) | np.isnan(b) | (up != down), np.nan, function(a, b))

    return compared


def _rounding(function: Callable[[Array], Array]) -> Callable[..., Array]:
    """A rounding function, not known where it is about to jump."""

    def rounded(node: Node, x: Array) -> Array:
        return np.where(function(x * (1 + NEAR)) == function(x * (1 - NEAR)), function(x), np.nan)

    return rounded


def _of_operands(op: str) -> Callable[..., Array]:
    return lambda node, *operands: arithmetic.apply(op, node.attrs, *operands)


def _choose(node: Node, condition: Array, a: Array, b: Array) -> Array:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, a, b))


FUNCTIONS: dict[str, Callable[..., Array]] = {
    **{op: _row(op) for op in ROWS},
    **{op: _of_operands(op) for op in ARITHMETIC},
    "PRelu": lambda n, x, slope: np.where(x >= 0, x, slope * x),
    "Clip": _clip,
    **{op: _rounding(row.f) for op, row in ROWS.items() if not row.slope},
    **{op: _comparing(function) for op, function in COMPARISONS.items()},
    "Not": lambda n, x: np.where(np.isnan(x), np.nan, x == 0),
    "Where": _choose,
}
