"""prune-to-latency: choose every width so that predicted latency meets a limit at the least importance lost.

Instead of one threshold over the whole network, each group's width is an unknown: a knapsack over importance lost and
latency gained, coupled layers counted together (see `onnxslim_yolo.latency.allocate`; Shen et al. 2022, "Structural
Pruning via Latency-Saliency Knapsack", have the idea for one PyTorch network). What a group loses counts as
I·ln(I / kept): the less is left of a group, the dearer the next channel.

Only the plan changes; widths come out of the grid of the instruction set, so there is nothing left to snap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.importance import Aggregate, Kind
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.graph import Model
from onnxslim_yolo.latency.allocate import Allocation, most_important
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.problem import Unit, WidthProblem
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.manager import Effect
from onnxslim_yolo.passes.prune import PruneChannels
from onnxslim_yolo.passes.snap import Isa
from onnxslim_yolo.plan import open_plan

_TARGET = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(x|ms)")


@dataclass(frozen=True)
class PruneToLatency:
    """Plan widths for a limit on predicted latency.

    Args:
        target: "0.6x", a share of the source's predicted latency in (0, 1], or "12ms" on the table's machine.
        runtime, isa, table: whose latency; see the pass `snap`.
        scope, importance, aggregate, normalise, floor, keep: see the pass `prune`.
    """

    name: ClassVar[str] = "prune-to-latency"
    effect: ClassVar[Effect] = "plan"

    target: str = "0.7x"
    runtime: Runtime = "ncnn"
    isa: Isa = "host"
    table: Path | None = None
    scope: Literal["all", "no-residual"] = "all"
    importance: Kind = "auto"
    aggregate: Aggregate = "mean"
    normalise: bool = False
    floor: int = 1
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_target(self.target)

    def run(self, model: Model) -> int:
        """Plan in place; return the number of coupled channels newly marked.

        Raises:
            UsageError: the limit cannot be met, or nothing in the graph can be pruned; or latency cannot be predicted
                because shapes are not known.
        """
        PruneChannels(
            0.0, self.scope, self.importance, self.aggregate, self.normalise, self.floor, self.keep
        ).run(model)  # fmt: skip
        plan = open_plan(model)
        before = plan.keep.copy()
        table = table_for(self.runtime, self.isa, self.table)
        problem = WidthProblem.of(model.graph, plan, table, step=table.lanes, saturating=True)
        if not problem.terms:
            raise UsageError(
                "latency cannot be predicted: the graph's shapes are not known", file=model.source.file,
                hint="fix the input size with --imgsz",
            )  # fmt: skip
        whole = list(problem.planned)
        source = problem.latency(whole)
        number, unit = parse_target(self.target)
        limit = number * source if unit == "x" else number * 1000
        candidates = [_candidates(u, table.lanes, self.floor) for u in problem.units]
        if source > limit:
            found = most_important(problem, candidates, limit, whole)
            plan.keep = complete(
                plan.channels, problem.keep(plan, list(found.choice)), plan.importance, floor=self.floor
            )
        done = [int(plan.keep[u.order].sum()) for u in problem.units]
        after = Allocation(tuple(done), problem.latency(done), problem.lost(done))
        if after.latency > limit * (1 + 1e-9):
            plan.keep = before
            raise UsageError(_too_low(after.latency, source, limit, table.name), file=model.source.file, hint=_WAY_OUT)
        plan.lossless = plan.lossless and bool(plan.keep.all())
        plan.wanted = plan.keep.copy()
        model.note(
            f"predicted latency: {source / 1000:.2f} ms as it came, {after.latency / 1000:.2f} ms pruned ({table.name})"
        )
        return int((before & ~plan.keep).sum())


_WAY_OUT = "a higher target, --scope all, or fewer --keep"


def parse_target(text: str) -> tuple[float, Literal["x", "ms"]]:
    """A limit on latency as (number, unit).

    Raises:
        UsageError: it is neither a share in (0, 1] like "0.6x" nor a time like "12ms".
    """
    found = _TARGET.fullmatch(text.strip())
    number = float(found[1]) if found else 0.0
    if found is None or number <= 0 or (found[2] == "x" and number > 1):
        raise UsageError(f"the target latency '{text}' is neither a share like 0.6x nor a time like 12ms")
    return number, "x" if found[2] == "x" else "ms"


def _too_low(latency: float, source: float, limit: float, table: str) -> str:
    return (
        f"predicted latency cannot come down to {limit / 1000:.2f} ms: pruning all that can be leaves "
        f"{latency / 1000:.2f} of {source / 1000:.2f} ms ({table})"
    )


def _candidates(unit: Unit, lanes: int, floor: int) -> list[int]:
    """Widths that fill registers, finer ones where the width is small; the whole width among them."""
    least = min(max(unit.least, floor, min(4, unit.width)), unit.width)
    found = set(range(lanes, unit.width, lanes))
    for step, most in ((lanes // 2, 8 * lanes // 2), (4, 2 * lanes)):
        found |= set(range(step, min(unit.width, most + 1), step)) if step >= 4 else set()
    fitting = {n for n in found if least <= n < unit.width and n % unit.step == 0}
    smallest = -(-least // unit.step) * unit.step
    return sorted(fitting | {smallest, unit.width})
