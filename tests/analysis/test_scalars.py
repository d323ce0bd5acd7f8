"""Arithmetic with scalars, read off graphs whose answers are worked out by hand."""

from __future__ import annotations

from math import inf

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.scalars import (
    DEPTH,
    Clamp,
    clamp,
    inner,
    lines,
    monomial,
    operand_and_scalar,
    polynomial,
    product,
    scalar_of,
)
from onnxslim_yolo.ir.graph import Array, Node, Tensor
from tests.analysis.graphs import onnx_text
from tests.numeric import build

NUMBERS = {"zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "six": 6.0, "minus": -1.0,
           "many": 16.0, "too_many": 17.0}  # fmt: skip
VALUES: dict[str, Array] = {name: np.array(value) for name, value in NUMBERS.items()}
VALUES |= {"raised": np.full((1, 1, 1), 2.0), "pair": np.array([2.0, 3.0])}
WEIGHTS = ", ".join([*(f"float {name}" for name in NUMBERS), "float[1, 1, 1] raised", "float[2] pair"])


class Read:
    """A graph of x and z, both (1, 2), in which one node reads y; a body may read constants by English names."""

    def __init__(self, body: str, more_outputs: str = "") -> None:
        outputs, body = "float[1, 2] out" + more_outputs, f"{body} out = Identity (y)"
        model = build(onnx_text("float[1, 2] x, float[1, 2] z", outputs, WEIGHTS, body), values=VALUES)
        self.graph: gs.Graph = model.graph
        self.tensors: dict[str, Tensor] = self.graph.tensors()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def node(self, name: str = "y") -> Node:
        found: Node = self.tensors[name].inputs[0]
        return found


def names(tensors: tuple[Tensor, ...]) -> list[str]:
    return [tensor.name for tensor in tensors]


def computed(nodes: tuple[Node, ...]) -> list[str]:
    return [node.outputs[0].name for node in nodes]


class TestScalar:
    def test_one_element_of_a_number(self) -> None:
        assert scalar_of(gs.Constant("c", np.array([[3]]))) == 3.0
        assert scalar_of(gs.Constant("c", np.array(-2.5))) == -2.5
        assert scalar_of(gs.Constant("c", np.array(True))) is None
        assert scalar_of(gs.Constant("c", np.array([1.0, 1.0]))) is None
        assert scalar_of(gs.Variable("x", shape=(1,))) is None

    @pytest.mark.parametrize("rank, shape, found", [(0, None, 2.0), (1, None, None), (1, (3,), 2.0), (2, (3,), None)])
    def test_must_not_raise_the_rank_of_what_it_meets(
        self, rank: int, shape: tuple[int, ...] | None, found: float | None
    ) -> None:
        constant = gs.Constant("c", np.full((1,) * rank, 2.0))
        assert scalar_of(constant, gs.Variable("x", shape=shape)) == found

    def test_beside_an_operand(self) -> None:
        read = Read(
            "a = Mul (x, two) b = Sub (three, a) c = Mul (b, pair) d = Mul (c, raised) e = Neg (d) y = Mul (e, z)"
        )
        assert operand_and_scalar(read.node("a")) == (0, 2.0)
        assert operand_and_scalar(read.node("b")) == (1, 3.0)
        for name in ("c", "d", "e", "y"):
            assert operand_and_scalar(read.node(name)) is None
        both = gs.Node("Mul", inputs=[gs.Constant("a", np.array(1.0)), gs.Constant("b", np.array(2.0))])
        assert operand_and_scalar(both) is None

    def test_what_only_one_node_reads(self) -> None:
        read = Read("a = Mul (x, two) b = Mul (a, z) y = Add (b, a)")
        assert inner(read.graph, read["b"], "Mul") is read.node("b")
        assert inner(read.graph, read["b"], "Add") is None
        assert inner(read.graph, read["a"], "Mul") is None
        assert inner(read.graph, read["x"], "Mul") is None


