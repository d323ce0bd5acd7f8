"""Which parallel branches, and which layers in a row, one convolution can replace at no more multiplications."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.branches import find_merge, find_row, paths_to, sum_trees
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[4, 4, 3, 3] k3, float[4, 4, 3, 3] l3, float[4, 4, 1, 1] k1, float[4, 1, 7, 7] d7,
    float[4, 4, 1, 3] row, float[4, 4, 3, 1] column, float[8, 4, 1, 1] up, float[4, 8, 1, 1] down,
    float[16, 4, 3, 3] wide, float[4, 16, 3, 3] back, float[2, 4, 1, 1] few, float[4, 2, 1, 1] again,
    float[4, 4, 1, 2] pair, float[4, 1, 1] per"""
THREE = "Conv <pads = [1, 1, 1, 1]>"


def graph_of(body: str, more_outputs: str = "") -> gs.Graph:
    """A graph from x, behind a Relu as i, to y."""
    text = onnx_text("float[1, 4, 6, 6] x", f"float[a, b, c, d] y{more_outputs}", WEIGHTS, f"i = Relu (x) {body}")
    return build(text).graph


def merged(body: str, more_outputs: str = "") -> tuple[str, list[int], int, int] | None:
    """Of the last sum: (base, which leaves, multiplications of the first and the last path; an identity has 4)."""
    graph = graph_of(body, more_outputs)
    found = find_merge(graph, list(sum_trees(graph))[-1])
    if found is None:
        return None
    paths = list(found.paths.values())
    return paths[0].base.name, list(found.paths), paths[0].cost, paths[-1].cost


class TestTrees:
    def test_a_tree_and_its_leaves_from_left_to_right(self) -> None:
        graph = graph_of("a = Relu (i) b = Tanh (i) c = Add (a, b) d = Sum (i, c, a) y = Relu (d)")
        (tree,) = sum_trees(graph)
        assert [leaf.name for leaf in tree.leaves] == ["i", "a", "b", "a"]
        assert [node.outputs[0].name for node in tree.nodes] == ["d", "c"]
        assert tree.root.outputs[0].name == "d"

    def test_a_sum_that_others_read_is_a_root_of_its_own(self) -> None:
        graph = graph_of("a = Tanh (i) c = Add (i, a) d = Add (c, a) e = Relu (c) y = Mul (d, e)")
        assert [tree.root.outputs[0].name for tree in sum_trees(graph)] == ["c", "d"]
        assert [[leaf.name for leaf in tree.leaves] for tree in sum_trees(graph)] == [["i", "a"], ["c", "a"]]

    def test_none_of_what_a_rewrite_took_out(self) -> None:
        graph = graph_of("y = Add (i, i)")
        graph.nodes[-1].outputs.clear()
        assert list(sum_trees(graph)) == []


@pytest.mark.parametrize(
    "body, found",
    [
        (f"a = {THREE} (i, k3) b = {THREE} (i, l3) y = Add (a, b)", ("i", [0, 1], 144, 144)),
        (f"a = {THREE} (i, k3) b = Conv (i, k1) y = Add (a, b)", ("i", [0, 1], 144, 16)),
        (f"a = Conv (i, k1) b = {THREE} (i, l3) y = Add (a, b)", ("i", [0, 1], 16, 144)),
        (f"a = {THREE} (i, k3) y = Add (i, a)", ("i", [0, 1], 4, 144)),
        (f"a = {THREE} (i, k3) b = Conv (i, k1) y = Sum (i, a, b)", ("i", [0, 1, 2], 4, 16)),
        (f"a = {THREE} (i, k3) r = Relu (a) b = Conv (i, k1) y = Sum (r, b, i)", ("i", [1, 2], 16, 4)),
        ("a = Conv <group = 4, pads = [3, 3, 3, 3]> (i, d7) b = Conv (i, k1) y = Add (a, b)", None),
        ("a = Conv <pads = [0, 1, 0, 1]> (i, row) b = Conv <pads = [1, 0, 1, 0]> (i, column) y = Add (a, b)", None),
        (
            f"a = Conv <pads = [0, 1, 0, 1]> (i, row) b = Conv <pads = [1, 0, 1, 0]> (i, column) c = {THREE} (i, k3)"
            " y = Sum (a, b, c)",
            ("i", [0, 1, 2], 48, 144),
        ),
        (  # of four taps in a row each has every other one: as many multiplications
            "a = Conv <dilations = [1, 2], pads = [0, 1, 0, 1]> (i, pair)"
            " b = Conv <dilations = [1, 2], pads = [0, 0, 0, 2]> (i, pair) y = Add (a, b)",
            ("i", [0, 1], 32, 32),
        ),
        ("a = Relu (i) b = Tanh (i) y = Add (a, b)", None),
        ("a = Relu (i) b = Conv (a, k1) c = Conv (i, k1) y = Add (b, c)", None),
        ("a = Conv (i, k1) b = Relu (a) y = Add (b, i)", None),
        ("y = Add (i, i)", None),
    ],
)
def test_what_is_merged(body: str, found: tuple[str, list[int], int, int] | None) -> None:
    assert merged(body) == found


