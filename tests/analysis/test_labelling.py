"""Labels while they are being propagated: read, tied, frozen; every label written by hand."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.labelling import Labelling, align, opaque
from onnxslim_yolo.analysis.movement import CannotMoveError
from onnxslim_yolo.ir.graph import Array, Node, Tensor


class Bench:
    """A node `n` that reads x and the initializer w, (2, 3) each, and yields y; labels are given by hand."""

    def __init__(self) -> None:
        self.x, self.y = gs.Variable("x", np.float32, (2, 3)), gs.Variable("y", np.float32, (2, 3))
        self.w = gs.Constant("w", np.zeros((2, 3), np.float32))
        self.node: Node = gs.Node("Add", "n", inputs=[self.x, self.w], outputs=[self.y])
        self.graph = gs.Graph([self.node], [self.x], [self.y])
        self.state = Labelling(self.graph, {id(self.x): (2, 3), id(self.y): (2, 3)}, whole_heads=False)
        self.state.sets.fresh(20)

    def label(self, *rows: object, tensor: Tensor | None = None) -> None:
        self.state.labels[id(self.x if tensor is None else tensor)] = np.array(rows)

    def frozen(self) -> dict[int, str]:
        return {int(cls): reason for classes, reason in self.state.frozen for cls in classes}

    def tied(self, *classes: int) -> bool:
        return len(set(self.state.sets.find(np.array(classes)).tolist())) == 1

    def another(self, name: str = "m", *, reads: Tensor | None = None) -> Node:
        node: Node = gs.Node(
            "Mul", name, inputs=[self.w if reads is None else reads], outputs=[gs.Variable(f"{name}.y")]
        )
        self.graph.nodes.append(node)
        return node


def listed(array: Array) -> object:
    return array.tolist()


def test_a_shape_is_static_or_refused() -> None:
    bench = Bench()
    assert bench.state.shape(bench.w) == bench.state.shape(bench.x) == (2, 3)
    with pytest.raises(CannotMoveError, match="'u' has no static shape"):
        bench.state.shape(gs.Variable("u"))


def test_what_a_rule_has_not_read_is_frozen_when_its_node_is_left() -> None:
    for read in (True, False):
        bench = Bench()
        bench.label([1, 2, 3])
        bench.state.visit()
        if read:
            assert listed(bench.state.get(bench.x)) == [[1, 2, 3]]
        bench.state.leave(bench.node)
        assert sorted(bench.frozen()) == ([] if read else [1, 2, 3])
        bench.state.visit()  # what was read by the node before counts no more
        bench.state.leave(bench.node)
        assert sorted(bench.frozen()) == [1, 2, 3]
        assert "Add 'n' reads it as its input 0" in bench.frozen()[1]


def test_without_labels_nothing_is_a_channel() -> None:
    bench = Bench()
    assert listed(bench.state.get(bench.x)) == [[0]]
    bench.label([4, 4, 4], [4, 4, 4])
    assert listed(bench.state.get(bench.x)) == [[4]]
    bench.label([4, 5, 6], [4, 5, 6])
    bench.state.unify(np.array([4]), np.array([6]))
    assert listed(bench.state.get(bench.x)) == [[4, 5, 4]]


@pytest.mark.parametrize(
    "prefer, left, ties",
    [
        ((), [[[1], [2]]], [(1, 3), (2, 4)]),
        ((0,), [[[1]], [[3]]], [(1, 2), (3, 4)]),
        ((-3,), [[[1]], [[3]]], [(1, 2), (3, 4)]),
        ((1, 0), [[[1], [2]]], [(1, 3), (2, 4)]),
        ((2,), [[[1], [2]]], [(1, 3), (2, 4)]),
        ((2, 0), [[[1]], [[3]]], [(1, 2), (3, 4)]),
    ],
)
def test_one_axis_is_left(prefer: tuple[int, ...], left: object, ties: list[tuple[int, int]]) -> None:
    bench = Bench()
    bench.label([[1], [2]], [[3], [4]])
    assert listed(bench.state.line(bench.node, bench.x, prefer)) == left
    assert listed(bench.state.get(bench.x)) == left
    assert all(bench.tied(*pair) for pair in ties) and not bench.tied(1, 2, 3, 4)
    assert bench.frozen() == {}


def test_one_axis_stays_as_it_is() -> None:
    bench = Bench()
    bench.label([1], [2])
    assert listed(bench.state.line(bench.node, bench.x, (1,))) == [[1], [2]]
    assert not bench.tied(1, 2)


def test_a_row_with_a_hole_is_frozen() -> None:
    bench = Bench()
    bench.label([1, 2], [3, 0])
    assert listed(bench.state.line(bench.node, bench.x, (0,))) == [[1], [0]]
    assert bench.tied(1, 2)
    assert bench.frozen() == {3: "Add 'n' reads it along another axis"}


def test_settling_leaves_columns() -> None:
    bench = Bench()
    bench.label([1, 2, 3], [4, 5, 6])
    bench.label([7], [8], tensor=bench.y)
    bench.state.labels[id(bench.w)] = None
    bench.state.settle()
    assert listed(bench.state.get(bench.x)) == [[1, 2, 3]]
    assert bench.tied(1, 4) and bench.tied(2, 5) and bench.tied(3, 6) and not bench.tied(1, 2)
    assert listed(bench.state.get(bench.y)) == [[7], [8]] and not bench.tied(7, 8)
    assert bench.state.labels[id(bench.w)] is None


def test_new_labels_lie_along_one_axis() -> None:
    for axis, shape in ((0, (2, 1)), (1, (1, 3)), (-1, (1, 3)), (-2, (2, 1))):
        bench = Bench()
        new = bench.state.fresh(bench.x, axis)
        assert new.tolist() == list(range(21, 21 + max(shape)))
        assert bench.state.get(bench.x).shape == shape and listed(bench.state.get(bench.x).reshape(-1)) == listed(new)


def test_plain_data_is_never_tied_nor_frozen() -> None:
    bench = Bench()
    bench.state.unify(np.array([0, 1, 2]), np.array([3, 0, 4]))
    assert bench.tied(2, 4) and not bench.tied(0, 3) and not bench.tied(0, 1)
    bench.state.freeze(np.array([0, 0]), "nothing")
    assert bench.state.frozen == []
    bench.state.freeze(np.array([0, 5]), "something")
    assert bench.frozen() == {5: "something"}


def test_uses_of_one_initializer_meet() -> None:
    bench = Bench()
    bench.state.use(bench.node, 1, 0, np.array([1, 2, 0]), "out")
    bench.state.use(bench.node, 1, 1, np.array([7, 8, 9]), "in")  # another axis
    assert bench.frozen() == {} and not bench.tied(1, 7)
    bench.state.use(bench.another(), 0, 0, np.array([4, 0, 5]), "out")
    assert bench.tied(1, 4) and not bench.tied(2, 5)
    assert bench.frozen() == {2: "shares 'w'", 5: "shares 'w'"}
    assert [len(uses) for uses in bench.state.uses.values()] == [2, 1]
    assert bench.state.uses[(id(bench.w), 0)][0].constant is bench.w


def test_uses_in_another_layout_are_frozen() -> None:
    bench = Bench()
    bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
    bench.state.use(bench.another(), 0, 0, np.array([[3], [4]]), "in")
    assert bench.frozen() == dict.fromkeys((1, 2, 3, 4), "shares 'w' in another layout")
    assert not bench.tied(1, 3)


def test_a_use_of_what_is_no_initializer_any_more() -> None:
    bench = Bench()
    bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
    (use,) = bench.state.uses[(id(bench.w), 0)]
    bench.node.inputs = [bench.x, bench.x]
    with pytest.raises(TypeError, match="input 1 of 'n'"):
        _ = use.constant


def test_what_was_noted_of_a_node_is_taken_back() -> None:
    bench = Bench()
    other = bench.another()
    for node, index in ((bench.node, 1), (other, 0)):
        bench.state.use(node, index, 0, np.array([1, 2]), "out")
        bench.state.contract(node, index)
    bench.state.take_back(bench.node)
    assert [use.node.name for use in bench.state.uses[(id(bench.w), 0)]] == ["m"]
    assert [(node.name, index) for node, index in bench.state.contractions] == [("m", 0)]


@pytest.mark.parametrize(
    "axis, rows, found",
    [
        (1, ([1, 2, 3],), [1, 2, 3]),
        (-1, ([1, 2, 3],), [1, 2, 3]),
        (0, ([1], [2]), [1, 2]),
        (-2, ([1], [2]), [1, 2]),
        (0, ([5],), [5]),
    ],
)
def test_labels_of_one_axis(axis: int, rows: tuple[list[int], ...], found: list[int]) -> None:
    bench = Bench()
    bench.label(*rows)
    assert listed(bench.state.only_axis(bench.node, bench.x, axis)) == found
    assert bench.frozen() == {}


def test_labels_of_any_other_axis_are_frozen() -> None:
    bench = Bench()
    bench.label([1, 2, 3])
    assert listed(bench.state.only_axis(bench.node, bench.x, 0)) == [0]
    assert bench.frozen() == dict.fromkeys((1, 2, 3), "Add 'n' expects channels on axis 0 only")


class TestMeeting:
    def test_an_initializer_read_by_its_channels_alone_is_free(self) -> None:
        bench = Bench()
        bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
        bench.state.meet()
        assert bench.frozen() == {}

    def test_a_reader_that_reads_all_of_it_freezes(self) -> None:
        bench = Bench()
        bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
        bench.another()
        bench.state.meet()
        assert bench.frozen() == dict.fromkeys((1, 2), "shares 'w' with Mul 'm', which reads all of its axis 0")

    def test_so_does_another_input_of_the_same_node(self) -> None:
        bench = Bench()
        bench.node.inputs = [bench.w, bench.w]
        bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
        bench.state.meet()
        assert sorted(bench.frozen()) == [1, 2]

    def test_a_reader_that_is_not_in_the_graph_does_not(self) -> None:
        bench = Bench()
        bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
        bench.another()
        bench.graph.nodes.pop()
        bench.state.meet()
        assert bench.frozen() == {}

    def test_the_graph_that_returns_it_does(self) -> None:
        bench = Bench()
        bench.state.use(bench.node, 1, 1, np.array([1, 2, 3]), "in")
        bench.graph.outputs.append(bench.w)
        bench.state.meet()
        assert bench.frozen()[1] == "shares 'w' with the graph itself, which reads all of its axis 1"

    def test_uses_that_were_taken_back_are_none(self) -> None:
        bench = Bench()
        bench.state.use(bench.node, 1, 0, np.array([1, 2]), "out")
        bench.state.take_back(bench.node)
        bench.another()
        bench.state.meet()
        assert bench.frozen() == {}


@pytest.mark.parametrize("extent, frozen", [(2, [1, 2]), (1, [])])
def test_channels_that_meet_plain_data_of_their_extent_are_frozen(extent: int, frozen: list[int]) -> None:
    for turned in (False, True):
        bench = Bench()
        mine, theirs = (np.array([[1, 2]]), (2, 2)), (np.array([[0]]), (2, extent))
        (a, shape_a), (b, shape_b) = (theirs, mine) if turned else (mine, theirs)
        assert listed(bench.state.merge(bench.node, a, b, shape_a, shape_b)) == [[1, 2]]
        assert sorted(bench.frozen()) == frozen


def test_channels_that_meet_channels_are_tied() -> None:
    bench = Bench()
    merged = bench.state.merge(bench.node, np.array([[1, 2, 0]]), np.array([[4, 5, 6]]), (2, 3), (2, 3))
    assert listed(merged) == [[1, 2, 6]]
    assert bench.tied(1, 4) and bench.tied(2, 5) and not bench.tied(1, 2)
    assert sorted(bench.frozen()) == [6]


def test_an_operator_without_a_rule() -> None:
    bench = Bench()
    bench.label([1, 2, 3])
    unknown = gs.Variable("u")
    bench.node.outputs = [bench.y, unknown, gs.Variable("")]
    opaque(bench.state, bench.node)
    assert bench.frozen() == dict.fromkeys((1, 2, 3), "Add 'n' has no channel rule")
    labels = bench.state.labels[id(bench.y)]
    assert labels is not None and listed(labels) == [[0]]
    assert bench.state.labels[id(unknown)] is None and len(bench.state.labels) == 3
    opaque(bench.state, bench.node, "for a reason")
    assert bench.frozen()[1] == "for a reason"


def test_aligned_from_the_right() -> None:
    assert align(np.array([1, 2]), 3).shape == (1, 1, 2)
    assert align(np.array([[1], [2]]), 2).shape == (2, 1)
