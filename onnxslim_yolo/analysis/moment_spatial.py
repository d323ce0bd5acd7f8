"""Moments through operators that sum, sample, normalise or pad a map: what a constant becomes."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.moments import MomentAnalysis, Moments, known
from onnxslim_yolo.analysis.movement import CannotMoveError, expand_axis, numbers_of, pad_value, pad_widths
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, has_input, input_constant


def _of_channels(analysis: MomentAnalysis, node: Node) -> Moments:
    """What is known of the data, along its channels only."""
    before = analysis.of(node.inputs[0])
    if any(before.mean.shape[k] > 1 for k in range(before.mean.ndim) if k != 1):
        raise CannotMoveError("varies over space")
    return before


def zero_stays(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """A map of zeros stays one: LpPool, RoiAlign, GridSample with zeros around, and what else averages."""
    before = _of_channels(analysis, node)
    zero = before.exact & (before.mean == 0)
    if attribute(node, "padding_mode") not in (None, "zeros"):
        zero = before.exact
    rank = len(analysis.shape(node.outputs[0]))
    value = np.where(zero, before.mean, np.nan)
    shape = value.shape[:2] + (1,) * (rank - 2)
    return [known(value.reshape(shape), np.full(shape, np.nan), zero.reshape(shape))]


def zeros_beside(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Running sums of zeros, and zeros put around them, along any axis but the channels': CumSum, CenterCropPad."""
    axes = numbers_of(node, "axis") or numbers_of(node, "axes") or range(len(analysis.shape(node.inputs[0])))
    along = {axis % len(analysis.shape(node.inputs[0])) for axis in axes}
    return [] if along & {0, 1} else zero_stays(analysis, node)


def instance_norm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """γ·(x − mean)/σ + β: mean β, variance γ²; a map of zeros gives β."""
    gamma, beta = input_constant(node, 1), input_constant(node, 2)
    before = analysis.of(node.inputs[0])
    if gamma is None or beta is None:
        return []
    rank = before.mean.ndim
    zero = (before.exact & (before.mean == 0)).all(axis=tuple(range(2, rank)), keepdims=True)
    gamma, beta = (np.asarray(v, dtype=np.float64).reshape((1, -1) + (1,) * (rank - 2)) for v in (gamma, beta))
    return [known(beta, gamma**2, zero | (gamma == 0))]


def group_norm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """As `instance_norm`, over a group's channels: zeros in all of them give β."""
    gamma, beta = input_constant(node, 1), input_constant(node, 2)
    before = _of_channels(analysis, node)
    if gamma is None or beta is None:
        return []
    width, groups = analysis.shape(node.inputs[0])[1], int(node.attrs["num_groups"])
    zero = expand_axis(before.exact & (before.mean == 0), 1, width).reshape(groups, -1).all(axis=1)
    like = (1, -1) + (1,) * (before.mean.ndim - 2)
    gamma, beta = (np.repeat(np.asarray(v, np.float64), width // v.size).reshape(like) for v in (gamma, beta))
    return [known(beta, gamma**2, np.repeat(zero, width // groups).reshape(like) | (gamma == 0))]


def layer_norm(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """Where γ is 0, β. What is normalised has no statistics of its own."""
    gamma, beta = input_constant(node, 1), input_constant(node, 2)
    rank = len(analysis.shape(node.inputs[0]))
    if gamma is None or gamma.ndim > rank or (has_input(node, 2) and beta is None):
        return []
    like = (1,) * (rank - gamma.ndim) + gamma.shape
    scale = np.asarray(gamma, dtype=np.float64).reshape(like)
    shift = np.zeros(like) if beta is None else np.broadcast_to(np.asarray(beta, np.float64), gamma.shape).reshape(like)
    still = scale == 0
    nothing = np.where(still, 0.0, np.nan)
    return [known(np.where(still, shift, np.nan), nothing, still)]


def top_values(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """The largest of equal numbers is that number; where it stood is not known."""
    before = analysis.of(node.inputs[0])
    axis = int(attribute(node, "axis")) % before.mean.ndim
    return [] if before.mean.shape[axis] > 1 else [known(before.mean, before.variance, before.exact)]


def pad(analysis: MomentAnalysis, node: Node) -> list[Moments]:
    """What is put around a constant is that constant (reflect, edge, wrap), or the padding's value."""
    before = _of_channels(analysis, node)
    shape = analysis.shape(node.inputs[0])
    widths = pad_widths(node, len(shape))
    constant = attribute(node, "mode") == "constant"
    if not constant:
        return [] if widths[1] != (0, 0) else [known(before.mean, before.variance, before.exact)]
    value = pad_value(node)
    if value is None or widths[0] != (0, 0):
        return []
    mean, variance, exact = before.mean, before.variance, before.exact
    if widths[1] != (0, 0):
        mean, variance, exact = (
            _beside(expand_axis(field, 1, shape[1]), widths[1], filling)
            for field, filling in ((mean, value), (variance, 0.0), (exact, True))
        )
    inside = all(max(pair) <= 0 for pair in widths[2:])
    return [known(mean, variance, exact & (inside | (mean == value)))]


def _beside(field: Array, widths: tuple[int, int], filling: float) -> Array:
    """Channels put beside those of a descriptor, or cropped off them."""
    cropped = field[:, max(-widths[0], 0) : field.shape[1] - max(-widths[1], 0)]
    ends = [np.full((1, max(n, 0), *field.shape[2:]), filling, dtype=field.dtype) for n in widths]
    return np.concatenate([ends[0], cropped, ends[1]], axis=1)


def where(analysis: MomentAnalysis, node: Node, both: Moments) -> Moments:
    """Where: whatever the condition, of two equal constants comes that constant."""
    rank = both.mean.ndim
    first, second = (analysis.of(tensor) for tensor in node.inputs[1:3])
    fields = [m.reshape((1,) * (rank - m.ndim) + m.shape) for m in (first.mean, second.mean, first.exact, second.exact)]
    same = fields[2] & fields[3] & (fields[0] == fields[1])
    if not same.any():
        return both
    return known(np.where(same, fields[0], both.mean), np.where(same, 0.0, both.variance), both.exact | same)
