"""Moments through operators that move, sum or pick elements: the table `RULES`, one row an operator."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis import moment_spatial as spatial
from onnxslim_yolo.analysis.folding import cast, element_type
from onnxslim_yolo.analysis.kept import kept
from onnxslim_yolo.analysis.moment_functions import FUNCTIONS, align, elementwise
from onnxslim_yolo.analysis.moments import MomentAnalysis, Moments, Rule, known
from onnxslim_yolo.analysis.movement import MOVERS, Shape, axes_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, has_input, input_constant, is_empty
from onnxslim_yolo.ops.linear import PLAIN, LinearLayer, is_steady
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.spatial import POOLS, RESIZES, SAMPLERS, may_pad


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
        known(np.where(np.isinf(mean), np.nan, mean), np.where(np.isinf(variance), np.nan, variance), exact)
        for mean, variance, exact in zip(*fields, strict=True)
    ]


def _cast(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Constants as the runtime casts them. Of what varies, only a cast to a float type keeps mean and variance."""
    before, kind = analysis.of(node.inputs[0]), element_type(node.attrs.get("to"))
    if kind is None:
        return []
    value = cast(before.mean, kind)
    exact = before.exact & ~np.isnan(value)
    if kind.kind == "f":
        return [known(np.where(exact, value, before.mean), before.variance, exact)]
    return [known(np.where(exact, value, np.nan), np.full_like(value, np.nan), exact)]


def _batch_norm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    gamma, beta, mu, var = (input_constant(node, index) for index in range(1, 5))
    if gamma is None or beta is None or mu is None or var is None:
        return []
    rank = len(analysis.shape(node.outputs[0]))
    gamma, beta, mu, var = (_per_channel(v, rank) for v in (gamma, beta, mu, var))
    before = analysis.of(node.inputs[0])
    scale = gamma / np.sqrt(var + float(attribute(node, "epsilon")))
    still = analysis.below_floor(var) & (_left(gamma, var, float(attribute(node, "epsilon"))) <= STILL)
    exact = before.exact | (gamma == 0) | still
    mean = np.where(gamma == 0, beta, np.where(before.exact, beta + (before.mean - mu) * scale, beta))
    # With the running variance far below ε, the normalised variance is var/(var+ε), not 1.
    share = var / (var + float(attribute(node, "epsilon")))
    return [known(mean, gamma**2 * share, exact)]


STILL = 1e-3
"""A channel whose output deviates by less than this, by its running variance, is taken for a constant."""

HALF_STEP = 2.0**-25
"""What float16 rounds to 0."""


def _left(gamma: Array, var: Array, epsilon: float) -> Array:
    """How far a normalised channel may still deviate, |γ|·√(v / (v + ε)), with what its variance was rounded from."""
    most = np.maximum(var, HALF_STEP) if _was_half(var) else var
    return np.asarray(np.abs(gamma) * np.sqrt(np.maximum(most, 0.0) / (most + epsilon)))


def _was_half(values: Array) -> bool:
    """Whether numbers were float16 once: all are float16's, and one of them is no plain 0 or 1."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(values.dtype)
    return bool((half == values).all() and ((values != 0) & (values != 1)).any())


def _per_channel(values: Array, rank: int) -> Array:
    return np.asarray(values, dtype=np.float64).reshape([1, -1] + [1] * (rank - 2))


def _linear(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Conv, Gemm and MatMul by a constant: sums of independent channels."""
    layer, before = LinearLayer.of(node), analysis.of(node.inputs[0])
    rank = len(analysis.shape(node.outputs[0]))
    if layer is None or layer.has_computed_bias or before.mean.ndim != rank:
        return []
    axis = layer.channel_axis % rank
    if any(before.mean.shape[k] > 1 for k in range(rank) if k != axis):
        return []
    shape = [-1 if k == axis else 1 for k in range(rank)]
    mean, variance, exact = (
        np.broadcast_to(each.reshape(-1), (layer.inputs,)).reshape(layer.groups, -1)
        for each in (before.mean, before.variance, before.exact)
    )
    bias, (alpha, beta) = _bias_of(layer), layer.factors
    if bias is None:
        return []
    blocks = layer.blocks
    taps, reads = blocks.sum(axis=3), (blocks != 0).any(axis=3)
    out = alpha * _applied(taps, np.where(np.isnan(mean), 0.0, mean)) + beta * bias
    spread = alpha**2 * _applied(taps**2, np.where(np.isnan(variance), 0.0, variance))
    blind = _applied(reads, np.isnan(mean)) > 0
    # Zero padding: a constant input stays constant at the borders only if it is zero.
    steady = exact & ((mean == 0) | is_steady(node))
    unsteady = _applied(reads, ~steady) > 0
    # A pixel's channels are taken for independent; those of a token, or of a pooled map, are not.
    spread = np.where(blind | (layer.channel_axis != 1), np.nan, spread)
    return [known(np.where(blind, np.nan, out).reshape(shape), spread.reshape(shape), ~unsteady.reshape(shape))]


