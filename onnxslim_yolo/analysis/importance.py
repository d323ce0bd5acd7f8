"""How much a coupled channel matters.

* `gamma`: |γ| of the BatchNormalizations that scale it (Liu et al. 2017, "Learning Efficient Convolutional Networks
  through Network Slimming"), aggregated over all of them.
* `weight`: the L2 norm of the filters that make it (Li et al. 2017, "Pruning Filters for Efficient ConvNets"), per
  weight, aggregated likewise: what is left to go by where most channels have no γ (it was folded away, say).

`auto` takes γ where most prunable channels have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ops.norms import is_norm_by_channel

Kind = Literal["auto", "gamma", "weight"]
Aggregate = Literal["mean", "max", "sum"]


@dataclass(frozen=True)
class Importance:
    """Importance per class, and in words how it was measured.

    Attributes:
        values: shape (count,), float64, ≥ 0.
        kind: "gamma" or "weight".
        remark: what people should know about the choice.
        has_gamma: per class, whether any BatchNormalization scales it; shape (count,), bool.
    """

    values: Array
    kind: Literal["gamma", "weight"]
    remark: str
    has_gamma: Array


def measure(
    channels: Channels, kind: Kind = "auto", aggregate: Aggregate = "mean", *, normalise: bool = False
) -> Importance:
    """Importance of every coupled channel.

    Args:
        kind: see the module.
        aggregate: how several γ (or filters) of one coupled channel become one number.
        normalise: divide by the mean over the channel's group, which compares channels within layers only.
    """
    gamma, has_gamma = _aggregate(channels, _gammas(channels), aggregate)
    weight, _ = _aggregate(channels, _norms(channels), aggregate)
    prunable = channels.prunable
    share = float(has_gamma[prunable].mean()) if prunable.any() else 0.0
    if kind == "gamma" or (kind == "auto" and share > 0.5):
        values, remark = _gamma_first(channels, gamma, has_gamma, weight, share)
        chosen: Literal["gamma", "weight"] = "gamma"
    else:
        values, chosen = weight, "weight"
        remark = "" if kind == "weight" else f"{_how_few(share)} a BatchNormalization: ranked by weight norms, not by γ"
    if normalise:
        values = values / np.maximum(_group_means(channels, values), 1e-30)
    return Importance(values, chosen, remark, has_gamma)


def _how_few(share: float) -> str:
    """Whether one was folded into its convolution before the file was written, or never was, nobody can tell."""
    return f"only {share:.0%} of the prunable channels have" if share else "no prunable channel has"


def _gamma_first(channels: Channels, gamma: Array, has_gamma: Array, weight: Array, share: float) -> tuple[Array, str]:
    if has_gamma.all() or not has_gamma.any():
        return gamma if has_gamma.any() else weight, "" if has_gamma.any() else "no γ anywhere: ranked by weight norms"
    # Channels without γ get what is comparable: their norm relative to their layer's, times the typical γ.
    typical = float(gamma[has_gamma].mean())
    relative = weight / np.maximum(_group_means(channels, weight), 1e-30)
    remark = f"{1 - share:.0%} of the prunable channels have no γ: ranked by weight norms relative to their layer"
    return np.where(has_gamma, gamma, relative * typical), remark if share < 1 else ""


def _gammas(channels: Channels) -> list[tuple[Array, Array]]:
    return [
        (use.labels, np.abs(use.constant.values.astype(np.float64)))
        for use in channels.uses
        if is_norm_by_channel(use.node) and use.index == 1
    ]


def _norms(channels: Channels) -> list[tuple[Array, Array]]:
    return [(use.labels, _norm(use)) for use in channels.uses if use.role == "out"]


def _norm(use: AxisUse) -> Array:
    """Root mean square of each output channel's filter, so that layers of different fan-in compare."""
    values = use.constant.values.astype(np.float64)
    others = tuple(k for k in range(values.ndim) if k != use.axis)
    return np.asarray(np.sqrt((values**2).mean(axis=others)))


def _aggregate(channels: Channels, facts: list[tuple[Array, Array]], how: Aggregate) -> tuple[Array, Array]:
    total, count = np.zeros(channels.count), np.zeros(channels.count)
    for labels, values in facts:
        own = labels != NO_CHANNEL
        if how == "max":
            np.maximum.at(total, labels[own], values[own])
        else:
            np.add.at(total, labels[own], values[own])
        np.add.at(count, labels[own], 1)
    if how == "mean":
        total = total / np.maximum(count, 1)
    return total, count > 0


def _group_means(channels: Channels, values: Array) -> Array:
    means = np.zeros(channels.count)
    for group in channels.groups:
        means[group.classes] = values[group.classes].mean()
    return means
