"""How `prune` ranks channels: by the weights alone, or with calibration images; and sensitivity curves for
allocation.

What `auto` takes: `gamma` where the network has been trained to be sparse; else `output` with calibration images; else
`variance` where BatchNormalizations tell how activations vary; else what `analysis.importance` finds (weights).
`output` comes before `variance` because it keeps more mAP (bench/results/accuracy.md). It is the second-order loss
averaged with the share of variance, as measured on the same images (`analysis.importance_variance.average`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.importance import Aggregate, measure
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.analysis.views import views_for
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.calibration import collect
from onnxslim_yolo.pruning.calibration_images import CalibrationImages, evenly
from onnxslim_yolo.pruning.curves import Curve, Gauge, losses_of, measure_curves, removal_order
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.importance_variance import average, measured_variance, variance_importance
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.problem import units_of
from onnxslim_yolo.pruning.second_order import SecondOrder

AnyKind = Literal["auto", "gamma", "weight", "variance", "output"]
Per = Literal["macs", "none"]

SPARSE = 0.1
"""Where the cut goes through |γ| above this, the network has not been trained to be sparse: what goes matters."""

KNOWN = 0.5
"""`variance` is believed where it knows at least this share of the channels' variances."""

CURVE_INPUTS = 24
"""So many of the images and their views, evenly picked, are run for each measured point."""

CURVATURE_INPUTS = 24
"""Each image is differentiated in one view, and in more while that makes fewer than so many: every position is a sample
of a gradient's second moments, and all views of each keep no more (bench/results/ways_to_choose.md)."""

UNSEEN = (
    "the detector sees nothing in any calibration image: importance is measured by its outputs' spread, which says "
    "little about detection; give images with objects in them"
)

PER_MAC = " per MAC"

UNIT_STEP = 8


@dataclass(frozen=True)
class Ranking:
    """Importance per class, how it was measured, and curves where widths are allocated by them.

    Attributes:
        key: what it depends on besides the graph.
        values: shape (count,), float64.
        kind: "gamma", "weight", "variance" or "output", and what it was divided by.
        notes: what people should know.
        losses: per class, what is lost when it goes, where `values` are divided by MACs; else None.
        curves: per group, what its cuts cost; empty without allocation by curves.
        order: with curves: all classes that may go, in the order in which they do.
    """

    key: tuple[object, ...]
    values: Array
    kind: str
    notes: tuple[str, ...] = ()
    losses: Array | None = field(default=None, repr=False)
    curves: tuple[Curve, ...] = field(default=(), repr=False)
    order: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)


@dataclass(frozen=True)
class RankingOptions:
    """What a ranking depends on; as the fields of `prune`. `ratio` only tells `auto` where the cut will be."""

    kind: AnyKind
    aggregate: Aggregate
    normalise: bool
    per: Per
    curves: bool
    calib: Path | None
    ratio: float | None


def rank(model: Model, plan: Plan, eligible: Array, options: RankingOptions) -> Ranking:
    """Rank the plan's classes.

    Raises:
        UsageError: calibration images are needed and not given.
    """
    channels = plan.channels
    if options.calib is None and (options.kind == "output" or options.curves):
        what = "--importance output" if options.kind == "output" else "--allocate curves"
        raise UsageError(f"{what} needs calibration images", hint="give them with --calib DIR")
    variance = cache(lambda: variance_importance(model.graph, channels))
    kind, why = _choose(channels, eligible, options, variance)
    cost = PlanCost.of(model.graph, channels)
    notes: tuple[str, ...]
    if kind in ("gamma", "weight"):
        found = measure(channels, kind, options.aggregate, normalise=options.normalise)
        values, notes = found.values, (why or found.remark,)
        name: str = found.kind
    elif kind == "variance":
        values, known = variance()
        notes = (why, f"variance: known for {known:.0%} of the channels") if known < KNOWN else (why,)
        name = "variance"
        if options.per == "macs":
            values, name = values / np.maximum(cost.saved(plan.keep), 1.0), f"variance{PER_MAC}"
    else:
        values, notes, name = np.zeros(channels.count), (why,), "output"
    curves: tuple[Curve, ...] = ()
    if options.calib is not None and (kind == "output" or options.curves):
        values, curves = _calibrated(model, channels, eligible, options, kind, values, cost)
        name = f"output{PER_MAC}" if kind == "output" and options.per == "macs" else name
    losses = None
    if curves:
        losses = losses_of(channels, curves)
    elif name.endswith(PER_MAC):
        losses = values * np.maximum(cost.saved(plan.keep), 1.0)
    order = removal_order(channels, curves, cost)
    return Ranking(_key(options), values, name, tuple(note for note in notes if note), losses, curves, order)


