"""Where a convolution can be computed part by part, and where not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.parted import Parted, parted_convolutions
from tests.numeric import build
from tests.passes.test_conv_before_split import CONV, HEADER, PARTS, SILU, VALUES, WEIGHTS, model_of


def test_a_place_tells_what_lies_between_and_the_parts() -> None:
    [place] = parted_convolutions(model_of(f"{SILU} {PARTS}").graph)
    assert place.convolution.op == "Conv" and place.split.op == "Split" and place.widths == (4, 5)
    assert [node.op for node in place.between] == ["Sigmoid", "Mul"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{SILU} {PARTS} z = Relu(m)", "p q z"),  # the whole is read as well
        (f"{SILU} {PARTS}", "p q m"),  # the whole is a result
        (f"{SILU} {PARTS} z = Relu(s)", "p q z"),  # what lies inside is read
        (f"{SILU} {PARTS} r, t = Split<axis=1>(m, two)", "p q r t"),
        (f"{CONV} m = Mul(y, c) {PARTS}", "p q"),  # a factor a channel
        (f"{CONV} m = Softmax<axis=1>(y) {PARTS}", "p q"),  # channels meet
        (f"{CONV} o = Relu(x) v = Conv<pads=[1,1,1,1]>(o, w, b) m = Add(y, v) {PARTS}", "p q"),
        (f"m = Conv<group=3>(x, g) {PARTS}", "p q"),
        (f"{CONV} p, q = Split<axis=2>(y, rows)", "p q"),
        ("p, q = Split<axis=2>(x, rows)", "p q"),
        (
            f"{CONV} l = Mul(y, d) p, q = Split<axis=1>(l, two)",
            "p q",
        ),  # a longer shape moves the axes: images are split
    ],
)
def test_no_place(body: str, outputs: str) -> None:
    longer = "(l, two)" in body
    shapes = ", ".join(f"float[{','.join('abcde'[: 4 + longer])}] {name}" for name in outputs.split())
    text = f"{HEADER} g (float[{9 if longer else 2},6,5,7] x) => ({shapes}) <{WEIGHTS}> {{ {body} }}"
    assert parted_convolutions(build(text, values=VALUES).graph) == []


SMALL = "float[9,4,3] w, float[9] b, float[9] t, float k, float[9] n0, float[9] n1, float[9] n2, float[9] n3"


def places(
    body: str, outputs: str = "p, q", weights: str = SMALL, rank: int = 3, *, folded: bool = True
) -> list[Parted]:
    """Of what follows `y`, a row of nine channels."""
    sizes = ",".join("abcd"[:rank])
    text = f"""{HEADER} g (float[2,4,7] x) => ({", ".join(f"float[{sizes}] {o}" for o in outputs.split(", "))})
        <{weights}, int64[2] two, int64[3] three, int64[2] rows> {{ {body} }}"""
    values = {"two": np.array([4, 5]), "three": np.array([2, 3, 4]), "rows": np.array([2, 3])}
    return parted_convolutions(build(text, values=values).graph, folded=folded)


class TestRows:
    """Maps of any rank have channels; what says nothing of a channel may stand in between."""

    @pytest.mark.parametrize(
        ("between", "ops"),
        [
            ("m = Relu(y)", ["Relu"]),
            ("m = Identity(y)", None),
            ("m = Clip(y, , k)", ["Clip"]),
            ("m = Clip(y, k, )", ["Clip"]),
            ("a = Relu(y) c = Tanh(y) m = Add(a, c)", ["Relu", "Tanh", "Add"]),
            ("a = Relu(y) c = Neg(a) d = Mul(c, a) m = Add(d, y)", ["Relu", "Neg", "Mul", "Add"]),
            ("m = Mul(y, e)", None),
            ("m = Mul(x, y)", None),
            ("m, mask = Dropout(y)", None),
        ],
    )
    def test_what_may_stand_between(self, between: str, ops: list[str] | None) -> None:
        if "(x, y)" in between:
            between = "u = ReduceMax<axes=[1]>(x) v = Slice(u, s0, s1, ax) m = Mul(v, y)"
        weights = f"{SMALL}, float[9,1] e, int64[1] s0 = {{0}}, int64[1] s1 = {{5}}, int64[1] ax = {{2}}"
        found = places(f"y = Conv(x, w, b) {between} p, q = Split<axis=1>(m, two)", weights=weights)
        assert [[node.op for node in place.between] for place in found] == ([] if ops is None else [ops])
        assert all(place.widths == (4, 5) and place.convolution.op == "Conv" for place in found)

    @pytest.mark.parametrize("axis", [1, -2])
    def test_three_parts(self, axis: int) -> None:
        (found,) = places(f"y = Conv(x, w) p, q, r = Split<axis={axis}>(y, three)", "p, q, r")
        assert found.widths == (2, 3, 4) and found.between == ()

    @pytest.mark.parametrize("axis", [2, -1, 0])
    def test_not_along_another_axis(self, axis: int) -> None:
        sizes = "rows" if axis else "ones"
        weights = f"{SMALL}, int64[2] ones = {{1, 1}}"
        assert not places(f"y = Conv(x, w) p, q = Split<axis={axis}>(y, {sizes})", weights=weights)

    def test_matrices_have_no_convolution(self) -> None:
        weights = f"{SMALL}, float[28,9] v"
        assert not places("f = Flatten(x) y = Gemm(f, v) p, q = Split<axis=1>(y, two)", weights=weights, rank=2)

    @pytest.mark.parametrize("call", ["Conv(x, c, b)", "Conv(x, w, d)"])
    def test_by_a_weight_or_bias_that_is_computed(self, call: str) -> None:
        body = f"k1 = ReduceMax<keepdims=0>(x) c = Mul(w, k1) d = Mul(b, k1) y = {call} p, q = Split<axis=1>(y, two)"
        assert not places(body)

    def test_a_part_of_nothing(self) -> None:
        assert not places("y = Conv(x, w) p, q = Split<axis=1>(y, none)", weights=f"{SMALL}, int64[2] none = {{9, 0}}")

    def test_of_an_image_alone(self) -> None:
        weights = f"{SMALL}, int64[2] halves = {{2, 2}}"
        assert not places("m = Relu(x) p, q = Split<axis=1>(m, halves)", weights=weights)

    @pytest.mark.parametrize(
        ("body", "between"),
        [
            ("y = Conv(x, w) m = BatchNormalization(y, n0, n1, n2, n3)", ["BatchNormalization"]),
            ("y = Conv(x, w) a = BatchNormalization(y, n0, n1, n2, n3) m = Relu(a)", ["BatchNormalization", "Relu"]),
            ("y = Conv(x, w) a = Relu(y) m = BatchNormalization(a, n0, n1, n2, n3)", None),
        ],
    )
    def test_norms_that_are_yet_to_be_folded(self, body: str, between: list[str] | None) -> None:
        text = f"{body} p, q = Split<axis=1>(m, two)"
        found = places(text, folded=False)
        assert [[node.op for node in place.between] for place in found] == ([] if between is None else [between])
        assert not places(text)
