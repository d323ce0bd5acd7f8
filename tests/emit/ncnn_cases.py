"""Small ONNX graphs, by name: what each needs to show is that ncnn computes the same. `w…` become random weights."""

from __future__ import annotations

MAP = "float[1,6,9,10]"
"""An odd-sized feature map, so that nothing passes by symmetry."""


def graph(inputs: str, outputs: str, body: str, weights: str = "", opset: int = 17) -> str:
    """An ONNX text model. `weights` are declared tensors that nothing computes."""
    declared = f"<{weights}>" if weights else ""
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {declared} {{ {body} }}'


def one(body: str, out: str, weights: str = "", shape: str = MAP, opset: int = 17) -> str:
    """One input `x`, one output `y` of this type."""
    return graph(f"{shape} x", f"{out} y", body, weights, opset)


_UNARY = (
    "Relu Sigmoid Tanh Abs Neg Floor Ceil Exp Sin Cos Erf Softplus HardSwish Elu Selu Celu HardSigmoid Identity Round "
    "Mish Softmax LogSoftmax"
)
UNARY = {name: one(f"y = {name}(x)", MAP, opset=18) for name in _UNARY.split(" ")}

_POSITIVE = {
    name: one(f"a = Abs(x) b = Add(a, c) y = {name}(b)".replace("c)", "wc)"), MAP, "float[1] wc = {0.5}")
    for name in ("Sqrt", "Log", "Reciprocal")
}

ELEMENTWISE = {
    **UNARY,
    **_POSITIVE,
    "softplus-far-out": one("a = Mul(x, m) b = Softplus(a) y = Div(b, m)", MAP, "float m = {400.0}"),
    "leaky": one("y = LeakyRelu<alpha=0.2>(x)", MAP),
    "elu-alpha": one("y = Elu<alpha=0.4>(x)", MAP),
    "hardsigmoid-attrs": one("y = HardSigmoid<alpha=0.25,beta=0.4>(x)", MAP),
    "clip": one("y = Clip(x, lo, hi)", MAP, "float lo = {-0.3}, float hi = {0.6}"),
    "clip-low-only": one("y = Clip(x, lo)", MAP, "float lo = {-0.3}"),
    "clip-high-only": one('y = Clip(x, "", hi)', MAP, "float hi = {0.3}"),
    "clip-6": one("y = Clip<min=-0.5,max=0.25>(x)", MAP, opset=6),
    "prelu": one("y = PRelu(x, w)", MAP, "float[6,1,1] w"),
    "prelu-one": one("y = PRelu(x, w)", MAP, "float[1] w"),
    "gelu": one("y = Gelu(x)", MAP, opset=20),
    "gelu-tanh": one('y = Gelu<approximate="tanh">(x)', MAP, opset=20),
    "gelu-erf": one(
        "a = Div(x, r) b = Erf(a) c = Add(b, o) d = Mul(x, c) y = Mul(d, h)",
        MAP,
        "float r = {1.41421356}, float o = {1.0}, float h = {0.5}",
    ),
    "gelu-erf-half-first": one(
        "a = Mul(x, r) b = Erf(a) c = Add(b, o) d = Mul(x, h) y = Mul(d, c)",
        MAP,
        "float r = {0.70710678}, float o = {1.0}, float h = {0.5}",
    ),
    "gelu-tanh-written": one(
        "a = Pow(x, t) b = Mul(a, k) c = Add(x, b) d = Mul(c, s) e = Tanh(d) f = Add(e, o) g = Mul(x, h) y = Mul(g, f)",
        MAP,
        "float t = {3}, float k = {0.044715}, float s = {0.79788456}, float o = {1.0}, float h = {0.5}",
    ),
    "silu": one("a = Sigmoid(x) y = Mul(x, a)", MAP),
    "silu-shared-gate": graph(f"{MAP} x", f"{MAP} y, {MAP} a", "a = Sigmoid(x) y = Mul(a, x)"),
    "mish": one("a = Softplus(x) b = Tanh(a) y = Mul(x, b)", MAP),
    "hardswish-clip": one(
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Div(c, s)",
        MAP,
        "float t = {3}, float z = {0}, float s = {6}",
    ),
    "hardswish-hardsigmoid": one("a = HardSigmoid<alpha=0.16666667,beta=0.5>(x) y = Mul(a, x)", MAP),
    "pow-2": one("y = Pow(x, e)", MAP, "float e = {2}"),
    "pow-3": one("y = Pow(x, e)", MAP, "float e = {3}"),
    "pow-1.5": one("a = Abs(x) y = Pow(a, e)", MAP, "float e = {1.5}"),
    "pow-half": one("a = Abs(x) y = Pow(a, e)", MAP, "float e = {0.5}"),
    "cast": one("y = Cast<to=1>(x)", MAP),
    "dropout": one("y = Dropout(x)", MAP),
}

