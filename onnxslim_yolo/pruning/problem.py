"""Widths as unknowns: a plan's groups, the layers they touch, and what a choice of widths costs and loses.

A *unit* is what gets one width: a group, or small groups of the same layers together (a shuffle's routes). Its channels
are ordered once, what has to stay first, then by importance; a width n keeps the first n. So the width of every tensor
is a sum of known functions of the units' widths, and a layer's latency a look-up in a table.

Where a grouped convolution demands as many channels in each of its p parts, the order takes turns among the parts and
only multiples of p are widths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, Group
from onnxslim_yolo.ir.graph import Array, Tensor
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Family, describe
from onnxslim_yolo.latency.moved import as_moved
from onnxslim_yolo.pruning.plan import Plan

Choice = list[int]
"""One width per unit."""


@dataclass(frozen=True)
class Unit:
    """Channels whose number is one unknown.

    Attributes:
        order: the classes, those that have to stay first, then the most important first.
        least: the smallest width allowed: what has to stay, and at least the plan's floor.
        planned: how many the plan keeps.
        step: every width is a multiple of this.
        lost: what is lost with n channels kept, in importance; shape (width + 1,). Channels that have to stay are free.
    """

    order: Array
    least: int
    planned: int
    step: int
    lost: tuple[float, ...]

    @property
    def width(self) -> int:
        """All channels."""
        return len(self.order)


@dataclass(frozen=True)
class _Slot:
    """The width of one tensor: `fixed`, plus per unit how many positions its first n channels fill."""

    fixed: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]

    def width(self, choice: Choice) -> int:
        return self.fixed + sum(filled[choice[unit]] for unit, filled in self.parts)


@dataclass(frozen=True)
class _Term:
    """One layer, or several equal ones: `count` times the latency of a family at the widths of slots."""

    family: Family
    slots: tuple[_Slot, ...]
    inputs: int
    count: int
    known: dict[tuple[int, ...], float] = field(default_factory=dict, compare=False, repr=False)

    def latency(self, widths: tuple[int, ...], costs: Costs) -> float:
        """µs at the widths of the slots, inputs first."""
        us = self.known.get(widths)
        if us is None:
            us = self.count * costs.lookup(self.family, widths[: self.inputs], widths[self.inputs :])
            self.known[widths] = us
        return us


@dataclass
class WidthProblem:
    """What the solver sees.

    Attributes:
        units: see `Unit`.
        terms: the layers whose latency depends on a width.
        constant: µs of all other layers.
        costs: where latency comes from (or what else is to be small).
    """

    units: list[Unit]
    terms: list[_Term]
    constant: float
    costs: Costs
    _terms_of: list[list[_Term]] = field(default_factory=list)
    _beside: list[list[int]] = field(default_factory=list)
    _curves: dict[tuple[int, ...], list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: gs.Graph, plan: Plan, costs: Costs, *, step: int = 1, saturating: bool = False) -> WidthProblem:
        """The problem of a graph and a plan for it.

        Args:
            step: groups narrower than this of the same layers are one unit.
            saturating: count what a unit loses as I·ln(I / kept), I its importance in sum, instead of I − kept. For
                the first channels that is the same; the last ones become ever dearer, so that no layer is starved
                because it is slow. For choosing widths freely rather than near a plan's.
        """
        units = [_unit(plan, classes, saturating) for classes in units_of(plan.channels, step)]
        place = {int(c): u for u, unit in enumerate(units) for c in unit.order}
        terms, constant = _terms(graph, plan, costs, units, place)
        problem = cls(units, terms, constant, costs)
        problem._terms_of = [[] for _ in units]
        beside: list[set[int]] = [set() for _ in units]
        for term in terms:
            touched = {u for slot in term.slots for u, _ in slot.parts}
            for unit in sorted(touched):
                problem._terms_of[unit].append(term)
                beside[unit] |= touched - {unit}
        problem._beside = [sorted(others) for others in beside]
        return problem

    @cached_property
    def planned(self) -> Choice:
        """The plan's widths."""
        return [unit.planned for unit in self.units]

    def latency(self, choice: Choice) -> float:
        """µs of the whole network."""
        return self.constant + sum(
            term.latency(tuple([slot.width(choice) for slot in term.slots]), self.costs) for term in self.terms
        )

    def around(self, unit: int, choice: Choice) -> float:
        """µs of the layers that a unit's width matters to."""
        return self.curve(unit, (choice[unit],), choice)[0]

    def curve(self, unit: int, widths: Sequence[int], choice: Choice) -> list[float]:
        """µs of the layers that a unit's width matters to, for each of these widths of it, the others as chosen.

        Remembered: most of a descent's steps find the units around as they were.
        """
        key = (unit, *widths, -1, *[choice[other] for other in self._beside[unit]])
        known = self._curves.get(key)
        if known is None:
            known = self._curves[key] = self._curve(unit, widths, choice)
        return known

    def _curve(self, unit: int, widths: Sequence[int], choice: Choice) -> list[float]:
        totals = [0.0] * len(widths)
        here = choice[unit]
        for term in self._terms_of[unit]:
            now = [slot.width(choice) for slot in term.slots]
            moving = [
                (place, filled)
                for place, slot in enumerate(term.slots)
                for other, filled in slot.parts
                if other == unit
            ]
            for index, width in enumerate(widths):
                then = list(now)
                for place, filled in moving:
                    then[place] += filled[width] - filled[here]
                totals[index] += term.latency(tuple(then), self.costs)
        return totals

    def lost(self, choice: Choice) -> float:
        """Importance that a choice gives up."""
        return sum(unit.lost[n] for unit, n in zip(self.units, choice, strict=True))

    def keep(self, plan: Plan, choice: Choice) -> Array:
        """The plan's choice of channels with these widths instead; shape (count,), bool."""
        keep: Array = plan.keep.copy()
        for unit, n in zip(self.units, choice, strict=True):
            keep[unit.order[:n]] = True
            keep[unit.order[n:]] = False
        return keep


