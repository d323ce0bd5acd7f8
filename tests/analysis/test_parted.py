"""Where a convolution can be computed part by part, and where not."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.parted import parted_convolutions
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
