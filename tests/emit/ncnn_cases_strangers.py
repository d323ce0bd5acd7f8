"""Small graphs of kinds that strangers bring: powers, casts, sampling, output shapes, activations written out."""

from __future__ import annotations

from tests.emit.ncnn_cases import MAP, graph, one

POWERS = {
    **{f"pow-{e}": one("y = Pow(x, e)", MAP, f"float e = {{{e}}}") for e in ("0", "1", "4", "5", "11", "18", "19")},
    **{
        f"pow-relu-{e}": one("a = Relu(x) y = Pow(a, e)", MAP, f"float e = {{{e}}}")
        for e in ("0", "3", "0.5", "2.5", "0.01", "20")
    },
    "pow-0-map": one("y = Pow(x, e)", MAP, "float[1,6,1,1] e = {0,0,0,0,0,0}"),
    "pow-minus-2": one("a = Abs(x) b = Add(a, h) y = Pow(b, e)", MAP, "float h = {0.5}, float e = {-2}"),
    "pow-minus-1": one("a = Abs(x) b = Add(a, h) y = Pow(b, e)", MAP, "float h = {0.5}, float e = {-1}"),
    "pow-per-channel": one(
        "a = Abs(x) b = Add(a, h) y = Pow(b, e)", MAP, "float h = {0.5}, float[6,1,1] e = {0,1,2,0.5,1.5,3}"
    ),
    "pow-0-then-conv": one("a = Pow(x, e) y = Conv(a, w)", "float[1,4,9,10]", "float e = {0}, float[4,6,1,1] w"),
}

IMAGE = "uint8[1,9,10,6]"
CASTS = {
    "cast-uint8": one("y = Cast<to=1>(x)", IMAGE.replace("uint8", "float"), shape=IMAGE),
    "cast-uint8-moved": one("a = Transpose<perm=[0,3,1,2]>(x) y = Cast<to=1>(a)", "float[1,6,9,10]", shape=IMAGE),
    "cast-int32": one("y = Cast<to=1>(x)", MAP, shape=MAP.replace("float", "int32")),
    "cast-twice": one("a = Cast<to=7>(x) y = Cast<to=1>(a)", MAP, shape=MAP.replace("float", "uint8")),
    "cast-cut-off": one("a = Mul(x, c) b = Cast<to=6>(a) y = Cast<to=1>(b)", MAP, "float c = {3}"),
    "cast-like": one("a = Mul(x, c) b = CastLike(a, i) y = CastLike(b, x)", MAP, "float c = {3}, int32 i = {1}"),
    "cast-scaled": one("a = Cast<to=1>(x) y = Div(a, c)", MAP, "float c = {255}", shape=MAP.replace("float", "uint8")),
}


def _cubic(scale: str, out: str, attributes: str = "") -> str:
    return one(f'y = Resize<mode="cubic"{attributes}>(x, "", s)', out, f"float[4] s = {{1,1,{scale}}}")


ALIGNED = ',coordinate_transformation_mode="align_corners"'
RESIZES = {
    "cubic-2": _cubic("2,2", "float[1,6,18,20]"),
    "cubic-uneven": _cubic("3,2", "float[1,6,27,20]"),
    "cubic-down": _cubic("1,0.5", "float[1,6,9,5]"),
    "cubic-aligned": _cubic("2,3", "float[1,6,18,30]", ALIGNED),
    "cubic-pytorch": _cubic("2,2", "float[1,6,18,20]", ',coordinate_transformation_mode="pytorch_half_pixel"'),
}


def _outshape(shape: str, attributes: str, weight: str = "float[6,4,3,3] w") -> str:
    sizes = ",".join(shape.split(",")[2:]).rstrip("]")
    return one(f"y = ConvTranspose<output_shape=[{sizes}]{attributes}>(x, w)", shape, weight)


SHAPES = {
    "outshape-even": _outshape("float[1,4,18,20]", ",strides=[2,2]", "float[6,4,4,4] w"),
    "outshape-odd": _outshape("float[1,4,18,20]", ",strides=[2,2]"),
    "outshape-upper": _outshape("float[1,4,18,20]", ',strides=[2,2],auto_pad="SAME_UPPER"'),
    "outshape-smaller": _outshape("float[1,4,16,17]", ",strides=[2,2]"),
    "outshape-grouped": _outshape("float[1,8,18,20]", ",strides=[2,2],group=2"),
    "same-lower": one(
        'y = ConvTranspose<strides=[2,2],auto_pad="SAME_LOWER">(x, w)', "float[1,4,18,20]", "float[6,4,3,3] w"
    ),
    "same-upper": one(
        'y = ConvTranspose<strides=[2,3],auto_pad="SAME_UPPER">(x, w)', "float[1,4,18,30]", "float[6,4,5,4] w"
    ),
}


def _grid(attributes: str, opset: int = 20, scale: str = "1.3") -> str:
    body = f"g = Tanh(z) s = Mul(g, c) y = GridSample{f'<{attributes}>' if attributes else ''}(x, s)"
    return graph(f"{MAP} x, float[1,7,8,2] z", "float[1,6,7,8] y", body, f"float c = {{{scale}}}", opset)


GRIDS = {
    "grid": _grid(""),
    "grid-aligned": _grid("align_corners=1"),
    "grid-border": _grid('padding_mode="border"'),
    "grid-reflection": _grid('padding_mode="reflection"'),
    "grid-nearest": _grid('mode="nearest"'),
    "grid-cubic": _grid('mode="cubic",align_corners=1'),
    "grid-16": _grid('mode="bilinear",padding_mode="border",align_corners=1', 16),
}


def _deform(more: str, weights: str, attributes: str = "pads=[1,1,1,1]") -> str:
    inputs = f"{MAP} x, float[1,18,9,10] o, float[1,9,9,10] m"
    return graph(
        inputs,
        "float[1,4,9,10] y, float[1,9,9,10] n",
        f"y = DeformConv<{attributes}>(x, w, o{more}) n = Neg(m)",
        weights,
        19,
    )


DEFORMS = {
    "deform": _deform("", "float[4,6,3,3] w"),
    "deform-bias": _deform(", b", "float[4,6,3,3] w, float[4] b"),
    "deform-mask": _deform(", b, m", "float[4,6,3,3] w, float[4] b"),
    "deform-dilated": _deform("", "float[4,6,3,3] w", "pads=[2,2,2,2],dilations=[2,2]"),
}

STRANGERS = {**POWERS, **CASTS, **RESIZES, **SHAPES, **GRIDS, **DEFORMS}