def units_of(channels: Channels, step: int) -> list[Array]:
    """The classes of each unit: a group; groups narrower than `step` of the same layers as one."""
    small: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    found: list[Array] = []
    for group in channels.groups:
        if group.frozen:
            continue
        if group.width >= step:
            found.append(group.classes)
        else:
            small[group.members].append(group)
    found += [np.concatenate([group.classes for group in groups]) for groups in small.values()]
    return found


def _unit(plan: Plan, classes: Array, saturating: bool) -> Unit:
    keep, removable, importance = plan.keep[classes], plan.removable[classes], plan.importance[classes]
    fixed = keep & ~removable
    # Balanced parts take turns; elsewhere the turn is 0 for all.
    turns, step = _turns(plan, classes, fixed)
    order = np.lexsort((np.arange(len(classes)), -importance, turns, ~keep, ~fixed))
    ordered = classes[order]
    gone = np.where(plan.removable[ordered], plan.importance[ordered], 0.0)
    lost = np.concatenate([np.cumsum(gone[::-1])[::-1], [0.0]])
    if saturating:
        whole = max(float(plan.importance[ordered].sum()), 1e-12)
        lost = whole * np.log(whole / np.maximum(whole - lost, 1e-6 * whole))
    least = max(int(fixed.sum()), 1, min(plan.floor, len(classes)))
    return Unit(ordered, -(-least // step) * step, int(keep.sum()), step, tuple(lost.tolist()))


def _turns(plan: Plan, classes: Array, fixed: Array) -> tuple[Array, int]:
    """The rank of each channel in its part of a grouped convolution, and the number of parts; 0 and 1 without one."""
    inside = set(classes.tolist())
    for balance in plan.channels.balances:
        members = [[int(c) for c in part if int(c) in inside] for part in balance.parts]
        if any(members):
            break
    else:
        return np.zeros(len(classes), dtype=np.int64), 1
    turn: dict[int, int] = {}
    stays = dict(zip(classes.tolist(), fixed.tolist(), strict=True))
    for part in members:
        ranked = sorted(part, key=lambda c: (not stays[c], not plan.keep[c], -plan.importance[c], c))
        turn.update({c: rank for rank, c in enumerate(ranked)})
    parts = len(members) if len({len(part) for part in members}) == 1 else 1
    return np.array([turn.get(c, 0) for c in classes.tolist()], dtype=np.int64), parts


def _terms(
    graph: gs.Graph, plan: Plan, costs: Costs, units: list[Unit], place: dict[int, int]
) -> tuple[list[_Term], float]:
    slots: dict[tuple[int, int], _Slot] = {}
    counted: dict[tuple[Family, tuple[_Slot, ...], tuple[_Slot, ...]], int] = {}
    constant = 0.0

    def slot_of(of: Tensor | tuple[Tensor, ...], width: int) -> _Slot:
        if isinstance(of, tuple):
            return _together([slot_of(tensor, int(tensor.shape[1])) for tensor in of])
        return _slot(plan, of, width, units, place, slots)

    for layer in as_moved(graph, describe(graph, plan.channels.shapes)):
        ins, outs = (
            tuple(slot_of(*one) for one in zip(tensors, widths, strict=True))
            if tensors
            else tuple(_Slot(width, ()) for width in widths)
            for tensors, widths in ((layer.ins, layer.key.ins), (layer.outs, layer.key.outs))
        )
        if not any(slot.parts for slot in (*ins, *outs)):
            widths = tuple(s.fixed for s in ins), tuple(s.fixed for s in outs)
            constant += costs.lookup(layer.key.family, *widths)
            continue
        key = (layer.key.family, ins, outs)
        counted[key] = counted.get(key, 0) + 1
    return [_Term(family, ins + outs, len(ins), count) for (family, ins, outs), count in counted.items()], constant


def _together(slots: Sequence[_Slot]) -> _Slot:
    """The width of several tensors in a row."""
    filled: dict[int, tuple[int, ...]] = {}
    for slot in slots:
        for unit, counts in slot.parts:
            before = filled.get(unit, (0,) * len(counts))
            filled[unit] = tuple(a + b for a, b in zip(before, counts, strict=True))
    return _Slot(sum(slot.fixed for slot in slots), tuple(sorted(filled.items())))


def _slot(
    plan: Plan,
    tensor: Tensor,
    width: int,
    units: list[Unit],
    place: dict[int, int],
    known: dict[tuple[int, int], _Slot],
) -> _Slot:
    if (id(tensor), width) in known:
        return known[(id(tensor), width)]
    labels = plan.channels.labels_of(tensor)
    classes = np.zeros(0, dtype=np.int64)
    if labels is not None and labels.ndim > 1 and labels.shape[1] == width > 1:
        classes = labels.reshape(-1)
    per_unit: dict[int, dict[int, int]] = {}
    fixed = width - len(classes)
    for cls in classes.tolist():
        unit = place.get(cls, -1) if cls != NO_CHANNEL else -1
        if unit < 0:
            fixed += bool(cls == NO_CHANNEL or plan.keep[cls])
            continue
        counts = per_unit.setdefault(unit, {})
        counts[cls] = counts.get(cls, 0) + 1
    parts = []
    for unit, counts in sorted(per_unit.items()):
        filled = np.cumsum([0, *(counts.get(int(c), 0) for c in units[unit].order)])
        parts.append((unit, tuple(filled.tolist())))
    slot = known[(id(tensor), width)] = _Slot(fixed, tuple(parts))
    return slot
