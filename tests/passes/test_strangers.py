"""Graphs of strangers: class tokens, borders, views as pixel shuffles, picked channels, shared weights, other axes.

Every case is analysed (which ends), cut at random, and equals its mask; what is said to be free has to go.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL, analyse_channels
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise, ShuffleToGather
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build
from tests.passes.cutting import check_slice, onnx_text, remove_random, run

STEM = "float[8,3,1,1] a.weight, float[8] a.bias"
A = "a0 = Conv(x, a.weight, a.bias) a = Relu(a0)"
TOKENS = "t0 = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(t0)"
FLAT = "int64[3] flat = {0,0,-1}"

Case = tuple[str, str, str]
"""Weights, what follows the convolution `a` of 8 channels on 4×4, and the output's rank as dimensions."""

FREE: dict[str, Case] = {
    "class-token": (
        f"{FLAT}, float[1,1,8] c, float[8,4] w",
        f"{TOKENS} s = Concat<axis=1>(c, t) y = MatMul(s, w)",
        "p,q,r",
    ),
    "class-token-last": (
        f"{FLAT}, float[1,2,8] c, float[8,4] w, float[1,18,8] pos",
        f"{TOKENS} s = Concat<axis=1>(t, c) e = Add(s, pos) y = MatMul(e, w)",
        "p,q,r",
    ),
    "class-token-across": (
        f"{FLAT}, float[1,8,1] c, float[4,8,1] w",
        "t = Reshape(a, flat) s = Concat<axis=2>(c, t) y = Conv(s, w)",
        "p,q,r",
    ),
    "border-rows": ("float[1,8,1,4] c, float[4,8,1,1] w", "s = Concat<axis=2>(c, a) y = Conv(s, w)", "p,q,r,s"),
    "border-columns": ("float[1,8,4,2] c, float[4,8,3,3] w", "s = Concat<axis=3>(a, c, a) y = Conv(s, w)", "p,q,r,s"),
    "border-of-batch": ("float[1,8,4,4] c, float[4,8,1,1] w", "s = Concat<axis=0>(a, c) y = Conv(s, w)", "p,q,r,s"),
    "pixel-shuffle-view": (
        "int64[6] f = {1,2,2,2,4,4}, int64[4] g = {1,2,8,8}, float[4,2,1,1] w",
        "u = Reshape(a, f) v = Transpose<perm=[0,1,4,2,5,3]>(u) s = Reshape(v, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "pixel-shuffle-dcr": (
        "int64[6] f = {1,2,2,2,4,4}, int64[4] g = {1,2,8,8}, float[4,2,1,1] w",
        "u = Reshape(a, f) v = Transpose<perm=[0,3,4,1,5,2]>(u) s = Reshape(v, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "pixel-shuffle-one-way": (
        "int64[5] f = {1,4,2,4,4}, int64[4] g = {1,4,8,4}, float[4,4,1,1] w",
        "u = Reshape(a, f) v = Transpose<perm=[0,1,3,2,4]>(u) s = Reshape(v, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "pixel-shuffle-in-steps": (
        "int64[6] f = {1,2,2,2,4,4}, int64[4] g = {1,2,8,8}, float[4,2,1,1] w, float[1] k",
        "u = Reshape(a, f) v = Transpose<perm=[0,1,2,4,3,5]>(u) z = Mul(v, k) r = Transpose<perm=[0,1,3,2,5,4]>(z)"
        " s = Reshape(r, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "pixel-unshuffle-view": (
        "int64[6] f = {1,8,2,2,2,2}, int64[4] g = {1,32,2,2}, float[4,32,1,1] w",
        "u = Reshape(a, f) v = Transpose<perm=[0,1,3,5,2,4]>(u) s = Reshape(v, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "scalar-gather": (
        "float[2,8,1,1] w, int64 i = {0}, int64[1] one = {1}, float[4,8,1,1] v",
        "g = Conv(a, w) h = Sigmoid(g) j = Gather<axis=1>(h, i) k = Unsqueeze(j, one) s = Mul(a, k) y = Conv(s, v)",
        "p,q,r,s",
    ),
    "scalar-gather-behind": (
        f"{FLAT}, float[8,4] w, int64 i = {{-1}}, float[8,8] v",
        f"{TOKENS} u = MatMul(t, v) r = Relu(u) j = Gather<axis=1>(r, i) y = MatMul(j, w)",
        "p,q",
    ),
    "scalar-gather-space": (
        "int64 i = {2}, float[4,8,1] w",
        "j = Gather<axis=3>(a, i) y = Conv(j, w)",
        "p,q,r",
    ),
    "matmul-left": (f"{FLAT}, float[5,8] w", "t = Reshape(a, flat) y = MatMul(w, t)", "p,q,r"),
    "matmul-left-makes-channels": (
        f"{FLAT}, int64[4] m = {{0,0,4,4}}, float[6,8] w, float[4,6,1,1] v",
        "t = Reshape(a, flat) u = MatMul(w, t) r = Relu(u) s = Reshape(r, m) y = Conv(s, v)",
        "p,q,r,s",
    ),
    "matmul-left-of-tokens": (
        f"{FLAT}, float[5,16] w, float[8,4] v",
        f"{TOKENS} u = MatMul(w, t) r = Relu(u) y = MatMul(r, v)",
        "p,q,r",
    ),
    "matmul-right-over-space": (
        f"{FLAT}, float[16,16] w, float[4,8,1] v",
        "t = Reshape(a, flat) u = MatMul(t, w) r = Relu(u) y = Conv(r, v)",
        "p,q,r",
    ),
    "matmul-by-one-matrix-a-channel": (
        "float[8,4,5] w, float[4,8,1,1] v",
        "u = MatMul(a, w) r = Relu(u) y = Conv(r, v)",
        "p,q,r,s",
    ),
    "gemm-trans-a": (
        "int64[2] f = {8,16}, float[8,5] w",
        "t = Reshape(a, f) y = Gemm<transA=1>(t, w)",
        "p,q",
    ),
    "gemm-trans-a-trans-b": (
        "int64[2] f = {8,16}, float[5,8] w, float[5] b",
        "t = Reshape(a, f) y = Gemm<transA=1, transB=1, alpha=0.5>(t, w, b)",
        "p,q",
    ),
    "gemm-constant-left": (
        "int64[2] f = {8,16}, float[5,8] w, float[5,1] b",
        "t = Reshape(a, f) y = Gemm<beta=2.0>(w, t, b)",
        "p,q",
    ),
    "mean-over-channels": (
        "float[4,8,1,1] w",
        "m = ReduceMean<axes=[1]>(a) s = Sigmoid(m) z = Mul(a, s) y = Conv(z, w)",
        "p,q,r,s",
    ),
    "mean-over-channels-and-space": (
        "float[4,8,1,1] w",
        "m = ReduceMean<axes=[1,2,3], keepdims=0>(a) z = Mul(a, m) y = Conv(z, w)",
        "p,q,r,s",
    ),
    "group-norm-as-instance-norm": (
        "int64[3] f = {0,4,-1}, int64[4] g = {1,8,4,4}, float[4] scale, float[4] shift, float[8,1,1] gamma, "
        "float[4,8,1,1] w",
        "u = Reshape(a, f) n = InstanceNormalization(u, scale, shift) v = Reshape(n, g) z = Mul(v, gamma)"
        " y = Conv(z, w)",
        "p,q,r,s",
    ),
    "zero-padded-shortcut": (
        "int64[8] p = {0,2,0,0,0,2,0,0}, float[12,8,1,1] v, float[4,12,1,1] w",
        "h = Pad(a, p) b = Conv(a, v) s = Add(h, b) r = Relu(s) y = Conv(r, w)",
        "p,q,r,s",
    ),
    "zero-concatenated-shortcut": (
        "float[1,4,4,4] zeros, float[12,8,1,1] v, float[4,12,1,1] w",
        "h = Concat<axis=1>(a, zeros) b = Conv(a, v) s = Add(h, b) r = Relu(s) y = Conv(r, w)",
        "p,q,r,s",
    ),
    "cropping-pad": (
        "int64[8] p = {0,-2,-1,0,0,-1,1,0}, float[4,5,1,1] w, float[4,8,1,1] v",
        "h = Pad(a, p) u = Conv(h, w) e = Conv(a, v) y = Concat<axis=2>(u, e)",
        "p,q,r,s",
    ),
    "top-k-over-space": (
        f"{FLAT}, int64[1] k = {{5}}, float[4,8,1] w",
        "t = Reshape(a, flat) v, i = TopK<axis=2>(t, k) y = Conv(v, w)",
        "p,q,r",
    ),
    "gather-by-top-k": (
        f"{FLAT}, int64[1] k = {{5}}, float[4,8,1] w",
        "t = Reshape(a, flat) v, i = TopK<axis=2>(t, k) g = GatherElements<axis=2>(t, i) y = Conv(g, w)",
        "p,q,r",
    ),
    "mean-variance-norm": (
        "float[4,8,1,1] w",
        "e = Add(a, a0) h = MeanVarianceNormalization(e) y = Conv(h, w)",
        "p,q,r,s",
    ),
    "lstm": (
        f"{FLAT}, float[1,20,8] w, float[1,20,5] r",
        f"{TOKENS} u = Transpose<perm=[1,0,2]>(t) y, h, c = LSTM<hidden_size=5>(u, w, r)",
        "p,q,r,s",
    ),
    "gru": (
        f"{FLAT}, float[2,15,8] w, float[2,15,5] r",
        f'{TOKENS} u = Transpose<perm=[1,0,2]>(t) y = GRU<hidden_size=5, direction="bidirectional">(u, w, r)',
        "p,q,r,s",
    ),
    "gather-nd-of-a-list": (
        "int64[5,1] i = {0,6,-1,2,2}, float[4,5,1,1] w",
        "u = Transpose<perm=[1,0,2,3]>(a) v = GatherND(u, i) s = Transpose<perm=[1,0,2,3]>(v) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "gather-nd-per-batch": (
        "int64[1,5,1] i = {0,6,1,2,2}, float[4,5,1,1] w",
        "s = GatherND<batch_dims=1>(a, i) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "rows-of-a-product-of-channels": (
        f"{FLAT}, float[4,3,1,1] v, int64[4] g = {{1,8,2,2}}, float[4,8,1,1] w",
        "t = Reshape(a, flat) c = Conv(x, v) d = Reshape(c, flat) e = Transpose<perm=[0,2,1]>(d) "
        "m = MatMul(t, e) s = Reshape(m, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "vector-times-map": (
        f"{FLAT}, float[8] m, float[16,4] w",
        "t = Reshape(a, flat) h = MatMul(m, t) y = MatMul(h, w)",
        "p,q",
    ),
    "tokens-times-vector": (
        f"{FLAT}, float[8] m, float[16,4] w",
        f"{TOKENS} h = MatMul(t, m) y = MatMul(h, w)",
        "p,q",
    ),
    "einsum-with-ellipsis": (
        "float[6,8] m, float[4,6] w",
        'p = Transpose<perm=[0,2,3,1]>(a) h = Einsum<equation="...c, oc -> ...o">(p, m) r = Relu(h) '
        'y = Einsum<equation="n...o,ko">(r, w)',
        "p,q,r,s",
    ),
    "softmax-of-heads": (
        "int64[5] f = {1,2,4,4,4}, int64[4] g = {1,8,4,4}, float[4,8,1,1] w",
        "u = Reshape(a, f) v = Softmax<axis=2>(u) s = Reshape(v, g) y = Conv(s, w)",
        "p,q,r,s",
    ),
}