class TestProduct:
    @pytest.mark.parametrize(
        "body, coefficient, factors, nodes",
        [
            ("y = Mul (x, z)", 1.0, ["x", "z"], ["y"]),
            ("y = Mul (three, x)", 3.0, ["x"], ["y"]),
            ("a = Mul (x, two) y = Div (a, four)", 0.5, ["x"], ["y", "a"]),
            ("a = Div (x, four) b = Mul (z, six) y = Mul (a, b)", 1.5, ["x", "z"], ["y", "a", "b"]),
            ("a = Add (x, two) y = Mul (a, three)", 3.0, ["a"], ["y"]),
            ("a = Div (x, z) y = Mul (a, three)", 3.0, ["a"], ["y"]),
            ("y = Mul (x, pair)", 1.0, ["x", "pair"], ["y"]),
        ],
    )
    def test_of_a_tree(self, body: str, coefficient: float, factors: list[str], nodes: list[str]) -> None:
        read = Read(body)
        found = product(read.graph, read.node())
        assert found is not None
        assert (found.coefficient, names(found.factors), computed(found.nodes)) == (coefficient, factors, nodes)

    @pytest.mark.parametrize("body", ["y = Add (x, two)", "y = Div (x, z)", "y = Div (two, x)", "y = Div (x, zero)"])
    def test_that_is_none(self, body: str) -> None:
        read = Read(body)
        assert product(read.graph, read.node()) is None

    def test_keeps_what_others_read(self) -> None:
        read = Read("a = Mul (x, two) y = Mul (a, three)", ", float[1, 2] a")
        found = product(read.graph, read.node())
        assert found is not None and (found.coefficient, names(found.factors)) == (3.0, ["a"])

    @pytest.mark.parametrize("depth, factor", [(0, "b"), (1, "a"), (2, "x")])
    def test_goes_no_deeper_than_told(self, depth: int, factor: str) -> None:
        read = Read("a = Mul (x, two) b = Mul (a, two) y = Mul (b, two)")
        found = product(read.graph, read.node(), depth)
        assert found is not None and names(found.factors) == [factor]
        assert found.coefficient == 2.0 ** (depth + 1)


class TestLines:
    def test_every_base_nearest_first(self) -> None:
        read = Read("a = Mul (x, two) b = Add (three, a) y = Div (b, four)")
        found = [(line.base.name, line.scale, line.shift) for line in lines(read.graph, read["y"])]
        assert found == [("y", 1, 0), ("b", 0.25, 0), ("a", 0.25, 0.75), ("x", 0.5, 0.75)]
        assert computed(lines(read.graph, read["y"])[-1].nodes) == ["y", "b", "a"]

    @pytest.mark.parametrize(
        "body, scale, shift",
        [("y = Sub (x, three)", 1, -3), ("y = Sub (three, x)", -1, 3), ("y = Mul (x, minus)", -1, 0)],
    )
    def test_of_one_node(self, body: str, scale: float, shift: float) -> None:
        read = Read(body)
        last = lines(read.graph, read["y"])[-1]
        assert (last.base.name, last.scale, last.shift) == ("x", scale, shift)

    @pytest.mark.parametrize("body", ["y = Div (two, x)", "y = Add (x, z)", "y = Add (x, pair)", "y = Relu (x)"])
    def test_end_where_it_is_none(self, body: str) -> None:
        read = Read(body)
        assert [line.base.name for line in lines(read.graph, read["y"])] == ["y"]

    def test_are_followed_so_far_and_no_further(self) -> None:
        steps = " ".join(f"t{k + 1} = Add (t{k}, one)" for k in range(1, 20))
        read = Read(f"t1 = Add (x, one) {steps} y = Add (t20, one)")
        found = lines(read.graph, read["y"])
        assert len(found) == DEPTH + 1 and found[-1].shift == DEPTH


class TestClamp:
    @pytest.mark.parametrize(
        "body, low, high, nodes",
        [
            ("y = Relu (x)", 0, inf, ["y"]),
            ("y = Min (x, six)", -inf, 6, ["y"]),
            ("y = Max (two, x)", 2, inf, ["y"]),
            ("y = Clip (x)", -inf, inf, ["y"]),
            ("y = Clip (x, two)", 2, inf, ["y"]),
            ("y = Clip (x, , six)", -inf, 6, ["y"]),
            ("a = Relu (x) y = Min (six, a)", 0, 6, ["y", "a"]),
            ("a = Clip (x, zero, six) y = Clip (a, two, four)", 2, 4, ["y", "a"]),
            ("a = Clip (x, minus, one) y = Clip (a, two, four)", 2, 2, ["y", "a"]),
            ("a = Clip (x, four, six) y = Clip (a, one, two)", 2, 2, ["y", "a"]),
            ("a = Min (x, zero) b = Max (a, minus) y = Relu (b)", 0, 0, ["y", "b", "a"]),
        ],
    )
    def test_of_a_chain(self, body: str, low: float, high: float, nodes: list[str]) -> None:
        read = Read(body)
        found = clamp(read.graph, read.node())
        assert found is not None
        assert (found.low, found.high, found.base, computed(found.nodes)) == (low, high, read["x"], nodes)

    @pytest.mark.parametrize("body", ["y = Max (x, z)", "y = Max (x, two, three)", "y = Min (x, pair)", "y = Neg (x)"])
    def test_that_is_none(self, body: str) -> None:
        read = Read(body)
        assert clamp(read.graph, read.node()) is None

    def test_with_a_bound_that_is_computed(self) -> None:
        body = "s = ReduceMax <keepdims = 0> (z) y = Clip (x, {})"
        for bounds in ("s", "zero, s"):
            read = Read(body.format(bounds))
            assert clamp(read.graph, read.node()) is None

    @pytest.mark.parametrize("depth, base", [(0, "b"), (1, "a"), (2, "x")])
    def test_goes_no_deeper_than_told(self, depth: int, base: str) -> None:
        read = Read("a = Relu (x) b = Min (a, six) y = Max (b, one)")
        found = clamp(read.graph, read.node(), depth)
        assert isinstance(found, Clamp) and found.base is read[base]

    def test_keeps_what_others_read(self) -> None:
        read = Read("a = Relu (x) y = Min (a, six)", ", float[1, 2] a")
        found = clamp(read.graph, read.node())
        assert found is not None and found.base is read["a"] and found.low == -inf


