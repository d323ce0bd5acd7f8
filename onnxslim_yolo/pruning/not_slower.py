"""Widths that are predicted no slower than the whole network's: for what goes although it costs nothing to keep.

A channel that contributes nothing may still be worth its place: 10 channels of a pooling layer can be slower than 12,
which fill registers. Where the network without its dead channels is predicted to be slower than with all of them,
groups get channels back, each the width from its planned one up that makes the layers around it fastest, the others as
they are, until nothing changes; if that is still slower, all of them stay. Keeping a channel changes no output.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.pruning.placed import Choice
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.problem import Unit, WidthProblem

ROUNDS = 20


def given_back(graph: gs.Graph, plan: Plan, table: LatencyTable) -> tuple[Array, float, float] | None:
    """The classes to keep, and the latency (µs) as planned and with them; None where the plan is not slower."""
    problem = WidthProblem.of(graph, plan, table)
    planned, whole = list(problem.planned), [unit.width for unit in problem.units]
    as_planned, as_whole = problem.latency(planned), problem.latency(whole)
    if not problem.terms or as_planned <= as_whole:
        return None
    choice = _descend(problem, planned, [_widths(unit) for unit in problem.units])
    if problem.latency(choice) > as_whole:
        choice = whole
    keep = complete(plan.channels, problem.keep(plan, choice), plan.importance, floor=plan.floor)
    completed = [int(keep[unit.order].sum()) for unit in problem.units]
    after = problem.latency(completed)
    if after > as_whole:
        keep, after = keep | True, as_whole
    return keep, as_planned, after


def _widths(unit: Unit) -> list[int]:
    """From the planned one up; the smallest first, so that of equally fast ones it is taken."""
    return [n for n in range(unit.planned, unit.width + 1) if n in (unit.planned, unit.width) or n % unit.step == 0]


def _descend(problem: WidthProblem, choice: Choice, widths: list[list[int]]) -> Choice:
    for _ in range(ROUNDS):
        before = list(choice)
        for unit, candidates in enumerate(widths):
            costs = problem.curve(unit, candidates, choice)
            choice[unit] = candidates[min(range(len(costs)), key=costs.__getitem__)]
        if choice == before:
            break
    return choice
