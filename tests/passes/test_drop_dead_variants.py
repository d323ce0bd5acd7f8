"""drop-dead where the dead stand behind or in front of other operators: activations, gates, tokens, groups, parts."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.passes import DropDead, ShuffleToGather
from onnxslim_yolo.passes.canonicalise import Canonicalise
from tests.numeric import assert_same, differences, random_feeds, run_onnx
from tests.passes.cutting import run
from tests.passes.test_drop_dead import BLOCK, STEM, block, conv, dead, layer, left, model, norm, normed

ACTIVATIONS = ("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Tanh", "Elu", "HardSwish", "Selu", "Neg", "Abs", "Gelu")
"""f(0) is 0, 1/2, ln 2 and 1 among them."""

END = f"{layer('h', 'r', act=False)} y = Relu(h)"
SMALL = "d0 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(stem)"
WIDE = f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 8)}"
PARTS = f"{layer('stem', 'x')} {layer('p', 'stem')} {layer('q', 'p')}"
TOKENS = "t = Reshape(x, to) u = Transpose<perm=[0,2,1]>(t) e = MatMul(u, w0)"
BACK = "z = MatMul(r, w3) v = Transpose<perm=[0,2,1]>(z) y = Reshape(v, back)"
SHAPES = {"to": np.array([2, 3, 64]), "back": np.array([2, 4, 8, 8])}
TOKEN_WEIGHTS = "float[3,8] w0, float[8,4] w3, int64[3] to, int64[4] back"
ATTENTION = (
    f"{TOKENS} q = MatMul(e, wq) k = MatMul(e, wk) w = MatMul(e, wv) kt = Transpose<perm=[0,2,1]>(k) "
    f"s = MatMul(q, kt) a = Softmax<axis=-1>(s) o = MatMul(a, w) oo = MatMul(o, wo) r = Add(e, oo) {BACK}"
)
HEADS = f"float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo, {TOKEN_WEIGHTS}"
MLP = (
    f"{TOKENS} a = MatMul(e, w1) b = Add(a, b1) g = Relu(b) c = MatMul(g, w2) d = Add(c, b2) f = Mul(d, ls) "
    f"r = Add(e, f) {BACK}"
)
MLP_WEIGHTS = f"float[8,16] w1, float[16] b1, float[16,8] w2, float[8] b2, float[8] ls, {TOKEN_WEIGHTS}"

Case = tuple[str, str, dict[str, Array], set[str], int]
"""Weights, body, values, layers that go, opset."""

CASES: dict[str, Case] = {
    **{
        f"{op}-{beta}": (
            BLOCK,
            block(f"e = {op}(q) r = Add(stem, e)", act=False),
            dead("q", 8, beta),
            {"p", "q"},
            20,
        )
        for op in ACTIVATIONS
        for beta in (0.0, 0.5)
    },
    **{
        f"{name}-{beta}": (
            f"{BLOCK}, float[4] by",
            f"{layer('stem', 'x')} {SMALL} {layer('p', 'd0')} {layer('q', 'p')} "
            f'u = Resize<mode="{name}">(q, , by) r = Add(stem, u) {END}',
            dead("q", 8, beta) | {"by": np.array([1, 1, 2, 2])},
            {"p", "q"},
            17,
        )
        for name in ("nearest", "linear")
        for beta in (0.0, 0.5)
    },
    "transposed": (
        f"{STEM}, {conv('p', 8, 6)}, float[6,8,2,2] q.weight, {norm('q', 8)}, {conv('h', 8, 4)}",
        f"{layer('stem', 'x')} {SMALL} {layer('p', 'd0')} q_c = ConvTranspose<strides=[2,2]>(p, q.weight) "
        f"q = BatchNormalization(q_c, {normed('q')}) r = Add(stem, q) {END}",
        dead("q", 8, 0.5),
        {"p", "q"},
        17,
    ),
    "into-a-transposed": (
        f"{STEM}, {conv('p', 8, 6)}, float[6,8,2,2] q.weight, {conv('h', 8, 4)}",
        f"{layer('stem', 'x')} {SMALL} {layer('p', 'd0')} q = ConvTranspose<strides=[2,2]>(p, q.weight) "
        f"r = Add(stem, q) {END}",
        dead("p", 6),
        {"p", "q"},
        17,
    ),
    "depthwise-first": (
        f"{STEM}, {conv('p', 8, 8, 3, 8)}, {conv('q', 8, 8, 1)}, {conv('h', 8, 4)}",
        f"{layer('stem', 'x')} {layer('p', 'stem', 3, 8)} {layer('q', 'p', 1)} r = Add(stem, q) {END}",
        dead("p", 8, 0.5),
        {"p", "q"},
        17,
    ),
    "depthwise-last": (
        f"{STEM}, {conv('p', 8, 8, 1)}, {conv('q', 8, 8, 3, 8)}, {conv('h', 8, 4)}",
        f"{layer('stem', 'x')} {layer('p', 'stem', 1)} {layer('q', 'p', 3, 8)} r = Add(stem, q) {END}",
        dead("q", 8, 0.5),
        {"p", "q"},
        17,
    ),
    "split-and-joined": (
        f"{STEM}, {conv('a', 4, 4)}, {conv('b', 4, 4)}, {conv('h', 12, 4)}",
        f"{layer('stem', 'x')} s0, s1 = Split<axis=1, num_outputs=2>(stem) {layer('a', 's1')} {layer('b', 'a')} "
        f"o = Add(s1, b) r = Concat<axis=1>(s0, s1, o) {END}",
        dead("b", 4, 0.5),
        {"a", "b"},
        18,
    ),
    "shuffled": (
        f"{STEM}, {conv('a', 8, 4, 1)}, {conv('b', 8, 4, 1)}, {conv('h', 8, 4, 1)}, int64[5] s5, int64[4] s4",
        f"{layer('stem', 'x')} {layer('a', 'stem', 1)} {layer('b', 'stem', 1)} c = Concat<axis=1>(a, b) "
        "g = Reshape(c, s5) t = Transpose<perm=[0,2,1,3,4]>(g) r = Reshape(t, s4) "
        f"{layer('h', 'r', 1, act=False)} y = Relu(h)",
        dead("a", 4, 0.5) | {"s5": np.array([2, 2, 4, 8, 8]), "s4": np.array([2, 8, 8, 8])},
        {"a"},
        18,
    ),
    "split-behind-a-concat": (
        f"{WIDE}, {conv('h', 8, 4)}, {conv('g', 8, 4)}",
        f"{PARTS} c = Concat<axis=1>(stem, q) c0, c1 = Split<axis=1, num_outputs=2>(c) "
        f"{layer('h', 'c0')} {layer('g', 'c1')} o = Add(h, g) y = Relu(o)",
        dead("q", 8),
        {"p", "q", "g"},
        18,
    ),
    "sliced-behind-a-concat": (
        f"{WIDE}, {conv('h', 12, 4)}, int64[1] s, int64[1] e, int64[1] ax",
        f"{PARTS} c = Concat<axis=1>(q, stem) r = Slice(c, s, e, ax) {END}",
        dead("q", 8) | {"s": np.array([4]), "e": np.array([16]), "ax": np.array([1])},
        {"p", "q"},
        18,
    ),
    "depthwise-behind-a-concat": (
        f"{WIDE}, {conv('k', 16, 16, 3, 16)}, {conv('h', 16, 4, 1)}",
        f"{PARTS} c = Concat<axis=1>(stem, q) {layer('k', 'c', 3, 16)} {layer('h', 'k', 1, act=False)} y = Relu(h)",
        dead("q", 8) | {"k.gamma": np.repeat([1.0, 0], 8), "k.beta": np.repeat([0.2, 0], 8)},
        {"p", "q"},
        17,
    ),
    "part-of-a-vector": (
        f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 5)}, float[4,13] fc.weight, float[4] fc.bias, int64[4] back",
        f"{PARTS} c = Concat<axis=1>(stem, q) m = GlobalAveragePool(c) f = Flatten(m) "
        "d = Gemm<transB=1, alpha=0.5>(f, fc.weight, fc.bias) y = Reshape(d, back)",
        dead("q", 5, 0.5) | {"back": np.array([2, 4, 1, 1])},
        {"p", "q"},
        18,
    ),
    "maximum": (BLOCK, block("r = Max(stem, q)"), dead("q", 8, 0.1), {"p", "q"}, 17),
    "mean": (BLOCK, block("r = Mean(stem, q)"), dead("q", 8, 0.1), {"p", "q"}, 17),
    "dead-shortcut": (
        f"{BLOCK}, {conv('s', 8, 8, 1)}",
        block(f"{layer('s', 'stem', 1, act=False)} r = Add(s, q)"),
        dead("s", 8),
        {"s"},
        17,
    ),
    "tokens-by-scale": (MLP_WEIGHTS, MLP, SHAPES | {"ls": np.zeros(8)}, {"w1", "w2", "b1", "b2"}, 17),
    "tokens-by-weight": (MLP_WEIGHTS, MLP, SHAPES | {"w2": np.zeros((16, 8))}, {"w1", "w2", "b1"}, 17),
    "value": (HEADS, ATTENTION, SHAPES | {"wv": np.zeros((8, 8))}, {"wq", "wk", "wv", "wo"}, 17),
    "projection": (HEADS, ATTENTION, SHAPES | {"wo": np.zeros((8, 8))}, {"wq", "wk", "wv", "wo"}, 17),
    "normalised-to-nothing": (
        f"float[8,16] w1, float[8] lg, float[8] lb, float[16,8] w2, {TOKEN_WEIGHTS}",
        f"{TOKENS} n = LayerNormalization(e, lg, lb) a = MatMul(n, w1) g = Gelu(a) b = MatMul(g, w2) "
        f"r = Add(e, b) {BACK}",
        SHAPES | {"lg": np.zeros(8)},
        {"lg", "w1", "w2"},
        20,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_dead_goes_whole(case: str) -> None:
    weights, body, values, gone, opset = CASES[case]
    before = run(model(weights, body, values, opset), Canonicalise(), ShuffleToGather(), Canonicalise())
    after = run(before, DropDead(), Canonicalise())
    assert_same(before, after)
    assert not gone & {name.split(".")[0] for name in left(after)}
    assert DropDead().run(after) == 0


def test_the_comparison_sees_a_part() -> None:
    weights, body, values, _, opset = CASES["part-of-a-vector"]
    before = model(weights, body, values, opset)
    after = run(model(weights, body, values | dead("q", 5, 0.49), opset), DropDead())
    feeds = random_feeds(before)
    assert max(differences(run_onnx(before, feeds), run_onnx(after, feeds)).values()) > 1e-3


@pytest.mark.parametrize("end", ["y = Identity(q)", "y = Add(q, stem)", "y = Concat<axis=1>(stem, q)"])
def test_what_is_returned_stays_right(end: str) -> None:
    before = model(WIDE, f"{PARTS} {end}", dead("q", 8, 0.5))
    assert_same(before, run(before, DropDead()))


def test_groups_that_would_not_stay_equal_keep_the_parts_channels() -> None:
    body = f"{PARTS} r = Concat<axis=1>(stem, q) {layer('h', 'r', 3, 2, act=False)} y = Relu(h)"
    before = model(f"{WIDE}, {conv('h', 16, 4, 3, 2)}", body, dead("q", 8))
    after = run(before, DropDead())
    assert_same(before, after)
    assert "q" not in left(after) and "q_constant" in left(after)
