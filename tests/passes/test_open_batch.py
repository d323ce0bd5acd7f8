"""An open batch hides nothing and leaves nothing stale: targets however exporters spell them, at batch 1 and 3."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import Plan, open_plan
from tests.numeric import TIGHT, Feeds, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text, remove_random, run

WEIGHTS = (
    "float[8,3,1,1] a.weight, float[8] a.bias, float[4,8,1,1] w, int64[1] n0 = {0}, int64[1] n1 = {1}, "
    "int64[1] n2 = {2}, int64[4] back = {-1,8,4,4}, int64[1] n4 = {4}, "
    "int64[1] n8 = {8}, int64[1] rest = {-1}, int64 zero = {0}, int64 one = {1}, "
    "int64 two = {2}, int64[4] map = {0,8,4,4}, int64[4] ones = {1,1,1,1}, int64[4] rests = {-1,-1,-1,-1}"
)
A = "a0 = Conv(x, a.weight, a.bias) a = Relu(a0) sh = Shape(a)"
BACK = "s = Reshape(f, map) y = Conv(s, w)"

BODIES = {
    "torch": f"b = Gather(sh, zero) c = Gather(sh, one) ub = Unsqueeze(b, n0) uc = Unsqueeze(c, n0) "
    f"t = Concat<axis=0>(ub, uc, rest) f = Reshape(a, t) {BACK}",
    "paddle": f"i = Cast<to=6>(sh) b = Slice(i, n0, n1, n0) c4 = Cast<to=6>(n8) r = Cast<to=6>(rest) "
    f"j = Concat<axis=0>(b, c4, r) t = Cast<to=7>(j) f = Reshape(a, t) {BACK}",
    "paddle-shape-and-slice": f"b = Slice(sh, n0, n2, n0) t = Concat<axis=0>(b, rest) f = Reshape(a, t) {BACK}",
    "all-read-off": "f = Relu(a) q = Sigmoid(f) s = Reshape(q, sh) y = Conv(s, w)",
    "batch-times-groups": "b = Gather(sh, zero) g = Mul(b, two) ug = Unsqueeze(g, n0) "
    "t = Concat<axis=0>(ug, n4, n4, n4) g0 = Reshape(a, t) f = Relu(g0) s = Reshape(f, back) y = Conv(s, w)",
    "heads": "b = Slice(sh, n0, n1, n0) t = Concat<axis=0>(b, n2, n4, rest) q = Reshape(a, t) "
    "k = Transpose<perm=[0,1,3,2]>(q) e = MatMul(k, q) p = Softmax<axis=-1>(e) f = MatMul(q, p) "
    f"{BACK}",
    "view-of-the-rest": "m = ReduceMean<axes=[2,3], keepdims=0>(a) b = Slice(sh, n0, n1, n0) "
    "t = Concat<axis=0>(b, rest, n1, n1) g = Reshape(m, t) s = Mul(a, g) y = Conv(s, w)",
    "shuffle": "b = Slice(sh, n0, n1, n0) t = Concat<axis=0>(b, n2, n4, n4, n4) q = Reshape(a, t) "
    "k = Transpose<perm=[0,2,1,3,4]>(q) s = Reshape(k, map) y = Conv(s, w)",
    "expand-as": "g = GlobalAveragePool(a) e = Expand(g, sh) s = Mul(e, a) y = Conv(s, w)",
    "expand-where": "b = Slice(sh, n0, n1, n0) t = Concat<axis=0>(b, rest, n4, n4) m = Mul(rests, ones) "
    "q = Equal(t, m) u = Where(q, ones, t) g = GlobalAveragePool(a) e = Expand(g, u) s = Mul(e, a) y = Conv(s, w)",
    "resize-sizes": "b = Slice(sh, n0, n2, n0) t = Concat<axis=0>(b, n8, n8) s = Resize(a, , , t) y = Conv(s, w)",
    "resize-sizes-with-a-width": "b = Slice(sh, n0, n1, n0) t = Concat<axis=0>(b, n8, n8, n8) s = Resize(a, , , t) "
    "y = Conv(s, w)",
    "chunk-by-shape": "c = Slice(sh, n1, n2, n0) d = Add(c, n1) h = Div(d, n2) e = Mul(h, n2) p = Slice(a, n0, h, n1) "
    "q = Slice(a, h, e, n1) r = Sigmoid(q) s = Concat<axis=1>(p, r) y = Conv(s, w)",
    "split-by-shape": "c = Slice(sh, n1, n2, n0) h = Div(c, n2) z = Concat<axis=0>(h, h) p, q = Split<axis=1>(a, z) "
    "s = Concat<axis=1>(q, p) y = Conv(s, w)",
}


def batch_of(model: Model | onnx.ModelProto, batch: int) -> Feeds:
    feeds = random_feeds(model, batch)
    return {
        name: np.repeat(value[:1], batch, axis=0) + 0.1 * np.arange(batch).reshape(-1, 1, 1, 1).astype(np.float32)
        for name, value in feeds.items()
    }


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("name", BODIES)
def test_cut_equals_masked_at_any_batch(name: str, opset: int) -> None:
    source = build(onnx_text("float[N,3,4,4] x", "float[N,p,q,r] y", WEIGHTS, f"{A} {BODIES[name]}", opset))
    model = run(source, Canonicalise(), ShuffleToGather(), Canonicalise())
    plan = open_plan(model)
    labels = plan.channels.labels_of(model.graph.tensors()["a"])
    assert labels is not None and (labels != NO_CHANNEL).all()
    assert all(plan.channels.frozen[cls] is None for cls in labels.reshape(-1)), plan.channels.frozen
    model.plan = None
    plan = next(found for seed in range(20) if (found := fresh(model, seed)).removed)
    reference, after = masked(model, plan), run(model, SliceChannels())
    for batch in (1, 3):
        feeds = batch_of(source, batch)
        assert max(differences(run_onnx(source, feeds), run_onnx(model, feeds)).values()) <= TIGHT
        found = run_onnx(after, feeds)
        assert max(differences(run_onnx(reference, feeds), found).values()) <= TIGHT
        assert max(differences(run_onnx(source, feeds), found).values()) > 100 * TIGHT  # the comparison sees the cut


def fresh(model: Model, seed: int) -> Plan:
    model.plan = None
    return remove_random(model, seed=seed)


def test_a_width_left_behind_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the update of Reshape's target the pass refuses its own result."""
    from onnxslim_yolo.passes import slice as slice_pass

    weights = "float[8,3,1,1] a, float[4,8,1] w, int64[3] f = {-1,8,16}"
    model = build(
        onnx_text("float[N,3,4,4] x", "float[N,p,q] y", weights, "h = Conv(x, a) g = Reshape(h, f) y = Conv(g, w)")
    )
    for seed in range(20):
        if remove_random(model, seed=seed).removed:
            break
        model.plan = None
    monkeypatch.delitem(slice_pass.UPDATES, "Reshape")
    with pytest.raises(Exception, match=r"left behind|shape"):
        SliceChannels().run(model)