_B = "y = {}"
BINARY = {
    **{f"{op}-same": graph(f"{MAP} x, {MAP} z", f"{MAP} y", f"y = {op}(x, z)") for op in ("Add", "Sub", "Mul")},
    "max": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "y = Max(x, z)"),
    "min": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "y = Min(x, z)"),
    "max-3": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Neg(x) y = Max(x, z, a)"),
    "sum-3": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Neg(x) y = Sum(x, z, a)"),
    "mean-3": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Abs(x) y = Mean(x, z, a)"),
    **{
        f"{op}-scalar-{side}": one(f"y = {op}({args})", MAP, "float w = {1.7}")
        for op in ("Add", "Sub", "Mul", "Div")
        for side, args in (("right", "x, w"), ("left", "w, x"))
        if (op, side) != ("Div", "left")
    },
    "div-scalar-left": one("a = Exp(x) y = Div(w, a)", MAP, "float w = {1.7}"),
    "pow-scalar-left": one("y = Pow(w, x)", MAP, "float w = {1.7}"),
    "div": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Exp(z) y = Div(x, a)"),
    **{
        f"add-const-{name}": one("y = Add(x, w)", MAP, f"float{shape} w")
        for name, shape in {
            "channel": "[6,1,1]",
            "channel-4d": "[1,6,1,1]",
            "row": "[10]",
            "column": "[9,1]",
            "image": "[9,10]",
            "image-4d": "[1,1,9,10]",
            "channel-row": "[6,1,10]",
            "channel-column": "[6,9,1]",
            "full": "[6,9,10]",
        }.items()
    },
    "sub-const-left-channel": one("y = Sub(w, x)", MAP, "float[6,1,1] w"),
    "const-grows": one("y = Mul(x, w)", MAP, "float[1,6,9,10] w", "float[1,6,1,1]"),
    "gate-channel": graph(f"{MAP} x, float[1,6,1,1] z", f"{MAP} y", "y = Mul(x, z)"),
    "gate-channel-left": graph(f"{MAP} x, float[1,6,1,1] z", f"{MAP} y", "y = Sub(z, x)"),
    "gate-channel-square": graph("float[1,9,9,9] x, float[1,9,1,1] z", "float[1,9,9,9] y", "y = Mul(x, z)"),
    "gate-channel-16": graph("float[1,32,5,7] x, float[1,32,1,1] z", "float[1,32,5,7] y", "y = Mul(x, z)"),
    "gate-image": graph(f"{MAP} x, float[1,1,9,10] z", f"{MAP} y", "y = Mul(x, z)"),
    "gate-image-16": graph("float[1,32,5,7] x, float[1,1,5,7] z", "float[1,32,5,7] y", "y = Mul(z, x)"),
    "gate-row": graph(f"{MAP} x, float[1,1,1,10] z", f"{MAP} y", "y = Mul(x, z)"),
    "outer": graph("float[1,6,1] x, float[1,1,7] z", "float[1,6,7] y", "y = Sub(x, z)"),
    "outer-rank-2": graph("float[1,6,7] x, float[1,6,1] z", "float[1,6,7] y", "y = Sub(x, z)"),
    "rank-differs": graph(
        "float[1,6,4,7] x, float[4,7] z0", "float[1,6,4,7] y", "y = Add(x, w)", "float[4,7] w"
    ).replace(", float[4,7] z0", ""),
    "after-reshape": one(
        "a = Reshape(x, s) b = Mul(a, w) y = Reshape(b, t)",
        MAP,
        "int64[5] s = {1,2,3,9,10}, float[1,2,1,1,1] w, int64[4] t = {1,6,9,10}",
    ),
    "inner-axis-of-merged": one(
        "a = Reshape(x, s) b = Mul(a, w) y = Reshape(b, t)",
        MAP,
        "int64[5] s = {1,2,3,9,10}, float[1,1,3,1,1] w, int64[4] t = {1,6,9,10}",
    ),
    "square-itself": one("y = Mul(x, x)", MAP),
}

