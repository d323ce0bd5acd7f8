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
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import Channels, Group
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Family
from onnxslim_yolo.latency.parts import Parting
from onnxslim_yolo.pruning.placed import Choice, Placed, Slot, placed_layers, price
from onnxslim_yolo.pruning.plan import Plan


@dataclass(frozen=True)
class Allocation:
    """A choice of widths: µs and importance lost, by the problem's own reckoning.

    `price`: of importance, in µs, at which it was found; 0 where it was found otherwise.
    """

    choice: tuple[int, ...]
    latency: float
    lost: float
    price: float = 0.0


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
class _Term:
    """One layer, or several equal ones: `count` times the latency of a family at the widths of slots.

    Attributes:
        ins, outs, size: as a placed layer has them.
    """

    family: Family | Parting
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    size: tuple[Slot, ...]
    count: int
    known: dict[tuple[int, ...], float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def key(self) -> _Key:
        """What equal layers have in common."""
        return self.family, self.ins, self.outs, self.size

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All of them: inputs, outputs, size."""
        return (*self.ins, *self.outs, *self.size)

    def latency(self, widths: tuple[int, ...], costs: Costs) -> float:
        """µs at the widths of the slots."""
        us = self.known.get(widths)
        return self.count * (self.alone(widths, costs) if us is None else us)

    def times(self, count: int) -> _Term:
        """So many of these layers."""
        return self if count == self.count else replace(self, count=count)

    def alone(self, widths: tuple[int, ...], costs: Costs) -> float:
        """Of one of the layers."""
        inner, outer = len(self.ins), len(self.ins) + len(self.outs)
        us = self.known[widths] = price(self.family, widths[:inner], widths[inner:outer], widths[outer:], costs)
        return us


_Key = tuple[Family | Parting, tuple[Slot, ...], tuple[Slot, ...], tuple[Slot, ...]]


@dataclass
class WidthProblem:
    """What the solver sees.

    Attributes:
        units: see `Unit`.
        terms: the layers whose latency depends on a width.
        constant: µs of all other layers.
        costs: where latency comes from (or what else is to be small).
        placed: every layer by itself.
        found: widths chosen before, by whatever they were asked for.
    """

    units: list[Unit]
    terms: list[_Term]
    constant: float
    costs: Costs
    placed: list[Placed] = field(default_factory=list)
    found: dict[tuple[object, ...], Allocation] = field(default_factory=dict, repr=False)
    _terms_of: list[list[tuple[_Term, list[tuple[int, tuple[int, ...]]]]]] = field(init=False, repr=False)
    _beside: list[list[int]] = field(init=False, repr=False)
    _curves: list[dict[tuple[int, ...], list[float]]] = field(init=False, repr=False)

    @classmethod
    def of(cls, graph: gs.Graph, plan: Plan, costs: Costs, *, step: int = 1, saturating: bool = False) -> WidthProblem:
        """The problem of a graph and a plan for it.

        Args:
            step: groups narrower than this of the same layers are one unit.
            saturating: count what a unit loses as I·ln(I / kept), I its importance in sum, instead of I − kept. For
                the first channels that is the same; the last ones become ever dearer, so that no layer is starved
                because it is slow. For choosing widths freely rather than near a plan's.
        """
        units = [unit_of(plan, classes, saturating=saturating) for classes in units_of(plan.channels, step)]
        return cls.over(units, placed_layers(graph, plan, [unit.order for unit in units]), costs)

    @classmethod
    def over(
        cls, units: list[Unit], placed: list[Placed], costs: Costs, like: WidthProblem | None = None
    ) -> WidthProblem:
        """The problem of these layers. `like`: one that has equal layers, whose look-ups are shared."""
        terms, constant = _terms(placed, costs, {} if like is None else {term.key: term for term in like.terms})
        problem = cls(units, terms, constant, costs, placed)
        around: list[set[int]] = [set() for _ in units]
        for term in terms:
            touched: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
            for place, slot in enumerate(term.slots):
                for unit, filled in slot.parts:
                    touched[unit].append((place, filled))
            for unit, moving in touched.items():
                problem._terms_of[unit].append((term, moving))
                around[unit] |= touched.keys() - {unit}
        problem._beside = [sorted(others) for others in around]
        if like is not None:
            for unit, mine in enumerate(problem._terms_of):
                its = like._terms_of[unit]
                same = len(mine) == len(its) and all(a is b for (a, _), (b, _) in zip(mine, its, strict=True))
                problem._curves[unit] = like._curves[unit] if same else {}
        return problem

    def __post_init__(self) -> None:
        self._terms_of = [[] for _ in self.units]
        self._curves = [{} for _ in self.units]

    @cached_property
    def planned(self) -> Choice:
        """The plan's widths."""
        return [unit.planned for unit in self.units]

    def latency(self, choice: Choice) -> float:
        """µs of the whole network."""
        widths: dict[int, int] = {}  # layers share slots
        total = 0.0
        for term in self.terms:
            key = []
            for slot in term.slots:
                width = widths.get(id(slot))
                if width is None:
                    width = widths[id(slot)] = slot.width(choice)
                key.append(width)
            total += term.latency(tuple(key), self.costs)
        return self.constant + total

    def beside(self, unit: int) -> list[int]:
        """The other units whose widths a layer has that knows this one's."""
        return self._beside[unit]

    def around(self, unit: int, choice: Choice) -> float:
        """µs of the layers that a unit's width matters to."""
        return self.curve(unit, (choice[unit],), choice)[0]

    def curve(self, unit: int, widths: Sequence[int], choice: Choice) -> list[float]:
        """µs of the layers that a unit's width matters to, for each of these widths of it, the others as chosen.

        Remembered: most of a descent's steps find the units around as they were.
        """
        key = (*widths, -1, *[choice[other] for other in self._beside[unit]])
        known = self._curves[unit].get(key)
        if known is None:
            known = self._curves[unit][key] = self._curve(unit, widths, choice)
        return known

    def _curve(self, unit: int, widths: Sequence[int], choice: Choice) -> list[float]:
        totals = [0.0] * len(widths)
        here = choice[unit]
        for term, moving in self._terms_of[unit]:
            now = [slot.width(choice) for slot in term.slots]
            for place, filled in moving:
                now[place] -= filled[here]
            known, count = term.known, term.count  # nothing is asked for as often
            for index, width in enumerate(widths):
                then = now.copy()
                for place, filled in moving:
                    then[place] += filled[width]
                key = tuple(then)
                us = known.get(key)
                totals[index] += count * (term.alone(key, self.costs) if us is None else us)
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


def unit_of(plan: Plan, classes: Array, *, saturating: bool) -> Unit:
    """Classes whose number is one unknown, as a plan ranks them."""
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
        # Parts that hold the same classes (behind a shuffle each class lies in all of them) are balanced at any number.
        members = [*dict.fromkeys(tuple(sorted({int(c) for c in part} & inside)) for part in balance.parts)]
        if any(members):
            break
    else:
        return np.zeros(len(classes), dtype=np.int64), 1
    turn: dict[int, int] = {}
    stays = dict(zip(classes.tolist(), fixed.tolist(), strict=True))
    for part in members:
        ranked = sorted(part, key=lambda c: (not stays[c], not plan.keep[c], -plan.importance[c], c))
        turn.update({c: rank for rank, c in enumerate(ranked)})
    even = len({len(part) for part in members}) == 1 and sum(map(len, members)) == len(turn)
    parts = len(members) if even else 1
    return np.array([turn.get(c, 0) for c in classes.tolist()], dtype=np.int64), parts


def _terms(placed: Sequence[Placed], costs: Costs, known: dict[_Key, _Term]) -> tuple[list[_Term], float]:
    """Equal layers together, and the cost of those whose widths are fixed."""
    counted: dict[_Key, int] = {}
    constant = 0.0
    for layer in placed:
        if any(slot.parts for slot in layer.slots):
            key = (layer.family, layer.ins, layer.outs, layer.size)
            counted[key] = counted.get(key, 0) + 1
        else:
            constant += layer.latency([], costs)
    return [known[key].times(count) if key in known else _Term(*key, count) for key, count in counted.items()], constant
