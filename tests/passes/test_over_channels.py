"""Extremes over channels, crops of channels, constants repeated over an open batch: pruned, and equal to masking."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL, analyse_channels
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build, differences, ops, random_feeds, run_onnx
from tests.passes.cutting import check_slice, onnx_text, remove, remove_random, run
from tests.passes.test_strangers import STEM, A

W = "float[4,8,1,1] w"
SHAPE = "sh = Shape(a) b = Gather(sh, zero) tg = Concat<axis=0>(b, rest)"

FREE: dict[str, tuple[int, str, str, str]] = {
    "maximum": (17, "float[4,1,1,1] w", "m = ReduceMax<axes=[1]>(a0) y = Conv(m, w)", "p,q,r,s"),
    "minimum-no-axis-kept": (
        18,
        "int64[1] c = {-3}, float[4,1,1,1] w, int64[1] one = {1}",
        "m = ReduceMin<keepdims=0>(a0, c) u = Unsqueeze(m, one) y = Conv(u, w)",
        "p,q,r,s",
    ),
    "maximum-of-tokens": (
        20,
        "int64[2] c = {3,1}, float[4,1,1,1] w",
        "t = Transpose<perm=[0,2,3,1]>(a0) m = ReduceMax(t, c) u = Transpose<perm=[0,3,1,2]>(m) y = Conv(u, w)",
        "p,q,r,s",
    ),
    "cbam": (
        13,
        f"float[1,2,3,3] g, {W}",
        "m = ReduceMax<axes=[1]>(a0) e = ReduceMean<axes=[1]>(a0) c = Concat<axis=1>(m, e)"
        " k = Conv<pads=[1,1,1,1]>(c, g) s = Sigmoid(k) z = Mul(a0, s) y = Conv(z, w)",
        "p,q,r,s",
    ),
    "centre-of-all-axes": (
        18,
        f"int64[4] c = {{1,8,3,7}}, {W}",
        "m = CenterCropPad(a, c) y = Conv(m, w)",
        "p,q,r,s",
    ),
    "centre-of-channels": (
        20,
        f"int64[1] c = {{5}}, float[4,5,1,1] v, {W}",
        "m = CenterCropPad<axes=[-3]>(a, c) u = Conv(m, v) e = Conv(a, w) y = Add(u, e)",
        "p,q,r,s",
    ),
    "channels-around-the-centre": (
        21,
        "int64[2] c = {11,3}, float[4,11,1,1] w",
        "m = CenterCropPad<axes=[1,3]>(a, c) y = Conv(m, w)",
        "p,q,r,s",
    ),
    "class-token-of-an-open-batch": (
        17,
        "int64[3] flat = {0,0,-1}, int64[1] zero = {0}, int64[2] rest = {1,1}, float[1,1,8] k, float[8,4] w",
        f"f = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(f) {SHAPE} c = Expand(k, tg) s = Concat<axis=1>(c, t)"
        " y = MatMul(s, w)",
        "p,q,r",
    ),
    "border-of-an-open-batch": (
        13,
        f"int64[1] zero = {{0}}, int64[3] rest = {{1,2,4}}, float[1,8,1,1] k, {W}",
        f"{SHAPE} c = Expand(k, tg) s = Concat<axis=2>(c, a) y = Conv(s, w)",
        "p,q,r,s",
    ),
    "border-that-says-its-width": (
        15,
        f"int64[1] zero = {{0}}, int64[3] rest = {{8,4,1}}, float[8,1,1] k, {W}",
        f"{SHAPE} c = Expand(k, tg) s = Concat<axis=3>(a, c, a) y = Conv(s, w)",
        "p,q,r,s",
    ),
}


def model_of(name: str) -> Model:
    opset, weights, body, rank = FREE[name]
    batch = "B" if "batch" in name or "border" in name else "1"
    text = onnx_text(f"float[{batch},3,4,4] x", f"float[{rank}] y", f"{STEM}, {weights}", f"{A} {body}", opset)
    return run(build(text), Canonicalise(), ShuffleToGather(), Canonicalise())


def remove_some(model: Model) -> None:
    """A random choice in which some channels of the first layer go, and that matters."""
    feeds = random_feeds(model)
    whole = run_onnx(model, feeds)
    for seed in range(20):
        model.plan = None
        plan = remove_random(model, seed=seed)
        labels = plan.channels.labels_of(model.graph.tensors()["a0"])
        assert labels is not None
        without = run_onnx(masked(model, plan), feeds)
        if not plan.keep[labels.reshape(-1)].all() and max(differences(whole, without).values()) > 0.01:
            return
    raise AssertionError("nothing of 'a0' ever goes")


@pytest.mark.parametrize("name", FREE)
def test_cut_equals_masked(name: str) -> None:
    model = model_of(name)
    made = open_plan(model).channels.labels_of(model.graph.tensors()["a0"])
    assert made is not None and (made != NO_CHANNEL).all()
    assert all(open_plan(model).channels.frozen[cls] is None for cls in made.reshape(-1))
    remove_some(model)
    check_slice(model)


def test_a_maximum_of_what_is_never_negative_needs_no_zero() -> None:
    text = "m = ReduceMax<axes=[1]>({}) y = Conv(m, w)"
    for source, wanted in (("a", 0), ("a0", 1)):
        body = f"{A} {text.format(source)}"
        model = build(onnx_text("float[1,3,4,4] x", "float[p,q,r,s] y", f"{STEM}, float[4,1,1,1] w", body))
        remove(model, "a0", [1, 4])
        assert ops(run(model, SliceChannels())).count("Max") == wanted


def test_a_repeated_constant_that_somebody_else_reads_holds_its_channels() -> None:
    opset, weights, body, rank = FREE["border-of-an-open-batch"]
    body = body.replace("y = Conv(s, w)", "e = ReduceSum<keepdims=0>(c) u = Conv(s, w) y = Add(u, e)")
    text = onnx_text("float[B,3,4,4] x", f"float[{rank}] y", f"{STEM}, {weights}", f"{A} {body}", opset)
    channels = analyse_channels(run(build(text), Canonicalise()).graph)
    assert any(reason and "puts them beside" in reason for reason in channels.frozen)
