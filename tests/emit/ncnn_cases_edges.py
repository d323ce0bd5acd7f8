"""Small graphs at the edges of what a rule takes: other ranks, axes, signs and orders (see `ncnn_cases`)."""

from __future__ import annotations

from tests.emit.ncnn_cases import MAP, graph, one

_MEAN = "m = ReduceMean<axes=[2]>(x) c = Sub(x, m)"
_ROOT = "v = ReduceMean<axes=[2]>(q) e = Add(v, eps) r = Sqrt(e)"
ROW, VECTOR, FIVE = "float[1,6,11]", "float[1,6]", "float[1,2,3,4,5]"
_MERGED = "a = Reshape(x, s)"
_NORM = "float[54] s_scale, float[54] b, float[54] m, float[54] v_var"

FUNCTIONS = {
    "softsign": one("y = Softsign(x)", MAP),
    "thresholded": one("y = ThresholdedRelu<alpha=0.3>(x)", MAP),
    "thresholded-1": one("a = Mul(x, c) y = ThresholdedRelu(a)", MAP, "float c = {3}"),
    "sign": one("a = Relu(x) b = Sub(a, c) d = Relu(b) e = Sub(d, a) y = Sign(e)", MAP, "float c = {0.5}"),
    "shrink": one("y = Shrink<bias=0.2,lambd=0.4>(x)", MAP),
    "swish-slope": one("y = Swish<alpha=1.5>(x)", MAP, opset=24),
    "swish-itself": one("y = Swish(x)", MAP, opset=24),
    "hardswish-of-others": one("a = HardSigmoid<alpha=0.3,beta=0.4>(x) y = Mul(a, x)", MAP),
    "hardswish-of-others-turned": one("a = HardSigmoid<alpha=0.3,beta=0.4>(x) y = Mul(x, a)", MAP),
    "hardsigmoid-of-another": graph(
        f"{MAP} x, {MAP} z", f"{MAP} y", "a = HardSigmoid<alpha=0.3,beta=0.4>(z) y = Mul(x, a)"
    ),
    "gelu-exact": one('y = Gelu<approximate="none">(x)', MAP, opset=20),
    "prelu-vector": one("y = PRelu(x, w)", VECTOR, "float[6] w", VECTOR),
    "prelu-row": one("y = PRelu(x, w)", ROW, "float[6,1] w", ROW),
    "prelu-merged": one(f"{_MERGED} y = PRelu(a, w)", "float[1,54,10]", "int64[3] s = {1,54,10}, float[54,1] w"),
}

