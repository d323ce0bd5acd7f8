"""The channel plan: which channels stay, from the first wish to what plan.json says.

`prune` makes one, `snap` changes it, `slice` carries it out. Choices are kept per coupled channel of one analysis, and
`kept` translates them into the source's terms: per initializer and axis, the indices that stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, analyse_channels
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.analysis.module_parts import module_balances
from onnxslim_yolo.ir.graph import TRANSPOSED, Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import Cut, Shape
from onnxslim_yolo.pruning.removed import as_modules

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


@dataclass
class Plan:
    """Choices over the coupled channels of `channels`.

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
        absorbed: whether `absorb` has moved what removed channels contribute into biases.
        applied: whether `slice` has carried the plan out. The choices are then history.
        kept: after slicing: initializer → axis → kept indices, in the source's terms.
        shapes: after slicing: initializer of the source → its shape before and after; None for after where it lost
            channels that `kept` cannot tell.
        groups: after slicing: every group's widths.
        removed_nodes: names of layers of the source that were taken out whole.
        blocks: the blocks that were taken out though they contribute something.
        bridged: the removed layers of those that were chains: what they were given takes the place of what they gave.
        layers: the names of all layers that the source had when the first of them was taken out.
        came: the graph as it was before layers were taken out, for whoever needs what it cost; None: as it is.
        gone: how many prunable channels went with those layers.
        threshold: the importance at which the ranking cut, if it cut at one.
        ranking: how `prune` ranked the classes, kept because measuring it again may take minutes.
        snapped: what `keep` was before and after widths were chosen by latency, so that choosing again starts from the
            same place.
    """

    channels: Channels
    keep: Array
    wanted: Array
    importance: Array
    importance_kind: str = ""
    losses: Array | None = None
    extra: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    removable: Array = field(default_factory=lambda: np.zeros(0, dtype=bool))
    dead_only: bool = False
    floor: int = 1
    lossless: bool = True
    absorbed: bool = False
    applied: bool = False
    kept: dict[str, Cut] = field(default_factory=dict)
    shapes: dict[str, tuple[Shape, Shape | None]] = field(default_factory=dict)
    removed_nodes: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    bridged: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    came: gs.Graph | None = None
    gone: int = 0
    groups: list[GroupPlan] = field(default_factory=list)
    threshold: float | None = None
    ranking: object | None = None
    snapped: tuple[Array, Array] | None = None

    @classmethod
    def full(cls, channels: Channels, importance: Array | None = None) -> Plan:
        """A plan that keeps everything."""
        everything = np.ones(channels.count, dtype=bool)
        return cls(
            channels=channels,
            keep=everything,
            wanted=everything.copy(),
            importance=np.zeros(channels.count) if importance is None else importance,
            extra=np.zeros(channels.count, dtype=np.int64),
            removable=channels.prunable,
        )

    def copy(self) -> Plan:
        """A copy whose choices are independent; the analysis is shared."""
        return replace(
            self,
            keep=self.keep.copy(),
            wanted=self.wanted.copy(),
            extra=self.extra.copy(),
            kept=dict(self.kept),
            shapes=dict(self.shapes),
        )

    def take_over(self, earlier: Plan) -> None:
        """What an earlier plan of the same model recorded stays recorded."""
        self.kept, self.shapes, self.removed_nodes = earlier.kept, earlier.shapes, earlier.removed_nodes
        self.came, self.gone, self.layers = earlier.came, earlier.gone, earlier.layers
        self.blocks, self.bridged = earlier.blocks, earlier.bridged

    @property
    def removed_modules(self) -> list[str]:
        """What was taken out whole, by the names of the source's modules."""
        return as_modules(self.removed_nodes, self.layers)

    @property
    def bridged_modules(self) -> list[str]:
        """Those of them in whose place stands what they were given: of chains, not of branches."""
        return as_modules([name for name in self.bridged if name in self.removed_nodes], self.layers)

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
    """The model's plan if one is waiting to be carried out and still fits the graph, else a fresh full one.

    The result is also set as the model's plan; what an earlier `slice` recorded stays recorded.
    """
    plan = model.plan
    if plan is not None and not plan.applied and _fits(plan, model):
        return plan
    fresh = Plan.full(_channels(model))
    if plan is not None and not plan.applied:
        _transfer(plan, fresh)
    if plan is not None:
        fresh.take_over(plan)
    model.plan = fresh
    return fresh