HELD: dict[str, tuple[Case, str]] = {
    "columns-of-a-product-of-channels": (
        (
            f"{FLAT}, float[4,3,1,1] v, float[8,2] w",
            "t = Reshape(a, flat) c = Conv(x, v) d = Reshape(c, flat) e = Transpose<perm=[0,2,1]>(t) "
            "m = MatMul(d, e) y = MatMul(m, w)",
            "p,q,r",
        ),
        "MatMul .* two sets of channels",
    ),
    "gather-nd-of-pairs": (
        (
            "int64[3,2] i = {0,0,1,2,7,3}, float[4,3,1] w",
            "u = Transpose<perm=[1,2,0,3]>(a) v = GatherND(u, i) s = Transpose<perm=[1,0,2]>(v) y = Conv(s, w)",
            "p,q,r",
        ),
        "GatherND .* no channel rule",
    ),
    "token-of-an-input": (
        (f"{FLAT}, float[8,4] w", f"{TOKENS} s = Concat<axis=1>(q, t) y = MatMul(s, w)", "p,q,r"),
        "Concat .* no channel owns",
    ),
    "weight-read-whole": (
        (
            "float[4,8,1,1] w",
            "u = Conv(a, w) o = ReduceMax<keepdims=0>(x) z = Mul(w, o) m = ReduceMax<keepdims=0>(z) y = Mul(u, m)",
            "p,q,r,s",
        ),
        "shares 'w' with Mul",
    ),
    "weight-shared-with-the-image": (
        ("float[3,8,1,1] v, float[4,3,1,1] w", "b = Conv(a, v) u = Conv(b, w) z = Conv(x, w) y = Add(u, z)", "p,q,r,s"),
        "shares 'w' with Conv",
    ),
    "an-input-that-no-rule-reads": (
        (
            "float[4,3,1,1] k",
            "m = ReduceMax<axes=[0,2,3], keepdims=0>(a) mb = Slice(m, s0, s1) y = Conv(x, k, mb)",
            "p,q,r,s",
        ),
        "Conv .* reads it as its input 2",
    ),
}


