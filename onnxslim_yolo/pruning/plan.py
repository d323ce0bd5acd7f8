"""The channel plan: which channels stay, from the first wish to what plan.json says.

`prune` makes one, `snap` another of it, `slice` carries it out. Choices are kept per coupled channel of one analysis.
What was carried out is another thing (`ir.carried`), in the source's terms: per initializer and axis, the indices kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, analyse_channels
from onnxslim_yolo.analysis.module_parts import module_balances
from onnxslim_yolo.ir.carried import Carried
from onnxslim_yolo.ir.graph import TRANSPOSED, Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import Cut, Shape
from onnxslim_yolo.pruning.removed import as_modules, module_of

FORMAT, VERSION = "onnxslim-yolo/plan", 2
READABLE = (1, 2)
"""The versions that `apply-plan` reads."""


@dataclass(frozen=True)
class GroupPlan:
    """One group's widths: before, as the ranking wanted it, as it is kept."""

    id: int
    width: int
    wanted: int
    kept: int
    members: tuple[str, ...]
    frozen: str | None

    def as_json(self) -> dict[str, Any]:
        """The group as plan.json spells it."""
        return {
            "id": self.id,
            "width": self.width,
            "wanted": self.wanted,
            "kept": self.kept,
            "members": list(self.members),
            "frozen": self.frozen,
        }


@dataclass(frozen=True, eq=False)
class Plan:
    """Choices over the coupled channels of `channels`. A pass that chooses otherwise makes another plan.

    Attributes:
        channels: the analysis whose classes the choices are about. It refers to the graph's nodes.
        keep: per class, whether it stays; shape (count,), bool.
        wanted: what the ranking alone wanted, before widths were snapped; same shape.
        importance: per class, how much it matters; same shape, float64.
        importance_kind: how importance was measured, in words.
        losses: per class, what is lost when it goes, where importance says it per MAC; None: importance says it. Widths
            that are moved from the ranked ones have to keep its sum, not the sum of prices.
        extra: per class, how many zero channels come behind it (padding up to a width); same shape, int64.
        removable: per class, whether it may be removed at all under what was asked for; same shape, bool.
        dead_only: whether only channels that contribute nothing may go, so that whatever goes changes nothing.
        floor: the least number of channels that any tensor is to keep.
        lossless: whether only channels go that contribute nothing, so that the outputs must not change.
        absorbed: whether biases have taken over what removed channels contribute: the network computes what it should
            once they are cut.
        threshold: the importance at which the ranking cut, if it cut at one.
        ranking: how `prune` ranked the classes, kept because measuring it again may take minutes.
        problem: widths as unknowns, as `prune-to` has seen them, kept because it takes as long as to choose them.
        snapped: what `keep` was before and after widths were chosen by latency, so that choosing again starts from the
            same place.
    """

    channels: Channels
    keep: Array
    wanted: Array
    importance: Array
    extra: Array
    removable: Array
    importance_kind: str = ""
    losses: Array | None = None
    dead_only: bool = False
    floor: int = 1
    lossless: bool = True
    absorbed: bool = False
    threshold: float | None = None
    ranking: object | None = None
    problem: object | None = None
    snapped: tuple[Array, Array] | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "wanted", "importance", "extra", "removable", "losses"):
            array = getattr(self, name)
            if array is not None:  # copies of a model share its plan: nobody writes into it
                array = array.view()
                array.setflags(write=False)
                object.__setattr__(self, name, array)

    @classmethod
    def full(cls, channels: Channels) -> Plan:
        """A plan that keeps everything."""
        everything = np.ones(channels.count, dtype=bool)
        return cls(
            channels=channels,
            keep=everything,
            wanted=everything,
            importance=np.zeros(channels.count),
            extra=np.zeros(channels.count, dtype=np.int64),
            removable=channels.prunable,
        )

    def ranks_as(self, other: Plan) -> bool:
        """Whether both leave the same choices between the same channels, which matter as much."""
        alike = (
            np.array_equal(mine, its)
            for mine, its in (
                (self.keep, other.keep),
                (self.removable, other.removable),
                (self.importance, other.importance),
            )
        )
        return self.channels is other.channels and self.floor == other.floor and all(alike)

    def without(self, classes: Array) -> Plan:
        """The plan that does not keep these classes, either."""
        keep = self.keep.copy()
        keep[classes] = False
        return replace(self, keep=keep)

    @property
    def removed(self) -> int:
        """How many coupled channels go."""
        return int((~self.keep).sum())

    def group_plans(self) -> list[GroupPlan]:
        """Every group with its widths as planned now."""
        return [
            GroupPlan(
                id=group.id,
                width=group.width,
                wanted=int(self.wanted[group.classes].sum()),
                kept=int(self.keep[group.classes].sum() + self.extra[group.classes][self.keep[group.classes]].sum()),
                members=group.members,
                frozen=group.frozen,
            )
            for group in self.channels.groups
        ]


