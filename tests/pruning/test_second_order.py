"""Importance by output on blocks made by hand: the greedy order by brute force, and what noise tells."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning import second_order as module
from onnxslim_yolo.pruning.calibration import Statistics, collect
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.second_order import SecondOrder, _Block, _curvature, sensitivities
from tests.numeric import build
from tests.passes.cutting import onnx_text

COUNT = 8
CHANNELS = SimpleNamespace(count=COUNT)


def block(seed: int, *classes: int) -> _Block:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, len(classes))) @ rng.standard_normal((len(classes), len(classes)))
    return _Block(np.array(classes), rng.standard_normal((3, len(classes))), np.linalg.inv(x.T @ x / len(x)))


def blocks() -> list[_Block]:
    """Class 2 is read twice, 7 by nobody, one column is no channel's."""
    return [block(0, 1, 2, 3), block(1, 2, 4, -1, 5)]


def totals(now: list[_Block]) -> Array:
    found = np.zeros(COUNT)
    for one in now:
        for cls, cost in zip(one.classes, one.costs(), strict=True):
            if cls >= 0:
                found[cls] += cost
    return found


def greedy(eligible: Array, saved: Array | None) -> tuple[list[int], Array]:
    """Always the cheapest, by what the rest costs without those that went."""
    now, left, found, order = (
        [one.copy() for one in blocks()],
        set(np.flatnonzero(eligible).tolist()),
        np.zeros(COUNT),
        [],
    )
    highest = 0.0
    while left:
        costs = totals(now) / (1.0 if saved is None else np.maximum(saved, 1.0))
        cls = min(sorted(left), key=lambda c: costs[c])
        highest = max(highest, costs[cls])
        found[cls], order = highest, [*order, cls]
        left.remove(cls)
        for one in now:
            for column in np.flatnonzero(one.classes == cls).tolist():
                one.remove(column)
    return order, found


@pytest.mark.parametrize("saved", [None, np.array([1.0, 30.0, 4.0, 0.1, 9.0, 2.0, 1.0, 1.0])])
def test_the_cheapest_goes_first_and_what_follows_costs_what_it_costs_then(saved: Array | None) -> None:
    eligible = np.array([False, True, True, True, True, True, False, True])
    order, expected = greedy(eligible, saved)
    cost = None if saved is None else SimpleNamespace(saved=lambda keep: saved)
    whole = SecondOrder(tuple(blocks()))
    found = whole.importance(CHANNELS, eligible, cost)  # type: ignore[arg-type]
    assert sorted(np.flatnonzero(eligible).tolist(), key=lambda c: found[c]) == order
    assert found[eligible] == pytest.approx(expected[eligible])
    assert (found[~eligible] == 2 * max(found[eligible].max(), 1.0)).all()
    for one, before in zip(whole.blocks, blocks(), strict=True):
        assert np.array_equal(one.weight, before.weight) and np.array_equal(one.inverse, before.inverse)


def test_several_go_in_a_step_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    eligible = np.array([False, True, True, True, True, True, False, True])
    one_by_one, _ = greedy(eligible, None)
    monkeypatch.setattr(module, "STEPS", 2)  # 6 in steps of 3
    found = SecondOrder(tuple(blocks())).importance(CHANNELS, eligible, None)  # type: ignore[arg-type]
    first = totals(blocks())
    cheapest = sorted(np.flatnonzero(eligible).tolist(), key=lambda c: first[c])
    order = sorted(cheapest, key=lambda c: found[c])
    assert order[:3] == cheapest[:3] and order != one_by_one
    monkeypatch.setattr(module, "STEPS", 200)
    alone = np.zeros(COUNT, dtype=bool)
    assert (SecondOrder(tuple(blocks())).importance(CHANNELS, alone, None) == 2.0).all()  # type: ignore[arg-type]


def test_what_has_gone_costs_nothing_more() -> None:
    one = block(3, 0, 1, 2)
    one.remove(1)
    assert one.costs()[1] == 0 and (one.costs()[[0, 2]] > 0).all()
    assert one.costs(slice(2, 3)) == pytest.approx(one.costs()[2:])


def linear() -> tuple[object, list[object], list[Statistics], HeadError]:
    text = onnx_text(
        "float[1,3,8,8] x",
        "float[1,4,8,8] y",
        "float[6,3,1,1] a.weight, float[4,3,1,1] y.weight",
        "a = Conv(x, a.weight) y = Conv<group=2>(a, y.weight)",
    )
    model = build(text)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    places = [place for place in contractions(open_plan(model).channels) if place.weighted]
    return model, list(places), collect(model, places, images), HeadError.of(model, images)


def test_noise_of_a_share_of_an_output_is_seen_as_that_share_of_it() -> None:
    """Of the last layer: its own outputs are what the error is measured on."""
    model, places, statistics, head = linear()
    (found,) = sensitivities(model, places, statistics, head)  # type: ignore[arg-type]
    assert found == pytest.approx(1.0, rel=0.15)
    again = sensitivities(model, [*places, *places], [*statistics, *statistics], head)  # type: ignore[arg-type]
    assert again == [found, found]


def test_without_a_head_every_output_counts_by_its_own_spread() -> None:
    model, places, statistics, _ = linear()
    (found,) = _curvature(model, places, statistics, {}, None, None).values()  # type: ignore[arg-type]
    weight = places[0].node.inputs[1].values[:, :, 0, 0].astype(np.float64)  # type: ignore[attr-defined]
    energy = 0.0
    for g, rows in enumerate(weight.reshape(2, 2, 3)):
        own = statistics[0].covariance[3 * g : 3 * g + 3, 3 * g : 3 * g + 3]
        energy += np.trace(rows @ own @ rows.T)
    assert found == pytest.approx(np.eye(4) / energy, rel=1e-6)
