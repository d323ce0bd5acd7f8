"""Small graphs of data movement, sampling and sizes at their bounds (see `ncnn_cases`)."""

from __future__ import annotations

from tests.emit.ncnn_cases import MAP, graph, one

ROW, FIVE, EIGHT = "float[1,6,11]", "float[1,2,3,4,5]", "float[1,8,4,5]"
FAR = "9223372036854775807"


def _slice(axes: str, starts: str, ends: str, steps: str, out: str, shape: str = MAP) -> str:
    sizes = f"int64[{axes.count(',') + 1}]"
    values = zip("seat", (starts, ends, axes, steps), strict=True)
    return one("y = Slice(x, s, e, a, t)", out, ", ".join(f"{sizes} {k} = {{{v}}}" for k, v in values), shape)


def _gather(indices: str, out: str, axis: int = 1, shape: str = MAP) -> str:
    count = indices.count(",") + 1
    return one(f"y = Gather<axis={axis}>(x, i)", out, f"int64[{count}] i = {{{indices}}}", shape)


def _reordered(to: str, perm: str, back: str, out: str, shape: str) -> str:
    """Reshape, Transpose, Reshape."""
    sizes = [f"int64[{each.count(',') + 1}] {name} = {{{each}}}" for name, each in (("s", to), ("t", back))]
    body = f"a = Reshape(x, s) b = Transpose<perm=[{perm}]>(a) y = Reshape(b, t)"
    return one(body, out, ", ".join(sizes), shape)


