"""Widths as unknowns on a network that is counted by hand: units, their order, what they lose, neighbours."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from onnxslim_yolo.analysis.labelling import Balance
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.costs import Multiplications
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.problem import Unit, WidthProblem, unit_of, units_of
from tests.numeric import build
from tests.passes.cutting import classes_of, onnx_text

COSTS = Multiplications("avx2")
WEIGHTS = """float[8,3,1,1] a.weight, float[8,4,1,1] b.weight, float[12,8,1,1] c.weight, float[12,3,1,1] d.weight,
    float[12,12,1,1] e.weight, float[4,12,1,1] y.weight"""
BODY = """a = Conv(x, a.weight) b = Conv<group=2>(a, b.weight) c = Conv(b, c.weight) d = Conv<group=4>(c, d.weight)
    e = Conv(d, e.weight) y = Conv(e, y.weight)"""
NAMES = "abcde"


def network() -> tuple[Model, Plan]:
    model = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", WEIGHTS, BODY, 17))
    plan = open_plan(model)
    values = np.random.default_rng(4).permutation(plan.channels.count) + 1.0
    return model, replace(plan, importance=values)


def macs(widths: dict[str, int]) -> float:
    a, b, c, d, e = (widths[name] for name in NAMES)
    return 64 * (3 * a + a * b / 2 + b * c + c * d / 4 + d * e + 4 * e)


def opened() -> tuple[Model, Plan, WidthProblem, dict[str, int]]:
    """With the place of each tensor's unit."""
    model, plan = network()
    problem = WidthProblem.of(model.graph, plan, COSTS)
    place = {n: next(k for k, u in enumerate(problem.units) if classes_of(model, n)[0] in u.order) for n in NAMES}
    return model, plan, problem, place


def unit(plan: Plan, classes: Array, saturating: bool = False) -> Unit:
    return unit_of(plan, classes, saturating=saturating)


def test_what_a_choice_costs_is_what_is_counted_by_hand() -> None:
    _, _, problem, place = opened()
    assert sorted(place.values()) == list(range(5)) == list(range(len(problem.units)))
    for widths in product((4, 8), (2, 8), (4, 12), (8, 12), (5, 12)):
        named = dict(zip(NAMES, widths, strict=True))
        choice = [0] * 5
        for name, width in named.items():
            choice[place[name]] = width
        assert problem.latency(choice) == pytest.approx(macs(named))
        for name, readers in (("a", "ab"), ("c", "cd"), ("e", "ey")):
            own = place[name]
            fewer, whole = dict(named) | {name: 4}, macs(named)
            curve = problem.curve(own, (4, named[name]), choice)
            assert curve[1] - curve[0] == pytest.approx(whole - macs(fewer)), readers
            assert problem.around(own, choice) == curve[1]


def test_neighbours_share_a_layer() -> None:
    _, _, problem, place = opened()
    beside = {name: {n for n in NAMES if place[n] in problem.beside(place[name])} for name in NAMES}
    assert beside == {"a": {"b"}, "b": {"a", "c"}, "c": {"b", "d"}, "d": {"c", "e"}, "e": {"d"}}


def test_equal_layers_are_counted_as_often_as_they_are() -> None:
    text = "a = Conv(x, a.weight) b = Conv(a, b.weight) c = Conv(a, c.weight) s = Add(b, c) y = Conv(s, y.weight)"
    weights = "float[8,3,1,1] a.weight, float[8,8,1,1] b.weight, float[8,8,1,1] c.weight, float[4,8,1,1] y.weight"
    model = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", weights, text, 17))
    plan = open_plan(model)
    problem = WidthProblem.of(model.graph, plan, COSTS)
    choice = [2 if classes_of(model, "a")[0] in one.order else 5 for one in problem.units]
    assert problem.latency(choice) == 64 * (3 * 2 + 2 * (2 * 5) + 5 * 4)
    assert len(problem.units) == 2 and max(term.count for term in problem.terms) == 2


