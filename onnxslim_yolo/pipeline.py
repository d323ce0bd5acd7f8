"""The default order of passes, and the list of every pass of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxslim_yolo.manager import Pass, parse_pipeline
from onnxslim_yolo.passes import (
    AbsorbConstants,
    Activations,
    Canonicalise,
    FocusToConv,
    FoldAffine,
    FoldBatchNorm,
    Head,
    PadToPool,
    PruneChannels,
    PruneToTarget,
    Reconstruct,
    ReparamBranches,
    ShuffleToGather,
    SliceChannels,
    SnapWidths,
    SppToSppf,
)

if TYPE_CHECKING:
    from onnxslim_yolo.graph import Model
    from onnxslim_yolo.options import CompileOptions

PASSES: tuple[type[Pass], ...] = (
    Canonicalise,
    ShuffleToGather,
    Head,
    FocusToConv,
    SppToSppf,
    PruneChannels,
    PruneToTarget,
    SnapWidths,
    AbsorbConstants,
    Reconstruct,
    SliceChannels,
    ReparamBranches,
    FoldBatchNorm,
    FoldAffine,
    Activations,
    PadToPool,
)
"""Every pass of this package, in the order in which the default pipeline runs them."""


def preparation(options: CompileOptions) -> list[Pass]:
    """What brings any exporter's graph into one plain form. Done with every pipeline."""
    height, width = options.imgsz or (0, 0)
    return [Canonicalise(height, width), ShuffleToGather(), Canonicalise()]


def remainder(options: CompileOptions, model: Model) -> list[Pass]:
    """What follows the preparation: the user's pipeline, or the default one with the user's options."""
    if options.passes is not None:
        return parse_pipeline(options.passes)
    return [Head(options.head), FocusToConv(), SppToSppf(), *_pruning(options, model), *_fusing()]


def _pruning(options: CompileOptions, model: Model) -> list[Pass]:
    if options.prune == 0 and options.target_macs is None and options.target_params is None:
        return []
    prune = PruneChannels(
        ratio=options.prune,
        scope=options.scope,
        importance=options.importance,
        aggregate=options.aggregate,
        normalise=options.normalise,
        floor=options.floor,
        keep=options.keep,
    )
    snap = SnapWidths(to=options.snap, isa=options.isa, runtime=options.target)
    if options.target_macs is not None or options.target_params is not None:
        from onnxslim_yolo.budgeting import reach

        prune = reach(model, prune, snap, macs=options.target_macs, params=options.target_params)
    steps: list[Pass] = [prune, snap]
    if prune.ratio == "dead":
        steps.append(AbsorbConstants(scope="exact"))
    elif options.compensate == "constant":
        steps.append(AbsorbConstants())
    return [*steps, SliceChannels()]


def _fusing() -> list[Pass]:
    return [ReparamBranches(), FoldBatchNorm(), FoldAffine(), Activations(), PadToPool(), Canonicalise()]