CUTS = {
    "slice-all": _slice("1,2", "0,0", f"{FAR},{FAR}", "1,1", MAP),
    "slice-one-step-left": _slice("2", "7", "9", "2", "float[1,6,1,10]"),
    "slice-last": _slice("-1", "-1", FAR, "1", "float[1,6,9,1]"),
    "slice-before-the-first": _slice("3", "-99", "4", "1", "float[1,6,9,4]"),
    "slice-uneven-steps": _slice("2,3", "0,1", "9,10", "4,3", "float[1,6,3,3]"),
    "slice-step-and-range": _slice("1,3", "1,0", "5,10", "1,3", "float[1,4,9,4]"),
    "slice-depth-5d": _slice("2", "1", "3", "1", "float[1,2,2,4,5]", FIVE),
    "slice-step-5d": _slice("2,4", "0,0", "3,5", "2,2", "float[1,2,2,4,3]", FIVE),
    "slice-default-axes": one("y = Slice(x, s, e)", "float[1,4,9,10]", "int64[2] s = {0,1}, int64[2] e = {1,5}"),
    "slice-old": one("y = Slice<starts=[1,-4],ends=[5,10],axes=[1,3]>(x)", "float[1,4,9,4]", opset=9),
    "slice-of-merged": one(
        "a = Reshape(x, s) y = Slice(a, b, e, i)",
        "float[1,1,3,9,10]",
        "int64[5] s = {1,2,3,9,10}, int64[1] b = {1}, int64[1] e = {2}, int64[1] i = {1}",
    ),
    "slice-inner-of-merged": one(
        "a = Reshape(x, s) y = Slice(a, b, e, i)",
        "float[1,2,2,9,10]",
        "int64[5] s = {1,2,3,9,10}, int64[1] b = {1}, int64[1] e = {3}, int64[1] i = {2}",
    ),
    "slice-outer-and-inner-of-merged": one(
        "a = Reshape(x, s) y = Slice(a, b, e, i)",
        "float[1,1,2,9,10]",
        "int64[5] s = {1,2,3,9,10}, int64[2] b = {1,1}, int64[2] e = {2,3}, int64[2] i = {1,2}",
    ),
    "halves-of-merged": graph(
        f"{MAP} x",
        "float[1,1,3,9,10] y, float[1,1,3,9,10] z",
        "a = Reshape(x, s) y, z = Split<axis=1>(a, n)",
        "int64[5] s = {1,2,3,9,10}, int64[2] n = {1,1}",
    ),
    "split-one": one("a = Relu(x) y = Split<axis=1>(a, n)", MAP, "int64[1] n = {6}"),
    "split-negative-axis": graph(
        f"{MAP} x", "float[1,6,9,4] y, float[1,6,9,6] z", "y, z = Split<axis=-1>(x, n)", "int64[2] n = {4,6}"
    ),
    "split-middle-used": one("a, y, b = Split<axis=1>(x, n)", "float[1,3,9,10]", "int64[3] n = {1,3,2}"),
    "split-unused-middle": graph(
        f"{MAP} x",
        "float[1,1,9,10] y, float[1,2,9,10] z",
        "y, a, z = Split<axis=1>(x, n)",
        "int64[3] n = {1,3,2}",
    ),
    "thirds-by-slicing": one(
        "p = Slice(x, z, m, a) q = Slice(x, m, n, a) r = Slice(x, n, e, a) y = Concat<axis=1>(r, p, q)",
        MAP,
        "int64[1] z = {0}, int64[1] m = {1}, int64[1] n = {4}, int64[1] e = {99}, int64[1] a = {1}",
    ),
    "gap-by-slicing": one(
        "p = Slice(x, z, m, a) q = Slice(x, n, e, a) y = Concat<axis=1>(q, p)",
        "float[1,5,9,10]",
        "int64[1] z = {0}, int64[1] m = {2}, int64[1] n = {3}, int64[1] e = {99}, int64[1] a = {1}",
    ),
    "overlap-by-slicing": one(
        "p = Slice(x, z, m, a) q = Slice(x, n, e, a) y = Concat<axis=1>(q, p)",
        "float[1,8,9,10]",
        "int64[1] z = {0}, int64[1] m = {4}, int64[1] n = {2}, int64[1] e = {99}, int64[1] a = {1}",
    ),
    "short-by-slicing": one(
        "p = Slice(x, z, m, a) q = Slice(x, m, e, a) y = Concat<axis=1>(q, p)",
        "float[1,5,9,10]",
        "int64[1] z = {0}, int64[1] m = {2}, int64[1] e = {5}, int64[1] a = {1}",
    ),
    "late-by-slicing": one(
        "p = Slice(x, z, m, a) q = Slice(x, m, e, a) y = Concat<axis=1>(q, p)",
        "float[1,5,9,10]",
        "int64[1] z = {1}, int64[1] m = {2}, int64[1] e = {6}, int64[1] a = {1}",
    ),
}

GATHERS = {
    "gather-all": _gather("0,1,2,3,4,5", MAP),
    "gather-one": _gather("3", "float[1,1,9,10]"),
    "gather-negative": _gather("-6,-1,2", "float[1,3,9,10]"),
    "gather-reversed": _gather("5,4,3,2,1,0", MAP),
    "gather-step-2": _gather("0,2,4", "float[1,3,9,10]"),
    "gather-step-3-of-rows": _gather("1,4,7", "float[1,6,3,10]", 2),
    "gather-negative-axis": _gather("2,0,1", "float[1,6,9,3]", -1),
    "gather-same": _gather("2,2,2", "float[1,3,9,10]"),
    "gather-shuffle-3": _gather("0,2,4,1,3,5", MAP),
    "gather-shuffle-rows": _gather("0,3,6,1,4,7,2,5,8", MAP, 2),
    "gather-shuffle-of-4": _gather("0,2,1,3", "float[1,4,3,5]", shape="float[1,4,3,5]"),
    "gather-nearly-shuffled": _gather("0,3,1,4,5,2", MAP),
    "gather-part-of-a-shuffle": _gather("0,3,1,4", "float[1,4,9,10]"),
    "gather-shuffle-8": _gather("0,4,1,5,2,6,3,7", EIGHT, shape=EIGHT),
    "gather-shuffle-8-by-4": _gather("0,2,4,6,1,3,5,7", EIGHT, shape=EIGHT),
    "gather-of-a-row": _gather("0,3,1,4,2,5", ROW, shape=ROW),
    "gather-12-pieces": _gather("5,0,4,2,0,5,3,1,5,0,2,4", "float[1,12,9,10]"),
    "gather-13-pieces": _gather("5,0,4,2,0,5,3,1,5,0,2,4,2", "float[1,13,9,10]"),
    "gather-13-pieces-of-a-row": _gather("5,0,4,2,0,5,3,1,5,0,2,4,2", "float[1,13,11]", shape=ROW),
    "gather-12-pieces-of-rows": _gather("5,0,4,2,0,5,3,1,8,0,2,4", "float[1,6,12,10]", 2),
}

