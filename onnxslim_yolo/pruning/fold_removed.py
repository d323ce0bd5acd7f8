"""Folding removed channels into the weights of those that stay: the algebra of `reconstruct` for one contraction.

y = W·x over columns with mean μ and covariance Σ (see `analysis.calibration`). With R the removed columns and K
the kept ones, A = Σ_RK (Σ_KK + λI)⁻¹ predicts x_R − μ_R from x_K − μ_K with the least squared error, so that

    W_K += W_R·A        b += W_R·(μ_R − A·μ_K)

leaves y with the least squared error that W_K can have. λ is a share of the mean diagonal of Σ_KK.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.analysis.contraction import Contraction
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ops.linear import LinearLayer, is_transposed_conv
from onnxslim_yolo.pruning.calibration import Statistics


@dataclass(frozen=True)
class Folded:
    """A contraction's new weight (the node's layout, float64) and what its outputs are shifted by, shape
    (outputs,)."""

    weight: Array
    shift: Array


def fold(
    place: Contraction, weight: Array, keep: Array, statistics: Statistics, ridge: float, expected: Array
) -> Folded | None:
    """Fold the removed input channels of one contraction into the kept ones; None if none is removed.

    Args:
        weight: the node's. keep: per class. statistics: of the contraction's columns. ridge: λ.
        expected: per input channel its expectation without data, NaN where unknown: used where statistics are not
            finite.
    """
    gone = (place.classes >= 0) & ~keep[np.maximum(place.classes, 0)]
    if not gone.any():
        return None
    taps = statistics.taps
    blocks = matrices(place.node, weight, taps)
    groups, rows, columns = blocks.shape
    shift = np.zeros((groups, rows))
    for g in range(groups):
        mine = slice(g * columns, (g + 1) * columns)
        removed = np.repeat(gone, taps)[mine]
        mean, covariance = statistics.mean[mine], statistics.covariance[mine, mine]
        finite = np.isfinite(mean) & np.isfinite(np.diagonal(covariance))
        mean = np.where(finite, mean, np.nan_to_num(np.repeat(expected, taps)[mine]))
        known = removed & finite
        predict = regression(covariance, known, ~removed & finite, ridge)
        block = blocks[g]
        lost = block[:, removed] @ mean[removed] - block[:, known] @ (predict @ mean[~removed & finite])
        block[:, ~removed & finite] += block[:, known] @ predict
        shift[g] = lost
    layer = LinearLayer.with_weight(place.node, weight)
    # Rows that are kernel positions of one output add up; a transposed convolution adds every stride-th of them.
    total = shift.reshape(layer.outputs, -1).sum(axis=1) / layer.overlap
    return Folded(weight_of(place.node, blocks, weight.shape, taps), total)


def regression(covariance: Array, removed: Array, kept: Array, ridge: float) -> Array:
    """A = Σ_RK (Σ_KK + λI)⁻¹, shape (removed, kept)."""
    inner = covariance[np.ix_(kept, kept)]
    if not inner.size:
        return np.zeros((int(removed.sum()), 0))
    return ridge_regression(covariance[np.ix_(removed, kept)], inner, ridge)


def ridge_regression(cross: Array, inner: Array, ridge: float) -> Array:
    """Σ_dx (Σ_xx + λI)⁻¹ of Σ_dx and Σ_xx, shape as the first; λ is a share of the mean diagonal."""
    inner = inner + np.eye(len(inner)) * max(ridge * float(np.diagonal(inner).mean()), 1e-30)
    return np.asarray(np.linalg.solve(inner, cross.T).T)


def matrices(node: Node, weight: Array, taps: int) -> Array:
    """A weight as (groups, rows, columns), float64, fresh. Rows are outputs, times kernel positions if `taps` is
    1."""
    blocks = LinearLayer.with_weight(node, weight).blocks
    groups, outputs, inputs, positions = blocks.shape
    if taps == 1 or is_transposed_conv(node):
        return np.array(blocks.transpose(0, 1, 3, 2).reshape(groups, outputs * positions, inputs))
    return np.array(blocks.reshape(groups, outputs, inputs * positions))


def weight_of(node: Node, blocks: Array, shape: tuple[int, ...], taps: int) -> Array:
    """The inverse of `matrices`."""
    layer = LinearLayer.with_weight(node, np.empty(shape))
    groups, positions = len(blocks), layer.taps
    if taps == 1 or is_transposed_conv(node):
        split = blocks.reshape(groups, -1, positions, layer.inputs // groups).transpose(0, 1, 3, 2)
    else:
        split = blocks.reshape(groups, -1, layer.inputs // groups, positions)
    return layer.stored(split)
