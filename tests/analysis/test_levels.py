"""Levels of grouped convolutions: least with least, next with next, and no part ahead of another."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.levels import levelled
from onnxslim_yolo.ir.graph import Array
from tests.analysis.test_constraints import channels


def levels(
    balances: list[list[list[int]]], importance: list[float], out: tuple[int, ...] = ()
) -> tuple[list[float], list[int]]:
    """Values and levels; `out`: the classes that may not go."""
    count = len(importance)
    eligible = ~np.isin(np.arange(count), out)
    given: Array = np.array(importance, dtype=np.float32)
    values, level = levelled(channels(count, balances=balances), given, eligible)
    assert values.dtype == np.float64 and given.tolist() == importance
    return values.tolist(), level.tolist()


def test_without_grouped_convolutions_everyone_is_his_own() -> None:
    assert levels([], [3, 1, 2]) == ([3, 1, 2], [-1, -2, -3])


def test_the_least_of_every_part_the_next_of_every_part() -> None:
    """Of equals the first is the lesser; class 6 is in no part, and −1 is in no class."""
    values, level = levels([[[0, 1, 2, -1], [3, 4, 5, -1]]], [5, 1, 1, 2, 8, 3, 7])
    assert level == [2, 0, 1, 0, 2, 1, -7]
    assert values == [6.5, 1.5, 2, 1.5, 6.5, 2, 7]


def test_what_may_not_go_is_in_no_level() -> None:
    values, level = levels([[[0, 1, 2], [3, 4, 5]]], [5, 1, 2, 4, 8, 6], out=(1, 3))
    assert level == [1, -2, 0, -4, 1, 0]
    assert values == [6.5, 1, 4, 4, 6.5, 4]


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ((4, 2), [0, 0, 1, 1, 0, 1]),
        ((4, 6), [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]),  # not four levels: a common divisor keeps the shares alike
        ((3, 2), [0, 0, 1, 0, 1]),  # none: the larger shares come first
    ],
)
def test_unequal_parts_give_in_proportion(sizes: tuple[int, int], expected: list[int]) -> None:
    first, second = sizes
    every = list(range(first + second))
    parts = [[*every[:first], *[-1] * (second - first)], [*every[first:], *[-1] * (first - second)]]
    assert levels([parts], [float(cls) for cls in every])[1] == expected


def test_cells_of_a_shuffle() -> None:
    """The second convolution reads half of each of the first one's parts: four cells of two."""
    first, second = [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 4, 5], [2, 3, 6, 7]]
    values, level = levels([first, second], [1, 2, 30, 40, 500, 600, 8000, 7000])
    assert level == [0, 1, 0, 1, 0, 1, 1, 0]
    assert values[:2] == [(1 + 30 + 500 + 7000) / 4, (2 + 40 + 600 + 8000) / 4]


def test_what_leaves_a_convolution_unequal_is_seen_with_its_rest() -> None:
    assert levels([[[0, 3], [1, 2]], [[1], [2]]], [1, 2, 3, 4]) == ([2.5] * 4, [0] * 4)


def test_a_set_that_another_needs_for_its_balance_joins_it() -> None:
    """{0, 1 | 2} leaves both convolutions unequal: 3 mends the second, and 4, 5, fair by themselves, must come along
    as the first one's rest."""
    first, second = [[0, 1, 4], [2, 5, -1]], [[0, 1], [2, 3]]
    assert levels([first, second], [1, 2, 3, 4, 5, 6]) == ([3.5] * 6, [0] * 6)


def test_fair_sets_stay_apart_whether_or_not_they_share_a_convolution() -> None:
    first, second, other = [[0, 2], [1, 3]], [[0], [1]], [[4], [5]]
    values, level = levels([first, second, other], [1, 3, 10, 20, 5, 6])
    assert level == [2, 2, 1, 1, 0, 0]
    assert values == [2, 2, 15, 15, 5.5, 5.5]
