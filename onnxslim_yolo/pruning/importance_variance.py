"""Importance `variance`: the share of its readers' output variance that a channel makes up.

A removed channel's mean is absorbed by a bias; what is lost is its variation. With channels taken as independent,

    I(c) = Σ over contractions that read c of   Var(x_c)·‖W_c‖²  /  Σ_j Var(x_j)·‖W_j‖²

with Var from the BatchNormalization statistics, pushed through the operators in between (see `analysis.moments`), so
that no data are needed; or as measured on calibration images. Where it is not known, it is the contraction's typical
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ops.linear import LinearLayer
from onnxslim_yolo.pruning.calibration import Statistics

VARIANCE_WEIGHT = 1 / 3
"""What a share of variance counts in a geometric mean with what was fitted to calibration images: on held-out ones of
COCO a third to a half keeps most; of BCCD a third costs nothing, and a half does."""


def average(fitted: Array, variance: Array) -> Array:
    """The weighted geometric mean of a loss fitted to calibration images and the share of variance that goes with it.

    Few images show too little of what depends on what: fitted to them, channels seem redundant that on other images are
    not. Shares of variance are estimated well from anything, but know nothing of redundancy. The units do not matter.
    """
    # Rounding leaves a loss of nothing slightly below it.
    return np.asarray(np.maximum(fitted, 0.0) ** (1 - VARIANCE_WEIGHT) * np.maximum(variance, 0.0) ** VARIANCE_WEIGHT)


def variance_importance(graph: gs.Graph, channels: Channels) -> tuple[Array, float]:
    """Per class its importance, shape (count,), and the share of read channels whose variance is known."""
    moments = moments_of(graph, channels.shapes)
    total = np.zeros(channels.count)
    seen, known = 0, 0
    for place in contractions(channels):
        variance = along(moments.of(place.node.inputs[place.index]).variance, place.axis, len(place.classes))
        if _add_shares(total, place, variance):
            seen, known = seen + variance.size, known + int(np.isfinite(variance).sum())
    return total, known / max(seen, 1)


def measured_variance(channels: Channels, places: Sequence[Contraction], statistics: Sequence[Statistics]) -> Array:
    """The same per class of what was measured at these contractions, shape (count,)."""
    total = np.zeros(channels.count)
    for place, measured in zip(places, statistics, strict=True):
        _add_shares(total, place, np.diagonal(measured.by_channel().covariance))
    return total


def _add_shares(total: Array, place: Contraction, variance: Array) -> bool:
    """Add each input channel's share of a contraction's output variance to its class; False without a weight."""
    shares = position_shares(place, variance)
    if shares is None:
        return False
    own = place.classes != NO_CHANNEL
    np.add.at(total, place.classes[own], shares[own])
    return True


def position_shares(place: Contraction, variance: Array) -> Array | None:
    """What share each input channel has of a contraction's output variance, shape (n,); None without a weight."""
    energy = column_energy(place)
    if energy is None:
        return None
    finite = np.isfinite(variance)
    typical = float(variance[finite].mean()) if finite.any() else 1.0
    share = np.where(finite, variance, typical) * energy
    return np.asarray(share / max(float(share.sum()), 1e-30))


def column_energy(place: Contraction) -> Array | None:
    """‖W_c‖² of each input channel's weights, over outputs and kernel positions, shape (n,); None without a
    weight."""
    layer = LinearLayer.of(place.node) if place.weighted else None
    if layer is None:
        return None
    return np.asarray((layer.blocks**2).sum(axis=(1, 3)).reshape(-1))