def reopen_plan(model: Model) -> Plan:
    """Analyse the graph again and carry the waiting plan's choices over: for whoever has added constants to it."""
    plan = model.plan
    if plan is None or plan.applied:
        return open_plan(model)
    fresh = Plan.full(_channels(model))
    _transfer(plan, fresh)
    fresh.take_over(plan)
    model.plan = fresh
    return fresh


def _channels(model: Model) -> Channels:
    """The analysis of a model's graph, with what its own code demands where a plan has to suit that."""
    channels = analyse_channels(model.graph)
    if model.equal_parts:
        channels.balances += module_balances(model.graph, channels)
    return channels


def _fits(plan: Plan, model: Model) -> bool:
    """Whether the analysis still speaks about this very graph."""
    alive = {id(node) for node in model.graph.nodes}
    return all(id(use.node) in alive for use in plan.channels.uses) and all(
        id(tensor) in plan.channels.shapes for node in model.graph.nodes for tensor in node.outputs if tensor.name
    )


def _transfer(old: Plan, new: Plan) -> None:
    """Carry choices over to a new analysis through the initializers both know."""
    if old.losses is not None:
        new.losses = np.zeros(new.channels.count)
    facts: dict[tuple[str, int], tuple[Array, AxisUse]] = {}
    for use in old.channels.uses:
        if use.labels.ndim == 1 and use.index < len(use.node.inputs):
            facts[(use.node.inputs[use.index].name, use.axis)] = (use.labels, use)
    for use in new.channels.uses:
        known = facts.get((use.constant.name, use.axis))
        if known is None or known[0].shape != use.labels.shape:
            continue
        both = (known[0] != NO_CHANNEL) & (use.labels != NO_CHANNEL)
        source, target = known[0][both], use.labels[both]
        new.keep[target] &= old.keep[source]
        new.wanted[target] &= old.wanted[source]
        new.removable[target] &= old.removable[source]
        new.importance[target] = np.maximum(new.importance[target], old.importance[source])
        if new.losses is not None and old.losses is not None:
            new.losses[target] = np.maximum(new.losses[target], old.losses[source])
        new.extra[target] = np.maximum(new.extra[target], old.extra[source])
    if old.channels.count == new.channels.count:
        new.ranking = old.ranking
    new.importance_kind, new.threshold = old.importance_kind, old.threshold
    new.absorbed, new.lossless, new.dead_only = old.absorbed, old.lossless, old.dead_only
    new.floor = old.floor


def plan_as_json(plan: Plan | None, file: str, sha256: str, *, from_checkpoint: bool = False) -> dict[str, Any]:
    """The plan in the contract's format, version 2; `shapes` is what `apply-plan` checks the result by.

    Args:
        from_checkpoint: the source is a checkpoint, whose names and axes a traced Linear's are to have.
    """
    kept = {} if plan is None else plan.kept
    shapes = {} if plan is None else plan.shapes
    if from_checkpoint:
        kept, shapes = _untransposed(kept, shapes)
    groups = [] if plan is None else plan.groups or plan.group_plans()
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": {"file": file, "sha256": sha256},
        "keep": {name: {str(axis): axes[axis] for axis in sorted(axes)} for name, axes in sorted(kept.items())},
        "shapes": {name: _shapes_as_json(*shapes[name]) for name in sorted(shapes)},
        "removed": [] if plan is None else plan.removed_modules,
        **({} if plan is None or not plan.bridged else {"bridged": plan.bridged_modules}),
        "groups": [group.as_json() for group in groups],
    }


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
