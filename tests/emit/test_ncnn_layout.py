"""The layout algebra by hand: where an axis lies in a blob, what is merged, and how two permutations become one."""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.layout import (
    broadcast_dims,
    canonical_dims,
    composed,
    dim_of_axis,
    dim_of_outer_factor,
    dims_showing,
    merged,
    order_of_dims,
    padded,
    permutation_of,
    permute_order,
    regrouped,
)

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((1, 6, 9, 10), (6, 9, 10)),
        ((2, 6, 9, 10), (2, 6, 9, 10)),
        ((1,), (1,)),
        ((5,), (5,)),
        ((), (1,)),
        ((1, 7), (7,)),
        ((1, 2, 3, 4, 5), (2, 3, 4, 5)),
        ((1, 2, 1, 3, 4, 5), (2, 3, 4, 5)),
        ((1, 2, 1, 3, 1, 4), (2, 3, 1, 4)),
        ((1, 2, 3, 4, 5, 6), (6, 4, 5, 6)),
        ((2, 3, 4, 5, 6, 7), (24, 5, 6, 7)),
        ((1, 1, 1, 2), (1, 1, 2)),
    ],
)
def test_what_a_reader_expects(shape: Shape, dims: Shape) -> None:
    assert canonical_dims(shape) == dims


@pytest.mark.parametrize(
    ("shape", "dims", "axis", "found"),
    [
        ((1, 6, 9, 10), (6, 9, 10), 1, 0),
        ((1, 6, 9, 10), (6, 9, 10), 3, 2),
        ((1, 6, 9, 10), (6, 90), 2, None),
        ((1, 6, 9, 10), (6, 90), 1, 0),
        ((1, 54, 10), (6, 9, 10), 1, None),
        ((1, 54, 10), (6, 9, 10), 2, 2),
        ((1, 2, 3, 9), (6, 9), 1, None),
        ((1, 2, 3, 9), (6, 9), 2, None),
        ((1, 3, 3), (3, 3), 2, 1),
        ((1, 6, 1, 10), (6, 1, 10), 2, 1),
        ((1, 6, 1, 10), (6, 10), 2, None),
        ((1, 6, 1, 10), (6, 1, 10), 0, None),
        ((1, 6, 1, 10), (1, 6, 1, 10), 0, 0),
        ((1, 6, 1, 10), (1, 6, 1, 10), 2, 2),
        ((2, 1, 10), (1, 10), 1, None),
        ((2, 1, 10), (2, 1, 10), 1, 1),
    ],
)
def test_the_dim_that_is_an_axis(shape: Shape, dims: Shape, axis: int, found: int | None) -> None:
    assert dim_of_axis(shape, dims, axis) == found


@pytest.mark.parametrize(
    ("shape", "dims", "axis", "found"),
    [
        ((1, 2, 3, 9), (6, 9), 1, 0),
        ((1, 2, 3, 9), (6, 9), 2, None),
        ((1, 2, 3, 9), (6, 9), 3, 1),
        ((1, 4, 3, 9), (6, 18), 1, None),
        ((1, 1, 3, 9), (1, 3, 9), 1, 1),
        ((1, 5, 9), (45,), 1, 0),
        ((1, 5, 9), (45,), 2, None),
    ],
)
def test_the_dim_that_starts_with_an_axis(shape: Shape, dims: Shape, axis: int, found: int | None) -> None:
    assert dim_of_outer_factor(shape, dims, axis) == found


