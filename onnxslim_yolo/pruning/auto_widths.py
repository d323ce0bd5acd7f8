"""Widths by latency: near what the ranking wanted, as fast as they can be, at no more importance lost.

Each group may move by `REACH` registers' channels from its planned width, and down to a quarter of it at most: the
ranking is respected, its rounding is not. Candidates are what fills registers, halves and quarters of them. How they
are chosen is in `onnxslim_yolo.pruning.allocate`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.pruning.allocate import fastest
from onnxslim_yolo.pruning.placed import Choice
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.problem import Allocation, Unit, WidthProblem

REACH = 3
"""On YOLOv5n pruned by 0.7, 3 is predicted 10 % faster than 2 at the same importance, 4 another 2 %; on trained models
mAP differs by nothing that can be told from noise."""

FEWEST_UNITS = 8
"""With fewer widths to choose, or no latencies to judge by, the rule of thumb (the register's width) is used."""


def widths_by_latency(graph: gs.Graph, plan: Plan, table: LatencyTable) -> tuple[Array, Allocation, Allocation] | None:
    """The classes to keep for the least predicted latency, with (before, after); None if there is too little to go by.

    The result loses no more importance than the plan does, and is predicted no slower.
    """
    plan = replace(plan, keep=wished(plan), importance=plan.importance if plan.losses is None else plan.losses)
    problem = WidthProblem.of(graph, plan, table, step=table.lanes)
    if len(problem.units) < FEWEST_UNITS or not problem.terms:
        return None
    planned = list(problem.planned)
    before = Allocation(tuple(planned), problem.latency(planned), problem.lost(planned))
    if not plan.removed:
        return plan.keep, before, before
    candidates = [_candidates(unit, table.lanes) for unit in problem.units]
    starts = [planned, _nearest(planned, candidates, table.lanes)]
    found = fastest(problem, candidates, before.lost, starts)
    keep = complete(plan.channels, problem.keep(plan, list(found.choice)), plan.importance, floor=plan.floor)
    completed = [int(keep[unit.order].sum()) for unit in problem.units]
    after = Allocation(tuple(completed), problem.latency(completed), problem.lost(completed))
    if after.latency >= before.latency:
        return plan.keep, before, before
    return keep, before, after


def wished(plan: Plan) -> Array:
    """What was to be kept before widths were chosen, if they have been chosen already: to choose again from there."""
    if plan.snapped is not None and np.array_equal(plan.keep, plan.snapped[1]):
        return plan.snapped[0]
    return plan.keep


def _candidates(unit: Unit, lanes: int) -> list[int]:
    """Widths worth considering, ascending, the planned one among them."""
    planned, width = unit.planned, unit.width
    low = max(unit.least, -(-planned // (REACH + 1)), planned - REACH * lanes)
    high = min(width, planned + REACH * lanes)
    grids = [step for step in (lanes, lanes // 2, 4) if step >= 4]
    found = {n for step in grids for n in range(step, high + 1, step) if step == lanes or n < 8 * step}
    found = {n for n in found if low <= n <= high and n % unit.step == 0}
    return sorted(found | {planned} | ({width} if width <= high else set()))


def _nearest(planned: Choice, candidates: list[list[int]], lanes: int) -> Choice:
    """Every width at the nearest candidate that fills registers, where there is one."""
    return [
        min((n for n in widths if n % lanes == 0), key=lambda n: (abs(n - here), n), default=here)
        for here, widths in zip(planned, candidates, strict=True)
    ]