ARITHMETIC = {
    "two-activations": one("a = Conv(x, w) b = Relu(a) y = Sigmoid(b)", "float[1,4,9,10]", "float[4,6,1,1] w"),
    "concat-constant-vector": one("y = Concat<axis=1>(x, w)", "float[1,9]", "float[1,3] w", VECTOR),
    "concat-constant-matrix": one("y = Concat<axis=1>(x, w)", "float[1,8,11]", "float[1,2,11] w", ROW),
    "concat-constant-5d": one("y = Concat<axis=2>(x, w)", "float[1,2,4,4,5]", "float[1,2,1,4,5] w", FIVE),
    **{f"{op}-alone": one(f"a = Relu(x) y = {op}(a)", MAP) for op in ("Sum", "Max", "Min", "Mean")},
    "mean-2": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "y = Mean(x, z)"),
    "mean-4": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Neg(x) b = Abs(z) y = Mean(x, z, a, b)"),
    "min-3": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = Neg(x) y = Min(x, z, a)"),
    "sum-3-of-views": graph(
        f"{MAP} x, float[1,54,10] z",
        f"{MAP} y",
        "a = Neg(x) b = Reshape(z, s) y = Sum(x, b, a)",
        "int64[4] s = {1,6,9,10}",
    ),
    **{
        f"{op}-scalar-left": one(f"a = Abs(x) b = Add(a, c) y = {op}(c, b)", MAP, "float c = {1.5}")
        for op in ("Sub", "Div", "Add", "Max", "Min")
    },
    **{f"{op}-scalar-right": one(f"y = {op}(x, c)", MAP, "float[1] c = {0.4}") for op in ("Sub", "Div", "Max", "Min")},
    "pow-sigmoid-1.5": one("a = Sigmoid(x) y = Pow(a, e)", MAP, "float e = {1.5}"),
    "pow-sigmoid-minus-0.7": one("a = Sigmoid(x) y = Pow(a, e)", MAP, "float e = {-0.7}"),
    "pow-16": one("a = Tanh(x) y = Pow(a, e)", MAP, "float e = {16}"),
    "pow-17": one("a = Tanh(x) y = Pow(a, e)", MAP, "float e = {17}"),
    "pow-0.5-of-less": one("a = Relu(x) y = Pow(a, e)", MAP, "float e = {0.75}"),
    "pow-left-map": one("a = Sigmoid(x) y = Pow(w, a)", MAP, "float[1,6,1,1] w = {1,2,3,0.5,0.25,4}"),
    "add-channel-left": one("y = Add(w, x)", MAP, "float[6,1,1] w"),
    "add-column": one("y = Add(x, w)", MAP, "float[9,1] w"),
    "add-row": one("y = Add(x, w)", MAP, "float[10] w"),
    "add-channel-and-row": one("y = Add(x, w)", MAP, "float[6,1,10] w"),
    "add-of-both-ways": graph("float[1,6,1,10] x, float[1,1,9,10] z", MAP + " y", "y = Add(x, z)"),
    "sub-of-both-ways": graph("float[1,6,9,1] x, float[1,6,1,10] z", MAP + " y", "y = Sub(x, z)"),
    "mul-smaller-first": graph(f"float[1,6,1,1] x, {MAP} z", f"{MAP} y", "y = Mul(x, z)"),
    "sub-smaller-first": graph(f"float[1,1,9,10] x, {MAP} z", f"{MAP} y", "y = Sub(x, z)"),
    "mul-pooled": graph(f"{MAP} x, {MAP} z", f"{MAP} y", "a = GlobalAveragePool(x) y = Mul(a, z)"),
    "add-vectors": graph(f"{VECTOR} x, {VECTOR} z", f"{VECTOR} y", "y = Add(x, z)"),
    "add-one-channel": graph("float[1,1,9,10] x, float[1,1,1,1] z", "float[1,1,9,10] y", "y = Add(x, z)"),
}

CASTS = {
    f"cast-{before}-to-{after}": one(
        f"a = Cast<to={code}>(x) y = Cast<to=1>(a)", MAP, shape=MAP.replace("float", before)
    )
    for before, after, code in (
        ("int64", "int32", 6),
        ("int32", "int64", 7),
        ("uint8", "int32", 6),
        ("uint8", "float", 1),
        ("uint8", "uint16", 4),
        ("int32", "double", 11),
    )
}