@pytest.mark.parametrize("name, parts", [("a", 2), ("b", 2), ("c", 4), ("d", 4), ("e", 1)])
def test_widths_take_as_many_of_each_part_the_most_important_first(name: str, parts: int) -> None:
    model, plan = network()
    classes = classes_of(model, name)
    found = unit(plan, classes)
    assert (found.step, found.width, found.planned) == (parts, len(classes), len(classes))
    for part in classes.reshape(parts, -1):
        inside = [c for c in found.order.tolist() if c in part]
        assert inside == sorted(part.tolist(), key=lambda c: -plan.importance[c])
    for n in range(0, len(classes) + 1, parts):
        assert {int(np.isin(part, found.order[:n]).sum()) for part in classes.reshape(parts, -1)} == {n // parts}


def test_what_has_to_stay_comes_first_then_what_is_kept() -> None:
    model, plan = network()
    classes = classes_of(model, "e")
    removable, keep = plan.removable.copy(), plan.keep.copy()
    least = classes[np.argsort(plan.importance[classes])]
    removable[least[0]] = False
    keep[least[-1]] = False
    found = unit(replace(plan, removable=removable, keep=keep, floor=3), classes)
    assert found.order.tolist() == [least[0], *least[-2:0:-1], least[-1]]
    assert (found.planned, found.least) == (11, 3)
    values = plan.importance[found.order]
    values[0] = 0.0  # what stays is free
    assert found.lost == pytest.approx([values[n:].sum() for n in range(13)])
    fixed = plan.removable.copy()
    fixed[classes[:5]] = False
    assert unit(replace(plan, removable=fixed), classes).least == 5
    assert unit(replace(plan, floor=100), classes).least == 12
    assert unit(plan, classes).least == 1
    # In parts what has to stay is rounded up to as many of each; first within its part.
    fixed = plan.removable.copy()
    parts = classes_of(model, "a").reshape(2, 4)
    fixed[parts[1][:3]] = False
    found = unit(replace(plan, removable=fixed), parts.reshape(-1))
    assert found.least == 4 and set(found.order[:3].tolist()) == set(parts[1][:3].tolist())
    keep = plan.keep.copy()
    best = parts[0][np.argmax(plan.importance[parts[0]])]
    keep[best] = False
    inside = [c for c in unit(replace(plan, keep=keep), parts.reshape(-1)).order.tolist() if c in parts[0]]
    assert inside[-1] == best


def test_what_stays_or_has_gone_takes_its_turn_in_its_part() -> None:
    """Three of one part have to stay, little as they matter: the fourth is in the fourth turn."""
    model, plan = network()
    first, second = classes_of(model, "a").reshape(2, 4)
    importance, removable, keep = plan.importance.copy(), plan.removable.copy(), plan.keep.copy()
    importance[second] = [1.0, 2.0, 3.0, 1000.0]
    removable[second[:3]] = False
    found = unit(replace(plan, importance=importance, removable=removable), np.r_[first, second])
    assert np.isin(found.order[:6], first).sum() == 3 and found.order[:3].tolist() == second[2::-1].tolist()
    # One that is gone already, much as it matters, leaves the first turn to the next of its part.
    importance[first], importance[second] = [1000.0, 3.0, 2.0, 1.0], [30.0, 20.0, 10.0, 5.0]
    keep[first[0]] = False
    found = unit(replace(plan, importance=importance, keep=keep), np.r_[first, second])
    assert [np.isin(found.order[:n], first).sum() for n in (2, 4, 6)] == [1, 2, 3] and found.order[-1] == first[0]


def test_parts_of_unlike_size_take_any_width() -> None:
    model, plan = network()
    assert unit(plan, classes_of(model, "a")[:6]).step == 1


def test_parts_that_hold_the_same_classes_take_any_width() -> None:
    """Behind a shuffle each class lies in every part: any number is balanced, and two classes have no step of four."""
    model, plan = network()
    classes = classes_of(model, "e")[:2]
    everywhere = Balance(np.tile(classes, (4, 1)), "a shuffle")
    shuffled = replace(plan, channels=replace(plan.channels, balances=[everywhere]))
    found = unit(shuffled, classes)
    assert (found.step, found.least, found.width) == (1, 1, 2)
    crossed = Balance(np.stack([classes_of(model, "e")[:2], classes_of(model, "e")[1:3]]), "parts that share one")
    shared = replace(plan, channels=replace(plan.channels, balances=[crossed]))
    assert unit(shared, classes_of(model, "e")).step == 1


def test_saturated_the_last_channels_are_ever_dearer() -> None:
    model, plan = network()
    classes = classes_of(model, "e")
    plain, dear = unit(plan, classes), unit(plan, classes, saturating=True)
    whole = plan.importance[classes].sum()
    kept = whole - np.array(plain.lost[1:])
    assert dear.lost[1:] == pytest.approx((whole * np.log(whole / kept)).tolist())
    assert dear.lost[0] == pytest.approx(whole * np.log(1e6))


def test_narrow_groups_of_the_same_layers_are_one_unit_and_frozen_ones_none() -> None:
    """A shuffle's routes: half of each layer's channels go either way."""
    text = """a = Conv(x, a.weight) u, v = Split<axis=1>(a, halves) p = Conv(u, p.weight) q = Conv(v, q.weight)
        y = Add(p, q)"""
    weights = "float[8,3,1,1] a.weight, int64[2] halves = {4, 4}, float[4,4,1,1] p.weight, float[4,4,1,1] q.weight"
    model = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", weights, text, 17))
    channels = open_plan(model).channels
    halves = [set(classes_of(model, name).tolist()) for name in "uv"]
    frozen = set(classes_of(model, "y").tolist())
    apart = [set(one.tolist()) for one in units_of(channels, 4)]
    together = [set(one.tolist()) for one in units_of(channels, 5)]
    assert all(one.isdisjoint(frozen) for one in (*apart, *together))
    groups = [set(group.classes.tolist()) for group in channels.groups if group.frozen is None]
    assert apart == groups and set().union(*together) == halves[0] | halves[1]
    assert len(together) == 1


def test_the_first_of_each_order_are_kept() -> None:
    _, plan, problem, place = opened()
    choice = [one.width for one in problem.units]
    choice[place["c"]] = 4
    keep = problem.keep(plan, choice)
    order = problem.units[place["c"]].order
    assert keep[order[:4]].all() and not keep[order[4:]].any() and (~keep).sum() == 8
    nothing = replace(plan, keep=np.zeros_like(plan.keep))
    assert problem.keep(nothing, [one.width for one in problem.units])[order].all()
    assert problem.lost(choice) == pytest.approx(plan.importance[order[4:]].sum())
