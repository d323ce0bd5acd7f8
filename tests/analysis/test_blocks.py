"""Blocks of small graphs, found by hand: branches of sums, parts of Concats, layers in a row, layers that vanish."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.blocks import (
    Block,
    alone_for,
    end_of,
    find_blocks,
    find_layers,
    node_named,
    stand_in,
    static_or_open,
)
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[4, 4, 1, 1] w, float[4, 4, 1, 1] v, float[4, 4, 1, 1] u, float[4, 4, 3, 3] k, float[2, 4, 1, 1] n,
    float[4, 2, 1, 1] m, float[4] gamma, float[4] beta, float[4] mean, float[4] var, float[1, 4, 1, 1] plain"""
NORM = "BatchNormalization ({}, gamma, beta, mean, var)"


def graph_of(body: str, image: str = "1, 4, 6, 6", more_outputs: str = "", inputs: str = "") -> gs.Graph:
    """A graph from x to y; nodes are called by what they compute, and a Relu stands before the body."""
    text = onnx_text(
        f"float[{image}] x{inputs}",
        f"float[a, b, c, d] y{more_outputs}",
        WEIGHTS,
        f"i = Relu (x) {body} y = Mul (o, o)",
    )
    graph = build(text).graph
    for node in graph.nodes:
        node.name = node.outputs[0].name
    return graph


Found = tuple[str, int, str, str, str]


def told(block: Block) -> tuple[str, str, int, str, str, str]:
    return block.kind, block.node, block.index, block.start, " ".join(block.nodes), " ".join(block.layers)


def blocks(body: str, kind: str, image: str = "1, 4, 6, 6", more_outputs: str = "", inputs: str = "") -> list[Found]:
    """Without the kind: (node, index, start, nodes, layers)."""
    found = find_blocks(graph_of(body, image, more_outputs, inputs))
    return [told(block)[1:] for block in found if block.kind == kind]


class TestBranches:
    @pytest.mark.parametrize("image", ["1, 4, 6, 6", "N, 4, 6, 6"])
    @pytest.mark.parametrize("op", ["Add", "Sum"])
    def test_a_residual(self, op: str, image: str) -> None:
        body = f"a = Conv (i, w) r = Relu (a) b = Conv (r, v) o = {op} (i, b)"
        assert blocks(body, "branch", image) == [("o", 1, "", "a r b", "a b")]
        assert blocks(body.replace("(i, b)", "(b, i)"), "branch", image) == [("o", 0, "", "a r b", "a b")]

    def test_each_operand_that_is_computed_from_another(self) -> None:
        body = "a = Conv (i, w) b = Conv (i, v) o = Sum (a, i, b)"
        assert blocks(body, "branch") == [("o", 0, "", "a", "a"), ("o", 2, "", "b", "b")]

    def test_what_others_read_as_well_does_not_go_with_it(self) -> None:
        body = "s = Conv (i, u) a = Conv (i, w) t = Add (a, s) b = Conv (t, v) p = Add (i, b) o = Add (p, s)"
        assert ("p", 1, "", "a t b", "a b") in blocks(body, "branch")

    @pytest.mark.parametrize(
        "body",
        [
            "a = Conv (i, w) b = Conv (i, v) o = Add (a, b)",  # neither is computed from the other
            "a = Sigmoid (i) o = Add (i, a)",  # no layer
            "a = Conv (i, w) o = Mul (i, a)",
            "a = Conv (i, w) o = Add (a, plain)",
            "a = Conv (i, w) o = Add (a, a)",
            "a = GlobalAveragePool (i) b = Conv (a, w) o = Add (i, b)",  # of another shape
            "a = Conv (i, w) p = Add (i, a) q = Relu (a) o = Add (p, q)",  # read twice
        ],
    )
    def test_none(self, body: str) -> None:
        assert [found for found in blocks(body, "branch") if "a" in str(found)] == []

    def test_none_where_its_end_is_returned(self) -> None:
        assert blocks("a = Conv (i, w) o = Add (i, a)", "branch", more_outputs=", float[a, b, c, d] a") == []

    def test_none_where_its_size_is_open(self) -> None:
        assert blocks("a = Conv (i, w) o = Add (i, a)", "branch", "1, 4, H, W") == []


