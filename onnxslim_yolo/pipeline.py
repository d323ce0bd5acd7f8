"""The default order of passes, and every pass there is.

Passes of third parties come from the entry point group `onnxslim_yolo.passes`.
"""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.files.spelling import parse_passes
from onnxslim_yolo.latency.devices import adds_in_16_bits
from onnxslim_yolo.passes import (
    AbsorbConstants,
    Activations,
    Canonicalise,
    ConvBeforeResize,
    ConvBeforeSplit,
    DropBlocks,
    DropDead,
    FocusToConv,
    FoldAffine,
    FoldBatchNorm,
    Head,
    PadToPool,
    PruneChannels,
    PruneToTarget,
    Quantise,
    Reconstruct,
    ReparamBranches,
    ShuffleToGather,
    SliceChannels,
    SnapWidths,
    SppToSppf,
)
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.passes.to_target import unread

if TYPE_CHECKING:
    from onnxslim_yolo.ir.model import Model
    from onnxslim_yolo.options import CompileOptions

ENTRY_POINT_GROUP = "onnxslim_yolo.passes"

PASSES: tuple[type[Pass], ...] = (
    Canonicalise,
    ShuffleToGather,
    Head,
    FocusToConv,
    SppToSppf,
    DropDead,
    DropBlocks,
    PruneChannels,
    PruneToTarget,
    SnapWidths,
    AbsorbConstants,
    Reconstruct,
    SliceChannels,
    ReparamBranches,
    FoldBatchNorm,
    FoldAffine,
    ConvBeforeSplit,
    ConvBeforeResize,
    Activations,
    PadToPool,
    Quantise,
)
"""Every pass of this package, in the order in which the default pipeline runs them."""


def parse_pipeline(spec: str, registry: dict[str, type[Pass]] | None = None) -> list[Pass]:
    """The passes that a text like `prune{ratio=0.7},snap{to=pow2},slice` spells.

    Options stand in braces, separated by blanks or semicolons; a list's items by `|`.

    Args:
        spec: the text.
        registry: every pass by name; None: `available_passes()`.

    Raises:
        UsageError: an unknown pass or option (with the nearest known one), or a value of the wrong type.
    """
    return parse_passes(spec, available_passes() if registry is None else registry)


def available_passes() -> dict[str, type[Pass]]:
    """Every pass by name: this package's own and those of installed entry points."""
    found: dict[str, type[Pass]] = {cls.name: cls for cls in PASSES}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        cls = _load(point)
        if found.setdefault(cls.name, cls) is not cls:
            raise UsageError(f"entry point '{point.value}': a pass named '{cls.name}' exists already")
    return found


def _load(point: EntryPoint) -> type[Pass]:
    try:
        cls = point.load()
    except Exception as error:
        raise UsageError(
            f"the pass '{point.name}' of entry point '{point.value}' cannot be loaded: {error}",
            hint="repair or uninstall the package that provides it",
        ) from error
    named = isinstance(getattr(cls, "name", None), str) and hasattr(cls, "run")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and named):
        raise UsageError(f"entry point '{point.value}' is no pass: expected a dataclass with `name` and `run`")
    return cast("type[Pass]", cls)


def preparation(options: CompileOptions) -> list[Pass]:
    """What brings any exporter's graph into one plain form. Done with every pipeline."""
    height, width = options.imgsz or (0, 0)
    return [Canonicalise(height, width), ShuffleToGather(), Canonicalise()]


def remainder(options: CompileOptions, model: Model) -> list[Pass]:
    """What follows the preparation: the user's pipeline, or the default one with the user's options."""
    if options.passes is not None:
        return [*parse_pipeline(options.passes), *_quantising(options)]
    return [*shaping(options), *_pruning(options, model), *_fusing(options), *_quantising(options)]


def shaping(options: CompileOptions) -> list[Pass]:
    """What is done to the whole network before anything is cut: exact but for where it ends."""
    return [Head(options.head, strict=options.head == "raw"), FocusToConv(), SppToSppf()]


def _quantising(options: CompileOptions) -> list[Pass]:
    if not options.int8:
        return []
    narrow = adds_in_16_bits(options.device)
    return [Quantise(options.int8, options.calib, narrow=narrow, **_judged(options))]


def _judged(options: CompileOptions) -> dict[str, Any]:
    """What latency is judged by, as passes take it."""
    return {
        "runtime": options.target,
        "isa": options.device,
        "table": options.table,
        "threads": options.threads,
    }