ORDERS = {
    "concat-one": one("a = Relu(x) y = Concat<axis=1>(a)", MAP),
    "concat-negative-axis": graph(f"{MAP} x, float[1,6,9,2] z", "float[1,6,9,12] y", "y = Concat<axis=-1>(x, z)"),
    "concat-rows": graph(f"{ROW} x, float[1,6,3] z", "float[1,6,14] y", "y = Concat<axis=2>(x, z)"),
    "concat-3": graph(f"{MAP} x, {MAP} z", "float[1,18,9,10] y", "a = Neg(x) y = Concat<axis=1>(x, z, a)"),
    "concat-constant": one("y = Concat<axis=1>(x, w)", "float[1,8,9,10]", "float[1,2,9,10] w"),
    "concat-5d": graph(f"{FIVE} x, {FIVE} z", "float[1,2,6,4,5] y", "y = Concat<axis=2>(x, z)"),
    "concat-inner-of-merged": graph(
        f"{MAP} x, {MAP} z",
        "float[1,2,6,9,10] y",
        "a = Reshape(x, s) b = Reshape(z, s) y = Concat<axis=2>(a, b)",
        "int64[5] s = {1,2,3,9,10}",
    ),
    "concat-outer-of-merged": graph(
        f"{MAP} x, {MAP} z",
        "float[1,4,3,9,10] y",
        "a = Reshape(x, s) b = Reshape(z, s) y = Concat<axis=1>(a, b)",
        "int64[5] s = {1,2,3,9,10}",
    ),
    "tile-once": one("a = Relu(x) y = Tile(a, r)", MAP, "int64[4] r = {1,1,1,1}"),
    "tile-rows": one("y = Tile(x, r)", "float[1,6,33]", "int64[3] r = {1,1,3}", ROW),
    "tile-depth": one("y = Tile(x, r)", "float[1,2,6,4,10]", "int64[5] r = {1,1,2,1,2}", FIVE),
    "expand-both": one("y = Expand(x, s)", MAP, "int64[4] s = {1,6,9,10}", "float[1,6,1,1]"),
    "expand-nothing": one("a = Relu(x) y = Expand(a, s)", MAP, "int64[3] s = {6,1,1}"),
    "shuffle-row": _reordered("1,2,3,11", "0,2,1,3", "1,6,11", ROW, ROW),
    "shuffle-4-by-2": _reordered("1,4,2,4,5", "0,2,1,3,4", "1,8,4,5", EIGHT, EIGHT),
    "shuffle-2-by-4": _reordered("1,2,4,4,5", "0,2,1,3,4", "1,8,4,5", EIGHT, EIGHT),
    "rows-shuffled": _reordered("1,8,2,2,5", "0,1,3,2,4", "1,8,4,5", EIGHT, EIGHT),
    "pixel-shuffle-uneven": _reordered("1,1,4,2,4,5", "0,1,4,2,5,3", "1,1,16,10", "float[1,1,16,10]", EIGHT),
    "pixel-shuffle-blocks-first": _reordered("1,2,2,2,4,5", "0,3,4,1,5,2", "1,2,8,10", "float[1,2,8,10]", EIGHT),
    "pixel-shuffle-columns-first": _reordered("1,2,2,2,4,5", "0,1,4,3,5,2", "1,2,8,10", "float[1,2,8,10]", EIGHT),
    "pixel-unshuffle-uneven": _reordered("1,8,2,2,1,5", "0,1,3,5,2,4", "1,16,2,5", "float[1,16,2,5]", EIGHT),
    "transposed-twice": one("a = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,3,1,2]>(a)", MAP),
    "transposed-around-a-reshape": one(
        "a = Transpose<perm=[0,2,3,1]>(x) b = Reshape(a, s) y = Transpose<perm=[0,2,1]>(b)",
        "float[1,6,90]",
        "int64[3] s = {1,90,6}",
    ),
    "transposed-across-a-reshape": one(
        "a = Transpose<perm=[0,2,3,1]>(x) b = Reshape(a, s) y = Transpose<perm=[0,2,1]>(b)",
        "float[1,4,135]",
        "int64[3] s = {1,135,4}",
    ),
    "transpose-default": one("y = Transpose(x)", "float[10,9,6,1]"),
    "depth-to-space-3": one("y = DepthToSpace<blocksize=3>(x)", "float[1,2,12,15]", shape="float[1,18,4,5]"),
}