class TestMonomial:
    @pytest.mark.parametrize(
        "body, coefficient, degree, nodes",
        [
            ("y = Mul (x, x)", 1, 2, ["y"]),
            ("a = Mul (x, two) y = Pow (a, three)", 8, 3, ["y", "a"]),
            ("a = Mul (x, x) y = Div (a, four)", 0.25, 2, ["y", "a"]),
            ("a = Pow (x, two) b = Mul (a, three) y = Mul (x, b)", 3, 3, ["y", "b", "a"]),
            ("a = Pow (x, two) b = Pow (a, three) y = Mul (b, half)", 0.5, 6, ["y", "b", "a"]),
        ],
    )
    def test_of_products_and_powers(self, body: str, coefficient: float, degree: float, nodes: list[str]) -> None:
        read = Read(body)
        found = monomial(read.graph, read["y"], read["x"])
        assert found is not None and (found[0], found[1], computed(found[2])) == (coefficient, degree, nodes)

    def test_of_the_variable_itself(self) -> None:
        read = Read("y = Neg (x)")
        assert monomial(read.graph, read["x"], read["x"], 0) == (1, 1, ())

    @pytest.mark.parametrize(
        "body",
        [
            "y = Mul (x, z)",
            "y = Add (x, x)",
            "y = Pow (x, z)",
            "y = Pow (x, pair)",
            "y = Pow (z, two)",
            "y = Div (x, zero)",
        ],
    )
    def test_that_is_none(self, body: str) -> None:
        read = Read(body)
        assert monomial(read.graph, read["y"], read["x"]) is None

    @pytest.mark.parametrize("body", ["a = Pow (x, two) y = Mul (a, x)", "a = Mul (x, x) y = Pow (a, two)"])
    def test_goes_no_deeper_than_told(self, body: str) -> None:
        read = Read(body)
        assert [monomial(read.graph, read["y"], read["x"], depth) is not None for depth in (0, 1, 2)] == [
            False,
            False,
            True,
        ]


class TestPolynomial:
    @pytest.mark.parametrize(
        "body, terms",
        [
            ("a = Add (x, one) b = Sub (x, one) y = Mul (a, b)", {2.0: 1.0, 0.0: -1.0}),
            ("a = Mul (x, x) b = Mul (a, x) c = Mul (b, three) y = Add (x, c)", {1.0: 1.0, 3.0: 3.0}),
            ("a = Mul (x, x) b = Add (a, one) y = Mul (x, b)", {3.0: 1.0, 1.0: 1.0}),
            ("a = Mul (x, two) y = Pow (a, three)", {3.0: 8.0}),
            ("a = Sub (three, x) y = Neg (a)", {0.0: -3.0, 1.0: 1.0}),
            ("a = Add (x, six) y = Div (a, two)", {0.0: 3.0, 1.0: 0.5}),
            ("y = Sub (x, x)", {}),
            ("y = Mul (x, zero)", {}),
            ("y = Add (x, zero)", {1.0: 1.0}),
            ("y = Pow (x, one)", {1.0: 1.0}),
            ("y = Pow (x, many)", {16.0: 1.0}),
        ],
    )
    def test_however_it_is_written(self, body: str, terms: dict[float, float]) -> None:
        read = Read(body)
        found = polynomial(read.graph, read["y"], read["x"])
        assert found is not None and found.terms == terms
        assert sorted(computed(found.nodes)) == sorted(
            n.outputs[0].name for n in read.graph.nodes if n.op != "Identity"
        )

    @pytest.mark.parametrize(
        "body",
        [
            "y = Mul (x, z)",
            "y = Relu (x)",
            "y = Div (x, x)",
            "y = Div (one, x)",
            "y = Div (x, zero)",
            "y = Pow (x, zero)",
            "y = Pow (x, half)",
            "y = Pow (x, minus)",
            "y = Pow (x, too_many)",
            "a = Add (x, one) y = Pow (a, two)",
            "y = Add (x, pair)",
        ],
    )
    def test_that_is_none(self, body: str) -> None:
        read = Read(body)
        assert polynomial(read.graph, read["y"], read["x"]) is None

    def test_goes_no_deeper_than_told(self) -> None:
        read = Read("a = Neg (x) y = Neg (a)")
        found = [polynomial(read.graph, read["y"], read["x"], depth) for depth in (0, 1, 2)]
        assert found[0] is None and found[1] is None and found[2] is not None

    def test_keeps_what_others_read(self) -> None:
        read = Read("a = Neg (x) y = Neg (a)", ", float[1, 2] a")
        assert polynomial(read.graph, read["y"], read["x"]) is None
