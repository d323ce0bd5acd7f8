"""What can follow eight channels: every construct that ties, moves or counts them, as ONNX text."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE, RESULT = "float[1,3,8,8] x", "float[a,b,c,d] y"
STEM = "float[8,3,3,3] a.weight, float[8] a.bias"
FIRST = "a = Conv<pads=[1,1,1,1]>(x, a.weight, a.bias) h = Relu(a)"


@dataclass(frozen=True)
class Construct:
    """What follows `h`, the eight channels that a convolution makes; `sizes`: initializers once 1, 4, 6 are gone."""

    weights: str
    body: str
    sizes: dict[str, tuple[int, ...]]
    outputs: str = RESULT
    opset: int = 17


def conv(name: str, rows: int, columns: int, kernel: int = 1) -> str:
    return f"float[{rows},{columns},{kernel},{kernel}] {name}.weight"


CONSTRUCTS = {
    "plain": Construct(
        f"{conv('b', 4, 8, 3)}, float[4] b.bias",
        "y = Conv<pads=[1,1,1,1], strides=[2,2]>(h, b.weight, b.bias)",
        {"a.weight": (5, 3, 3, 3), "a.bias": (5,), "b.weight": (4, 5, 3, 3), "b.bias": (4,)},
    ),
    "twice-itself": Construct(
        conv("b", 4, 16), "c = Concat<axis=1>(h, h) y = Conv(c, b.weight)", {"b.weight": (4, 10, 1, 1)}
    ),
    "unequal-split": Construct(
        f"int64[2] sizes = {{3, 5}}, {conv('b', 4, 3)}, {conv('c', 4, 5)}",
        "p, q = Split<axis=1>(h, sizes) u = Conv(p, b.weight) v = Conv(q, c.weight) y = Add(u, v)",
        {"b.weight": (4, 2, 1, 1), "c.weight": (4, 3, 1, 1)},
    ),
    "equal-split": Construct(
        f"{conv('b', 4, 4)}, {conv('c', 4, 4)}",
        "p, q = Split<axis=-3>(h) u = Conv(p, b.weight) v = Conv(q, c.weight) y = Add(u, v)",
        {"b.weight": (4, 3, 1, 1), "c.weight": (4, 2, 1, 1)},
    ),
    "split-attribute": Construct(
        f"{conv('b', 4, 3)}, {conv('c', 4, 5)}",
        "p, q = Split<axis=1, split=[3, 5]>(h) u = Conv(p, b.weight) v = Conv(q, c.weight) y = Add(u, v)",
        {"b.weight": (4, 2, 1, 1), "c.weight": (4, 3, 1, 1)},
        opset=12,
    ),
    "slice": Construct(
        f"int64[1] from = {{2}}, int64[1] to = {{-1}}, int64[1] axis = {{1}}, {conv('b', 4, 5)}, {conv('c', 4, 8)}",
        "p = Slice(h, from, to, axis) u = Conv(p, b.weight) v = Conv(h, c.weight) y = Add(u, v)",
        {"b.weight": (4, 3, 1, 1), "c.weight": (4, 5, 1, 1)},
    ),
    "slice-attributes": Construct(
        f"{conv('b', 4, 5)}, {conv('c', 4, 8)}",
        "p = Slice<axes=[1], starts=[2], ends=[7]>(h) u = Conv(p, b.weight) v = Conv(h, c.weight) y = Add(u, v)",
        {"b.weight": (4, 3, 1, 1), "c.weight": (4, 5, 1, 1)},
        opset=9,
    ),
    "slice-that-steps": Construct(
        f"int64[2] from = {{0, 1}}, int64[2] to = {{8, 7}}, int64[2] axes = {{1, 2}}, int64[2] by = {{2, 1}}, "
        f"{conv('b', 4, 4)}",
        "p = Slice(h, from, to, axes, by) y = Conv(p, b.weight)",
        {"b.weight": (4, 2, 1, 1)},
    ),
    "slice-that-reverses": Construct(
        f"int64[1] from = {{-1}}, int64[1] to = {{-100}}, int64[1] axes = {{1}}, int64[1] by = {{-1}}, "
        f"{conv('b', 4, 8)}",
        "p = Slice(h, from, to, axes, by) y = Conv(p, b.weight)",
        {"b.weight": (4, 5, 1, 1)},
    ),
    "gather": Construct(
        f"int64[8] order = {{7,0,6,-7,5,2,4,3}}, {conv('b', 4, 8)}",
        "p = Gather<axis=1>(h, order) y = Conv(p, b.weight)",
        {"b.weight": (4, 5, 1, 1)},
    ),
    "depthwise": Construct(
        f"float[8,1,3,3] d.weight, float[8] d.bias, {conv('b', 4, 8)}",
        "p = Conv<group=8, pads=[1,1,1,1]>(h, d.weight, d.bias) r = Relu(p) y = Conv(r, b.weight)",
        {"d.weight": (5, 1, 3, 3), "d.bias": (5,), "b.weight": (4, 5, 1, 1)},
    ),
    "depthwise-multiplier": Construct(
        f"float[16,1,3,3] d.weight, {conv('b', 4, 16)}",
        "p = Conv<group=8>(h, d.weight) y = Conv(p, b.weight)",
        {"d.weight": (10, 1, 3, 3), "b.weight": (4, 10, 1, 1)},
    ),
    "transposed": Construct(
        "float[8,4,2,2] b.weight, float[4] b.bias",
        "y = ConvTranspose<strides=[2,2]>(h, b.weight, b.bias)",
        {"b.weight": (5, 4, 2, 2), "b.bias": (4,)},
    ),
    "depthwise-transposed": Construct(
        f"float[8,1,2,2] d.weight, {conv('b', 4, 8)}",
        "p = ConvTranspose<group=8, strides=[2,2]>(h, d.weight) y = Conv(p, b.weight)",
        {"d.weight": (5, 1, 2, 2), "b.weight": (4, 5, 1, 1)},
    ),
    "squeeze-and-excite": Construct(
        f"{conv('s', 4, 8)}, float[4] s.bias, {conv('e', 8, 4)}, float[8] e.bias, {conv('b', 4, 8)}",
        "m = GlobalAveragePool(h) s = Conv(m, s.weight, s.bias) t = Relu(s) e = Conv(t, e.weight, e.bias)"
        " g = HardSigmoid(e) p = Mul(h, g) y = Conv(p, b.weight)",
        {"s.weight": (4, 5, 1, 1), "e.weight": (5, 4, 1, 1), "e.bias": (5,), "b.weight": (4, 5, 1, 1)},
    ),
    "residual": Construct(
        f"{conv('m', 8, 8, 3)}, {conv('b', 4, 8)}",
        "p = Conv<pads=[1,1,1,1]>(h, m.weight) q = Add(h, p) y = Conv(q, b.weight)",
        {"m.weight": (5, 5, 3, 3), "b.weight": (4, 5, 1, 1)},
    ),
    "batch-norm-and-prelu": Construct(
        "float[8] n.gamma, float[8] n.beta, float[8] n.mean, float[8] n.var, float[8,1,1] slope, " + conv("b", 4, 8),
        "p = BatchNormalization(h, n.gamma, n.beta, n.mean, n.var) q = PRelu(p, slope) y = Conv(q, b.weight)",
        {"n.gamma": (5,), "n.beta": (5,), "n.mean": (5,), "n.var": (5,), "slope": (5, 1, 1), "b.weight": (4, 5, 1, 1)},
    ),
    "layer-scale": Construct(
        f"float[1,8,1,1] ls.scale, float[8,1,1] shift, float[1] one, {conv('b', 4, 8)}",
        "p = Mul(ls.scale, h) q = Sub(p, shift) r = Add(q, one) y = Conv(r, b.weight)",
        {"ls.scale": (1, 5, 1, 1), "shift": (5, 1, 1), "one": (1,), "b.weight": (4, 5, 1, 1)},
    ),
    "pooling-pyramid": Construct(
        conv("b", 4, 24),
        "p = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(h) q = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(p)"
        " c = Concat<axis=1>(h, p, q) y = Conv(c, b.weight)",
        {"b.weight": (4, 15, 1, 1)},
    ),
    "resize-by-scale": Construct(
        f"float[0] roi, float[4] factors = {{1.0, 1.0, 2.0, 2.0}}, {conv('b', 4, 8)}",
        'p = Resize<mode="nearest">(h, roi, factors) y = Conv(p, b.weight)',
        {"b.weight": (4, 5, 1, 1)},
    ),
    "resize-to-size": Construct(
        f"float[0] roi, float[0] none, int64[4] size = {{1, 8, 16, 16}}, {conv('b', 4, 8)}",
        'p = Resize<mode="linear">(h, roi, none, size) y = Conv(p, b.weight)',
        {"b.weight": (4, 5, 1, 1)},
    ),
    "reshape-channels-first": Construct(
        f"int64[2] rows = {{8, 64}}, int64[4] back = {{1, 8, 8, 8}}, {conv('b', 4, 8)}",
        "r = Reshape(h, rows) q = Sigmoid(r) s = Reshape(q, back) y = Conv(s, b.weight)",
        {"b.weight": (4, 5, 1, 1)},
    ),
    "global-pool-to-gemm": Construct(
        "int64[2] flat = {1, 8}, float[4,8] fc.weight, float[4] fc.bias",
        "m = GlobalAveragePool(h) f = Reshape(m, flat) y = Gemm<transB=1>(f, fc.weight, fc.bias)",
        {"fc.weight": (4, 5), "fc.bias": (4,)},
        outputs="float[a,b] y",
    ),
    "flatten-to-gemm": Construct(
        "float[512,4] fc.weight, float[4] fc.bias",
        "f = Flatten(h) y = Gemm(f, fc.weight, fc.bias)",
        {"fc.weight": (320, 4), "fc.bias": (4,)},
        outputs="float[a,b] y",
    ),
    "mean-over-space-to-matmul": Construct(
        "int64[2] axes = {2, 3}, float[8,4] fc.weight",
        "m = ReduceMean<axes=[2,3], keepdims=0>(h) y = MatMul(m, fc.weight)",
        {"fc.weight": (5, 4)},
        outputs="float[a,b] y",
    ),
    "pixel-shuffle-before": Construct(
        conv("b", 4, 32),
        "p = SpaceToDepth<blocksize=2>(h) y = Conv(p, b.weight)",
        {"b.weight": (4, 20, 1, 1)},
    ),
    "tokens": Construct(
        "int64[3] flat = {1, 8, 64}, float[8,4] fc.weight, float[4] fc.bias",
        "f = Reshape(h, flat) t = Transpose<perm=[0,2,1]>(f) m = MatMul(t, fc.weight) y = Add(m, fc.bias)",
        {"fc.weight": (5, 4), "fc.bias": (4,)},
        outputs="float[a,b,c] y",
    ),
    "padded-space": Construct(
        f"int64[8] pads = {{0,0,1,1,0,0,1,1}}, {conv('b', 4, 8, 3)}",
        "p = Pad(h, pads) y = Conv(p, b.weight)",
        {"b.weight": (4, 5, 3, 3)},
    ),
    "padded-channels": Construct(
        f"int64[8] pads = {{0,1,0,0,0,2,0,0}}, {conv('b', 4, 11)}",
        "p = Pad(h, pads) y = Conv(p, b.weight)",
        {"b.weight": (4, 8, 1, 1)},
    ),
    "instance-norm": Construct(
        f"float[8] n.gamma, float[8] n.beta, {conv('b', 4, 8)}",
        "p = InstanceNormalization(h, n.gamma, n.beta) y = Conv(p, b.weight)",
        {"n.gamma": (5,), "n.beta": (5,), "b.weight": (4, 5, 1, 1)},
    ),
    "nested": Construct(
        f"int64[2] sizes = {{3, 5}}, int64[1] to = {{6}}, int64[1] from = {{1}}, int64[1] axis = {{1}}, "
        f"{conv('b', 4, 13)}",
        "p, q = Split<axis=1>(h, sizes) c = Concat<axis=1>(q, p, q) s = Slice(c, from, to, axis)"
        " t = Concat<axis=1>(h, s) y = Conv(t, b.weight)",
        {"b.weight": (4, 8, 1, 1)},
    ),
}