def strange(case: Case, values: dict[str, Array] | None = None, opset: int = 17) -> Model:
    weights, body, rank = case
    extra = ", float[1,2,8] q" if "(q, t)" in body else ""
    slices = ", int64[1] s0 = {0}, int64[1] s1 = {4}" if "s0" in body else ""
    text = onnx_text(f"float[1,3,4,4] x{extra}", f"float[{rank}] y", f"{STEM}, {weights}{slices}", f"{A} {body}", opset)
    return run(build(text, values=values), Canonicalise(), ShuffleToGather(), Canonicalise())


@pytest.mark.parametrize("name", FREE)
def test_cut_equals_masked(name: str) -> None:
    model = strange(FREE[name], {"zeros": np.zeros((1, 4, 4, 4), np.float32)})
    made = open_plan(model).channels.labels_of(model.graph.tensors()["a"])
    assert made is not None and (made != NO_CHANNEL).all()
    assert all(open_plan(model).channels.frozen[cls] is None for cls in made.reshape(-1))
    for seed in (0, 1, 2):
        attempt = model.copy()
        attempt.plan = None
        plan = remove_random(attempt, seed=seed)
        if plan.removed:
            check_slice(attempt, control=False)
    check_slice_with_control(model)


def check_slice_with_control(model: Model) -> None:
    model.plan = None
    for seed in range(20):
        plan = remove_random(model, seed=seed)
        labels = plan.channels.labels_of(model.graph.tensors()["a"])
        assert labels is not None
        if not plan.keep[labels.reshape(-1)].all():
            check_slice(model)
            return
        model.plan = None
    raise AssertionError("nothing of 'a' ever goes")


