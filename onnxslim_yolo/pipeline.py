"""The default order of passes, and the list of every pass of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from onnxslim_yolo.manager import Pass, parse_pipeline
from onnxslim_yolo.passes import (
    AbsorbConstants,
    Activations,
    Canonicalise,
    ConvBeforeResize,
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
    ConvBeforeResize,
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
    if options.prune == 0 and _target(options) is None:
        return []
    prune = PruneChannels(
        ratio=options.prune,
        scope=options.scope,
        importance=options.importance,
        aggregate=options.aggregate,
        normalise=options.normalise,
        floor=options.floor,
        keep=options.keep,
        allocate=options.allocate,
        calib=options.calib,
    )
    snap = SnapWidths(to=options.snap, isa=options.isa, runtime=options.target, table=options.table)
    target = _target(options)
    steps = _to_target(target, prune, snap, options, model) if target is not None else [prune, snap]
    if target is None and prune.ratio == "dead":
        steps.append(AbsorbConstants(scope="exact"))
    elif options.compensate == "constant":
        steps.append(AbsorbConstants())
    elif options.compensate == "reconstruct":
        steps.append(Reconstruct(options.calib))
    return [*steps, SliceChannels()]


Cost = Literal["latency", "macs", "params"]


def _target(options: CompileOptions) -> tuple[Cost, str] | None:
    """The limit that is asked for instead of a ratio: of what cost, and how much."""
    if options.target_latency is not None:
        return "latency", options.target_latency
    if options.target_macs is not None:
        return "macs", f"{options.target_macs:g}x"
    return None if options.target_params is None else ("params", f"{options.target_params:g}x")


def _to_target(
    target: tuple[Cost, str], prune: PruneChannels, snap: SnapWidths, options: CompileOptions, model: Model
) -> list[Pass]:
    """Widths as a knapsack; where the user wants another grid than `auto`, the ratio that meets the limit on it."""
    cost, limit = target
    if (options.snap != "auto" or options.allocate == "curves") and cost != "latency":
        from onnxslim_yolo.budgeting import reach

        return [reach(model, prune, snap, _folding(), macs=options.target_macs, params=options.target_params), snap]
    knapsack = PruneToTarget(
        target=limit,
        cost=cost,
        runtime=options.target,
        isa=options.isa,
        table=options.table,
        scope=options.scope,
        importance=options.importance,
        aggregate=options.aggregate,
        normalise=options.normalise,
        floor=options.floor,
        keep=options.keep,
        calib=options.calib,
    )
    return [knapsack]


def _fusing() -> list[Pass]:
    return [*_folding(), Activations(), PadToPool(), Canonicalise()]


def _folding() -> list[Pass]:
    """The part of fusing after which a network has fewer multiplications and parameters."""
    return [ReparamBranches(), FoldBatchNorm(), FoldAffine(), ConvBeforeResize()]