class TestParts:
    @pytest.mark.parametrize("axis", [1, -3])
    def test_of_a_join_of_channels(self, axis: int) -> None:
        body = f"a = Conv (i, w) b = Conv (i, v) c = Concat <axis = {axis}> (a, b, i) o = Relu (c)"
        assert blocks(body, "part") == [("c", 0, "", "a", "a"), ("c", 1, "", "b", "b")]

    @pytest.mark.parametrize(
        "body",
        [
            "a = Conv (i, w) b = Conv (i, v) c = Concat <axis = 2> (a, b) o = Relu (c)",
            "a = Conv (i, w) c = Concat <axis = 1> (a, a) o = Relu (c)",
            "a = Relu (i) b = Sigmoid (i) c = Concat <axis = 1> (a, b) o = Relu (c)",
            "a = Conv (i, w) c = Concat <axis = 1> (a) o = Relu (c)",
        ],
    )
    def test_none(self, body: str) -> None:
        assert blocks(body, "part") == []

    def test_none_of_what_is_returned(self) -> None:
        body = "a = Conv (i, w) b = Conv (i, v) c = Concat <axis = 1> (a, b) o = Relu (c)"
        assert blocks(body, "part", more_outputs=", float[a, b, c, d] c") == []
        assert [found[1] for found in blocks(body, "part", more_outputs=", float[a, b, c, d] a")] == [1]


class TestChains:
    def test_a_layer_between_two(self) -> None:
        body = "p = Conv (i, u) q = Relu (p) a = Conv (q, w) r = Relu (a) b = Conv (r, v) o = Relu (b)"
        found = blocks(body, "chain")
        assert ("r", -1, "q", "a r", "a") in found
        assert ("o", -1, "r", "b o", "b") in found and ("o", -1, "q", "a r b o", "a b") in found
        assert ("o", -1, "i", "p q a r b o", "p a b") not in found  # three layers are too many
        assert not any(one[0] == "a" for one in found)

    def test_a_layer_of_another_width_is_none_alone(self) -> None:
        body = "a = Conv (i, n) r = Relu (a) b = Conv (r, m) o = Relu (b)"
        assert blocks(body, "chain") == [("o", -1, "i", "a r b o", "a b")]

    def test_with_its_norm_and_activation(self) -> None:
        body = f"a = Conv (i, w) t = {NORM.format('a')} s = Sigmoid (t) o = Mul (t, s)"
        assert blocks(body, "chain") == [("o", -1, "i", "a t s o", "a")]
        assert blocks(body.replace("(t, s)", "(s, t)"), "chain") == [("o", -1, "i", "a t s o", "a")]

    def test_not_past_what_another_layer_reads(self) -> None:
        body = "a = Conv (i, w) r = Relu (a) b = Conv (r, v) c = Conv (r, u) o = Add (b, c)"
        found = blocks(body, "chain")
        assert ("r", -1, "i", "a r", "a") in found and not any(" r b" in str(one) for one in found)

    def test_not_beside_a_shortcut_which_is_a_branch(self) -> None:
        body = "a = Conv (i, w) o = Add (i, a)"
        assert blocks(body, "chain") == [] and len(blocks(body, "branch")) == 1
        body = "p = Relu (i) a = Conv (p, w) o = Add (a, i)"
        assert blocks(body, "chain") == [("a", -1, "p", "a", "a")]

    def test_not_what_is_returned_or_open_or_no_map(self) -> None:
        body = "a = Conv (i, w) r = Relu (a) b = Conv (r, v) o = Relu (b)"
        assert not any(found[0] == "r" for found in blocks(body, "chain", more_outputs=", float[a, b, c, d] r"))
        assert blocks(body, "chain", "1, 4, H, W") == []
        assert len(blocks(body, "chain", "N, 4, 6, 6")) == len(blocks(body, "chain")) == 3

    def test_not_from_the_image_itself(self) -> None:
        text = onnx_text(
            "float[1, 4, 6, 6] x", "float[a, b, c, d] y", WEIGHTS, "a = Conv (x, w) r = Relu (a) y = Conv (r, v)"
        )
        assert [block for block in find_blocks(build(text).graph) if block.kind == "chain"] == []

    def test_not_through_a_gate_of_something_else(self) -> None:
        body = "a = Conv (i, w) s = Sigmoid (i) o = Mul (a, s)"
        assert blocks(body, "chain") == [("a", -1, "i", "a", "a")]
        for gate in ("s = Tanh (a) o = Mul (a, s)", "s = Sigmoid (a) o = Div (a, s)"):
            body = f"a = Conv (i, w) {gate}"
            assert not any(found[0] == "o" for found in blocks(body, "chain")), gate
        body = "a = Conv (i, w) s = Sigmoid (a) t = Relu (a) p = Mul (a, s) o = Add (p, t)"
        assert not any(found[0] == "p" for found in blocks(body, "chain"))