def test_the_base_with_most_branches_first() -> None:
    body = """j = Tanh (i) a = Conv (i, k1) b = Conv (i, k1) c = Conv (j, k1) d = Conv (j, k1) e = Conv (j, k1)
        y = Sum (a, c, b, d, e)"""
    assert merged(body) == ("j", [1, 3, 4], 16, 16)


def test_what_others_read_is_no_path() -> None:
    body = "a = Conv (i, k1) b = Conv (i, k1) y = Add (a, b)"
    assert merged(body) == ("i", [0, 1], 16, 16)
    assert merged(body, ", float[a, b, c, d] a") is None


def test_paths_from_near_to_far() -> None:
    graph = graph_of("a = Conv (i, k1) b = Conv (a, k1) y = Relu (b)")
    found = list(paths_to(graph, graph.tensors()["b"]))
    assert [path.base.name for path in found] == ["b", "a", "i"]
    assert [path.has_conv for path in found] == [False, True, True]
    assert [path.cost for path in found[1:]] == [16, 32]
    assert [[node.outputs[0].name for node in path.nodes] for path in found] == [[], ["b"], ["a", "b"]]
    matrix = gs.Variable("m", shape=(1, 4))
    assert list(paths_to(graph, matrix)) == [] and list(paths_to(graph, gs.Variable("u"))) == []
    assert list(paths_to(graph, gs.Variable("u", shape=(1, "C", 4)))) == []
    assert len(list(paths_to(graph, gs.Variable("u", shape=(1, 2, 4))))) == 1


class TestRows:
    def row(self, body: str, name: str = "y", more_outputs: str = "") -> tuple[str, list[str], int] | None:
        graph = graph_of(body, more_outputs)
        found = find_row(graph, graph.tensors()[name].inputs[0])
        return None if found is None else (found.base.name, [n.outputs[0].name for n in found.nodes], found.cost)

    def test_a_row_that_becomes_no_dearer(self) -> None:
        assert self.row("a = Conv (i, k1) y = Conv (a, k1)") == ("i", ["a", "y"], 32)
        assert self.row(f"a = Conv (i, k1) y = {THREE} (a, k3)") == ("i", ["a", "y"], 160)
        assert self.row("a = Conv (i, up) y = Conv (a, down)") == ("i", ["a", "y"], 64)
        assert self.row("a = Conv (i, few) y = Conv (a, again)") == ("i", ["a", "y"], 16)  # as dear

    def test_one_that_becomes_dearer(self) -> None:
        assert self.row("a = Conv (i, k3) y = Conv (a, l3)") is None  # 5x5 for two of 3x3
        assert self.row(f"a = {THREE} (i, wide) y = Conv (a, back)") == ("i", ["a", "y"], 1152)

    def test_none(self) -> None:
        assert self.row("y = Conv (i, k1)") is None
        assert self.row("a = Relu (i) y = Conv (a, k1)") is None
        assert self.row("a = Conv (i, k1) y = Relu (a)") is None
        assert self.row("a = Conv (i, k1) y = Mul (a, per)") is None  # affine, and no convolution
        assert self.row("a = Conv (i, k1) y = Conv (a, k1)", more_outputs=", float[a, b, c, d] a") is None
        assert self.row(f"a = {THREE} (i, k3) y = {THREE} (a, l3)") is None

    def test_none_of_what_a_rewrite_took_out(self) -> None:
        graph = graph_of("a = Conv (i, k1) y = Conv (a, k1)")
        last = graph.nodes[-1]
        last.inputs.clear()
        assert find_row(graph, last) is None
