"""What a graph holds of its size is written anew, or named as what is in the way."""

from __future__ import annotations

import pytest

from onnxslim_yolo.ir.graph import toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.passes import Canonicalise
from onnxslim_yolo.rewrites.other_size import for_size
from onnxslim_yolo.rewrites.size_factors import OneSizeError
from tests.numeric import build
from tests.passes.cutting import onnx_text

NEW = (24, 40)
CONV = "c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)"


def made(body: str, weights: str = "", side: int = 32, channels: int = 8, new: tuple[int, int] = NEW) -> Model:
    """A convolution of an image and what is behind it, made for 24 × 40 instead of 32 × 32."""
    declared = f"float[{channels},3,3,3] w" + (f", {weights}" if weights else "")
    model = build(onnx_text(f"float[1,3,{side},{side}] x", "float[a,b,c,d] y", declared, f"{CONV} {body}"))
    Canonicalise().run(model)
    model.graph.nodes = toposort(model.graph)
    for_size(model.graph, new)
    reinfer(model.graph)
    return model


def shape(model: Model) -> list[int]:
    return [int(side) for side in model.graph.outputs[0].shape]


@pytest.mark.parametrize(
    ("body", "weights", "wanted"),
    [
        ("y = Reshape(c, t)", "int64[5] t = {1, 2, 4, 32, 32}", [1, 2, 4, 24, 40]),
        ("y = Reshape(c, t)", "int64[3] t = {1, 8, 1024}", [1, 8, 960]),
        ("y = Reshape(c, t)", "int64[3] t = {0, 8, -1}", [1, 8, 960]),
        ("f = Flatten<axis = 2>(c) y = Relu(f)", "", [8, 960]),
        ("p = Transpose<perm = [0, 2, 3, 1]>(c) y = Reshape(p, t)", "int64[3] t = {1, 1024, 8}", [1, 960, 8]),
        ("p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)"
         " u = Resize<mode = \"nearest\">(p, , , s)"
         " y = Concat<axis = 1>(c, u)", "int64[4] s = {1, 8, 32, 32}", [1, 16, 24, 40]),
        ("d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)"
         " p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)"
         " u = Resize<mode = \"nearest\">(p, , , s) y = Add(d, u)", "int64[4] s = {1, 8, 16, 16}", [1, 8, 12, 20]),
        ("p = AveragePool<kernel_shape = [1, 32]>(c) y = Mul(c, p)", "", [1, 8, 24, 40]),
        ("y = Slice(c, b, e, a, s)", "int64[2] b = {-1, -1}, int64[2] e = {-2147483648, -2147483648},"
         " int64[2] a = {2, 3}, int64[2] s = {-1, -1}", [1, 8, 24, 40]),
        ("y = Slice(c, b, e, a, s)", "int64[2] b = {1, 0}, int64[2] e = {32, 32}, int64[2] a = {2, 3},"
         " int64[2] s = {2, 2}", [1, 8, 12, 20]),
        ("p = AveragePool<kernel_shape = [32, 32]>(c) y = Mul(c, p)", "", [1, 8, 24, 40]),
        ("p = GlobalAveragePool(c) u = Resize<mode = \"nearest\">(p, , , s) y = Concat<axis = 1>(c, u)",
         "int64[4] s = {1, 8, 32, 32}", [1, 16, 24, 40]),  # 32 rows and 32 columns become 24 and 40
        ("k = Reshape(c, t) q = Transpose<perm = [0, 2, 1]>(k) m = MatMul(q, k) s = Softmax<axis = -1>(m)"
         " v = MatMul(k, s) y = Reshape(v, u)", "int64[3] t = {1, 8, 1024}, int64[4] u = {1, 8, 32, 32}",
         [1, 8, 24, 40]),
        ("f = GlobalAveragePool(c) e = Expand(f, t) y = Add(e, c)", "int64[4] t = {1, 8, 32, 32}", [1, 8, 24, 40]),
        ("y = MaxPool<kernel_shape = [13, 13], pads = [6, 6, 6, 6]>(c)", "", [1, 8, 24, 40]),
        ("p = Pad(c, q) y = Relu(p)", "int64[8] q = {0, 0, 1, 1, 0, 0, 1, 1}", [1, 8, 26, 42]),
    ],
)  # fmt: skip
def test_what_is_known_follows(body: str, weights: str, wanted: list[int]) -> None:
    assert shape(made(body, weights)) == wanted


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("y = Add(c, g)", "float[1,8,32,32] g", "does not fit"),
        ("y = Add(c, g)", "float[1,1,32,1] g", "does not fit"),
        ("y = Reshape(c, t)", "int64[6] t = {1, 8, 4, 8, 32, 4}", "parts positions"),
        ("y = Slice(c, b, e, a)", "int64[1] b = {0}, int64[1] e = {16}, int64[1] a = {2}", "counted out"),
        ("y = Slice(c, b, e, a)", "int64[1] b = {4}, int64[1] e = {32}, int64[1] a = {2}", "counted out"),
        ("y = Gather<axis = 2>(c, i)", "int64[2] i = {0, 5}", "picks single positions"),
        ("a, b = Split<axis = 2>(c, s) y = Add(a, b)", "int64[2] s = {16, 16}", "parts positions"),
        ("f = Reshape(c, t) y = MatMul(f, m)", "int64[3] t = {1, 8, 1024}, float[1024,16] m", "for every position"),
        ("p = Transpose<perm = [0, 2, 1, 3]>(c) y = Conv(p, m)", "float[4,32,1,1] m", "for every position"),
        ("p = Flatten(c) y = Gemm(p, m)", "float[8192,4] m", "for every position"),
        ("s = ReduceSum(c, a) y = Mul(s, k)", "int64[2] a = {2, 3}, float k = {0.0009765625}", "which may be of"),
        ("y = Div(c, k)", "float k = {32}", "a side of the image"),
        ("s = ReduceSum(c, a) r = Relu(s) y = Mul(r, k)", "int64[2] a = {2, 3}, float k = {0.0009775171}", "may be of"),
        (
            "f = Flatten<axis = 2>(c) v, i = TopK(f, k) m = Mod(i, q) y = Cast<to = 1>(m)",
            "int64[1] k = {5}, int64 q = {32}",
            "a side of",
        ),
        (
            'p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) y = Resize<mode = "nearest">(p, , , s)',
            "int64[4] s = {1, 8, 64, 64}",
            "its side of 64",
        ),
        (
            "d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)"
            " p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)"
            ' y = Resize<mode = "nearest">(p, , , s)',
            "int64[4] s = {1, 8, 16, 16}",
            "a number like others",
        ),
        ("p = Pad(c, q) y = Relu(p)", "int64[8] q = {0, 0, 0, 0, 0, 0, 16, 16}", "its padding"),
        ("y = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(c)", "", "a share of the map's"),
        ("g = GlobalAveragePool(c) u = Flatten(g) y = Tile(u, t)", "int64[2] t = {1024, 1}", "for every position"),
        (
            "p = GlobalAveragePool(c) e = Expand(p, t) y = Conv(e, m)",
            "int64[4] t = {1, 8, 32, 32}, float[4,8,1,1] m",
            "for every position",
        ),
        (
            "g = GlobalAveragePool(c) f = Flatten(g) r = ReduceSum(f, a) y = Add(r, p)",
            "int64[1] a = {1}, float[1,32] p",
            "for every position",
        ),
        ("y = Conv<kernel_shape = [32, 32]>(c, m)", "float[4,8,32,32] m", "its window is the whole map"),
        ("y = AveragePool<kernel_shape = [16, 16], strides = [16, 16]>(c)", "", "a share of the map's"),
        ("n = LayerNormalization<axis = -1>(c, m) y = Relu(n)", "float[32] m", "for every position"),
        ("y = Concat<axis = 2>(c, g)", "float[1,8,4,32] g", "joined to it"),
        ("v, i = TopK<axis = 2>(c, k) y = Relu(v)", "int64[1] k = {30}", "keeps more"),
        ("y = GatherElements<axis = 2>(c, i)", "int64[1,8,2,32] i", "single positions"),
    ],
)
def test_what_cannot_be_told_is_named(body: str, weights: str, reason: str) -> None:
    with pytest.raises(OneSizeError, match=reason) as caught:
        made(body, weights)
    assert caught.value.node


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("f = Flatten<axis = 2>(c) y = Add(f, g)", "float[1,1,1024] g", "for every position"),
        ("f = Flatten<axis = 2>(c) y = Concat<axis = 0>(f, g)", "float[2,1024] g", "joined to it|does not fit"),
        ("f = Reshape(c, t) y = MatMul(f, m)", "int64[3] t = {1, 8, 1024}, float[1024,16] m", "for every position"),
        ("f = Flatten<axis = 2>(c) l = Concat<axis = 1>(f, f) y = Add(l, g)", "float[1,2048] g", "as many positions"),
    ],
)
def test_as_many_positions_in_other_rows_are_others(body: str, weights: str, reason: str) -> None:
    """64 × 16 has as many positions as 32 × 32: all that is known of each fits, and is of others."""
    with pytest.raises(OneSizeError, match=reason):
        made(body, weights, new=(64, 16))
    kept = made(
        "f = Reshape(c, t) n = Softmax<axis = -1>(f) y = Reshape(n, u)",
        "int64[3] t = {1, 8, 1024}, int64[4] u = {1, 8, 32, 32}",
        new=(64, 16),
    )
    assert shape(kept) == [1, 8, 64, 16]


def test_all_that_are_kept_may_be_so_many() -> None:
    body = "f = Flatten<axis = 2>(c) v, i = TopK(f, k) y = Relu(v)"
    with pytest.raises(OneSizeError, match="keeps all"):
        made(body, "int64[1] k = {1024}", new=(64, 64))


def test_a_constant_output_is_refused() -> None:
    with pytest.raises(OneSizeError, match="a constant"):
        made("y = Identity(g)", "float[1,1024] g")
