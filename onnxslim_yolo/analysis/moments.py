"""What is known, without data, about each channel's activation: its mean, its variance, and whether it is a constant.

A BatchNormalization's output has, over the training data, mean β and variance γ² (Ioffe & Szegedy 2015, §3); with γ = 0
it is exactly β. From there values are followed through element-wise operators by Gauss–Hermite quadrature,
E[f(γz + β)] with z ~ N(0, 1), through data movement as they are, and through depthwise convolutions and pooling as
linear maps. Where nothing is known, mean and variance are NaN.

`exact` marks channels that are the same number at every position for every input: filters of zeros, γ = 0, and what
follows from these by arithmetic alone. Statistics never make a channel exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import MOVERS, CannotMoveError, Shape
from onnxslim_yolo.graph import Array, Node, Tensor, constant_of, has_input, input_constant, is_constant, is_empty

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(65)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

LARGEST = 1 << 13
"""What varies over more elements depends on the position (decoded boxes, anchor grids): nothing is claimed about it."""


@dataclass(frozen=True)
class Moments:
    """Descriptors (see `movement`) of a tensor, all of one shape.

    Attributes:
        mean: expected value; NaN where unknown.
        variance: NaN where unknown.
        exact: whether the tensor is exactly `mean` there, whatever the input.
        base: the tensor of which this is a function, value by value, and
        samples: that function at the quadrature nodes of the base's distribution, shape (nodes, *mean.shape).
    """

    mean: Array
    variance: Array
    exact: Array
    base: int = 0
    samples: Array | None = None


def _unknown(rank: int) -> Moments:
    shape = (1,) * rank
    return Moments(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=bool))


def _known(mean: Array, variance: Array, exact: Array) -> Moments:
    mean, variance, exact = np.broadcast_arrays(mean, variance, exact)
    return Moments(np.array(mean, dtype=np.float64), np.where(exact, 0.0, variance), np.array(exact, dtype=bool))


class MomentAnalysis:
    """Moments of every tensor of a graph in topological order.

    Args:
        graph: the graph.
        shapes: every tensor's shape at batch 1, by `id` (as `Channels.shapes`).
    """

    def __init__(self, graph: gs.Graph, shapes: dict[int, Shape | None]) -> None:
        self._shapes = shapes
        self._opset = graph.opset
        self._moments: dict[int, Moments] = {}
        self._keepalive = list(graph.nodes)
        with np.errstate(all="ignore"):
            for node in graph.nodes:
                self._visit(node)

    def of(self, tensor: Tensor) -> Moments:
        """What is known about a tensor; all NaN if nothing."""
        value = constant_of(tensor)
        if value is not None:
            small = value.size <= LARGEST and value.dtype.kind in "fiu"
            flat = np.asarray(value, dtype=np.float64) if small else np.full((1,) * value.ndim, np.nan)
            return _known(flat, np.zeros_like(flat), ~np.isnan(flat))
        found = self._moments.get(id(tensor))
        return found if found is not None else _unknown(len(self._shapes.get(id(tensor)) or ()))

    def _visit(self, node: Node) -> None:
        rule = _RULES.get(node.op)
        outputs = [tensor for tensor in node.outputs if not is_empty(tensor)]
        shapes = [self._shapes.get(id(tensor)) for tensor in outputs]
        known = rule is not None and node.domain in (None, "", "ai.onnx") and all(s is not None for s in shapes)
        try:
            results = rule(self, node) if rule is not None and known else []
        except CannotMoveError:
            results = []
        for index, (tensor, shape) in enumerate(zip(outputs, shapes, strict=True)):
            fits = index < len(results) and shape is not None and results[index].mean.ndim == len(shape)
            fits = fits and results[index].mean.size <= LARGEST
            self._moments[id(tensor)] = results[index] if fits else _unknown(len(shape or ()))

    def shape(self, tensor: Tensor) -> Shape:
        """A tensor's shape. Raises CannotMoveError if it is not static."""
        shape = tuple(tensor.shape) if is_constant(tensor) else self._shapes.get(id(tensor))
        if shape is None:
            raise CannotMoveError("unknown shape")
        return shape


Rule = Callable[[MomentAnalysis, Node], list[Moments]]