WINDOWS = {
    "conv-valid": one('y = Conv<auto_pad="VALID">(x, w)', "float[1,4,7,8]", "float[4,6,3,3] w"),
    "conv-same-odd": one('y = Conv<auto_pad="SAME_LOWER",strides=[2,3]>(x, w)', "float[1,4,5,4]", "float[4,6,4,3] w"),
    "conv-same-needs-none": one(
        'y = Conv<auto_pad="SAME_UPPER",strides=[3,2]>(x, w)', "float[1,4,3,5]", "float[4,6,1,1] w"
    ),
    "conv-pixel-padded": one(
        "a = GlobalAveragePool(x) y = Conv<pads=[1,1,1,1]>(a, w)", "float[1,4,3,3]", "float[4,6,1,1] w"
    ),
    "conv-pixel-3x3": one(
        "a = GlobalAveragePool(x) y = Conv<pads=[1,1,1,1]>(a, w)", "float[1,4,1,1]", "float[4,6,3,3] w"
    ),
    "conv-pixel-grouped": one("a = GlobalAveragePool(x) y = Conv<group=2>(a, w)", "float[1,4,1,1]", "float[4,3,1,1] w"),
    "conv-row-of-one": one("y = Conv(x, w, b)", "float[1,4,1]", "float[4,6,1] w, float[4] b", "float[1,6,1]"),
    "conv-column": one("y = Conv(x, w)", "float[1,4,9,1]", "float[4,6,1,1] w", "float[1,6,9,1]"),
    "conv-row-strided": one(
        "y = Conv<strides=[2],dilations=[2],pads=[1,2]>(x, w)", "float[1,4,5]", "float[4,6,3] w", ROW
    ),
    "deconv-bias-grouped": one(
        "y = ConvTranspose<group=3>(x, w, b)", "float[1,6,10,11]", "float[6,2,2,2] w, float[6] b"
    ),
    "deconv-same-upper-odd": one(
        'y = ConvTranspose<strides=[3,2],auto_pad="SAME_UPPER">(x, w)', "float[1,4,27,20]", "float[6,4,2,5] w"
    ),
    "deconv-outshape-appended": one(
        "y = ConvTranspose<strides=[3,3],output_shape=[27,30]>(x, w)", "float[1,4,27,30]", "float[6,4,2,2] w"
    ),
    "deconv-outshape-padding": one(
        "y = ConvTranspose<strides=[2,2],output_padding=[1,1],output_shape=[18,20]>(x, w)",
        "float[1,4,18,20]",
        "float[6,4,3,3] w",
    ),
    "deconv-valid": one('y = ConvTranspose<auto_pad="VALID">(x, w)', "float[1,4,11,12]", "float[6,4,3,3] w"),
    "maxpool-row-padded": one("y = MaxPool<kernel_shape=[3],pads=[1,0]>(x)", "float[1,6,10]", shape=ROW),
    "maxpool-same-lower": one(
        'y = MaxPool<kernel_shape=[2,4],strides=[2,3],auto_pad="SAME_LOWER">(x)', "float[1,6,5,4]"
    ),
    "maxpool-valid": one('y = MaxPool<kernel_shape=[2,3],auto_pad="VALID">(x)', "float[1,6,8,8]"),
    "maxpool-ceil-one-way": one("y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)", "float[1,6,4,5]"),
    "avgpool-asymmetric": one("y = AveragePool<kernel_shape=[2,3],strides=[1,2],pads=[1,0,0,2]>(x)", "float[1,6,9,5]"),
    "avgpool-ceil-unneeded": one(
        "y = AveragePool<kernel_shape=[3,2],strides=[2,2],ceil_mode=1,count_include_pad=1>(x)",
        "float[1,6,4,5]",
        opset=19,
    ),
    "avgpool-row": one("y = AveragePool<kernel_shape=[3],strides=[2],pads=[1,1]>(x)", "float[1,6,6]", shape=ROW),
    "global-average-row": one("y = GlobalAveragePool(x)", "float[1,6,1]", shape=ROW),
    "global-max-5d": one("y = GlobalMaxPool(x)", "float[1,2,1,1,1]", shape=FIVE),
}


