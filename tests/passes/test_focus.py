"""focus-to-conv: every spelling of space-to-depth in front of a convolution becomes one strided convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from onnxslim_yolo.passes import FocusToConv
from tests.numeric import build, check_declines, check_rewrite, constants, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
INTS = """int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] i12 = {12},
    int64[1] im1 = {-1}, int64[1] far = {9223372036854775807}, int64[2] s01 = {0, 1},
    int64[2] farfar = {2147483647, 2147483647},
    int64[2] a23 = {2, 3}, int64[2] s22 = {2, 2}"""
ORDER = [(0, 0), (1, 0), (0, 1), (1, 1)]


def slices(order: Sequence[tuple[int, int]] = ORDER, step: int = 2, end: str = "far") -> str:
    """YOLOv5's Focus as TorchScript exports it: rows, then columns."""
    lines = [
        f"r{n} = Slice(x, i{r}, {end}, i2, i{step}) c{n} = Slice(r{n}, i{c}, {end}, i3, i{step})"
        for n, (r, c) in enumerate(order)
    ]
    return " ".join(lines) + f" z = Concat<axis=1>({', '.join(f'c{n}' for n in range(len(order)))})"


def focus(
    body: str = slices(),
    conv: str = "Conv<pads=[1,1,1,1]>(z, w, b)",
    *,
    channels: int = 12,
    kernel: str = "3,3",
    size: str = "12,8",
    outputs: str = "float[1,5,n,m] y",
) -> str:
    return f"""{HEADER} g (float[1,3,{size}] x) => ({outputs}) <{INTS}, float[5,{channels},{kernel}] w, float[5] b>
        {{ {body} y = {conv} }}"""


@pytest.mark.parametrize(
    "conv",
    [
        "Conv<pads=[1,1,1,1]>(z, w, b)",
        "Conv<pads=[0,1,2,1], strides=[2,1]>(z, w)",
        'Conv<auto_pad="SAME_LOWER", strides=[2,2]>(z, w, b)',
    ],
)
@pytest.mark.parametrize("kernel", ["1,1", "3,3", "2,3"])
def test_focus(conv: str, kernel: str) -> None:
    after = check_rewrite(build(focus(conv=conv, kernel=kernel)), FocusToConv())
    assert ops(after) == ["Conv"]
    assert constants(after)["w"].shape == (5, 3, *(2 * int(k) for k in kernel.split(",")))


def test_any_order_of_branches() -> None:
    orders = ([(0, 0), (0, 1), (1, 0), (1, 1)], [(1, 1), (0, 1), (1, 0), (0, 0)])
    kernels = [constants(check_rewrite(build(focus(slices(o))), FocusToConv()))["w"] for o in orders]
    assert not np.array_equal(*kernels)


def test_blocks_of_three() -> None:
    body = slices(list(product(range(3), range(3))), step=3)
    after = check_rewrite(build(focus(body, channels=27, size="12,9")), FocusToConv())
    assert constants(after)["w"].shape == (5, 3, 9, 9)


def test_rows_only_one_slice_for_both_axes_and_shared_slices() -> None:
    rows = "c0 = Slice(x, i0, far, i2, i2) c1 = Slice(x, i1, i12, i2, i2) z = Concat<axis=1>(c0, c1)"
    assert ops(check_rewrite(build(focus(rows, channels=6)), FocusToConv())) == ["Conv"]
    shared = """r0 = Slice(x, i0, far, i2, i2) r1 = Slice(x, i1, far, i2, i2) c0 = Slice(r0, i0, far, i3, i2)
        c1 = Slice(r1, i0, far, i3, i2) c2 = Slice(r0, i1, far, i3, i2) c3 = Slice(x, i11, farfar, a23, s22)
        z = Concat<axis=-3>(c0, c1, c2, c3)"""
    text = focus(shared).replace("int64[2] s01", "int64[2] i11 = {1, 1}, int64[2] s01")
    assert ops(check_rewrite(build(text), FocusToConv())) == ["Conv"]


def test_last_row_left_out_by_an_end_that_no_phase_needs() -> None:
    """[0:-1:2] of an even number of rows is complete, [1:-1:2] is not."""
    body = slices().replace("Slice(x, i0, far, i2, i2)", "Slice(x, i0, im1, i2, i2)")
    check_rewrite(build(focus(body)), FocusToConv())
    short = "c0 = Slice(x, i0, im1, i2, i2) c1 = Slice(x, i1, im1, i2, i2)"
    text = f"{short} d0 = Slice(c0, i0, i1, i2, i1) d1 = Slice(c1, i0, i1, i2, i1) z = Concat<axis=1>(d0, d1)"
    check_declines(build(focus(text, channels=6, conv="Conv(z, w)", kernel="1,1")), FocusToConv())


def test_space_to_depth_and_pixel_unshuffle() -> None:
    assert ops(check_rewrite(build(focus("z = SpaceToDepth<blocksize=2>(x)")), FocusToConv())) == ["Conv"]
    for perm in ("0,1,3,5,2,4", "0,3,5,1,2,4"):
        body = f"p = Reshape(x, split) q = Transpose<perm=[{perm}]>(p) z = Reshape(q, joined)"
        text = focus(body).replace(
            "<int64[1] i0", "<int64[6] split = {1,3,6,2,4,2}, int64[4] joined = {1,12,6,4}, int64[1] i0"
        )
        assert ops(check_rewrite(build(text), FocusToConv())) == ["Conv"]


def test_dynamic_sizes() -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 10, 6)).astype(np.float32)}
    check_rewrite(build(focus(size="h,w")), FocusToConv(), feeds=feeds)


def test_float16_keeps_every_bit_of_the_weight() -> None:
    model = build(focus().replace("float[", "float16["))
    after = check_rewrite(model, FocusToConv(), rtol=2e-3, control=False)
    assert constants(after)["w"].dtype == np.float16
    assert sorted(constants(after)["w"].ravel()) == sorted(constants(model)["w"].ravel())


DECLINED = {
    "dilated": focus(conv="Conv<dilations=[2,2]>(z, w)"),
    "grouped": focus(conv="Conv<group=1>(z, w)").replace("group=1", "group=2").replace("float[5,12", "float[6,6"),
    "a phase is missing": focus(slices(ORDER[:3]), channels=9),
    "a phase is twice": focus(slices([(0, 0), (1, 0), (0, 1), (0, 1)])),
    "two blocks": focus(slices().replace("Slice(r3, i1, far, i3, i2)", "Slice(r3, i0, far, i3, i2)")),
    "second reader": focus(slices() + " u = Sin(z)", outputs="float[1,5,n,m] y, float[1,12,k,l] u"),
    "output": focus(outputs="float[1,5,n,m] y, float[1,12,k,l] z"),
    "end within a dynamic axis": focus(slices(end="i12"), size="h,w"),
    "other source": focus("v = Sin(x) " + slices().replace("r2 = Slice(x", "r2 = Slice(v")),
    "concat along rows": focus(slices().replace("axis=1", "axis=2"), channels=3),
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines(case: str) -> None:
    text = DECLINED[case].replace("[1,5,n,m]", "[1,6,n,m]") if case == "grouped" else DECLINED[case]
    check_declines(build(text), FocusToConv())