def gaussian_samples(moments: Moments) -> Array:
    """The values of N(mean, variance) at the quadrature nodes; shape (nodes, *mean.shape)."""
    deviation = np.sqrt(np.maximum(moments.variance, 0.0))
    return np.asarray(moments.mean[None] + _NODES.reshape((-1,) + (1,) * moments.mean.ndim) * deviation[None])


def _from_samples(samples: Array, exact: Array, base: int) -> Moments:
    weights = _WEIGHTS.reshape((-1,) + (1,) * (samples.ndim - 1))
    mean = (weights * samples).sum(axis=0)
    variance = (weights * (samples - mean[None]) ** 2).sum(axis=0)
    mean = np.where(exact, samples[len(_NODES) // 2], mean)
    return Moments(mean, np.where(exact, 0.0, variance), np.broadcast_to(exact, mean.shape), base, samples)


def _align(array: Array, rank: int, lead: int = 0) -> Array:
    return np.asarray(array.reshape(array.shape[:lead] + (1,) * (rank - array.ndim + lead) + array.shape[lead:]))


def _elementwise(function: Callable[..., Array]) -> Rule:
    """Any element-wise operator: a function of one random base keeps its exact distribution."""

    def rule(analysis: MomentAnalysis, node: Node) -> list[Moments]:
        rank = len(analysis.shape(node.outputs[0]))
        operands = [t for t in node.inputs if not is_empty(t)]
        moments = [analysis.of(t) for t in operands]
        exact = np.ones((1,) * rank, dtype=bool)
        for m in moments:
            exact = exact & _align(m.exact, rank)
        bases = {m.base or id(t) for t, m in zip(operands, moments, strict=True) if not is_constant(t)}
        if len(bases) > 1:
            return [_independent(node, [_aligned(m, rank) for m in moments], exact)]
        samples = [_align(m.samples if m.samples is not None else gaussian_samples(m), rank, lead=1) for m in moments]
        result = np.asarray(function(node, *samples), dtype=np.float64)
        if node.op == "Mul":
            zero = _is_zero([_aligned(m, rank) for m in moments])
            result, exact = np.where(zero, 0.0, result), exact | zero
        return [_from_samples(result, exact, next(iter(bases), 0))]

    return rule


def _aligned(moments: Moments, rank: int) -> Moments:
    return Moments(_align(moments.mean, rank), _align(moments.variance, rank), _align(moments.exact, rank))


def _independent(node: Node, parts: list[Moments], exact: Array) -> Moments:
    """Sums and products of independent variables; for other operators, what constants alone decide."""
    mean, variance = parts[0].mean, parts[0].variance
    for other in parts[1:]:
        if node.op in ("Add", "Sum"):
            mean, variance = mean + other.mean, variance + other.variance
        elif node.op == "Sub":
            mean, variance = mean - other.mean, variance + other.variance
        elif node.op == "Mul":
            square = variance * other.variance + variance * other.mean**2 + other.variance * mean**2
            mean, variance = mean * other.mean, square
        else:
            mean, variance = np.full_like(mean + other.mean, np.nan), np.full_like(variance + other.variance, np.nan)
            exact = np.zeros_like(exact)
    if node.op == "Mul":
        zero = _is_zero(parts)
        mean, variance, exact = np.where(zero, 0.0, mean), np.where(zero, 0.0, variance), exact | zero
    return _known(mean, variance, exact & ~np.isnan(mean))


def _is_zero(factors: list[Moments]) -> Array:
    """Where a product is zero because a factor is, whatever the others are."""
    zero = np.zeros((1,) * factors[0].mean.ndim, dtype=bool)
    for factor in factors:
        zero = zero | (factor.exact & (factor.mean == 0))
    return zero


def _move(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    data = node.inputs if node.op == "Concat" else node.inputs[:1]
    moments = [analysis.of(tensor) for tensor in data]
    shapes = [analysis.shape(tensor) for tensor in data]
    outputs = [analysis.shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
    fields = []
    for pick in ("mean", "variance", "exact"):
        # NaN compares unequal to itself and would stop descriptors from collapsing; move a stand-in.
        arrays = [np.nan_to_num(getattr(m, pick), nan=np.inf) if pick != "exact" else m.exact for m in moments]
        fields.append(MOVERS[node.op](node, arrays, shapes, outputs))
    return [
        _known(np.where(np.isinf(mean), np.nan, mean), np.where(np.isinf(variance), np.nan, variance), exact)
        for mean, variance, exact in zip(*fields, strict=True)
    ]


def _batch_norm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    gamma, beta, mu, var = (input_constant(node, index) for index in range(1, 5))
    if gamma is None or beta is None or mu is None or var is None:
        return []
    rank = len(analysis.shape(node.outputs[0]))
    gamma, beta, mu, var = (_per_channel(v, rank) for v in (gamma, beta, mu, var))
    before = analysis.of(node.inputs[0])
    scale = gamma / np.sqrt(var + float(node.attrs.get("epsilon", 1e-5)))
    exact = before.exact | (gamma == 0)
    mean = np.where(gamma == 0, beta, np.where(before.exact, beta + (before.mean - mu) * scale, beta))
    # With the running variance far below ε, the normalised variance is var/(var+ε), not 1.
    share = var / (var + float(node.attrs.get("epsilon", 1e-5)))
    return [_known(mean, gamma**2 * share, exact)]


def _per_channel(values: Array, rank: int) -> Array:
    return np.asarray(values, dtype=np.float64).reshape([1, -1] + [1] * (rank - 2))


def _conv(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    weight, bias = input_constant(node, 1), input_constant(node, 2)
    if weight is None or (has_input(node, 2) and bias is None):
        return []
    rank = len(analysis.shape(node.outputs[0]))
    groups = int(node.attrs.get("group", 1))
    before = analysis.of(node.inputs[0])
    if before.mean.ndim != rank or any(before.mean.shape[k] > 1 for k in range(rank) if k != 1):
        return []
    cin = analysis.shape(node.inputs[0])[1]
    taps = np.asarray(weight, dtype=np.float64).sum(axis=tuple(range(2, weight.ndim)))
    reads = np.abs(weight).sum(axis=tuple(range(2, weight.ndim))) > 0
    mean, variance, exact = (
        np.broadcast_to(a, (1, cin) + (1,) * (rank - 2)).reshape(groups, -1)
        for a in (before.mean, before.variance, before.exact)
    )
    rows = [slice(g * (len(taps) // groups), (g + 1) * (len(taps) // groups)) for g in range(groups)]
    known = np.where(np.isnan(mean), 0.0, mean)
    out = np.concatenate([taps[r] @ known[g] for g, r in enumerate(rows)])
    spread = np.concatenate(
        [taps[r] ** 2 @ np.where(np.isnan(variance[g]), 0.0, variance[g]) for g, r in enumerate(rows)]
    )
    blind = np.concatenate([reads[r] @ np.isnan(mean[g]) for g, r in enumerate(rows)]) > 0
    # Zero padding: a constant input stays constant at the borders only if it is zero.
    steady = exact & ((mean == 0) | (not _pads(node)))
    unsteady = np.concatenate([reads[r] @ ~steady[g] for g, r in enumerate(rows)]) > 0
    out = out + (0.0 if bias is None else np.asarray(bias, dtype=np.float64))
    as_map = (1, -1) + (1,) * (rank - 2)
    return [
        _known(
            np.where(blind, np.nan, out).reshape(as_map),
            np.where(blind, np.nan, spread).reshape(as_map),
            ~unsteady.reshape(as_map),
        )
    ]


def _pads(node: Node) -> bool:
    """Whether a convolution may pad."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    return any(node.attrs.get("pads", ())) or auto not in ("NOTSET", "VALID", b"NOTSET", b"VALID")


def _gemm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    weight, bias = input_constant(node, 1), input_constant(node, 2)
    if weight is None or node.attrs.get("transA", 0) or (has_input(node, 2) and bias is None):
        return []
    matrix = np.asarray(weight if node.attrs.get("transB", 0) else weight.T, dtype=np.float64)
    before = analysis.of(node.inputs[0])
    depth = matrix.shape[1]
    rank = before.mean.ndim
    if weight.ndim != 2 or any(before.mean.shape[k] > 1 for k in range(rank - 1)):
        return []
    mean, exact = (np.broadcast_to(a, (1,) * (rank - 1) + (depth,)).reshape(-1) for a in (before.mean, before.exact))
    reads = matrix != 0
    out = float(node.attrs.get("alpha", 1.0)) * (matrix @ np.where(np.isnan(mean), 0.0, mean))
    if bias is not None:
        out = out + float(node.attrs.get("beta", 1.0)) * np.broadcast_to(
            np.asarray(bias, np.float64), (1, len(out))
        ).reshape(-1)
    blind, unsteady = (reads @ np.isnan(mean)) > 0, (reads @ ~exact) > 0
    shape = (1,) * (rank - 1) + (-1,)
    return [
        _known(
            np.where(blind, np.nan, out).reshape(shape),
            np.full((*shape[:-1], len(out)), np.nan),
            ~unsteady.reshape(shape),
        )
    ]


def _pass_through(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Max pooling, global average, nearest resizing: a constant stays that constant."""
    before = analysis.of(node.inputs[0])
    if any(before.mean.shape[k] > 1 for k in range(2, before.mean.ndim)):
        return []
    return [_known(before.mean, before.variance, before.exact)]


def _average_pool(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    before = analysis.of(node.inputs[0])
    edges = bool(node.attrs.get("count_include_pad", 0)) and _pads(node)
    return [_known(before.mean, before.variance, before.exact & ((before.mean == 0) | (not edges)))]


def _resize(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    shape, after = analysis.shape(node.inputs[0]), analysis.shape(node.outputs[0])
    if shape[:2] != after[:2] or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return []
    return _pass_through(analysis, node)


def _pad(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    before = analysis.of(node.inputs[0])
    value = input_constant(node, 2) if has_input(node, 2) else np.asarray(node.attrs.get("value", 0.0))
    if value is None or analysis.shape(node.inputs[0])[:2] != analysis.shape(node.outputs[0])[:2]:
        return []
    same = before.mean == float(np.asarray(value).reshape(-1)[0])
    return [_known(before.mean, before.variance, before.exact & same)]


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _clip(node: Node, x: Array, *bounds: Array) -> Array:
    low, high = node.attrs.get("min"), node.attrs.get("max")
    given = [index for index in (1, 2) if has_input(node, index)]
    for index, bound in zip(given, bounds, strict=False):
        low, high = (bound, high) if index == 1 else (low, bound)
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _hard_sigmoid(node: Node, x: Array) -> Array:
    return np.asarray(np.clip(float(node.attrs.get("alpha", 0.2)) * x + float(node.attrs.get("beta", 0.5)), 0.0, 1.0))


def _gelu(node: Node, x: Array) -> Array:
    if str(node.attrs.get("approximate", "none")) == "tanh":
        return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + _erf(x / np.sqrt(2.0)))


_ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "Add": lambda n, *xs: sum(xs[1:], xs[0]),
    "Sum": lambda n, *xs: sum(xs[1:], xs[0]),
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "Div": lambda n, a, b: a / b,
    "Pow": lambda n, a, b: np.power(a, b),
    "Max": lambda n, *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "Min": lambda n, *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "Neg": lambda n, x: -x,
    "Abs": lambda n, x: np.abs(x),
    "Exp": lambda n, x: np.exp(x),
    "Log": lambda n, x: np.log(x),
    "Sqrt": lambda n, x: np.sqrt(x),
    "Reciprocal": lambda n, x: 1.0 / x,
    "Erf": lambda n, x: _erf(x),
    "Relu": lambda n, x: np.maximum(x, 0.0),
    "LeakyRelu": lambda n, x: np.where(x >= 0, x, float(n.attrs.get("alpha", 0.01)) * x),
    "PRelu": lambda n, x, slope: np.where(x >= 0, x, slope * x),
    "Elu": lambda n, x: np.where(x >= 0, x, float(n.attrs.get("alpha", 1.0)) * np.expm1(np.minimum(x, 0.0))),
    "Selu": lambda n, x: (
        float(n.attrs.get("gamma", 1.05070102214813232421875))
        * np.where(x >= 0, x, float(n.attrs.get("alpha", 1.67326319217681884765625)) * np.expm1(np.minimum(x, 0.0)))
    ),
    "Sigmoid": lambda n, x: _sigmoid(x),
    "Tanh": lambda n, x: np.tanh(x),
    "Softplus": lambda n, x: _softplus(x),
    "Mish": lambda n, x: x * np.tanh(_softplus(x)),
    "HardSwish": lambda n, x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Clip": _clip,
}

_RULES: dict[str, Rule] = {
    **{op: _elementwise(function) for op, function in _ELEMENTWISE.items()},
    **{op: _move for op in MOVERS if op not in ("Expand", "Tile")},
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _pass_through,
    "GlobalAveragePool": _pass_through,
    "GlobalMaxPool": _pass_through,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
}