@pytest.mark.parametrize("opset", [12, 17])
def test_sizes_read_off_the_batch_hide_nothing_at_any_opset(opset: int) -> None:
    """Below opset 13 onnx's inference does not follow sizes through Gather and Concat."""
    weights = f"{STEM}, int64[1] one = {{1}}, int64[1] zero = {{0}}, int64[1] n = {{16}}, int64[1] c = {{8}}"
    body = (
        f"{A} h = Shape(x) b = Gather<axis=0>(h, zero) f = Concat<axis=0>(b, c, n) t = Reshape(a, f) "
        "g = Concat<axis=0>(b, one, one) e = Expand(token, g) s = Concat<axis=2>(t, e) m = MatMul(s, w) "
        "i = Reshape(m, back) hi = Shape(i) two = Slice(hi, zero, ends) z = Concat<axis=0>(two, four, four) "
        "r = Resize(i, none, none, z) y = Conv(r, v)"
    )
    weights += ", float[1,8,1] token, float[17,4] w, int64[4] back = {-1,8,2,2}, float[3,8,1,1] v"
    weights += ", int64[1] ends = {2}, int64[1] four = {4}, float[0] none = {}"
    model = build(onnx_text("float[B,3,4,4] x", "float[p,q,r,s] y", weights, body, opset))
    model = run(model, Canonicalise(), ShuffleToGather(), Canonicalise())
    for seed in range(2):
        attempt = model.copy()
        assert remove_random(attempt, seed=seed).removed
        check_slice(attempt)


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_and_why(name: str) -> None:
    case, reason = HELD[name]
    channels = analyse_channels(strange(case).graph)
    assert any(found is not None and re.search(reason, found) for found in channels.frozen), channels.frozen