CARRY = 0.1
"""No tensor is cut below the channels that carry this share of its importance, unless `--floor` says otherwise."""


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
        exact=options.prune != "dead",
        absorb=options.prune == "dead" or options.compensate != "none",
        carry=_carry(options),
    )
    snap = SnapWidths(to=options.snap, **_judged(options))
    target = _target(options)
    if options.depth == "only" and target is None and prune.ratio != "dead":
        return [*_whole(options), SliceChannels()]
    steps = _to_target(target, prune, snap, options, model) if target is not None else [prune, snap]
    if target is None and prune.ratio == "dead":
        steps.append(AbsorbConstants(scope="exact"))
    elif options.compensate == "constant":
        steps.append(AbsorbConstants())
    elif options.compensate in ("reconstruct", "distil"):
        steps.append(Reconstruct(options.calib))
    return [*_whole(options), *steps, SliceChannels()]


def _whole(options: CompileOptions) -> list[Pass]:
    """What goes whole. What Ultralytics' code calls has to be there: layers keep a channel, and blocks of it may go."""
    return _blocks(options) if "ultralytics" in options.emit else [DropDead(options.keep), *_blocks(options)]


def _blocks(options: CompileOptions) -> list[Pass]:
    """Whole blocks, where something is asked for that they can be weighed against."""
    target = _target(options)
    ratio = options.prune if isinstance(options.prune, float) and target is None else None
    if options.depth == "none" or (target is None and not ratio):
        return []
    if options.depth == "auto" and target is not None and _by_ratio(options, target):
        return []  # the ratio that meets the limit is of the network with all blocks
    found = DropBlocks(
        target="1x" if target is None else target[1],
        cost="latency" if target is None else target[0],
        **_weighed(options),
        depth=options.depth,
        ratio=ratio,
        means=options.compensate != "none",
        zero=options.snap != "pow2",
    )
    return [found]


def _weighed(options: CompileOptions) -> dict[str, Any]:
    """What channels and blocks are weighed by, against which cost, and what is kept of them: the same for both."""
    return {
        **_judged(options),
        "scope": options.scope,
        "importance": options.importance,
        "aggregate": options.aggregate,
        "normalise": options.normalise,
        "floor": options.floor,
        "keep": options.keep,
        "calib": options.calib,
        "carry": _carry(options),
    }


def _carry(options: CompileOptions) -> float:
    """The share of every tensor's importance that stays; a floor of the user's own says which channels do, instead."""
    lossy = options.prune != "dead" or _target(options) is not None
    return CARRY if lossy and options.floor == 1 else 0.0


Cost = Literal["latency", "macs", "params"]


def _target(options: CompileOptions) -> tuple[Cost, str] | None:
    """The limit that is asked for instead of a ratio: of what cost, and how much."""
    if options.target_latency is not None:
        return "latency", options.target_latency
    if options.target_macs is not None:
        return "macs", f"{options.target_macs:g}x"
    return None if options.target_params is None else ("params", f"{options.target_params:g}x")


def _by_ratio(options: CompileOptions, target: tuple[Cost, str]) -> bool:
    """Whether a limit is met by one ratio over the network, on a grid or by curves of the user's choice."""
    return (options.snap != "auto" or options.allocate == "curves") and target[0] != "latency"


def _to_target(
    target: tuple[Cost, str], prune: PruneChannels, snap: SnapWidths, options: CompileOptions, model: Model
) -> list[Pass]:
    """Widths as a knapsack; where the user wants another grid than `auto`, the ratio that meets the limit on it."""
    cost, limit = target
    if _by_ratio(options, target):
        from onnxslim_yolo.reach import reach

        if options.table is not None:
            model.note(f"{cost} by one ratio{unread(options.table)}")
        return [reach(model, prune, snap, _folding(), macs=options.target_macs, params=options.target_params), snap]
    knapsack = PruneToTarget(
        target=limit,
        cost=cost,
        **_weighed(options),
    )
    return [knapsack]


def _fusing(options: CompileOptions | None = None) -> list[Pass]:
    return [*_folding(options), Activations(), PadToPool(), Canonicalise()]


def _folding(options: CompileOptions | None = None) -> list[Pass]:
    """The part of fusing after which a network has fewer multiplications and parameters.

    Latency decides what is moved where there are options, and where no limit on anything else is asked for.
    """
    move, part = ConvBeforeResize(), list[Pass]()
    if options is not None:
        if not options.int8:  # codes are not kept in blocks: splitting them costs nothing
            part = [ConvBeforeSplit(**_judged(options))]
        if (_target(options) or ("latency",))[0] == "latency":
            move = ConvBeforeResize(**_judged(options))
    return [ReparamBranches(), FoldBatchNorm(), FoldAffine(), *part, move]
