"""Widths near those that the ranking wanted: which are tried, and where the search begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.latency import LatencyTable
from onnxslim_yolo.pruning.auto_widths import FEWEST_UNITS, _candidates, _nearest, widths_by_latency, wished
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import Unit
from tests.passes.test_snap import chain


def unit(width: int, planned: int, least: int = 1, step: int = 1) -> Unit:
    return Unit(np.arange(width), least, planned, step, (0.0,) * (width + 1))


@pytest.mark.parametrize(
    "width, planned, least, step, lanes, widths",
    [
        (64, 20, 1, 1, 16, [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64]),  # a quarter of 20, and all of it
        (256, 100, 1, 1, 16, [56, 64, 80, 96, 100, 112, 128, 144]),  # three registers either way
        (256, 112, 1, 1, 16, [64, 80, 96, 112, 128, 144, 160]),
        (64, 20, 18, 1, 16, [20, 24, 28, 32, 40, 48, 56, 64]),  # not less than has to stay
        (64, 20, 20, 1, 16, [20, 24, 28, 32, 40, 48, 56, 64]),
        (64, 21, 2, 3, 16, [12, 21, 24, 48, 64]),  # parts of three
        (30, 9, 1, 1, 8, [4, 8, 9, 12, 16, 20, 24, 28, 30]),
        (12, 5, 1, 1, 4, [4, 5, 8, 12]),
        (40, 13, 1, 1, 4, [4, 8, 12, 13, 16, 20, 24]),
        (90, 50, 1, 1, 8, [28, 32, 40, 48, 50, 56, 64, 72]),  # all of it is too far away
    ],
)
def test_what_fills_registers_or_halves_or_quarters_of_them(
    width: int, planned: int, least: int, step: int, lanes: int, widths: list[int]
) -> None:
    assert _candidates(unit(width, planned, least, step), lanes) == widths


def test_the_search_begins_at_the_nearest_full_registers() -> None:
    widths = [[8, 16, 20, 32], [8, 16, 24, 32], [5, 9], [16, 30, 32]]
    assert _nearest([20, 24, 9, 30], widths, 16) == [16, 16, 9, 32]


def test_choosing_again_starts_from_what_was_wished() -> None:
    plan = open_plan(chain(8))
    fewer, least = plan.without(np.array([plan.channels.count - 1])), np.zeros_like(plan.keep)
    assert np.array_equal(wished(fewer), fewer.keep)
    assert np.array_equal(wished(replace(fewer, snapped=(least, fewer.keep))), least)
    assert np.array_equal(wished(replace(fewer, snapped=(least, plan.keep))), fewer.keep), "it was pruned since"


def test_below_eight_widths_nothing_is_chosen() -> None:
    table = LatencyTable.analytic("ncnn", "avx2")
    for count, chosen in ((FEWEST_UNITS - 1, False), (FEWEST_UNITS, True)):
        model = chain(*[24] * count)
        whole = open_plan(model)
        free = [group.classes for group in whole.channels.groups if len(group.classes) == 24]
        assert len(free) == count
        for plan in (whole, whole.without(np.concatenate([classes[:5] for classes in free]))):
            found = widths_by_latency(model.graph, plan, table)
            assert (found is not None) == chosen
            if found is None:
                continue
            keep, before, after = found
            assert before.choice == (int(plan.keep[free[0]].sum()),) * count and after.lost <= before.lost + 1e-9
            assert after.latency < before.latency or (np.array_equal(keep, plan.keep) and after is before)
            assert plan is not whole or (after is before and keep.all())