def _applied(blocks: Array, values: Array) -> Array:
    """(groups, outputs, inputs) times (groups, inputs), one value an output."""
    return np.asarray(np.einsum("goi,gi->go", blocks.astype(np.float64), values.astype(np.float64)).reshape(-1))


def _bias_of(layer: LinearLayer) -> Array | None:
    """One value an output; None where it differs from row to row."""
    bias = layer.bias
    if bias is None:
        return np.zeros(layer.outputs)
    if bias.ndim > 1 and bias.size != bias.shape[-1]:
        return None
    return np.broadcast_to(np.asarray(bias, np.float64).reshape(-1), (layer.outputs,))


def _matmul(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """By a constant matrix over channels, as Gemm; of any two, a row or column of zeros makes zeros."""
    if input_constant(node, 1) is not None and (found := _linear(analysis, node)):
        return found
    rank = len(analysis.shape(node.outputs[0]))
    factors = [analysis.of(tensor) for tensor in node.inputs]
    if min(factor.mean.ndim for factor in factors) < 2:
        return []
    rows, columns = (
        (factor.exact & (factor.mean == 0)).all(axis=k, keepdims=True)
        for factor, k in zip(factors, (-1, -2), strict=True)
    )
    zero = align(rows, rank) | align(columns, rank)
    return [known(np.where(zero, 0.0, np.nan), np.where(zero, 0.0, np.nan), zero)]


def _conv_transpose(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Positions differ in how many taps they receive: only what reads zeros alone is known, and is the bias."""
    weight, bias = input_constant(node, 1), input_constant(node, 2)
    before = analysis.of(node.inputs[0])
    rank = len(analysis.shape(node.outputs[0]))
    if (
        weight is None
        or (has_input(node, 2) and bias is None)
        or before.mean.ndim != rank
        or _varies_over_space(before)
    ):
        return []
    layer = LinearLayer.with_weight(node, weight)
    zero = np.broadcast_to((before.exact & (before.mean == 0)).reshape(-1), (layer.inputs,)).reshape(layer.groups, -1)
    unsteady = _applied((layer.blocks != 0).any(axis=3), ~zero) > 0
    value = np.zeros(len(unsteady)) if bias is None else np.asarray(bias, dtype=np.float64)
    value = np.where(unsteady, np.nan, value).reshape((1, -1) + (1,) * (rank - 2))
    return [known(value, np.full_like(value, np.nan), ~np.isnan(value))]


def _reduce(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Over positions, a mean, maximum or minimum of a constant is that constant; others are computed of constants."""
    before, shape, row = analysis.of(node.inputs[0]), analysis.shape(node.inputs[0]), REDUCTIONS[node.op]
    rank, given = len(shape), axes_of(node)
    if not given and attribute(node, "noop_with_empty_axes"):
        return [before]
    axes = tuple(sorted({axis % rank for axis in given})) if given else tuple(range(rank))
    if 0 in axes and (shape[0] != 1 or not row.steady):
        return []  # over the batch, which may be any
    gone = () if attribute(node, "keepdims") else axes
    if row.steady and all(before.mean.shape[axis] == 1 for axis in axes):
        return [known(*(np.squeeze(field, axis=gone) for field in (before.mean, before.variance, before.exact)))]
    times = float(np.prod([shape[k] / before.mean.shape[k] for k in axes]))
    exact = before.exact.all(axis=axes, keepdims=True)
    with np.errstate(all="ignore"):
        value = np.where(exact, row.f(before.mean, times, axes), np.nan)
    exact = exact & np.isfinite(value)
    return [known(*(np.squeeze(field, axis=gone) for field in (value, np.full_like(value, np.nan), exact)))]


def _depth_to_space(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Known where the block² channels that make one channel's pixels are known to be the same constant."""
    before = analysis.of(node.inputs[0])
    if before.mean.shape[1] == 1 or _varies_over_space(before):
        return [known(before.mean, before.variance, before.exact)] if before.mean.size == 1 else []
    block = int(node.attrs["blocksize"]) ** 2
    by_row = attribute(node, "mode") == "DCR"
    mean, exact = (
        field.reshape(block, -1) if by_row else field.reshape(-1, block).T for field in (before.mean, before.exact)
    )
    same = exact.all(axis=0) & (mean == mean[:1]).all(axis=0)
    value = np.where(same, mean[0], np.nan).reshape(1, -1, 1, 1)
    return [known(value, np.full_like(value, np.nan), same.reshape(1, -1, 1, 1))]


def _pass_through(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Max pooling, global average, nearest resizing: a constant stays that constant."""
    before = analysis.of(node.inputs[0])
    if _varies_over_space(before):
        return []
    return [known(before.mean, before.variance, before.exact)]


def _varies_over_space(moments: Moments) -> bool:
    return any(moments.mean.shape[k] > 1 for k in range(2, moments.mean.ndim))


def _average_pool(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    before = analysis.of(node.inputs[0])
    if _varies_over_space(before):
        return []
    edges = bool(attribute(node, "count_include_pad")) and may_pad(node)
    return [known(before.mean, before.variance, before.exact & ((before.mean == 0) | (not edges)))]


def _resize(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    shape, after = analysis.shape(node.inputs[0]), analysis.shape(node.outputs[0])
    if shape[:2] != after[:2] or attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return []
    return _pass_through(analysis, node)


def _where(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    return [spatial.where(analysis, node, elementwise(FUNCTIONS["Where"])(analysis, node)[0])]


RULES: dict[str, Rule] = {
    **{op: elementwise(function) for op, function in FUNCTIONS.items()},
    **{op: _move for op in MOVERS if op != "Cast"},
    "Cast": _cast,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(PLAIN, _linear),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "DepthToSpace": _depth_to_space,
    **dict.fromkeys(REDUCTIONS, _reduce),
    **{op: _pass_through if row.steady else spatial.zero_stays for op, row in POOLS.items()},
    "AveragePool": _average_pool,
    **dict.fromkeys(RESIZES, _resize),
    **dict.fromkeys(SAMPLERS, spatial.zero_stays),
    "Pad": spatial.pad,
    **dict.fromkeys(("RMSNormalization", "LRN"), spatial.zero_stays),
    **dict.fromkeys(("CumSum", "CenterCropPad"), spatial.zeros_beside),
    "InstanceNormalization": spatial.instance_norm,
    "GroupNormalization": spatial.group_norm,
    "LayerNormalization": spatial.layer_norm,
    "TopK": spatial.top_values,
    "Where": _where,
}


def moments_of(graph: gs.Graph, shapes: dict[int, Shape | None], variance_floor: float = 0.0) -> MomentAnalysis:
    """Moments of every tensor of a graph; arguments as of `MomentAnalysis`. Kept until the graph changes."""
    return kept(
        graph,
        "moments",
        lambda: MomentAnalysis(graph, shapes, RULES, variance_floor),
        lambda found: found.answers(shapes, variance_floor),
    )
