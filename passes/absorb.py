"""absorb: let biases take over what removed channels contribute on average.

A contraction y = b + Σ_c W[:, c] ∗ x[c] loses the terms of its removed channels. Each is replaced by its expectation:

    b += Σ_{c removed} (Σ_taps W[:, c]) · E[x[c]]

with E[x[c]] from the BatchNormalization statistics carried through the activation (see `analysis.moments`; no data is
needed). Where the convolution has no bias and a BatchNormalization reads it alone, that one's running mean is lowered
instead; otherwise a bias is made. The removed columns' weights stay, and are cut by `slice`.

For a channel that is exactly constant and a contraction without zero padding this is exact; with padding it is exact
but for the border. `scope=exact` takes provably constant channels only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import VARIANCE_FLOOR, MomentAnalysis
from onnxslim_yolo.ir.graph import Array, Namer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.shift import shift_outputs


@dataclass(frozen=True)
class AbsorbConstants:
    """Move the expected contribution of removed channels into biases.

    Args:
        scope: "all", or "exact": only channels that provably are constants.
        variance_floor: channels whose running variance is below this count as constant, too (see `prune`).
    """

    name: ClassVar[str] = "absorb"
    effect: ClassVar[Effect] = "approximate"

    scope: Literal["all", "exact"] = "all"
    variance_floor: float = VARIANCE_FLOOR

    def run(self, model: Model) -> int:
        """Shift biases in place; return the number of contractions shifted."""
        if model.plan is None:
            return 0
        plan = open_plan(model)
        if plan.absorbed or plan.keep.all():
            return 0
        moments = moments_of(model.graph, plan.channels.shapes, self.variance_floor)
        places = contractions(plan.channels)
        # All shifts before any is applied: each speaks about the graph as analysed.
        shifts = [self._shift(place, ~plan.keep, moments) for place in places]
        name = Namer(model.graph)
        applied = 0
        for place, shift in zip(places, shifts, strict=True):
            applied += shift is not None and shift_outputs(model, place.node, shift, name)
        model.plan = replace(plan, absorbed=True)
        return applied

    def _shift(self, place: Contraction, removed: Array, moments: MomentAnalysis) -> Array | None:
        gone = (place.classes >= 0) & removed[np.maximum(place.classes, 0)]
        if not gone.any() or place.taps is None:
            return None
        known = moments.of(place.node.inputs[place.index])
        mean = along(known.mean, place.axis, len(gone))
        usable = gone & np.isfinite(mean)
        if self.scope == "exact":
            usable &= along(known.exact, place.axis, len(gone))
        if not (usable & (mean != 0)).any():
            return None
        return np.asarray(place.taps[:, usable] @ mean[usable])
