"""A Reshape groups factors anew, in their order."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_yolo.rewrites.size_factors import Axis, Factor, axis_of, grouped, new_of, old_of, plain

ROWS, COLUMNS = Factor(44, 40), Factor(44, 36)


def extents(axes: list[Axis] | None) -> list[int] | None:
    return None if axes is None else [new_of(axis) for axis in axes]


@pytest.mark.parametrize(
    ("factors", "before", "now"),
    [
        ([*plain(48), ROWS, COLUMNS], (1, 2, 24, 44, 44), [1, 2, 24, 40, 36]),
        ([*plain(48), ROWS, COLUMNS], (1, 48, 1936), [1, 48, 1440]),
        ([*plain(2), *plain(24), ROWS, COLUMNS], (48, 1936), [48, 1440]),
        ([*plain(44), ROWS, COLUMNS], (44, 44, 44), [44, 40, 36]),  # equal numbers: the order tells
        ([ROWS, COLUMNS, *plain(44)], (1936, 4, 11), [1440, 4, 11]),
        ([*plain(48), ROWS, COLUMNS], (48, 22, 2, 44), None),  # rows are parted
        ([*plain(48), ROWS, COLUMNS], (96, 22, 44), None),
        ([*plain(6), ROWS], (4, 66), None),
        ([*plain(2), *plain(2)], (2,), None),  # something is left
        ([*plain(2)], (2, 2), None),
    ],
)
def test_grouping(factors: list[Factor], before: tuple[int, ...], now: list[int] | None) -> None:
    found = grouped(factors, before)
    assert extents(found) == now
    if found is not None:
        assert [old_of(axis) for axis in found] == list(before)


@given(st.lists(st.integers(2, 6), min_size=2, max_size=6), st.data())
def test_what_was_grouped_comes_apart_again(sides: list[int], data: st.DataObject) -> None:
    factors = [Factor(side, side + data.draw(st.integers(0, 3))) for side in sides]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sides) - 1))))
    parts = [sides[a:b] for a, b in zip([0, *cuts], [*cuts, len(sides)], strict=True)]
    merged = grouped(factors, [prod(part) for part in parts])
    assert merged is not None
    again = grouped([factor for axis in merged for factor in axis], sides)
    assert extents(again) == [factor.new for factor in factors]


def test_an_axis_is_an_operand_s_own_where_it_is_like_that() -> None:
    both = (ROWS, COLUMNS)
    read = [[plain(1), plain(8), both], [plain(1), both, plain(8)]]
    assert axis_of(read, -1, Factor(1936, 1440)) == both
    assert axis_of(read, -1, Factor(8, 8)) == plain(8)
    assert axis_of(read, -1, Factor(22, 20)) == (Factor(22, 20),)


def test_an_axis_that_is_as_long_as_before_still_moves() -> None:
    """32 × 32 positions become 64 × 16: 1024 again. Of two that are made of other factors it is neither."""
    both = (Factor(32, 64), Factor(32, 16))
    assert axis_of([[plain(8), both], [plain(1), plain(1024)]], -1, Factor(1024, 1024)) == both
    assert axis_of([[(Factor(4, 6), Factor(8, 8))], [(Factor(8, 8), Factor(4, 6))]], -1, Factor(32, 48)) == (
        Factor(32, 48),
    )
    assert axis_of([[both], [both[::-1]]], -1, Factor(1024, 1024)) is None
