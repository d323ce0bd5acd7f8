"""prune: decide which channels go. Only the plan changes; `slice` carries it out.

With `ratio=dead`, channels go that provably contribute nothing (see `analysis.dead`): exact.

With a number R, the ⌊R·n⌋ least important of the n prunable coupled channels in scope go, ranked over the whole network
(global ranking, as in Liu et al. 2017). Frozen channels are never counted; those of a grouped convolution's parts are
ranked together (see `analysis.levels`). Then constraints are met by giving channels back, the most important first: no
tensor becomes empty, the parts of grouped convolutions stay equal.

With `exact`, never less goes than what is dead: dead channels go first, and where R asks for no more than those, the
plan is the one of `ratio=dead`, and as exact. With `carry`, no tensor is cut below the channels that carry this share
of its importance: one ranking over the whole network would cut a layer whose values are all small to a single channel,
and everything that passes through it with it. Other channels go instead, as far as there are any.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.dead import dead_channels
from onnxslim_yolo.analysis.importance import Aggregate
from onnxslim_yolo.analysis.levels import levelled
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import VARIANCE_FLOOR
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.analysis.residual import residual_channels
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array, Node, is_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.believed import misjudged
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.ranking import SPARSE, AnyKind, Per, Ranking, RankingOptions, known_ranking, rank


@dataclass(frozen=True)
class PruneChannels:
    """Mark channels for removal.

    Args:
        ratio: share in [0, 1) of the prunable channels in scope, or "dead" for those that contribute nothing.
        scope: "all", or "no-residual": leave what shortcuts tie or bridge alone, and count the rest only.
        importance: "gamma", "weight", "variance" (of activations, without data), "output" (what the detector is
            predicted to lose, and the share of variance, on `calib`), or "auto" (see `_ranking`).
        aggregate: how the several γ of one coupled channel count: their "mean", "max" or "sum".
        normalise: compare channels within their group only (divide by the group's mean).
        floor: the least number of channels any tensor keeps.
        keep: patterns of layers not to touch: a name, a prefix of it at a dot or slash, or with wildcards.
        absorb: count constants that the `absorb` pass moves into biases as dead, too.
        variance_floor: count channels whose running variance is below this as constant, too.
        per: what "variance" and "output" are divided by: the "macs" a channel saves, or "none".
        allocate: "global", one ranking over the whole network; or "curves": widths by what the outputs lose (see
            `_curves`), channels within a group by the ranking.
        calib: unlabelled images for "output" and "curves".
        macs: come down to this share of the source's MACs (before widths are snapped), instead of `ratio`.
        exact: never remove less than what is dead, and exactly that where a ratio asks for no more.
        carry: the share of every tensor's importance whose channels stay, in [0, 1).
    """

    name: ClassVar[str] = "prune"
    effect: ClassVar[Effect] = "plan"

    ratio: float | Literal["dead"] = "dead"
    scope: Literal["all", "no-residual"] = "all"
    importance: AnyKind = "auto"
    aggregate: Aggregate = "mean"
    normalise: bool = False
    floor: int = 1
    keep: tuple[str, ...] = ()
    absorb: bool = True
    variance_floor: float = VARIANCE_FLOOR
    per: Per = "macs"
    allocate: Literal["global", "curves"] = "global"
    calib: Path | None = None
    macs: float | None = None
    exact: bool = False
    carry: float = 0.0

    def __post_init__(self) -> None:
        if self.ratio != "dead" and not 0 <= self.ratio < 1:
            raise UsageError(
                f"the ratio {self.ratio} is not in [0, 1)", hint="0.5 removes half of the prunable channels"
            )
        if self.macs is not None and not 0 < self.macs <= 1:
            raise UsageError(f"the share of MACs {self.macs} is not in (0, 1]")
        if self.floor < 1:
            raise UsageError(f"the floor {self.floor} would empty layers; it must be at least 1")
        if not 0 <= self.carry < 1:
            raise UsageError(f"the share of importance that stays, {self.carry}, is not in [0, 1)")

    def run(self, model: Model) -> int:
        """Plan in place; return the number of coupled channels newly marked.

        Raises:
            UsageError: a `keep` pattern matches no layer, or the graph has no channels but those it returns.
        """
        plan = open_plan(model)
        channels = plan.channels
        if not channels.prunable.any() and self.ratio not in ("dead", 0):
            model.note(f"WARNING: {_nothing_prunable(model, channels)}")
            return 0
        eligible = self._eligible(model, channels)
        ranking = self.rank(model, plan, eligible)
        plan = replace(open_plan(model), importance=ranking.values, importance_kind=ranking.kind, losses=ranking.losses)
        before, gone, ranked = plan.keep, model.carried.gone, self.macs is not None or self.ratio != "dead"
        dead = self._dead(model, channels) & eligible if self.exact or not ranked else np.zeros(channels.count, bool)
        carrying = carriers(channels, ranking.values, self.carry) & ~dead
        doomed = self._lowest(model, plan, ranking, eligible, dead, carrying) if ranked else dead
        if ranked and dead.any() and not (doomed & eligible & ~dead).any():
            ranked = False  # what is dead is all that was asked for
            if self.macs is None and dead.sum() > float(self.ratio) * (eligible.sum() + gone) - gone:
                share = (dead.sum() + gone) / max(eligible.sum() + gone, 1)
                more = "they go, but for those that fill up widths"
                model.note(f"{self.ratio:g} asked; {share:.0%} of the channels contribute nothing, exactly: {more}")
        keep = before & ~(doomed & eligible)
        if ranked and doomed.any():
            plan = replace(plan, threshold=None if ranking.curves else float(ranking.values[doomed].max()))
            self._say(model, plan, ranking)
        model.plan = plan = replace(
            plan,
            keep=complete(channels, keep, plan.importance, floor=self.floor),
            wanted=keep,
            removable=eligible & ~carrying if ranked else doomed & eligible,
            lossless=plan.lossless and not (doomed.any() and ranked),
            dead_only=not ranked,
            floor=self.floor,
        )
        return int((before & ~plan.keep).sum())

    def _eligible(self, model: Model, channels: Channels) -> Array:
        eligible: Array = channels.prunable & ~_protected(channels, self.keep)
        if self.scope == "no-residual":
            eligible &= ~residual_channels(model.graph, channels)
        return eligible

    def rank(self, model: Model, plan: Plan, eligible: Array | None = None) -> Ranking:
        """The ranking of the model's plan's channels; made once for a plan and these options, and kept with it."""
        ranked = self.macs is not None or self.ratio != "dead"
        kind = self.importance if ranked or self.importance not in ("output", "variance") else "auto"
        if kind == "auto" and self.scope == "no-residual":
            kind = "gamma"  # as the published scripts, which this scope reproduces
        options = RankingOptions(
            kind=kind,
            aggregate=self.aggregate,
            normalise=self.normalise,
            per=self.per,
            curves=ranked and self.allocate == "curves",
            calib=self.calib if ranked else None,
            ratio=float(self.ratio) if self.macs is None and self.ratio != "dead" else None if ranked else 0.0,
        )
        found = known_ranking(plan, options)
        if found is None:
            everything = self._eligible(model, plan.channels) if eligible is None else eligible
            found = rank(model, plan, everything, options)
            model.plan = replace(plan, ranking=found)
        return found

    def _say(self, model: Model, plan: Plan, ranking: Ranking) -> None:
        for note in ranking.notes:
            model.note(note)
        if ranking.kind == "gamma" and plan.threshold is not None and plan.threshold > SPARSE:
            model.note(
                f"WARNING: the cut goes through |γ| = {plan.threshold:.2f}: this network was not trained to be sparse "
                "and will hardly survive it. Give unlabelled images (--calib DIR --compensate reconstruct), train it "
                "with sparsity, or fine-tune the result"
            )

    def _dead(self, model: Model, channels: Channels) -> Array:
        moments = moments_of(model.graph, channels.shapes, self.variance_floor)
        wrong = misjudged(model, self.variance_floor) if moments.least_variance < self.variance_floor else []
        if wrong:
            model.note(
                f"running variances of {len(wrong)} BatchNormalizations ('{wrong[0]}') call channels constant that are "
                "not what they were when these were taken: none is believed. Calibrate the statistics to change that"
            )
            moments = moments_of(model.graph, channels.shapes)
        return dead_channels(channels, moments, absorb=self.absorb)

    def _lowest(
        self, model: Model, plan: Plan, ranking: Ranking, eligible: Array, dead: Array, carrying: Array
    ) -> Array:
        channels, gone = plan.channels, model.carried.gone
        candidates, importance = np.flatnonzero(eligible), ranking.values
        if ranking.curves:
            order, level = ranking.order[~carrying[ranking.order]], np.arange(channels.count)
        else:
            values, level = levelled(channels, importance, eligible)
            first, last = _whole_levels(level, dead, all_of=True), _whole_levels(level, carrying, all_of=False)
            candidates_left = candidates[~last[candidates]]
            keys = [key[candidates_left] for key in (level, values, ~first)]
            order = candidates_left[np.lexsort(keys)]

        def without(count: int) -> Array:
            keep = np.ones(channels.count, dtype=bool)
            keep[order[:count]] = False
            if 0 < count < len(order) and level[order[count - 1]] == level[order[count]]:
                keep[level == level[order[count]]] = True  # part of a level would only be given back
            return keep

        if self.macs is None:
            # The small addend keeps 0.7 · 10 at 7 although 0.7 has no exact binary form.
            # Layers that went whole were asked for as well.
            wanted = int(np.floor(float(self.ratio) * (len(candidates) + gone) + 1e-9)) - gone
            return ~without(min(max(wanted, 0), len(order))) | dead
        cost = PlanCost.of(model.graph, channels)
        came = 0 if model.carried.came is None else cost_of(model.carried.came).macs
        limit = self.macs * max(came, cost.macs(np.ones(channels.count, dtype=bool)))
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if cost.macs(complete(channels, without(middle), importance, floor=self.floor)) <= limit:
                high = middle
            else:
                low = middle + 1
        return ~without(high) | dead


def carriers(channels: Channels, importance: Array, share: float) -> Array:
    """Per class, whether it is among the most important ones of a tensor that together carry `share` of its importance.

    Args:
        importance: per class, shape (count,); infinite where it was not ranked.
    """
    found = np.zeros(channels.count, dtype=bool)
    values = np.where(np.isfinite(importance), np.maximum(importance, 0), 0)
    for section in channels.sections if share else ():
        classes = section[section != NO_CHANNEL]
        order = classes[np.argsort(-values[classes], kind="stable")]
        carried = np.cumsum(values[order])
        if len(order) > 1 and carried[-1] > 0:
            found[order[: int(np.searchsorted(carried, share * carried[-1] * (1 - 1e-9))) + 1]] = True
    return found


def _whole_levels(level: Array, chosen: Array, *, all_of: bool) -> Array:
    """Per class, whether all of its level (or any) is chosen: channels of grouped convolutions go level by level."""
    _, index = np.unique(level, return_inverse=True)
    counts, hits = np.bincount(index), np.bincount(index, weights=chosen)
    return np.asarray((hits == counts if all_of else hits > 0)[index])


def _nothing_prunable(model: Model, channels: Channels) -> str:
    """Which operator holds most of the channels inside the network, and what would free them.

    Raises:
        UsageError: there are none inside: all are returned as they are, or no layer makes any.
    """
    held = Counter(reason for reason in channels.frozen if reason and not reason.startswith("reaches the output"))
    nothing = "nothing in this graph can be pruned"
    if not held:
        reasons = sorted({reason for reason in channels.frozen if reason})
        why = f" ({'; '.join(reasons[:3])})" if reasons else " (it has no convolution or linear layer)"
        raise UsageError(nothing + why, file=model.source.file, hint="--prune 0 compiles without pruning")
    reason, count = held.most_common(1)[0]
    name = next((n.name for n in model.graph.nodes if f"'{n.name}'" in reason), None)
    free = (
        "a convolution in front of it would be pruned in their place"
        if name is None
        else (f"a 1x1 convolution between them and '{name}' would hold as many in their place and free them")
    )
    more = f", and {len(held) - 1} other reasons hold the rest" if len(held) > 1 else ""
    return f"{nothing}: {count} of {sum(held.values())} channels are held because {reason}{more}; {free}"


def _protected(channels: Channels, patterns: tuple[str, ...]) -> Array:
    """Per class, whether a pattern names a layer that makes it."""
    found = np.zeros(channels.count, dtype=bool)
    makers = [use for use in channels.uses if use.role == "out" or (use.role == "channel" and use.index == 1)]
    names = {name for use in makers for name in (use.node.name, use.constant.name.removesuffix(".weight"))}
    for pattern in patterns:
        hits = [use for use in makers if _matches(pattern, use.node.name) or _matches(pattern, use.constant.name)]
        if not hits:
            close = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.4)
            hint = f"near it: {', '.join(close)}" if close else "`onnxslim-yolo inspect MODEL` lists the layers"
            raise UsageError(f"--keep '{pattern}' matches no layer", hint=hint)
        for use in hits:
            classes = use.labels.reshape(-1)
            found[classes[classes >= 0]] = True
    return found


def matches_layer(pattern: str, node: Node) -> bool:
    """Whether a pattern of `keep` names a node, or a constant that it reads."""
    names = [node.name, *(tensor.name for tensor in node.inputs if is_constant(tensor))]
    return any(_matches(pattern, name) for name in names)


def _matches(pattern: str, name: str) -> bool:
    if any(c in pattern for c in "*?["):
        return any(fnmatch.fnmatchcase(name, pattern + rest) for rest in ("", ".*", "/*"))
    bare, pattern = name.lstrip("/"), pattern.lstrip("/")
    return bare == pattern or bare.startswith((f"{pattern}.", f"{pattern}/"))
