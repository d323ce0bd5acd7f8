"""The pruning ratio that comes down to a share of the source's MACs or parameters, found by bisection.

Removing more of one ranking never costs more, up to the steps of the width grid, so the cost is monotone in the ratio
but for these steps, and bisection over the ratio ends at the smallest one that meets the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.drop_dead import DropDead
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.passes.prune import PruneChannels
from onnxslim_yolo.passes.slice import SliceChannels
from onnxslim_yolo.passes.snap import SnapWidths
from onnxslim_yolo.pruning.plan import open_plan

STEPS = 12
LARGEST = 0.99


def reach(
    model: Model,
    prune: PruneChannels,
    snap: SnapWidths,
    folding: Sequence[Pass],
    *,
    macs: float | None = None,
    params: float | None = None,
) -> PruneChannels:
    """The pass `prune` with the smallest ratio at which MACs or parameters are at most the given share.

    Args:
        model: the source, not edited but for its plan's ranking (made anew if dead layers will have gone first).
        snap: the grid that widths are moved to.
        folding: what runs on the sliced network: merged branches and moved convolutions cost less.
        macs, params: the share of the source's. One of them.

    Raises:
        UsageError: even the largest ratio does not come down that far; the message says how far it does.
    """
    full = cost_of(model.graph)
    without = model.copy()
    if DropDead(prune.keep).run(without):
        model = without
    ranked = replace(prune, ratio=0.0)
    # Ranked once, not at every step: with calibration images that takes minutes. The copies' plans inherit it.
    ranked.rank(model, open_plan(model))

    def share(ratio: float) -> float:
        trial = model.copy()
        _at(prune, ratio).run(trial)
        snap.run(trial)
        for step in (SliceChannels(), *folding):
            step.run(trial)
        cost = cost_of(trial.graph)
        return cost.macs / max(full.macs, 1) if macs is not None else cost.parameters / max(full.parameters, 1)

    target = macs if macs is not None else params
    if target is None:
        return prune
    low, high = 0.0, LARGEST
    least = share(high)
    if least > target:
        what = "MACs" if macs is not None else "parameters"
        raise UsageError(
            f"the {what} cannot come down to {target:.2f} of the source: pruning all that can be leaves {least:.2f}",
            file=model.source.file,
            hint="a higher target, --scope all, fewer --keep, or a finer --snap",
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        if share(middle) <= target:
            high = middle
        else:
            low = middle
    return _at(prune, high)


def _at(prune: PruneChannels, level: float) -> PruneChannels:
    """The pass that prunes more the higher the level in [0, 1): a ratio, or by curves a share of the MACs."""
    return replace(prune, macs=1 - level, ratio=0.0) if prune.allocate == "curves" else replace(prune, ratio=level)