@pytest.mark.parametrize(
    ("shape", "axes", "shown"),
    [
        ((1, 6, 9, 10), [1], ((6, 9, 10), {1: 0})),
        ((1, 6, 9, 10), [0], ((1, 6, 9, 10), {0: 0})),
        ((2, 6, 9, 10), [1, 3], ((2, 6, 9, 10), {1: 1, 3: 3})),
        ((1, 2, 3, 4, 5), [2], ((2, 3, 4, 5), {2: 1})),
        ((1, 2, 3, 4, 5, 6), [3], ((6, 4, 30), {3: 1})),
        ((2, 3, 4, 5, 6), [0], ((2, 360), {0: 0})),
        ((2, 3, 4, 5, 6), [4], ((120, 6), {4: 1})),
        ((2, 3, 4, 5, 6), [1, 3], None),
        ((1,), [], ((1,), {})),
        ((1,), [0], ((1,), {0: 0})),
    ],
)
def test_dims_in_which_axes_stand_alone(
    shape: Shape, axes: list[int], shown: tuple[Shape, dict[int, int]] | None
) -> None:
    found = dims_showing(shape, axes)
    assert found is None if shown is None else found is not None
    if found is not None and shown is not None:
        assert found[0] == shown[0] and {axis: found[1][axis] for axis in axes} == shown[1]


@pytest.mark.parametrize(
    ("shape", "keys", "alone", "dims", "where"),
    [
        ((2, 3, 4), "aab", (), (6, 4), {0: 0, 1: 0, 2: 1}),
        ((2, 3, 4), "aaa", (1,), (2, 3, 4), {0: 0, 1: 1, 2: 2}),
        ((2, 1, 4), "aba", (), (8,), {0: 0, 2: 0}),
        ((2, 1, 4), "aba", (1,), (2, 1, 4), {0: 0, 1: 1, 2: 2}),
        ((1, 1), "ab", (), (1,), {}),
        ((2, 3, 4, 5), "abab", (), (2, 3, 4, 5), {0: 0, 1: 1, 2: 2, 3: 3}),
    ],
)
def test_neighbours_of_one_key_are_merged(
    shape: Shape, keys: str, alone: Shape, dims: Shape, where: dict[int, int]
) -> None:
    assert regrouped(shape, keys, alone) == (dims, where)


def test_more_than_four_dims_are_none() -> None:
    assert regrouped((2, 3, 4, 5, 6), "ababa", ()) is None and regrouped((2, 3, 4, 5, 6), "ababb", ()) is not None


@pytest.mark.parametrize(
    ("out", "dims", "shape", "found"),
    [
        ((1, 6, 9, 10), (6, 9, 10), (1, 6, 1, 1), (6, 1, 1)),
        ((1, 6, 9, 10), (6, 9, 10), (1, 1, 9, 1), (1, 9, 1)),
        ((1, 6, 9, 10), (6, 90), (1, 1, 9, 10), (1, 90)),
        ((1, 6, 9, 10), (6, 90), (1, 1, 9, 1), None),
        ((1, 6, 9, 10), (54, 10), (1, 6, 9, 1), (54, 1)),
        ((1, 6, 9, 10), (54, 10), (1, 6, 1, 10), None),
        ((1, 6, 1, 10), (6, 10), (1, 6, 1, 1), (6, 1)),
        ((1, 6, 1, 10), (6, 1, 10), (1, 6, 1, 10), (6, 1, 10)),
        ((2, 3), (2, 3), (1, 1), (1, 1)),
        ((4, 3), (2, 2, 3), (4, 1), (2, 2, 1)),
        ((4, 3), (2, 6), (4, 1), None),
    ],
)
def test_an_operand_that_broadcasts(out: Shape, dims: Shape, shape: Shape, found: Shape | None) -> None:
    assert broadcast_dims(out, dims, shape) == found


def test_ones_in_front() -> None:
    assert padded((3, 4), 4) == (1, 1, 3, 4) and padded((), 2) == (1, 1) and padded((3,), 1) == (3,)


@pytest.mark.parametrize(
    ("perm", "code"),
    [
        ((0,), 0),
        ((0, 1), 0),
        ((1, 0), 1),
        ((0, 1, 2), 0),
        ((0, 2, 1), 1),
        ((1, 0, 2), 2),
        ((1, 2, 0), 3),
        ((2, 0, 1), 4),
        ((2, 1, 0), 5),
        ((0, 1, 2, 3), 0),
        ((0, 1, 3, 2), 1),
        ((3, 2, 1, 0), 23),
    ],
)
def test_permutes_codes(perm: Shape, code: int) -> None:
    """ncnn's table: docs/developer-guide/operators.md, Permute's order_type, where axes are counted from the width."""
    assert permute_order(perm) == code and permutation_of(code, len(perm)) == perm


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_code_stands_for_its_permutation(rank: int) -> None:
    assert all(permutation_of(permute_order(perm), rank) == perm for perm in permutations(range(rank)))