def open_plan(model: Model) -> Plan:
    """The plan that waits to be carried out, if it still fits the graph; else one made anew, with its choices.

    The result is also set as the model's plan.
    """
    plan = model.plan
    return plan if plan is not None and _fits(plan, model) else reopen_plan(model)


def reopen_plan(model: Model) -> Plan:
    """Analyse the graph again and carry the waiting plan's choices over: for whoever has added constants to it."""
    fresh = Plan.full(_channels(model))
    model.plan = fresh if model.plan is None else _transfer(model.plan, fresh)
    return model.plan


def _channels(model: Model) -> Channels:
    """The analysis of a model's graph, with what its own code demands where a plan has to suit that."""
    channels = analyse_channels(model.graph, whole_heads=model.whole_heads)
    if model.equal_parts:
        told = {node.name for node in model.graph.nodes if module_of(node.name) in model.told_widths}
        channels.balances += module_balances(model.graph, channels, told)
    return channels


def _fits(plan: Plan, model: Model) -> bool:
    """Whether the analysis still speaks about this very graph."""
    alive = {id(node) for node in model.graph.nodes}
    return all(id(use.node) in alive for use in plan.channels.uses) and all(
        id(tensor) in plan.channels.shapes for node in model.graph.nodes for tensor in node.outputs if tensor.name
    )


def _transfer(old: Plan, new: Plan) -> Plan:
    """The new analysis with the choices of an old one, as far as both know the same initializers."""
    keep, wanted, removable = new.keep.copy(), new.wanted.copy(), new.removable.copy()
    importance, extra = new.importance.copy(), new.extra.copy()
    losses = None if old.losses is None else np.zeros(new.channels.count)
    facts: dict[tuple[str, int], Array] = {}
    for use in old.channels.uses:
        if use.labels.ndim == 1 and use.index < len(use.node.inputs):
            facts[(use.node.inputs[use.index].name, use.axis)] = use.labels
    for use in new.channels.uses:
        known = facts.get((use.constant.name, use.axis))
        if known is None or known.shape != use.labels.shape:
            continue
        both = (known != NO_CHANNEL) & (use.labels != NO_CHANNEL)
        source, target = known[both], use.labels[both]
        keep[target] &= old.keep[source]
        wanted[target] &= old.wanted[source]
        removable[target] &= old.removable[source]
        importance[target] = np.maximum(importance[target], old.importance[source])
        if losses is not None and old.losses is not None:
            losses[target] = np.maximum(losses[target], old.losses[source])
        extra[target] = np.maximum(extra[target], old.extra[source])
    return replace(
        new,
        keep=keep,
        wanted=wanted,
        removable=removable,
        importance=importance,
        extra=extra,
        losses=losses,
        ranking=old.ranking if old.channels.count == new.channels.count else None,
        importance_kind=old.importance_kind,
        threshold=old.threshold,
        absorbed=old.absorbed,
        lossless=old.lossless,
        dead_only=old.dead_only,
        floor=old.floor,
    )


def plan_as_json(model: Model, *, from_checkpoint: bool = False) -> dict[str, Any]:
    """What was planned of a model and carried out, in the contract's format, version 2.

    `shapes` is what `apply-plan` checks the result by.

    Args:
        from_checkpoint: the source is a checkpoint, whose names and axes a traced Linear's are to have.
    """
    plan, carried = model.last_plan, model.carried
    kept, shapes = dict(carried.kept), dict(carried.shapes)
    if from_checkpoint:
        kept, shapes = _untransposed(kept, shapes)
    groups = [] if plan is None else plan.group_plans()
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": {"file": model.source.file, "sha256": model.source.sha256},
        "keep": {name: {str(axis): axes[axis] for axis in sorted(axes)} for name, axes in sorted(kept.items())},
        "shapes": {name: _shapes_as_json(*shapes[name]) for name in sorted(shapes)},
        "removed": as_modules(carried.removed_nodes, carried.layers),
        **({"towers": model.towers} if model.towers != "file" else {}),
        **({"bridged": _bridged_modules(carried)} if carried.bridged else {}),
        "groups": [group.as_json() for group in groups],
    }


def _bridged_modules(carried: Carried) -> list[str]:
    """Those in whose place stands what they were given: of chains, not of branches."""
    return as_modules([name for name in carried.bridged if name in carried.removed_nodes], carried.layers)


def _shapes_as_json(before: Shape, after: Shape | None) -> list[list[int] | None]:
    return [list(before), None if after is None else list(after)]


def _untransposed(
    kept: dict[str, Cut], shapes: dict[str, tuple[Shape, Shape | None]]
) -> tuple[dict[str, Cut], dict[str, tuple[Shape, Shape | None]]]:
    """A Linear's weight as the state_dict has it: the graph of a traced module calls its transpose `KEY.T`."""
    return (
        {_key(name): {1 - k: v for k, v in cut.items()} if name != _key(name) else cut for name, cut in kept.items()},
        {
            _key(name): (before[::-1], None if after is None else after[::-1])
            if name != _key(name)
            else (before, after)
            for name, (before, after) in shapes.items()
        },
    )


def _key(name: str) -> str:
    return name.removesuffix(TRANSPOSED)
