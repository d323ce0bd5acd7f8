"""fold-affine: constant scales and shifts go into the layers beside them where that is exact."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.passes import FoldAffine
from tests.numeric import build, check_declines, check_rewrite, constants, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
CONV = "float[8,6,3,3] c.weight, float[8] c.bias"
PER_CHANNEL = "float[1,6,1,1] s.scale, float[6,1,1] t, float[1,8,1,1] u.scale, float[8,1,1] v, float k.scale"
PRODUCT = "h = MatMul(x, w) y = Add(h, b)"


def image(body: str, outputs: str = "float[1,8,n,m] y") -> str:
    return f"{HEADER} g (float[1,6,9,9] x) => ({outputs}) <{CONV}, {PER_CHANNEL}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "h = Conv<pads=[1,1,1,1]>(x, c.weight) y = Mul(h, u.scale)",
        "h = Conv(x, c.weight, c.bias) y = Div(h, u.scale)",
        "h = Conv(x, c.weight, c.bias) y = Add(v, h)",
        "h = Conv(x, c.weight) y = Sub(v, h)",
        "h = Conv(x, c.weight) y = Sub(h, v)",
        "h = Conv(x, c.weight) y = Mul(k.scale, h)",
        "h = Conv(x, c.weight) a = Mul(h, u.scale) b = Add(a, v) y = Div(b, k.scale)",
        "h = Div(x, k.scale) y = Conv<pads=[1,1,1,1]>(h, c.weight)",
        "h = Mul(x, s.scale) y = Conv<pads=[1,1,1,1]>(h, c.weight, c.bias)",
        "h = Mul(x, s.scale) i = Add(h, t) y = Conv<strides=[2,2]>(i, c.weight, c.bias)",
        "h = Sub(t, x) y = Conv(h, c.weight)",
    ],
)
def test_goes_into_the_convolution(body: str) -> None:
    assert ops(check_rewrite(build(image(body)), FoldAffine())) == ["Conv"]


def test_shift_stays_in_front_of_a_padded_convolution() -> None:
    """(x / 255 - mean) / std of an image becomes one Add."""
    body = "a = Div(x, k.scale) b = Sub(a, t) d = Div(b, s.scale) y = Conv<pads=[1,1,1,1]>(d, c.weight)"
    assert ops(check_rewrite(build(image(body)), FoldAffine())) == ["Add", "Conv"]


def test_shared_padded_readers_keep_one_add() -> None:
    body = """a = Mul(x, s.scale) b = Add(a, t) y = Conv<pads=[1,1,1,1]>(b, c.weight)
              z = Conv<pads=[0,0,1,1]>(b, c.weight)"""
    after = check_rewrite(build(image(body, "float[1,8,n,m] y, float[1,8,i,j] z")), FoldAffine())
    assert sorted(ops(after)) == ["Add", "Conv", "Conv"]


def test_shortens_what_it_cannot_fold() -> None:
    body = "a = Div(x, k.scale) b = Sub(a, t) d = Div(b, s.scale) e = Add(d, t) y = LeakyRelu(e)"
    assert ops(check_rewrite(build(image(body, "float[1,6,9,9] y")), FoldAffine())) == ["Mul", "Add", "LeakyRelu"]


def test_drops_what_does_nothing() -> None:
    body = "r = LeakyRelu(x) a = Mul(r, k.scale) b = Div(a, k.scale) y = Sin(b)"
    after = check_rewrite(
        build(image(body, "float[1,6,9,9] y"), values={"k.scale": np.array(2.0)}), FoldAffine(), control=False
    )
    assert ops(after) == ["LeakyRelu", "Sin"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("h = Add(x, t) y = Conv<pads=[1,1,1,1]>(h, c.weight)", "float[1,8,n,m] y"),
        ("h = Mul(x, s.scale) i = Add(h, t) y = Sin(i)", "float[1,6,9,9] y"),
        ("h = Mul(x, s.scale) y = Conv(h, c.weight) z = Sin(h)", "float[1,8,n,m] y, float[1,6,9,9] z"),
        ("h = Conv(x, c.weight) y = Mul(h, u.scale) z = Sin(h)", "float[1,8,7,7] y, float[1,8,7,7] z"),
        ("h = Conv(x, c.weight) y = Mul(h, u.scale)", "float[1,8,7,7] y, float[1,8,7,7] h"),
        ("h = Conv(x, c.weight) y = Mul(h, h)", "float[1,8,7,7] y"),
    ],
    ids=["padded", "nothing beside", "second reader", "conv read twice", "conv is output", "no constant"],
)
def test_declines(body: str, outputs: str) -> None:
    check_declines(build(image(body, outputs)), FoldAffine())


@pytest.mark.parametrize(
    "weights",
    ["float[8,6,3,3] w, float[7,5] v", "float[1,6,3,3] w, float[8,1,1] v", "float[8,6,3,3] w, float[1,1,8,1,1] v"],
    ids=["varies in space", "widens the channels", "adds an axis"],
)
def test_declines_constants(weights: str) -> None:
    rank = "1," if "1,1,8" in weights else ""
    outputs = f"float[{rank}1,8,7,5] y"
    body = "h = Conv(x, w) y = Add(h, v)"
    check_declines(build(f"{HEADER} g (float[1,6,9,7] x) => ({outputs}) <{weights}> {{ {body} }}"), FoldAffine())


def test_zero_scale_before_padding_stays() -> None:
    body = "a = Mul(x, s.scale) b = Add(a, t) y = Conv<pads=[1,1,1,1]>(b, c.weight)"
    scale = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
    check_declines(build(image(body), values={"s.scale": scale}), FoldAffine())


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("h = MatMul(x, w) y = Mul(h, b.scale)", ["MatMul"]),
        ("h = Mul(x, a.scale) y = MatMul(h, w)", ["MatMul"]),
        ("h = MatMul(x, w) i = Add(h, b) y = Mul(i, b.scale)", ["MatMul", "Add"]),
        ("h = Mul(x, a.scale) i = Add(h, a) y = MatMul(i, w)", ["Add", "MatMul"]),
    ],
)
def test_tokens(body: str, left: list[str]) -> None:
    weights = "float[6,8] w, float[8] b, float[8] b.scale, float[6] a, float[6] a.scale"
    text = f"{HEADER} g (float[2,5,6] x) => (float[2,5,8] y) <{weights}> {{ {body} }}"
    assert ops(check_rewrite(build(text), FoldAffine())) == left


def test_bias_of_a_product_of_tokens_stays() -> None:
    text = f"{HEADER} g (float[2,5,6] x) => (float[2,5,8] y) <float[6,8] w, float[8] b> {{ {PRODUCT} }}"
    check_declines(build(text), FoldAffine())


def test_product_of_matrices_becomes_a_gemm() -> None:
    text = (
        f"{HEADER} g (float[5,6] x) => (float[5,8] y) <float[6,8] w, float[8] b> {{ h = MatMul(x, w) y = Add(h, b) }}"
    )
    assert ops(check_rewrite(build(text), FoldAffine())) == ["Gemm"]


def test_shared_scale_is_not_edited() -> None:
    body = "h = Mul(x, s.scale) y = Conv(h, c.weight) i = Sin(x) z = Mul(i, s.scale)"
    model = build(image(body, "float[1,8,n,m] y, float[1,6,9,9] z"))
    after = check_rewrite(model, FoldAffine())
    np.testing.assert_array_equal(constants(after)["s.scale"], constants(model)["s.scale"])