NORMS = {
    "bn-merged": one(
        f"{_MERGED} y = BatchNormalization(a, s_scale, b, m, v_var)",
        "float[1,54,10]",
        f"int64[3] s = {{1,54,10}}, {_NORM}",
    ),
    "bn-row": one(
        "y = BatchNormalization(x, s, b, m, v_var)", ROW, "float[6] s, float[6] b, float[6] m, float[6] v_var", ROW
    ),
    "instance-norm-5d": one("y = InstanceNormalization(x, s, b)", FIVE, "float[2] s, float[2] b", FIVE),
    "group-norm-merged": one(
        f"{_MERGED} y = GroupNormalization<num_groups=9>(a, g, b)",
        "float[1,54,10]",
        "int64[3] s = {1,54,10}, float[54] g, float[54] b",
        opset=21,
    ),
    "layer-norm-no-bias": one("y = LayerNormalization(x, s)", ROW, "float[11] s", ROW),
    "layer-norm-vector": one("y = LayerNormalization(x, s, b)", VECTOR, "float[6] s, float[6] b", VECTOR),
    "layer-norm-all": one(
        "y = LayerNormalization<axis=1,epsilon=0.01>(x, s, b)", MAP, "float[6,9,10] s, float[6,9,10] b"
    ),
    "layer-norm-one-scale": one(
        "y = LayerNormalization<axis=-1>(x, s, b)", ROW, "float[1] s = {1.5}, float[1] b = {0.25}", ROW
    ),
    "layer-norm-plain": one(
        f"{_MEAN} q = Mul(c, c) v = ReduceMean<axes=[2]>(q) e = Add(eps, v) r = Sqrt(e) y = Div(c, r)",
        ROW,
        "float eps = {0.001}",
        ROW,
    ),
    "layer-norm-written-2-axes": one(
        "m = ReduceMean<axes=[3,-2]>(x) c = Sub(x, m) q = Pow(c, t) v = ReduceMean<axes=[2,3]>(q) e = Add(v, eps)"
        " r = Sqrt(e) n = Div(c, r) g = Mul(w, n) y = Add(b, g)",
        MAP,
        "float t = {2}, float eps = {0.001}, float[9,10] w, float[1,1,9,10] b",
    ),
    "layer-norm-per-channel": one(
        f"{_MEAN} q = Mul(c, c) {_ROOT} n = Div(c, r) g = Mul(n, w) y = Add(g, b)",
        ROW,
        "float eps = {0.001}, float[6,1] w, float[6,1] b",
        ROW,
    ),
    "no-layer-norm-axes-differ": one(
        f"{_MEAN} q = Mul(c, c) v = ReduceMean<axes=[1,2]>(q) e = Add(v, eps) r = Sqrt(e) y = Div(c, r)",
        ROW,
        "float eps = {0.001}",
        ROW,
    ),
    "no-layer-norm-another-power": one(
        f"{_MEAN} q = Pow(c, t) {_ROOT} y = Div(c, r)",
        ROW,
        "float t = {4}, float eps = {0.001}",
        ROW,
    ),
    "no-layer-norm-another-square": one(
        f"{_MEAN} q = Mul(x, x) {_ROOT} y = Div(c, r)",
        ROW,
        "float eps = {0.001}",
        ROW,
    ),
    "no-layer-norm-another-mean": graph(
        f"{ROW} x, {ROW} z",
        f"{ROW} y",
        f"m = ReduceMean<axes=[2]>(z) c = Sub(x, m) q = Mul(c, c) {_ROOT} y = Div(c, r)",
        "float eps = {0.001}",
    ),
    "no-layer-norm-another-variance": graph(
        f"{ROW} x, {ROW} z",
        f"{ROW} y",
        f"{_MEAN} a = Abs(z) v = ReduceMean<axes=[2]>(a) e = Add(v, eps) r = Sqrt(e) y = Div(c, r)",
        "float eps = {0.001}",
    ),
    "no-layer-norm-nothing-subtracted": one(
        f"c = Relu(x) q = Mul(c, c) {_ROOT} y = Div(c, r)",
        ROW,
        "float eps = {0.001}",
        ROW,
    ),
    "no-layer-norm-eps-per-row": one(
        f"{_MEAN} q = Mul(c, c) {_ROOT} y = Div(c, r)",
        ROW,
        "float[1,6,1] eps = {0.1,0.2,0.3,0.4,0.5,0.6}",
        ROW,
    ),
}

