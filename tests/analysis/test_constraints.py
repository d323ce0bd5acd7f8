"""Completing a choice: as little as possible, the most important first, and monotone."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.constraints import complete, violations
from onnxslim_yolo.analysis.labelling import Balance
from onnxslim_yolo.ir.graph import Array


def channels(
    count: int,
    sections: list[list[int]] | None = None,
    balances: list[list[list[int]]] | None = None,
    frozen: tuple[int, ...] = (),
) -> Channels:
    return Channels(
        count=count,
        labels={},
        shapes={},
        uses=[],
        contractions=[],
        frozen=["reaches the output 'y'" if cls in frozen else None for cls in range(count)],
        groups=[],
        balances=[Balance(np.asarray(parts), f"conv{k}") for k, parts in enumerate(balances or [])],
        sections=[np.asarray(section) for section in sections or []],
    )


def completed(found: Channels, keep: list[int], importance: Array | None = None, floor: int = 1) -> list[int]:
    chosen = np.isin(np.arange(found.count), keep)
    before = chosen.copy()
    values = np.arange(found.count, dtype=float) if importance is None else importance
    result = complete(found, chosen, values, floor=floor)
    np.testing.assert_array_equal(chosen, before)  # not edited
    assert violations(found, result) == []
    return np.flatnonzero(result).tolist()


def test_frozen_channels_come_back() -> None:
    assert completed(channels(4, frozen=(1,)), [3]) == [1, 3]


def test_an_emptied_tensor_keeps_the_most_important() -> None:
    assert completed(channels(6, [[0, 1, 2], [3, 4, 5]]), [4]) == [2, 4]
    assert completed(channels(6, [[0, 1, 2], [3, 4, 5]]), [4], np.array([9.0, 1, 2, 3, 4, 5])) == [0, 4]


def test_of_an_emptied_tensor_one_stays_unless_more_are_asked_for() -> None:
    keep = complete(channels(3, [[0, 1, 2]]), np.zeros(3, dtype=bool), np.array([1.0, 3, 2]))
    assert keep.tolist() == [False, True, False]


def test_a_class_that_fills_many_positions_is_enough() -> None:
    assert completed(channels(2, [[1, 1, 1, 0]]), [], floor=3) == [1]


def test_the_floor() -> None:
    assert completed(channels(6, [[0, 1, 2], [3, 4, 5]]), [4], floor=2) == [1, 2, 4, 5]
    assert completed(channels(3, [[0, 1, 2]]), [], floor=8) == [0, 1, 2]


def test_positions_without_a_channel_count_as_kept() -> None:
    assert completed(channels(2, [[0, NO_CHANNEL, 1]]), []) == []


def test_parts_of_a_grouped_convolution_are_levelled_upwards() -> None:
    assert completed(channels(6, balances=[[[0, 1, 2], [3, 4, 5]]]), [0, 1, 3]) == [0, 1, 3, 5]


def test_a_class_that_fills_two_positions() -> None:
    """Position 2 of part one appears twice in part two: [0, 1] against [2, 2]."""
    assert completed(channels(3, balances=[[[0, 1], [2, 2]]]), [0]) == [0, 1, 2]


def test_repairs_that_follow_from_repairs() -> None:
    found = channels(6, [[0, 1]], [[[1, 2], [3, 4]], [[3, 4], [5, 0]]])
    assert completed(found, []) == [1, 4, 5]


def test_what_is_wrong_is_said() -> None:
    found = channels(4, [[0, 1]], [[[0, 1], [2, 3]]], frozen=(3,))
    said = violations(found, np.array([False, False, True, False]))
    assert said == [
        "class 3 is removed although it reaches the output 'y'",
        "a tensor of 2 channels would become empty",
        "the groups of 'conv0' would keep [0, 1] channels",
    ]


CLASSES = st.integers(0, 7)
SECTIONS = st.lists(st.lists(CLASSES, min_size=1, max_size=4), max_size=3)
PARTS = st.permutations(range(8)).map(lambda order: [order[:2], order[2:4]])
BALANCES = st.lists(PARTS, max_size=1)
CHOICE = st.lists(CLASSES, max_size=8)
QUICK = settings(max_examples=80, deadline=None, derandomize=True)


@QUICK
@given(SECTIONS, BALANCES, CHOICE, st.lists(CLASSES, max_size=2))
def test_never_takes_and_is_idempotent(
    sections: list[list[int]], balances: list[list[list[int]]], keep: list[int], frozen: list[int]
) -> None:
    found = channels(8, sections, balances, tuple(frozen))
    result = completed(found, keep)
    assert set(result) >= set(keep) | set(frozen)
    assert completed(found, result) == result


@QUICK
@given(SECTIONS, BALANCES, CHOICE, CHOICE)
def test_monotone_in_size(
    sections: list[list[int]], balances: list[list[list[int]]], keep: list[int], more: list[int]
) -> None:
    """Sections alone: keeping more never ends with less. With balances, levels can only rise."""
    found = channels(8, sections, balances)
    small, large = completed(found, keep), completed(found, [*keep, *more])
    assert len(large) >= len(small) or set(large) >= set(keep) | set(more)
    if not balances:
        assert len(large) >= len(set(keep) | set(more))


@QUICK
@given(st.lists(st.lists(CLASSES, min_size=1, max_size=4, unique=True), max_size=2), CHOICE)
def test_no_smaller_completion_of_separate_sections(sections: list[list[int]], keep: list[int]) -> None:
    """Against brute force, where sections do not overlap."""
    disjoint = [s for k, s in enumerate(sections) if not any(set(s) & set(t) for t in sections[:k])]
    found = channels(8, disjoint)
    result = completed(found, keep)
    rest = [cls for cls in range(8) if cls not in keep]
    for size in range(len(result) - len(set(keep))):
        for extra in itertools.combinations(rest, size):
            assert violations(found, np.isin(np.arange(8), [*keep, *extra])) != []
