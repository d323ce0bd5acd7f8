"""What slicing left, in the source's terms: constants made of leaves by hand, and what is told of each leaf."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.origins import (
    ADDED,
    UNKNOWN,
    Leaf,
    Made,
    Origin,
    broadcast,
    made_by_cutting,
    mixed,
    moved,
    set_origin,
)
from onnxslim_yolo.pruning.source_terms import SourceTerms, leaf_names, source_terms

W, G = Leaf("w", (4, 3)), Leaf("g", (4, 1))
MIXED = "what was cut of what is computed from it cannot be told from it alone"
SEVERAL = "its readers keep different channels of it"
REWRITTEN = "a pass rewrote it between two slicings"
NO_BOX = "what stays of it is no set of indices per axis"


def cut(origin: Origin, shape: tuple[int, ...], kept: dict[int, list[int]]) -> Made:
    """What is left of a constant of this shape when these indices are kept."""

    def take(values: Array) -> Array:
        for axis, indices in kept.items():
            values = values.take(indices, axis)
        return values

    return made_by_cutting(origin, shape, take, dict(kept))


def rows(origin: Origin, shape: tuple[int, ...], first: int, last: int) -> Made:
    """Some rows of a constant, nothing being taken away."""
    return Made((moved(origin, shape, lambda values: values[first:last]),))


def stacked(one: tuple[Origin, int], two: tuple[Origin, int], width: int) -> Made:
    """Two constants of `width` columns, one upon the other."""
    (above, n), (below, m) = one, two
    return Made(
        (
            moved(above, (n, width), lambda values: np.pad(values, ((0, m), (0, 0)))),
            moved(below, (m, width), lambda values: np.pad(values, ((n, 0), (0, 0)))),
        )
    )


def constant(name: str, origin: Origin | None, shape: Sequence[int]) -> gs.Constant:
    made = gs.Constant(name, np.zeros(tuple(shape), np.float32))
    if origin is not None:
        set_origin(made, origin)
    return made


def terms(*made: tuple[Origin | None, Sequence[int]], earlier: SourceTerms | None = None) -> SourceTerms:
    """Of a graph that reads constants of these origins and shapes."""
    constants = [constant(f"c{k}", origin, shape) for k, (origin, shape) in enumerate(made)]
    nodes = [gs.Node("Op", f"n{k}", inputs=[one], outputs=[gs.Variable(f"v{k}")]) for k, one in enumerate(constants)]
    return source_terms(gs.Graph(nodes), earlier)


def test_what_is_the_sources_own_is_whole() -> None:
    assert terms((W, (4, 3)), (ADDED, (7,))) == SourceTerms(shapes={"w": ((4, 3), (4, 3))})


def test_what_was_cut_of_it() -> None:
    found = terms((cut(W, (4, 3), {0: [0, 2], 1: [0, 1, 2]}), (2, 3)))
    assert found == SourceTerms({"w": {0: [0, 2]}}, {"w": ((4, 3), (2, 3))})
    found = terms((cut(W, (4, 3), {0: [3], 1: [0, 2]}), (1, 2)))
    assert found == SourceTerms({"w": {0: [3], 1: [0, 2]}}, {"w": ((4, 3), (1, 2))})


@pytest.mark.parametrize("twice", [False, True])
def test_a_constant_that_is_no_initializer_is_left_out_once_it_is_cut(twice: bool) -> None:
    leaf = Leaf("t", (4,), "it is computed")
    whole, less = (leaf, (4,)), (cut(leaf, (4,), {0: [1]}), (1,))
    assert terms(*[whole] * (1 + twice)) == SourceTerms()
    found = terms(*[less] * (1 + twice))
    assert (found.kept, found.left_out, found.has_unknown) == ({}, {"t": "it is computed"}, False)
    assert found.shapes == {"t": ((4,), None)}


def test_what_says_nothing_about_itself_is_unknown_once_it_is_cut() -> None:
    assert not terms((None, (4,))).has_unknown
    assert terms((cut(Leaf("c", (4,), UNKNOWN), (4,), {0: [1]}), (1,))).has_unknown


def test_readers_that_keep_the_same_agree_and_others_do_not() -> None:
    some, others = (cut(W, (4, 3), {0: [0, 2]}), (2, 3)), (cut(W, (4, 3), {0: [0, 1]}), (2, 3))
    assert terms(some, some) == SourceTerms({"w": {0: [0, 2]}}, {"w": ((4, 3), (2, 3))})
    assert terms(some, others) == SourceTerms({}, {"w": ((4, 3), None)}, {"w": SEVERAL})
    assert terms(some, (W, (4, 3))).left_out == {"w": SEVERAL}
    assert terms((W, (4, 3)), (W, (4, 3))) == SourceTerms({}, {"w": ((4, 3), (4, 3))})


def test_what_nobody_read_stays() -> None:
    part = rows(W, (4, 3), 0, 2)
    assert terms((cut(part, (2, 3), {0: [1]}), (1, 3))).kept == {"w": {0: [1, 2, 3]}}
    assert terms((part, (2, 3))) == SourceTerms({}, {"w": ((4, 3), (4, 3))})


def test_readers_of_different_rows_are_put_together() -> None:
    above, below = rows(W, (4, 3), 0, 2), rows(W, (4, 3), 2, 4)
    found = terms((cut(above, (2, 3), {0: [0], 1: [0, 2]}), (1, 2)), (cut(below, (2, 3), {1: [0, 2]}), (2, 2)))
    assert found == SourceTerms({"w": {0: [0, 2, 3], 1: [0, 2]}}, {"w": ((4, 3), (3, 2))})


@pytest.mark.parametrize("first", [False, True])
def test_before_or_after_it_is_scaled(first: bool) -> None:
    """A weight times a factor a row, cut before that or afterwards."""
    if first:
        made = broadcast([(cut(W, (4, 3), {0: [1, 3]}), (2, 3)), (cut(G, (4, 1), {0: [1, 3]}), (2, 1))])
    else:
        made = cut(broadcast([(W, (4, 3)), (G, (4, 1))]), (4, 3), {0: [1, 3]})
    found = terms((made, (2, 3)))
    assert found == SourceTerms({"w": {0: [1, 3]}, "g": {0: [1, 3]}}, {"w": ((4, 3), (2, 3)), "g": ((4, 1), (2, 1))})
    columns = terms((cut(broadcast([(W, (4, 3)), (G, (4, 1))]), (4, 3), {1: [2]}), (4, 1)))
    assert columns.kept == {"w": {1: [2]}} and columns.shapes["g"] == ((4, 1), (4, 1))


def test_what_is_mixed_cannot_be_told() -> None:
    both = mixed([(W, (4, 3)), (Leaf("v", (2,)), (2,))])
    found = terms((cut(both, (4, 3), {0: [1]}), (1, 3)))
    assert found == SourceTerms({}, {"w": ((4, 3), None), "v": ((2,), None)}, {"w": MIXED, "v": MIXED})
    assert terms((both, (4, 3))).left_out == {}


def test_zeros_around_a_kernel_have_no_say() -> None:
    """A column laid into the middle of three; of the sum with another weight, rows go."""
    column = Leaf("k", (4, 1))
    wide = Made((moved(column, (4, 1), lambda values: np.pad(values, ((0, 0), (1, 1)))),))
    alone = terms((cut(wide, (4, 3), {0: [0, 3]}), (2, 3)))
    assert alone == SourceTerms({"k": {0: [0, 3]}}, {"k": ((4, 1), (2, 1))})
    summed = terms((cut(broadcast([(wide, (4, 3)), (W, (4, 3))]), (4, 3), {0: [0, 3]}), (2, 3)))
    assert summed.kept == {"k": {0: [0, 3]}, "w": {0: [0, 3]}}


def test_one_of_two_that_are_stacked_goes_whole() -> None:
    made = stacked((W, 4), (Leaf("v", (2, 3)), 2), 3)
    found = terms((cut(made, (6, 3), {0: [4, 5]}), (2, 3)))
    assert found == SourceTerms({}, {"w": ((4, 3), None), "v": ((2, 3), (2, 3))}, {"w": NO_BOX})
    found = terms((cut(made, (6, 3), {0: [0, 5]}), (2, 3)))
    assert found.kept == {"w": {0: [0]}, "v": {0: [1]}}


def groups(*kept: list[int], taps: int = 1) -> SourceTerms:
    """Of a weight of six columns whose n-th row keeps the n-th of these columns."""
    leaf = Leaf("w", (len(kept), 6, taps))
    made = [cut(rows(leaf, leaf.shape, k, k + 1), (1, 6, taps), {1: some}) for k, some in enumerate(kept)]
    return terms(*[(one, (1, len(some), taps)) for one, some in zip(made, kept, strict=True)])


def test_groups_that_keep_columns_of_their_own() -> None:
    a, b, c = [0, 1], [2, 5], [1, 3]
    assert groups(a, a, b, b).kept == {"w": {1: [a, b]}}
    assert groups(a, a, b, b, taps=9).shapes == {"w": ((4, 6, 9), (4, 2, 9))}
    assert groups(a, a, b, b, c, c).kept == {"w": {1: [a, b, c]}}
    assert groups(a, a, a, b, b, b).kept == {"w": {1: [a, b]}}
    assert groups(a, b, a, b).kept == {"w": {1: [a, b, a, b]}}
    assert groups(a, a, [0], [0]).left_out == {"w": NO_BOX}
    assert groups(a, a, a).kept == {"w": {1: a}}


def test_rows_that_go_as_well_are_said() -> None:
    leaf = Leaf("w", (4, 4))
    some = [cut(rows(leaf, (4, 4), k, k + 2), (2, 4), {0: [0], 1: [k, k + 1]}) for k in (0, 2)]
    found = terms(*[(made, (1, 2)) for made in some])
    assert found == SourceTerms({"w": {0: [0, 2], 1: [[0, 1], [2, 3]]}}, {"w": ((4, 4), (2, 2))})


def test_no_box_of_two_axes_and_none_of_kernel_positions() -> None:
    """A vector's or a kernel's positions are no groups of inputs."""
    leaf = Leaf("w", (2, 2, 2))
    made = [cut(rows(leaf, (2, 2, 2), k, k + 1), (1, 2, 2), {2: [k]}) for k in (0, 1)]
    assert terms(*[(one, (1, 2, 1)) for one in made]).left_out == {"w": NO_BOX}


def doubled(times: int) -> Origin:
    """A leaf added to itself, and that to itself: 2ⁿ paths lead to it."""
    here: Origin = W
    for _ in range(times):
        here = broadcast([(here, (4, 3)), (here, (4, 3))])
    return here


def test_too_many_paths_are_not_followed() -> None:
    assert terms((cut(doubled(8), (4, 3), {0: [1]}), (1, 3))).kept == {"w": {0: [1]}}
    one_more = broadcast([(doubled(8), (4, 3)), (W, (4, 3))])
    assert terms((cut(one_more, (4, 3), {0: [1]}), (1, 3))).left_out == {"w": MIXED}


def test_what_is_gone_since_is_as_an_earlier_slicing_left_it() -> None:
    earlier = SourceTerms(
        {"gone": {0: [1]}, "w": {0: [3]}}, {"gone": ((2,), (1,)), "w": ((4, 3), (1, 3)), "same": ((5,), (5,))}
    )
    now = (cut(W, (4, 3), {0: [0, 3]}), (2, 3))
    found = terms(now, earlier=earlier)
    assert found.kept == {"gone": {0: [1]}, "w": {0: [0, 3]}}
    assert found.shapes == {"gone": ((2,), (1,)), "w": ((4, 3), (2, 3)), "same": ((5,), (5,))}
    assert found.left_out == {}
    unknown = (cut(Leaf("c", (4,), UNKNOWN), (4,), {0: [1]}), (1,))
    found = terms(now, unknown, earlier=earlier)
    assert found.kept == {"w": {0: [0, 3]}}
    assert found.shapes["gone"] == ((2,), None) and found.shapes["same"] == ((5,), (5,))
    assert found.left_out == {"gone": REWRITTEN, "c": UNKNOWN}


def test_a_note_for_each_reason() -> None:
    found = SourceTerms(left_out={"a": "r", "b": "r", "c": "r", "d": "s"})
    assert found.notes() == ["plan.json leaves out 'a', 'b', 'c': r", "plan.json leaves out 'd': s"]
    found.left_out |= {"e": "r"}
    assert found.notes()[0] == "plan.json leaves out 'a', 'b', 'c' and 1 more: r"
    found.left_out |= {"f": "r"}
    assert found.notes()[0] == "plan.json leaves out 'a', 'b', 'c' and 2 more: r"


def test_names_of_what_a_constant_is_made_of() -> None:
    made = broadcast([(W, (4, 3)), (broadcast([(G, (4, 1)), (W, (4, 3))]), (4, 3)), (Leaf("t", (1,), "why"), (1,))])
    assert sorted(leaf_names(constant("c", made, (4, 3)))) == ["g", "w"]
    assert leaf_names(constant("c", ADDED, (1,))) == []
