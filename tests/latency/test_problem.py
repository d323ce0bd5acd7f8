from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.latency import LatencyTable, layers_of
from onnxslim_yolo.passes import ConvBeforeResize, FoldBatchNorm, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.allocate import descend, fastest, most_important
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import WidthProblem
from tests.latency.models import zoo

TABLE = LatencyTable.analytic("ncnn", "avx512")


def pruned(name: str = "yolov8n", ratio: float = 0.5, **options: object):
    model = zoo(name)
    PruneChannels(ratio=ratio, **options).run(model)
    return model, open_plan(model)


def fused(model, table):
    """What the network is predicted to take when its convolutions have been moved."""
    copy = model.copy()
    FoldBatchNorm().run(copy)
    assert ConvBeforeResize().run(copy)
    return table.predict_graph(copy.graph)


@pytest.mark.parametrize("name", ["yolov5n", "v5lite-s"])
@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_the_problem_predicts_what_the_sliced_graph_is_predicted(name, runtime):
    table = LatencyTable.analytic(runtime, "avx512")
    model, plan = pruned(name)
    problem = WidthProblem.of(model.graph, plan, table, step=16)
    assert problem.latency([unit.width for unit in problem.units]) == pytest.approx(fused(model, table))
    predicted = problem.latency(problem.planned)
    SliceChannels().run(model)
    assert predicted == pytest.approx(fused(model, table), rel=0.01)
    assert len(layers_of(model.graph)) > 40


def test_the_planned_widths_keep_what_the_plan_keeps():
    model, plan = pruned()
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    assert np.array_equal(problem.keep(plan, problem.planned), plan.keep)


def test_the_most_important_channels_stay():
    model, plan = pruned()
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    for unit in problem.units:
        kept, gone = unit.order[: unit.planned], unit.order[unit.planned :]
        assert list(plan.importance[kept]) == sorted(plan.importance[kept], reverse=True)
        assert list(plan.importance[gone]) == sorted(plan.importance[gone], reverse=True)


def test_losing_more_costs_more_and_saturation_makes_the_last_dear():
    model, plan = pruned()
    plain = WidthProblem.of(model.graph, plan, TABLE, step=16).units[0]
    saturating = WidthProblem.of(model.graph, plan, TABLE, step=16, saturating=True).units[0]
    for unit in (plain, saturating):
        assert list(unit.lost) == sorted(unit.lost, reverse=True)
        assert unit.lost[-1] == 0
    assert saturating.lost[-2] == pytest.approx(plain.lost[-2], rel=0.2)
    assert saturating.lost[1] > 1.5 * plain.lost[1]


def test_what_may_not_go_is_free_and_stays():
    model, plan = pruned(keep=("model.0",))
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    full = [unit for unit in problem.units if unit.least == unit.width]
    assert full
    assert all(unit.lost[0] == 0 for unit in full)


def test_the_curve_is_the_change_of_the_whole():
    model, plan = pruned()
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    choice = problem.planned
    for number in (0, 5, len(problem.units) - 1):
        widths = [1, problem.units[number].width]
        curve = problem.curve(number, widths, choice)
        whole = [problem.latency([*choice[:number], width, *choice[number + 1 :]]) for width in widths]
        assert curve[1] - curve[0] == pytest.approx(whole[1] - whole[0])


def test_descent_ends_where_no_single_change_helps():
    model, plan = pruned(ratio=0.3)
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    candidates = [
        sorted({4, 8, 16, unit.width} & set(range(unit.width + 1)) | {unit.planned}) for unit in problem.units
    ]
    price = 0.5
    choice = descend(problem, candidates, price, problem.planned)
    best = problem.latency(choice) + price * problem.lost(choice)
    for number, widths in enumerate(candidates):
        for width in widths:
            other = [*choice[:number], width, *choice[number + 1 :]]
            assert problem.latency(other) + price * problem.lost(other) >= best - 1e-6


def brute(problem, candidates, rule):
    """The best choice of all, where there are few units: the other units stay as planned."""
    from itertools import product

    best = None
    for widths in product(*candidates):
        found = (problem.latency(list(widths)), problem.lost(list(widths)))
        key = rule(*found)
        if key is not None and (best is None or key < best[0]):
            best = (key, found)
    return best[1]


def few(problem, count: int = 5):
    """Candidates for the first units only."""
    return [
        sorted({unit.planned, max(4, unit.width // 2), unit.width}) if number < count else [unit.planned]
        for number, unit in enumerate(problem.units)
    ]


def test_least_latency_at_a_bound_on_importance_is_near_the_best_there_is():
    model, plan = pruned()
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    candidates, budget = few(problem), problem.lost(problem.planned)
    found = fastest(problem, candidates, budget, [problem.planned])
    best = brute(problem, candidates, lambda us, lost: us if lost <= budget + 1e-9 else None)
    assert found.lost <= budget * (1 + 1e-9)
    assert found.latency <= problem.latency(problem.planned)
    assert found.latency == pytest.approx(best[0], rel=0.03)


def test_least_importance_lost_at_a_bound_on_latency_is_near_the_best_there_is():
    model, plan = pruned(ratio=0.0)
    problem = WidthProblem.of(model.graph, plan, TABLE, step=16)
    candidates = few(problem)
    whole = problem.planned
    fast = problem.latency(descend(problem, candidates, 1e-9, whole))
    limit = (problem.latency(whole) + fast) / 2
    assert fast < limit
    found = most_important(problem, candidates, limit, whole)
    best = brute(problem, candidates, lambda us, lost: lost if us <= limit else None)
    assert found.latency <= limit
    assert found.lost <= 1.25 * best[1] + 1e-9