def _resize(attributes: str, sizes: str, shape: str = MAP) -> str:
    count = sizes.count(",") + 1
    return one(
        f'y = Resize<{attributes}>(x, "", "", s)', f"float[{sizes}]", f"int64[{count}] s = {{{sizes}}}", shape, 19
    )


SIZES = {
    "nearest-row": _resize(
        'mode="nearest",nearest_mode="floor",coordinate_transformation_mode="asymmetric"', "1,6,22", ROW
    ),
    "nearest-ceil-itself": _resize('mode="nearest",nearest_mode="ceil"', "1,6,9,10"),
    "nearest-prefer-ceil-3": _resize('mode="nearest",nearest_mode="round_prefer_ceil"', "1,6,27,30"),
    "nearest-down": _resize(
        'mode="nearest",nearest_mode="floor",coordinate_transformation_mode="asymmetric"', "1,6,3,5"
    ),
    "nearest-one-way": _resize(
        'mode="nearest",nearest_mode="floor",coordinate_transformation_mode="asymmetric"', "1,6,9,20"
    ),
    "nearest-column": _resize('mode="nearest"', "1,6,18,2", "float[1,6,9,1]"),
    "linear-row": _resize('mode="linear"', "1,6,22", ROW),
    "linear-row-aligned": _resize('mode="linear",coordinate_transformation_mode="align_corners"', "1,6,21", ROW),
    "linear-pytorch-2": _resize('mode="linear",coordinate_transformation_mode="pytorch_half_pixel"', "1,6,18,20"),
    "linear-column": _resize('mode="linear"', "1,6,18,1", "float[1,6,9,1]"),
    "linear-one-way": _resize('mode="linear"', "1,6,9,13"),
    "linear-pixel-aligned": _resize(
        'mode="linear",coordinate_transformation_mode="align_corners"', "1,6,5,7", "float[1,6,1,1]"
    ),
    "cubic-four": _resize('mode="cubic"', "1,6,8,8", "float[1,6,4,4]"),
    "linear-pixel-2": _resize('mode="linear"', "1,6,2,2", "float[1,6,1,1]"),
}

BOUNDS = {**CUTS, **GATHERS, **ORDERS, **WINDOWS, **SIZES}
