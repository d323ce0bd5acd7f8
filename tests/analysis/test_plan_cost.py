"""What a plan is said to cost is what the network costs that the default pipeline makes of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.passes import ConvBeforeResize, FoldBatchNorm, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.plan import open_plan
from tests.analysis.graphs import onnx_text
from tests.latency.models import zoo
from tests.numeric import build


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "v5lite-s", "yolov4-tiny", "yolov7-tiny", "ppyoloe"])
def test_multiplications_of_a_plan(name: str) -> None:
    model = zoo(name)
    PruneChannels(0.4, importance="gamma").run(model)
    plan = open_plan(model)
    cost = PlanCost.of(model.graph, plan.channels)
    found, whole = cost.macs(plan.keep), cost.macs(np.ones(plan.channels.count, dtype=bool))
    fused = model.copy()
    SliceChannels().run(fused)
    FoldBatchNorm().run(fused)
    there = cost_of(fused.graph).macs
    moved = ConvBeforeResize().run(fused)
    assert found == pytest.approx(cost_of(fused.graph).macs, rel=1e-9)
    assert (found < 0.999 * there) == bool(moved)  # the control: where they are moved, it is not what it was before
    assert whole > 1.3 * found


def test_what_a_channel_saves_is_the_difference_of_two_plans() -> None:
    model = zoo("yolov5n")
    channels = open_plan(model).channels
    cost = PlanCost.of(model.graph, channels)
    keep = np.ones(channels.count, dtype=bool)
    saved = cost.saved(keep)
    for cls in range(0, channels.count, 97):
        less = keep.copy()
        less[cls] = False
        # A layer that reads and makes the class saves both together: their product is counted twice.
        assert saved[cls] == pytest.approx(cost.macs(keep) - cost.macs(less), rel=0.2)
    assert saved[channels.prunable].min() > 0


WEIGHTS = """float[6,3,3,3] a, float[8,6,1,1] b, float[8,1,3,3] d, float[8,4,2,2] t, float[6,2,1,1] g, float[4,6,1,1] c,
    float[4,2] m, int64[2] flat = {1, -1}, float[2,8,1,1] end, float[2,4,1,1] last"""
CHAINS = {
    "plain": "p = Conv<pads=[1,1,1,1]>(x, a) q = Relu(p) r = Conv(q, b) s = Relu(r) y = Conv(s, end)",
    "depthwise": "p = Conv(x, a) q = Conv(p, b) r = Conv<group=8>(q, d) s = Relu(r) y = Conv(s, end)",
    "transposed": "p = Conv(x, a) q = Conv(p, b) r = ConvTranspose<strides=[2,2]>(q, t) y = Conv(r, last)",
    "shared": "p = Conv(x, a) q = Conv(p, b) r = Conv(p, b2) s = Add(q, r) y = Conv(s, end)",
    "on the left": "p = Conv(x, a) f = Reshape(p, rows) m = MatMul(u, f) n = Relu(m) o = MatMul(v, n)"
    " q = Reshape(o, map) y = Conv(q, five)",
    "on the right": "p = Conv(x, a) f = Reshape(p, rows) t = Transpose<perm=[0,2,1]>(f) m = MatMul(t, r) n = Relu(m)"
    " o = MatMul(n, s) k = Transpose<perm=[0,2,1]>(o) q = Reshape(k, map) y = Conv(q, five)",
    "beside none": "p = Conv(x, a) u = Resize(x, , , big) e = Concat<axis=1>(p, u) y = Conv(e, wide)",
}
MORE = """float[8,6,1,1] b2, int64[4] big = {1,3,8,8}, float[2,9,1,1] wide, float[2,6] u, float[5,2] v,
    float[6,2] r, float[2,5] s, float[2,5,1,1] five, int64[3] rows = {1,-1,64}, int64[4] map = {1,-1,8,8}"""


@pytest.mark.parametrize("case", CHAINS)
def test_a_plan_costs_what_its_slice_does(case: str) -> None:
    """Counted by slicing, for plans drawn at random; and what a class saves, which no layer here has on both sides."""
    body = CHAINS[case].replace("p = Conv(x, a)", "p = Conv<pads=[1,1,1,1]>(x, a)")
    text = onnx_text("float[1,3,8,8] x", "float[i,j,k,l] y", f"{WEIGHTS}, {MORE}", body)
    rng = np.random.default_rng(0)
    for _ in range(4):
        model = build(text)
        plan = open_plan(model)
        cost = PlanCost.of(model.graph, plan.channels)
        prunable = plan.channels.prunable
        free = [group.classes for group in plan.channels.groups if prunable[group.classes].all()]
        gone = np.concatenate([rng.choice(classes, rng.integers(0, len(classes)), replace=False) for classes in free])
        model.plan = plan.without(gone)
        keep = model.plan.keep
        for cls in gone[:2]:
            more = keep.copy()
            more[cls] = True
            assert cost.macs(more) > cost.macs(keep)
            assert cost.saved(more)[cls] == pytest.approx(cost.macs(more) - cost.macs(keep))
        found = cost.macs(keep)
        SliceChannels().run(model)
        assert found == pytest.approx(cost_of(model.graph).macs)