@pytest.mark.parametrize(
    ("shape", "perm", "sizes", "order"),
    [
        ((1, 6, 9, 10), (0, 2, 3, 1), [6, 90], [1, 0]),
        ((1, 2, 3, 9, 10), (0, 2, 1, 3, 4), [2, 3, 90], [1, 0, 2]),
        ((1, 6, 9, 10), (0, 1, 2, 3), [540], [0]),
        ((2, 3, 1, 4), (2, 3, 0, 1), [6, 4], [1, 0]),
        ((2, 1, 3), (2, 1, 0), [2, 3], [1, 0]),
        ((2, 3, 4), (2, 1, 0), [2, 3, 4], [2, 1, 0]),
        ((1, 1), (1, 0), [], []),
    ],
)
def test_axes_that_stay_together_move_as_one(shape: Shape, perm: Shape, sizes: list[int], order: list[int]) -> None:
    assert merged(shape, perm) == (sizes, order)
    values = np.arange(prod(shape))
    moved = values.reshape(shape).transpose(perm).reshape(-1)
    assert np.array_equal(values.reshape(sizes or (1,)).transpose(order or (0,)).reshape(-1), moved)


@pytest.mark.parametrize(
    ("dims", "perm", "sizes", "order", "joined"),
    [
        ((2, 3, 4), (1, 2, 0), (12, 2), (1, 0), ([24], [0])),
        ((2, 3, 4), (1, 2, 0), (3, 4, 2), (0, 2, 1), ([2, 3, 4], [1, 0, 2])),
        ((2, 3, 4), (1, 2, 0), (3, 2, 2, 2), (1, 0, 2, 3), ([2, 3, 2, 2], [2, 1, 3, 0])),
        ((2, 3, 4), (1, 2, 0), (4, 3, 2), (1, 0, 2), None),
        ((6, 4), (1, 0), (4, 2, 3), (2, 0, 1), None),
        ((6, 4), (1, 0), (2, 2, 6), (1, 0, 2), ([6, 2, 2], [2, 1, 0])),
    ],
)
def test_two_permutations_as_one(
    dims: Shape, perm: Shape, sizes: Shape, order: Shape, joined: tuple[list[int], list[int]] | None
) -> None:
    found = composed(dims, perm, sizes, order)
    values = np.arange(prod(dims))
    wanted = values.reshape(dims).transpose(perm).reshape(sizes).transpose(order).reshape(-1)
    if joined is None:
        assert found is None or np.array_equal(values.reshape(found[0]).transpose(found[1]).reshape(-1), wanted)
        return
    assert found is not None and np.array_equal(values.reshape(found[0]).transpose(found[1]).reshape(-1), wanted)
    assert found == joined


@pytest.mark.parametrize(
    ("dims", "sizes", "order", "found"),
    [
        ((6, 9, 10), [6, 90], [1, 0], [1, 2, 0]),
        ((6, 9, 10), [54, 10], [1, 0], [2, 0, 1]),
        ((6, 9, 10), [6, 9, 10], [2, 1, 0], [2, 1, 0]),
        ((6, 9, 10), [2, 3, 90], [1, 0, 2], None),
        ((6, 9, 10), [60, 9], [1, 0], None),
        ((6, 1, 10), [6, 10], [1, 0], None),
        ((6, 10, 1), [6, 10], [1, 0], None),
        ((1, 6, 10), [6, 10], [1, 0], None),
        ((6, 9), [6, 9, 2], [2, 1, 0], None),
    ],
)
def test_groups_as_whole_dims(dims: Shape, sizes: list[int], order: list[int], found: list[int] | None) -> None:
    assert order_of_dims(dims, sizes, order) == found
