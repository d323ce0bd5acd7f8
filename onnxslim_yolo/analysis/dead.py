"""Channels that provably contribute nothing, or a constant that a bias can take over.

A coupled channel is dead when at every contraction that reads it, one of these holds:

* it is exactly zero there (γ = β = 0, or filters of zeros, followed through the operators in between);
* every weight that reads it is zero;
* it is exactly a constant v ≠ 0, and the contraction does not pad: then Σ W·v moves into the bias, exactly.

A channel that no contraction reads, and that reaches no output, is dead as well.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.ir.graph import Array


def dead_channels(channels: Channels, moments: MomentAnalysis, *, absorb: bool = True) -> Array:
    """Per class, whether it can be removed without changing any output; shape (count,), bool.

    Args:
        absorb: count constants that a bias can take over (the `absorb` pass does it) as dead, too.
    """
    alive = ~channels.prunable
    for place in contractions(channels):
        known = moments.of(place.node.inputs[place.index])
        exact = along(known.exact, place.axis, len(place.classes))
        value = along(known.mean, place.axis, len(place.classes))
        harmless = exact & (value == 0)
        if absorb and place.weighted and place.steady:
            harmless |= exact & np.isfinite(value)
        harmless |= ~place.reads
        needed = place.classes[~harmless]
        alive[needed[needed != NO_CHANNEL]] = True
    return ~alive


def along(descriptor: Array, axis: int, size: int) -> Array:
    """A descriptor along one axis, shape (size,): what holds everywhere along the others, or their common value.

    Truth values are joined by "and"; numbers that differ along the other axes become NaN.
    """
    axis %= descriptor.ndim
    rows = np.moveaxis(descriptor, axis, 0).reshape(descriptor.shape[axis], -1)
    joined = (
        rows.all(axis=1)
        if descriptor.dtype == bool
        else np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)
    )
    return np.broadcast_to(joined, (size,))