def _key(options: RankingOptions) -> tuple[object, ...]:
    return (options.kind, options.aggregate, options.normalise, options.per, options.curves, options.calib)


def known_ranking(plan: Plan, options: RankingOptions) -> Ranking | None:
    """The plan's ranking if it was made with these options."""
    ranking = plan.ranking
    return ranking if isinstance(ranking, Ranking) and ranking.key == _key(options) else None


def _choose(
    channels: Channels, eligible: Array, options: RankingOptions, variance: Callable[[], tuple[Array, float]]
) -> tuple[Literal["gamma", "weight", "variance", "output"], str]:
    if options.kind != "auto":
        return options.kind, ""
    found = measure(channels, "auto", options.aggregate)
    if found.kind == "gamma" and is_sparse(found.values, found.has_gamma & eligible, options.ratio):
        return "gamma", found.remark
    if options.calib is not None:
        return "output", "importance: output, measured on the calibration images, for the network is not sparse"
    _, known = variance()
    if known >= KNOWN:
        return (
            "variance",
            f"importance: variance, for the network is not sparse (the cut would go through |γ| > {SPARSE})",
        )
    return found.kind, found.remark


def is_sparse(gamma: Array, having: Array, ratio: float | None) -> bool:
    """Whether the `ratio` smallest |γ| (or, without one, a tenth of them) are all near zero."""
    values = np.sort(gamma[having])
    if not len(values):
        return False
    share = ratio or 0.1
    return bool(values[min(int(share * len(values)), len(values) - 1)] <= SPARSE)


def _calibrated(
    model: Model,
    channels: Channels,
    eligible: Array,
    options: RankingOptions,
    kind: str,
    values: Array,
    cost: PlanCost,
) -> tuple[Array, tuple[Curve, ...]]:
    if options.calib is None:
        raise ValueError("no calibration images")
    images = CalibrationImages(options.calib, model, part="fit")
    views = images.seen(views_for(len(images)))
    places = [place for place in contractions(channels) if place.weighted]
    statistics = collect(model, places, views, window=False)
    variance = measured_variance(channels, places, statistics)
    head = HeadError.of(model, images)
    if not head.seen:
        model.note(UNSEEN)
        head = head.undecoded()
    predicted = None
    if kind == "output":
        turns = in_turns(len(images), len(views) // len(images), CURVATURE_INPUTS)
        predicted = SecondOrder.of(model, places, statistics, head, (views[i] for i in turns))
        values = predicted.importance(channels, eligible, cost if options.per == "macs" else None)
        saved = np.maximum(cost.saved(np.ones(channels.count, dtype=bool)), 1.0)
        shares = variance / saved if options.per == "macs" else variance
        values = np.where(eligible, average(values, shares), np.inf)
    if not options.curves:
        return values, ()
    units = [unit[eligible[unit]] for unit in units_of(channels, UNIT_STEP)]
    units = [unit for unit in units if len(unit)]
    shown = _views_of(head.seen, len(views) // len(images))
    gauge = Gauge.of(model, [views[shown[i]] for i in evenly(CURVE_INPUTS, len(shown))], head.head)
    curves = measure_curves(model, channels, units, values, places, statistics, gauge, variance, predicted)
    return values, tuple(curves)


def in_turns(images: int, views: int, least: int) -> list[int]:
    """Places among all views of all images: one view of each image, the next one of the next; and rounds of that until
    there are so many, or all."""
    rounds = min(-(-least // images), views)
    return [image * views + (image + k) % views for k in range(rounds) for image in range(images)]


def _views_of(images: list[int], views: int) -> list[int]:
    """The places of all views of these images among the views of all."""
    return [image * views + view for image in images for view in range(views)]