ALONG = {
    "reduce-inner-of-merged": one(
        "a = Reshape(x, s) b = ReduceMax<axes=[2],keepdims=0>(a) y = Relu(b)",
        "float[1,2,9,10]",
        "int64[5] s = {1,2,3,9,10}",
        opset=17,
    ),
    "reduce-outer-of-merged": one(
        "a = Reshape(x, s) b = ReduceSum(a, i) y = Reshape(b, t)",
        "float[1,3,90]",
        "int64[5] s = {1,2,3,9,10}, int64[1] i = {1}, int64[3] t = {1,3,90}",
    ),
    "reduce-two-of-merged": one(
        "a = Reshape(x, s) y = ReduceSum<keepdims=0>(a, i)",
        "float[1,2,9]",
        "int64[5] s = {1,2,3,9,10}, int64[2] i = {-1,2}",
    ),
    "reduce-max-hw-of-row": one("y = ReduceMax<axes=[2]>(x)", "float[1,6,1]", shape=ROW),
    "reduce-mean-with-batch": one("y = ReduceMean<axes=[0,2,3]>(x)", "float[1,6,1,1]"),
    "reduce-mean-vector": one("y = ReduceMean<axes=[1]>(x)", "float[1,1]", shape=VECTOR),
    "reduce-mean-no-batch": one(
        "a = Reshape(x, s) y = ReduceMean<axes=[2]>(a)", "float[6,9,1]", "int64[3] s = {6,9,10}"
    ),
    "reduce-5d-pool": one("y = ReduceMean<axes=[2,3,4]>(x)", "float[1,2,1,1,1]", shape=FIVE),
    "reduce-nothing": one(
        "a = Relu(x) b = ReduceSum<noop_with_empty_axes=0,keepdims=0>(a) y = Unsqueeze(b, i)",
        "float[1]",
        "int64[1] i = {0}",
    ),
    "softmax-old-3": one("y = Softmax<axis=3>(x)", MAP, opset=11),
    "softmax-old-2": one("y = Softmax<axis=2>(x)", MAP, opset=11),
    "softmax-old-all": one("y = Softmax<axis=0>(x)", MAP, opset=11),
    "softmax-old-default-vector": one("y = Softmax(x)", VECTOR, shape=VECTOR, opset=11),
    "softmax-default": one("y = Softmax(x)", MAP),
    "log-softmax-1": one("y = LogSoftmax<axis=1>(x)", MAP),
    "matmul-5d": graph("float[1,2,3,7,12] x, float[1,2,3,12,5] z", "float[1,2,3,7,5] y", "y = MatMul(x, z)"),
    "matmul-broadcast": graph("float[1,3,7,12] x, float[1,1,12,5] z", "float[1,3,7,5] y", "y = MatMul(x, z)"),
    "matmul-broadcast-left": graph("float[1,1,7,12] x, float[1,3,12,5] z", "float[1,3,7,5] y", "y = MatMul(x, z)"),
    "matmul-weight-3d": one("y = MatMul(x, w)", "float[1,6,9,5]", "float[6,10,5] w"),
    "matmul-weight-vector": one("y = MatMul(x, w)", "float[1,4]", "float[6,4] w", VECTOR),
    "matmul-left-transposed": graph(
        "float[1,3,12,7] x, float[1,3,12,5] z", "float[1,3,7,5] y", "t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(t, z)"
    ),
    "matmul-of-another-permute": graph(
        "float[1,3,7,12] x, float[1,12,3,5] z", "float[1,3,7,5] y", "t = Transpose<perm=[0,2,1,3]>(z) y = MatMul(x, t)"
    ),
    "gemm-no-bias": one("y = Gemm(x, w)", "float[1,5]", "float[6,5] w", VECTOR),
    "gemm-scalar-bias": one("y = Gemm(x, w, b)", "float[1,5]", "float[6,5] w, float[1] b = {0.7}", VECTOR),
    "gemm-rows": one(
        "r = Reshape(x, s) y = Gemm(r, w, b)", "float[54,5]", "int64[2] s = {54,10}, float[10,5] w, float[5] b"
    ),
}

