"""Sensitivity curves: what taking channels from one group alone does to the outputs, and widths chosen by them.

For every group, the least important 10, 20, 35, 50, 70 and 90 % of its channels are taken out and folded into the rest,
the others left whole, and the detector's error (`verify.head_metric`) is measured on calibration images, forward only.
Few images can be run so often, so where the error of the same cut is predicted as well, from gradients on all of them
(`_second_order`), the geometric mean of both counts, and in the end its mean with the share of variance that goes
(`analysis.importance_variance.average`): on held-out calibration images each step keeps more mAP.

Errors of different groups are taken to add up, and so do MACs. A width is bought where it costs least per MAC saved:
again and again the group and the larger cut with the smallest Δerror/ΔMAC, until the budget is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.contraction import Contraction
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.heads.metric import HeadMetric
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array, Namer, input_constant, revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.calibration import Statistics
from onnxslim_yolo.pruning.fold_removed import fold, matrices, weight_of
from onnxslim_yolo.pruning.head_error import run_images
from onnxslim_yolo.pruning.importance_variance import average
from onnxslim_yolo.pruning.second_order import SecondOrder
from onnxslim_yolo.pruning.shift import shift_outputs

FRACTIONS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
MOST = 1e12
"""What overflows costs this much."""


@dataclass(frozen=True)
class Curve:
    """What a group's cuts cost.

    Attributes:
        order: its removable classes, the least important first.
        counts: numbers of channels taken, ascending from 0; errors: the outputs' error at each, ascending.
    """

    order: Array
    counts: tuple[int, ...]
    errors: tuple[float, ...]

    def error(self, count: int) -> float:
        """The error with `count` channels taken, interpolated."""
        return float(np.interp(count, self.counts, self.errors))


@dataclass(frozen=True)
class Gauge:
    """Measures a network's error on images: forward only, against the source's outputs."""

    images: Sequence[Array]
    metrics: Sequence[HeadMetric]

    @classmethod
    def of(cls, model: Model, images: Sequence[Array], head: HeadSpec | None) -> Gauge:
        """Run the source. `head`: how to read its outputs, or None."""
        return cls(images, [HeadMetric(outputs, head) for outputs in run_images(model, images)])

    def error(self, model: Model) -> float:
        """The mean error over the images."""
        pairs = zip(self.metrics, run_images(model, self.images), strict=True)
        return min(float(np.nan_to_num(np.mean([m.error(found) for m, found in pairs]), nan=MOST)), MOST)


def measure_curves(
    model: Model,
    channels: Channels,
    units: Sequence[Array],
    importance: Array,
    places: Sequence[Contraction],
    statistics: Sequence[Statistics],
    gauge: Gauge,
    variance: Array,
    predicted: SecondOrder | None = None,
    ridge: float = 1e-2,
) -> list[Curve]:
    """A curve for each unit of removable classes, measured one at a time.

    Args:
        variance: per class, its share of what its readers' outputs vary, to be averaged with.
        predicted: what the same cuts are predicted to cost, to be averaged with before that; None: not known.
    """
    found = []
    for unit in units:
        order = unit[np.argsort(importance[unit], kind="stable")]
        counts = sorted({round(f * len(order)) for f in FRACTIONS} - {0})
        measured = []
        for count in counts:
            keep = np.ones(channels.count, dtype=bool)
            keep[order[:count]] = False
            keep = complete(channels, keep, importance)
            measured.append(gauge.error(without(model, places, statistics, keep, ridge)))
        errors = np.array(measured)
        if predicted is not None:
            errors = np.sqrt(errors * predicted.errors(order.tolist(), counts))
        varied = np.cumsum(variance[order])[np.asarray(counts, dtype=np.int64) - 1]
        rising = np.maximum.accumulate([0.0, *average(errors, varied)])
        found.append(Curve(order, (0, *counts), tuple(rising.tolist())))
    return found


def without(
    model: Model, places: Sequence[Contraction], statistics: Sequence[Statistics], keep: Array, ridge: float
) -> Model:
    """A copy of the model in which channels are folded into the kept ones and read by nobody, at their full
    widths."""
    copy = model.copy()
    by_name = {node.name: node for node in copy.graph.nodes}
    name = Namer(copy.graph)
    for place, known in zip(places, statistics, strict=True):
        node = by_name[place.node.name]
        weight = input_constant(node, 1)
        if weight is None:
            continue
        folded = fold(place, weight, keep, known, ridge, np.zeros(len(place.classes)))
        if folded is None:
            continue
        gone = (place.classes >= 0) & ~keep[np.maximum(place.classes, 0)]
        blocks = matrices(node, folded.weight, 1)
        blocks *= ~gone.reshape(len(blocks), 1, -1)
        revalue(node, 1, weight_of(node, blocks, weight.shape, 1).astype(weight.dtype))
        shift_outputs(copy, node, folded.shift, name)
    return copy


def removal_order(channels: Channels, curves: Sequence[Curve], cost: PlanCost) -> Array:
    """All removable classes in the order in which they go: the next bite is always the cheapest per MAC it saves.

    Any budget is then met by a prefix.
    """
    taken = [0] * len(curves)
    keep = np.ones(channels.count, dtype=bool)
    order: list[int] = []
    while True:
        saved = cost.saved(keep)
        best: tuple[float, int, int] | None = None
        for index, (curve, now) in enumerate(zip(curves, taken, strict=True)):
            ahead = np.cumsum(saved[curve.order[now:]])
            for step in _next_counts(curve, now):
                price = (curve.error(step) - curve.error(now)) / max(float(ahead[step - now - 1]), 1.0)
                if best is None or price < best[0]:
                    best = (price, index, step)
        if best is None:
            break
        _, index, step = best
        # In small bites towards the measured step, so that budgets are met closely.
        curve, now = curves[index], taken[index]
        taken[index] = min(step, now + max(len(curve.order) // 32, 1))
        bite = curve.order[now : taken[index]]
        keep[bite] = False
        order += bite.tolist()
    rest = [c for curve, now in zip(curves, taken, strict=True) for c in curve.order[now:].tolist()]
    return np.asarray(order + rest, dtype=np.int64)


def losses_of(channels: Channels, curves: Sequence[Curve]) -> Array:
    """Per class, what a curve rises by when the class goes; shape (count,). What no curve has is beyond price.

    Within a curve the losses rise in the order in which its classes go.
    """
    found = np.full(channels.count, MOST)
    for curve in curves:
        rises = np.diff([curve.error(n) for n in range(len(curve.order) + 1)])
        place = 1 + 1e-9 * np.arange(len(curve.order))
        found[curve.order] = np.maximum.accumulate(rises) * place
    return found


def _next_counts(curve: Curve, now: int) -> list[int]:
    """The measured counts beyond `now`."""
    return [count for count in curve.counts if count > now]
