"""Is a network sparse? Its γ overall and per group, and how far the classic rule can go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.importance import measure
from onnxslim_yolo.ir.graph import Array

BINS = 40
SPARSE_SHARE = 0.1
"""A network with less than this share of |γ| below 0.01 has not been trained for sparsity."""


@dataclass(frozen=True)
class GroupSparsity:
    """One group: its layers, width, and the least, median and largest importance of its channels."""

    members: tuple[str, ...]
    width: int
    least: float
    median: float
    largest: float
    below_001: float
    frozen: str | None


@dataclass(frozen=True)
class Sparsity:
    """What the importance of all prunable channels looks like.

    Attributes:
        kind: "gamma", or "weight" where most channels have no BatchNormalization.
        channels, prunable: coupled channels, and how many of them may be removed.
        below_001, below_01: share of prunable channels below 0.01 and 0.1 (γ) or of the mean (weights).
        suggested: the largest ratio at which a global threshold empties no tensor.
        sparse: whether the network looks trained for sparsity.
        counts, edges: a histogram of all prunable channels.
        groups: every group.
    """

    kind: str
    channels: int
    prunable: int
    below_001: float
    below_01: float
    suggested: float
    sparse: bool
    counts: tuple[int, ...]
    edges: tuple[float, ...]
    groups: tuple[GroupSparsity, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def sparsity_of(channels: Channels) -> Sparsity:
    """Summarise the importance of a network's channels."""
    measured = measure(channels)
    values, prunable = measured.values, channels.prunable
    own = values[prunable & np.isfinite(values)]  # weights may be NaN; a note says so
    unit = 1.0 if measured.kind == "gamma" else float(own.mean()) if own.size else 1.0
    shown = own[np.isfinite(own)]
    counts, edges = np.histogram(shown, bins=BINS) if shown.size else (np.zeros(BINS, int), np.linspace(0, 1, BINS + 1))
    below = _below(own, 0.01 * unit)
    return Sparsity(
        kind=measured.kind,
        channels=channels.count,
        prunable=int(prunable.sum()),
        below_001=below,
        below_01=_below(own, 0.1 * unit),
        suggested=_largest_ratio(channels, values),
        sparse=measured.kind == "gamma" and below >= SPARSE_SHARE,
        counts=tuple(int(c) for c in counts),
        edges=tuple(float(e) for e in edges),
        groups=tuple(_group(channels, values, group.id, unit) for group in channels.groups),
    )


def _group(channels: Channels, values: Array, number: int, unit: float) -> GroupSparsity:
    group = channels.groups[number]
    own = values[group.classes]
    return GroupSparsity(
        members=group.members,
        width=group.width,
        least=float(own.min()),
        median=float(np.median(own)),
        largest=float(own.max()),
        below_001=_below(own, 0.01 * unit),
        frozen=group.frozen,
    )


def _below(values: Array, limit: float) -> float:
    return float((values < limit).mean()) if values.size else 0.0


def _largest_ratio(channels: Channels, values: Array) -> float:
    """The share of channels below the lowest of all tensors' best channels: beyond it, one tensor is emptied first."""
    prunable = channels.prunable
    ceiling = np.inf
    for section in channels.sections:
        classes = section[section != NO_CHANNEL]
        if len(classes) == len(section) and prunable[classes].all():
            ceiling = min(ceiling, float(values[classes].max()))
    own = values[prunable & np.isfinite(values)]  # weights may be NaN; a note says so
    return float((own < ceiling).mean()) if own.size else 0.0