PADS = {
    "pad-nothing": one("a = Relu(x) y = Pad(a, p)", MAP, "int64[8] p = {0,0,0,0,0,0,0,0}"),
    "pad-axes": one("y = Pad(x, p, , i)", "float[1,6,12,11]", "int64[4] p = {1,1,0,2}, int64[2] i = {-1,2}", opset=18),
    "pad-depth": one("y = Pad(x, p)", "float[1,2,6,4,5]", "int64[10] p = {0,0,1,0,0,0,0,2,0,0}", FIVE),
    "pad-channels-and-rows": one("y = Pad(x, p)", "float[1,9,11,10]", "int64[8] p = {0,1,0,0,0,2,2,0}"),
    "pad-channels-negative": one("y = Pad(x, p)", "float[1,4,9,10]", "int64[8] p = {0,-1,0,0,0,-1,0,0}"),
    "pad-value-then-conv": one(
        "a = Pad(x, p, v) y = Conv(a, w)",
        "float[1,4,9,10]",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float v = {0.5}, float[4,6,3,3] w",
    ),
    "pad-reflect-then-conv": one(
        'a = Pad<mode="reflect">(x, p) y = Conv(a, w)',
        "float[1,4,9,10]",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float[4,6,3,3] w",
    ),
    "pad-channels-then-conv": one(
        "a = Pad(x, p) y = Conv(a, w)", "float[1,4,9,10]", "int64[8] p = {0,1,1,1,0,1,1,1}, float[4,8,3,3] w"
    ),
    "pad-behind-channels-then-conv": one(
        "a = Pad(x, p) y = Conv(a, w)", "float[1,4,7,8]", "int64[8] p = {0,0,0,0,0,2,0,0}, float[4,8,3,3] w"
    ),
    "pad-uneven-then-conv": one(
        "a = Pad(x, p) y = Conv<pads=[1,2,3,4]>(a, w)",
        "float[1,4,21,24]",
        "int64[8] p = {0,0,1,2,0,0,9,8}, float[4,6,3,3] w",
    ),
    "pad-uneven-then-depthwise": one(
        "a = Pad(x, p) y = Conv<group=6>(a, w)", "float[1,6,10,13]", "int64[8] p = {0,0,1,2,0,0,2,3}, float[6,1,3,3] w"
    ),
    "pad-then-two-convs": one(
        "a = Pad(x, p) b = Conv(a, w) c = Conv(a, v) y = Add(b, c)",
        "float[1,4,9,10]",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float[4,6,3,3] w, float[4,6,3,3] v",
    ),
    "pad-uneven-then-average": one(
        "a = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(a)", "float[1,6,11,14]", "int64[8] p = {0,0,1,2,0,0,2,3}"
    ),
    "pad-value-then-average": one(
        "a = Pad(x, p, v) y = AveragePool<kernel_shape=[2,2]>(a)",
        "float[1,6,10,11]",
        "int64[8] p = {0,0,1,1,0,0,1,1}, float v = {0.5}",
    ),
    "pad-then-padded-average": one(
        "a = Pad(x, p) y = AveragePool<kernel_shape=[2,2],pads=[1,0,0,0]>(a)",
        "float[1,6,11,11]",
        "int64[8] p = {0,0,1,1,0,0,1,1}",
    ),
    "pad-lowest-then-max": one(
        "a = Pad(x, p, v) y = MaxPool<kernel_shape=[2,2],pads=[0,1,1,0]>(a)",
        "float[1,6,13,15]",
        "int64[8] p = {0,0,1,2,0,0,2,3}, float v = {-3.4028234663852886e38}",
    ),
    "pad-then-global": one(
        "a = Pad(x, p) y = GlobalAveragePool(a)", "float[1,6,1,1]", "int64[8] p = {0,0,1,1,0,0,1,1}"
    ),
    "pad-then-relu": one(
        "a = Pad(x, p, v) y = Relu(a)", "float[1,6,11,12]", "int64[8] p = {0,0,1,1,0,0,1,1}, float v = {-1}"
    ),
}

EDGES = {**FUNCTIONS, **ARITHMETIC, **CASTS, **NORMS, **ALONG, **PADS}