class TestLayers:
    @pytest.mark.parametrize(
        "rest, last, nodes",
        [
            ("o = Relu (t)", "o", "i a t o"),
            ("o = Clip (t)", "o", "i a t o"),
            ("s = Sigmoid (t) o = Mul (t, s)", "o", "i a t s o"),
            ("o = Conv (t, v)", "t", "i a t"),
            ("s = Tanh (t) o = Mul (t, s)", "t", "i a t"),
            ("s = Sigmoid (t) q = Relu (t) p = Mul (t, s) o = Add (p, q)", "t", "i a t"),
        ],
    )
    def test_to_the_activation_of_its_norm(self, rest: str, last: str, nodes: str) -> None:
        graph = graph_of(f"a = Conv (i, w) t = {NORM.format('a')} {rest}")
        (found,) = find_layers(graph, lambda gamma: True)
        assert told(found) == ("layer", last, -1, "", nodes, "a")

    def test_those_that_are_asked_for(self) -> None:
        graph = graph_of(f"a = Conv (i, w) t = {NORM.format('a')} o = Relu (t)")
        assert find_layers(graph, lambda gamma: gamma.shape != (4,)) == []
        assert len(find_layers(graph, lambda gamma: gamma.shape == (4,))) == 1
        asked: list[Array] = []
        find_layers(graph, lambda gamma: bool(asked.append(gamma)))  # type: ignore[func-returns-value]
        assert [np.array_equal(found, graph.tensors()["gamma"].values) for found in asked] == [True]

    def test_none_that_is_returned_or_has_no_layer(self) -> None:
        returned = graph_of(
            f"a = Conv (i, w) t = {NORM.format('a')} o = Relu (t)", more_outputs=", float[a, b, c, d] o"
        )
        assert find_layers(returned, lambda gamma: True) == []
        assert find_layers(graph_of(f"o = {NORM.format('i')}"), lambda gamma: True) == []


class TestAlone:
    def test_what_is_computed_for_one_tensor(self) -> None:
        graph = graph_of("a = Conv (i, w) s = Sigmoid (a) b = Mul (a, s) c = Relu (i) o = Add (b, c)")
        tensors = graph.tensors()

        def names(name: str) -> str:
            return " ".join(node.name for node in alone_for(graph, tensors[name]))

        assert (names("b"), names("c"), names("s"), names("o")) == ("a s b", "c", "s", "i a s b c o")
        assert names("x") == ""

    def test_not_what_is_returned(self) -> None:
        graph = graph_of("a = Conv (i, w) b = Relu (a) o = Relu (b)", more_outputs=", float[a, b, c, d] a")
        assert [node.name for node in alone_for(graph, graph.tensors()["o"])] == ["b", "o"]

    def test_not_one_half_of_a_split(self) -> None:
        graph = graph_of("p, q = Split <axis = 1> (i) r = Relu (q) o = Concat <axis = 1> (p, r)")
        assert alone_for(graph, graph.tensors()["p"]) == []
        assert [node.name for node in alone_for(graph, graph.tensors()["o"])] == ["i", "p", "r", "o"]


def test_what_stands_in_and_where() -> None:
    graph = graph_of("a = Conv (i, w) o = Add (i, a)")
    add = node_named(graph, "o")
    assert add is not None and node_named(graph, "nobody") is None
    branch = Block("branch", "o", 1, "", ("a",), ("a",), (1.0, 2, 3, 4))
    assert end_of(branch, add) is graph.tensors()["a"]
    assert end_of(Block("branch", "o", 0, "", (), ()), add) is graph.tensors()["i"]
    assert end_of(Block("chain", "o", -1, "i", (), ()), add) is graph.tensors()["o"]
    constant = stand_in(branch, graph.tensors()["a"], "left")
    assert (constant.name, constant.values.shape, constant.values.dtype) == ("left", (1, 4, 1, 1), np.float32)
    assert constant.values.reshape(-1).tolist() == [1, 2, 3, 4]
    assert stand_in(branch, gs.Variable("t", np.float16, (1, 4, 6)), "half").values.shape == (1, 4, 1)
    assert stand_in(branch, gs.Variable("t", np.float16, (1, 4, 6)), "half").values.dtype == np.float16


@pytest.mark.parametrize(
    "shape, found",
    [((1, 2, 3), (1, 2, 3)), (("N", 2, 3), (0, 2, 3)), (("N", "C", 3), None), ((1, 2, "W"), None), ((1, 2), None),
     (("N", 2), None), (None, None), ((1, 2, 3, 4), (1, 2, 3, 4))],
)  # fmt: skip
def test_a_shape_with_an_open_batch(shape: tuple[int | str, ...] | None, found: tuple[int, ...] | None) -> None:
    assert static_or_open(gs.Variable("t", np.float32, shape)) == found
