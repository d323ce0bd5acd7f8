"""prune-to: choose every width so that a cost meets a limit at the least importance lost.

Instead of one threshold over the whole network, each group's width is an unknown: a knapsack over importance lost and
cost gained, coupled layers counted together (see `onnxslim_yolo.pruning.allocate`; Shen et al. 2022, "Structural
Pruning via Latency-Saliency Knapsack", have the idea for one PyTorch network). What a group loses counts as
I·ln(I / kept): the less is left of a group, the dearer the next channel.

The cost is predicted latency, or multiply-accumulates, or parameters. Only the plan changes; widths come out of the
grid of the instruction set, so there is nothing left to snap.

What is predicted is the network as the default pipeline writes it: one of your own needs `conv-before-split` and
`conv-before-resize` as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.importance import Aggregate
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.costs import Costs, Multiplications, Parameters
from onnxslim_yolo.latency.devices import DeviceName
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.passes.prune import PruneChannels
from onnxslim_yolo.pruning.allocate import most_important
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.problem import Allocation, Unit, WidthProblem
from onnxslim_yolo.pruning.ranking import AnyKind

_TARGET = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(x|ms)")
_WAY_OUT = "a higher target, --scope all, or fewer --keep"
_LET_GO = "; --floor 2 lets go of the channels, too, that carry most of a tensor"

TRIES = 8
"""How often a lower limit is asked for where constraints give channels back."""

BELOW = 1 - 1e-6
"""So much of what a choice comes to is asked for next, so that it is another one."""


@dataclass(frozen=True)
class _Known:
    """A problem, and what it was made of."""

    key: tuple[object, ...]
    plan: Plan
    problem: WidthProblem


@dataclass(frozen=True)
class PruneToTarget:
    """Plan widths for a limit on latency, multiply-accumulates or parameters.

    Args:
        target: "0.6x", a share of the source's cost in (0, 1]; for latency also "12ms" on the table's machine.
        cost: "latency" (predicted), "macs" or "params".
        runtime, isa, table, threads: whose latency; see the pass `snap`.
        scope, importance, aggregate, normalise, floor, keep, calib, carry: see the pass `prune`.
    """

    name: ClassVar[str] = "prune-to"
    effect: ClassVar[Effect] = "plan"

    target: str = "0.7x"
    cost: Literal["latency", "macs", "params"] = "latency"
    runtime: Runtime = "ncnn"
    isa: DeviceName = "host"
    table: Path | None = None
    threads: int = 1
    scope: Literal["all", "no-residual"] = "all"
    importance: AnyKind = "auto"
    aggregate: Aggregate = "mean"
    normalise: bool = False
    floor: int = 1
    keep: tuple[str, ...] = ()
    calib: Path | None = None
    carry: float = 0.0

    def __post_init__(self) -> None:
        if parse_target(self.target)[1] == "ms" and self.cost != "latency":
            raise UsageError(f"{self.cost} cannot be '{self.target}'", hint="a share of the source, like 0.6x")

    def run(self, model: Model) -> int:
        """Plan in place; return the number of coupled channels newly marked.

        Raises:
            UsageError: the limit cannot be met, or nothing in the graph can be pruned.
        """
        self.prune().run(model)
        plan = open_plan(model)
        before, costs = plan.keep, self.costs()
        problem, source, limit = self.problem(model, plan, costs)
        after = problem.latency(problem.planned)
        if after > limit:
            plan, after = self._met(problem, plan, limit)
        if after > limit * (1 + 1e-9):
            raise UsageError(
                f"{self.cost} cannot come down to {self._words(limit)}: pruning all that can be leaves "
                f"{self._words(after)} of {self._words(source)} ({costs.name})",
                file=model.source.file,
                hint=_WAY_OUT + (_LET_GO if self.carry else ""),
            )
        model.plan = replace(plan, lossless=plan.lossless and bool(plan.keep.all()), wanted=plan.keep)
        model.note(
            f"{self.cost}: {self._words(source)} as it came, {self._words(after)} pruned ({costs.name})"
            + ("" if self.cost == "latency" else unread(self.table))
        )
        return int((before & ~plan.keep).sum())

    def _met(self, problem: WidthProblem, plan: Plan, limit: float) -> tuple[Plan, float]:
        """The plan for a limit, and what it comes to: the cheapest that was found where it meets none.

        Constraints that the problem does not know, parts that have to stay equal, give channels back once widths are
        chosen. So much less is asked for the next time, and less than what was found.
        """
        best, least, asked = plan, float("inf"), limit
        for _ in range(TRIES):
            found = self.solve(problem, asked)
            chosen = problem.keep(plan, list(found.choice))
            trial = replace(plan, keep=complete(plan.channels, chosen, plan.importance, floor=self.floor))
            after = problem.latency([int(trial.keep[u.order].sum()) for u in problem.units])
            if after < least:
                best, least = trial, after
            asked = min(asked - (after - limit), found.latency * BELOW)
            if least <= limit * (1 + 1e-9) or asked <= 0:
                break
        return best, least

    def prune(self) -> PruneChannels:
        """What ranks the channels: importance by itself, not per MAC, which the knapsack weighs against the cost."""
        return PruneChannels(
            0.0, self.scope, self.importance, self.aggregate, self.normalise, self.floor, self.keep,
            per="none", calib=self.calib, carry=self.carry,
        )  # fmt: skip

    def problem(self, model: Model, plan: Plan, costs: Costs) -> tuple[WidthProblem, float, float]:
        """The widths to choose, what the source costs, and the limit.

        Raises:
            UsageError: nothing that costs anything can be pruned.
        """
        problem = self._problem(model, plan, costs)
        if not problem.terms:
            raise UsageError(
                f"{self.cost} cannot come down: no channel of this network can be pruned",
                file=model.source.file,
                hint="--prune dead compiles it as it is, and says what holds its channels",
            )
        # As it came: the problem counts convolutions where `conv-before-resize` will put them, which on maps of a few
        # pixels costs more than it saves.
        came = model.carried.came or model.graph
        whole = sum(costs.lookup(layer.family, layer.ins, layer.outs) for layer in layers_of(came))
        source = max(whole, problem.latency(problem.planned))
        return problem, source, limit_of(self.target, source)

    def _problem(self, model: Model, plan: Plan, costs: Costs) -> WidthProblem:
        """Made once for a graph and a plan, and kept with it."""
        key = (self.cost, self.runtime, self.isa, self.table, *map(id, model.graph.nodes))
        known = plan.problem
        if isinstance(known, _Known) and known.key == key and known.plan.ranks_as(plan):
            return known.problem
        problem = WidthProblem.of(model.graph, plan, costs, step=costs.lanes, saturating=True)
        if model.plan is plan:
            model.plan = replace(plan, problem=_Known(key, plan, problem))
        return problem

    def candidates(self, problem: WidthProblem) -> list[list[int]]:
        """Per unit, the widths to choose among."""
        return [_candidates(unit, problem.costs.lanes, self.floor) for unit in problem.units]

    def solve(self, problem: WidthProblem, limit: float) -> Allocation:
        """The widths that lose least at the limit; the cheapest where none meets it."""
        found = problem.found.get((limit, self.floor))
        if found is None:
            found = problem.found[limit, self.floor] = most_important(
                problem, self.candidates(problem), limit, list(problem.planned)
            )
        return found

    def costs(self) -> Costs:
        """Where the cost of a layer comes from."""
        isa = self.isa
        if self.cost == "latency":
            return table_for(self.runtime, isa, self.table, self.threads)
        return Multiplications(isa) if self.cost == "macs" else Parameters(isa)

    def _words(self, cost: float) -> str:
        if self.cost == "latency":
            return f"{cost / 1000:.2f} ms" if cost >= 1000 else f"{cost:.3g} µs"
        return f"{cost / 1e6:.2f} M" if cost >= 1e6 else f"{cost / 1000:.3g} k"


def unread(table: Path | None) -> str:
    """That widths were chosen without looking at latency, as a note goes on."""
    which = "latency, nor is --table read for widths" if table is not None else "latency"
    return f"; widths do not go by {which}: --target-latency does"


def parse_target(text: str) -> tuple[float, Literal["x", "ms"]]:
    """A limit as (number, unit).

    Raises:
        UsageError: it is neither a share in (0, 1] like "0.6x" nor a time like "12ms".
    """
    found = _TARGET.fullmatch(text.strip())
    number = float(found[1]) if found else 0.0
    if found is None or number <= 0:
        raise UsageError(f"the target '{text}' is neither a share like 0.6x nor a time like 12ms")
    if found[2] == "x":
        require_share(number)
    return number, "x" if found[2] == "x" else "ms"


def require_share(number: float) -> None:
    """Raises UsageError where a target is more than the source: as a factor that it is to be faster by, perhaps."""
    if number > 1:
        raise UsageError(
            f"the target {number:g}x is more than the source: a target is the share of it that is left, in (0, 1]",
            hint=f"1/{number:g} of it is {1 / number:.2g}x",
        )


def limit_of(target: str, whole: float) -> float:
    """What a cost may come to (of latency in µs), where the source's is `whole`. Raises as `parse_target`."""
    number, unit = parse_target(target)
    return number * whole if unit == "x" else 1000 * number


def _candidates(unit: Unit, lanes: int, floor: int) -> list[int]:
    """Widths that fill registers, finer ones where the width is small; the whole width among them."""
    least = min(max(unit.least, floor, min(4, unit.width)), unit.width)
    found = set(range(lanes, unit.width, lanes))
    for step, most in ((lanes // 2, 8 * lanes // 2), (4, 2 * lanes)):
        found |= set(range(step, min(unit.width, most + 1), step)) if step >= 4 else set()
    fitting = {n for n in found if least <= n < unit.width and n % unit.step == 0}
    smallest = -(-least // unit.step) * unit.step
    return sorted(fitting | {smallest, unit.width})