CONV = {
    "conv": one("y = Conv<pads=[1,1,1,1]>(x, w, b)", "float[1,8,9,10]", "float[8,6,3,3] w, float[8] b"),
    "conv-no-bias": one("y = Conv(x, w)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "conv-1x1": one("y = Conv(x, w, b)", "float[1,16,9,10]", "float[16,6,1,1] w, float[16] b"),
    "conv-stride-dilation": one(
        "y = Conv<strides=[2,1],dilations=[1,2],pads=[1,0,2,3]>(x, w)", "float[1,4,5,9]", "float[4,6,3,3] w"
    ),
    "conv-asymmetric-kernel": one("y = Conv<pads=[0,2,0,1]>(x, w)", "float[1,4,9,9]", "float[4,6,1,5] w"),
    "conv-group": one("y = Conv<group=2,pads=[1,1,1,1]>(x, w, b)", "float[1,8,9,10]", "float[8,3,3,3] w, float[8] b"),
    "conv-depthwise": one("y = Conv<group=6,pads=[1,1,1,1]>(x, w, b)", MAP, "float[6,1,3,3] w, float[6] b"),
    "conv-depthwise-multiplier": one("y = Conv<group=6>(x, w)", "float[1,12,7,8]", "float[12,1,3,3] w"),
    "conv-same-upper": one('y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)', "float[1,4,5,5]", "float[4,6,3,3] w"),
    "conv-same-lower": one('y = Conv<auto_pad="SAME_LOWER",strides=[2,2]>(x, w)', "float[1,4,5,5]", "float[4,6,2,2] w"),
    "conv-1d": one("y = Conv<pads=[1,1]>(x, w, b)", "float[1,5,11]", "float[5,6,3] w, float[5] b", "float[1,6,11]"),
    "conv-on-pooled": one(
        "a = GlobalAveragePool(x) y = Conv(a, w, b)", "float[1,4,1,1]", "float[4,6,1,1] w, float[4] b"
    ),
    "conv-padded-explicitly": one(
        "a = Pad(x, p) y = Conv<pads=[0,1,0,0]>(a, w)",
        "float[1,4,9,11]",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float[4,6,3,3] w",
    ),
    "conv-relu": one("a = Conv(x, w, b) y = Relu(a)", "float[1,8,7,8]", "float[8,6,3,3] w, float[8] b"),
    "conv-leaky": one("a = Conv(x, w) y = LeakyRelu<alpha=0.1>(a)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "conv-clip": one(
        "a = Conv(x, w) y = Clip(a, lo, hi)", "float[1,8,7,8]", "float[8,6,3,3] w, float lo = {0}, float hi = {0.5}"
    ),
    "conv-sigmoid": one("a = Conv(x, w) y = Sigmoid(a)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "conv-mish": one("a = Conv(x, w) y = Mish(a)", "float[1,8,7,8]", "float[8,6,3,3] w", opset=18),
    "conv-hardswish": one("a = Conv(x, w) y = HardSwish(a)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "conv-silu": one("a = Conv(x, w) s = Sigmoid(a) y = Mul(a, s)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "conv-relu-both-used": graph(
        f"{MAP} x", "float[1,8,7,8] a, float[1,8,7,8] y", "a = Conv(x, w) y = Relu(a)", "float[8,6,3,3] w"
    ),
    "conv-relu-shared": one("a = Conv(x, w) r = Relu(a) y = Sub(r, a)", "float[1,8,7,8]", "float[8,6,3,3] w"),
    "depthwise-relu6": one(
        "a = Conv<group=6>(x, w) y = Clip(a, lo, hi)",
        "float[1,6,7,8]",
        "float[6,1,3,3] w, float lo = {0}, float hi = {6}",
    ),
    "deconv": one("y = ConvTranspose<strides=[2,2]>(x, w, b)", "float[1,4,18,20]", "float[6,4,2,2] w, float[4] b"),
    "deconv-pads": one(
        "y = ConvTranspose<strides=[2,2],pads=[1,0,1,2],output_padding=[1,0]>(x, w)",
        "float[1,4,18,19]",
        "float[6,4,3,3] w",
    ),
    "conv-behind-a-row-resized": one(
        'a = Resize<mode="linear">(x, , k) y = Conv(a, w)',
        "float[1,4,22]",
        "float[3] k = {1.0, 1.0, 2.0}, float[4,6,1] w",
        "float[1,6,11]",
    ),
    "deconv-1d": one(
        "y = ConvTranspose<strides=[3],pads=[1,1],output_padding=[2]>(x, w)",
        "float[1,4,33]",
        "float[6,4,3] w",
        "float[1,6,11]",
    ),
    "deconv-group": one("y = ConvTranspose<group=2,strides=[2,1]>(x, w)", "float[1,8,19,12]", "float[6,4,3,3] w"),
    "deconv-depthwise": one("y = ConvTranspose<group=6,strides=[2,2]>(x, w)", "float[1,6,18,20]", "float[6,1,2,2] w"),
    "deconv-dilated": one("y = ConvTranspose<dilations=[2,1]>(x, w)", "float[1,3,13,12]", "float[6,3,3,3] w"),
    "bn": one(
        "y = BatchNormalization<epsilon=0.001>(x, s, b, m, v_var)",
        MAP,
        "float[6] s, float[6] b, float[6] m, float[6] v_var",
    ),
    "bn-1d": one(
        "y = BatchNormalization(x, s, b, m, v_var)",
        "float[1,6]",
        "float[6] s, float[6] b, float[6] m, float[6] v_var",
        "float[1,6]",
    ),
    "instance-norm": one("y = InstanceNormalization<epsilon=0.001>(x, s, b)", MAP, "float[6] s, float[6] b"),
    "instance-norm-1d": one(
        "y = InstanceNormalization(x, s, b)", "float[1,6,11]", "float[6] s, float[6] b", "float[1,6,11]"
    ),
    "group-norm-written": one(
        "a = Reshape(x, s) b = InstanceNormalization(a, i, z) c = Reshape(b, t) d = Mul(c, w) y = Add(d, v)",
        MAP,
        "int64[3] s = {1,2,-1}, float[2] i = {1,1}, float[2] z = {0,0}, int64[4] t = {1,6,9,10}, float[6,1,1] w,"
        "float[6,1,1] v",
    ),
    "group-norm": one("y = GroupNormalization<num_groups=3>(x, s, b)", MAP, "float[6] s, float[6] b", opset=21),
    "layer-norm": one("y = LayerNormalization(x, s, b)", "float[1,6,11]", "float[11] s, float[11] b", "float[1,6,11]"),
    "layer-norm-map": one("y = LayerNormalization(x, s, b)", MAP, "float[10] s, float[10] b"),
    "layer-norm-2-axes": one("y = LayerNormalization<axis=2>(x, s, b)", MAP, "float[9,10] s, float[9,10] b"),
    "layer-norm-written": one(
        "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) q = Pow(c, t) v = ReduceMean<axes=[-1]>(q)"
        " e = Add(v, eps) r = Sqrt(e) n = Div(c, r) g = Mul(n, w) y = Add(g, b)",
        "float[1,6,11]",
        "float t = {2}, float eps = {0.00001}, float[11] w, float[11] b",
        "float[1,6,11]",
    ),
    "layer-norm-channels": one(
        "m = ReduceMean<axes=[1]>(x) c = Sub(x, m) q = Pow(c, t) v = ReduceMean<axes=[1]>(q)"
        " e = Add(v, eps) r = Sqrt(e) n = Div(c, r) g = Mul(n, w) y = Add(g, b)",
        MAP,
        "float t = {2}, float eps = {0.00001}, float[6,1,1] w, float[6,1,1] b",
    ),
}

POOL = {
    "maxpool": one("y = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(x)", "float[1,6,5,5]"),
    "maxpool-negative": one("a = Exp(x) b = Neg(a) y = MaxPool<kernel_shape=[5,5],pads=[2,2,2,2]>(b)", MAP),
    "maxpool-ceil": one("y = MaxPool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)", "float[1,6,5,5]"),
    "maxpool-ceil-pad": one(
        "y = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,0,0],ceil_mode=1>(x)", "float[1,6,5,5]"
    ),
    "maxpool-floor": one("y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)", "float[1,6,4,5]"),
    "maxpool-asymmetric": one("y = MaxPool<kernel_shape=[2,3],pads=[0,1,1,1]>(x)", MAP),
    "maxpool-same": one('y = MaxPool<kernel_shape=[2,2],strides=[2,2],auto_pad="SAME_UPPER">(x)', "float[1,6,5,5]"),
    "maxpool-zero-padded": one(
        "a = Exp(x) b = Neg(a) c = Pad(b, p) y = MaxPool<kernel_shape=[2,2]>(c)", MAP, "int64[8] p = {0,0,0,0,0,0,1,1}"
    ),
    "maxpool-1d": one("y = MaxPool<kernel_shape=[3],strides=[2]>(x)", "float[1,6,5]", shape="float[1,6,11]"),
    "maxpool-16": one(
        "y = MaxPool<kernel_shape=[13,13],pads=[6,6,6,6]>(x)", "float[1,16,20,14]", shape="float[1,16,20,14]"
    ),
    "avgpool": one("y = AveragePool<kernel_shape=[2,2],strides=[2,2]>(x)", "float[1,6,4,5]"),
    "avgpool-pad": one("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)", MAP),
    "avgpool-count-pad": one("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(x)", MAP),
    "avgpool-explicit-pad": one(
        "a = Pad(x, p) y = AveragePool<kernel_shape=[3,3],strides=[2,2]>(a)",
        "float[1,6,5,5]",
        "int64[8] p = {0,0,1,1,0,0,1,1}",
    ),
    "avgpool-ceil": one("y = AveragePool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)", "float[1,6,5,5]", opset=19),
    "global-average": one("y = GlobalAveragePool(x)", "float[1,6,1,1]"),
    "global-max": one("y = GlobalMaxPool(x)", "float[1,6,1,1]"),
    "se-block": one(
        "a = GlobalAveragePool(x) b = Conv(a, w) c = Relu(b) d = Conv(c, v) e = Sigmoid(d) y = Mul(x, e)",
        MAP,
        "float[4,6,1,1] w, float[6,4,1,1] v",
    ),
    **{
        f"{op}-{name}": one(f"y = {op}<axes={axes},keepdims={keep}>(x)", f"float{shape}", opset=11)
        for op in ("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceMin", "ReduceLogSumExp")
        for name, axes, keep, shape in (
            ("hw", "[2,3]", 1, "[1,6,1,1]"),
            ("channel", "[1]", 1, "[1,1,9,10]"),
            ("w-drop", "[-1]", 0, "[1,6,9]"),
            ("c-and-w", "[1,3]", 0, "[1,9]"),
        )
    },
    **{
        f"{op}-of-one-{keep}": one(
            f"y = {op}<axes=[1],keepdims={keep}>(x)", f"float{shape}", shape="float[1,1,9,10]", opset=11
        )
        for op in ("ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
        for keep, shape in ((1, "[1,1,9,10]"), (0, "[1,9,10]"))
    },
    "log-sum-of-one": one(
        "a = Softplus(x) y = ReduceLogSum<axes=[1]>(a)", "float[1,1,9,10]", shape="float[1,1,9,10]", opset=11
    ),
    "reduce-all": one("y = ReduceSum<keepdims=0>(x)", "float", opset=11),
    "reduce-sum-13": one("y = ReduceSum(x, a)", "float[1,6,1,10]", "int64[1] a = {2}"),
}

LINEAR = {
    "gemm": one("y = Gemm<transB=1>(x, w, b)", "float[1,5]", "float[5,12] w, float[5] b", "float[1,12]"),
    "gemm-scaled": one(
        "y = Gemm<alpha=0.5,beta=2.0>(x, w, b)", "float[1,5]", "float[12,5] w, float[1,5] b", "float[1,12]"
    ),
    "flatten-gemm": one("a = Flatten(x) y = Gemm<transB=1>(a, w, b)", "float[1,5]", "float[5,540] w, float[5] b"),
    "pooled-flatten-gemm": one(
        "a = GlobalAveragePool(x) f = Flatten(a) y = Gemm<transB=1>(f, w, b)", "float[1,5]", "float[5,6] w, float[5] b"
    ),
    "matmul-weight": one(
        "a = MatMul(x, w) y = Add(a, b)", "float[1,7,5]", "float[12,5] w, float[5] b", "float[1,7,12]"
    ),
    "matmul-weight-map": one("y = MatMul(x, w)", "float[1,6,9,5]", "float[10,5] w"),
    "matmul": graph("float[1,7,12] x, float[1,12,5] z", "float[1,7,5] y", "y = MatMul(x, z)"),
    "matmul-heads": graph("float[1,3,7,12] x, float[1,3,12,5] z", "float[1,3,7,5] y", "y = MatMul(x, z)"),
    "matmul-transposed": graph(
        "float[1,3,7,12] x, float[1,3,5,12] z", "float[1,3,7,5] y", "t = Transpose<perm=[0,1,3,2]>(z) y = MatMul(x, t)"
    ),
    "matmul-left-weight": one("y = MatMul(w, x)", "float[1,5,11]", "float[5,6] w", "float[1,6,11]"),
    "attention": one(
        "r = Reshape(x, s) q, k, v = Split<axis=2>(r, n) t = Transpose<perm=[0,1,3,2]>(q) a = MatMul(t, k)"
        " m = Mul(a, c) p = Softmax<axis=-1>(m) u = Transpose<perm=[0,1,3,2]>(p) o = MatMul(v, u) y = Reshape(o, e)",
        "float[1,16,4,5]",
        "int64[4] s = {1,2,16,20}, int64[3] n = {4,4,8}, float c = {0.5}, int64[4] e = {1,16,4,5}",
        "float[1,32,4,5]",
    ),
    **{f"softmax-{axis}": one(f"y = Softmax<axis={axis}>(x)", MAP) for axis in (1, 2, 3)},
    "softmax-old": one("y = Softmax<axis=1>(x)", MAP, opset=11),
    "softmax-5d": one(
        "a = Reshape(x, s) b = Softmax<axis=2>(a) y = Reshape(b, t)",
        MAP,
        "int64[5] s = {1,2,3,9,10}, int64[4] t = {1,6,9,10}",
    ),
    "dfl": one(
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3]>(a) c = Softmax<axis=1>(b) d = Conv(c, w) y = Reshape(d, t)",
        "float[1,4,30]",
        "int64[4] s = {1,4,16,30}, float[1,16,1,1] w, int64[3] t = {1,4,30}",
        "float[1,64,30]",
    ),
    "softmax-between-transposes": one(
        "a = Transpose<perm=[0,3,2,1]>(x) b = Softmax<axis=3>(a) y = Transpose<perm=[0,3,2,1]>(b)", MAP
    ),
}
