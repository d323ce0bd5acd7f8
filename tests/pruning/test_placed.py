"""Layers whose channels lie elsewhere than on axis 1: what a choice of widths is said to cost is what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import LatencyTable
from onnxslim_yolo.latency.costs import Multiplications, Parameters
from onnxslim_yolo.latency.layers import describe
from onnxslim_yolo.passes import PruneChannels, SliceChannels
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import WidthProblem
from tests.numeric import build
from tests.passes.cutting import onnx_text

MAPS = (
    "float[1,3,16,16] x", "float[1,8,8,6] y",
    "float[8,3,3,3] w, float[8,24] up, float[24] b, float[24,8] down, float[8,6] last",
    """s = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) t = Transpose<perm=[0,2,3,1]>(s) m = MatMul(t, up) n = Add(m, b)
    r = Relu(n) d = MatMul(r, down) e = Add(t, d) y = MatMul(e, last)""",
)  # fmt: skip
"""ConvNeXt's way: (1, H, W, C) inside."""
TOKENS = (
    "float[1,3,16,16] x", "float[1,64,6] y",
    "float[8,3,3,3] w, float[8,48] qkv, float[48] b, float[16,12] out, float[12,6] last",
    """s = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) flat = Constant<value_ints=[1,8,64]>() f = Reshape(s, flat)
    t = Transpose<perm=[0,2,1]>(f) m = MatMul(t, qkv) a = Add(m, b)
    heads = Constant<value_ints=[1,64,3,4,4]>() h = Reshape(a, heads) p = Transpose<perm=[2,0,3,1,4]>(h)
    q4, k4, v4 = Split<axis=0, num_outputs=3>(p) zero = Constant<value_ints=[0]>()
    q = Squeeze(q4, zero) k = Squeeze(k4, zero) v = Squeeze(v4, zero) kt = Transpose<perm=[0,1,3,2]>(k)
    l = MatMul(q, kt) g = Softmax(l) z = MatMul(g, v) zt = Transpose<perm=[0,2,1,3]>(z)
    tokens = Constant<value_ints=[1,64,16]>() zz = Reshape(zt, tokens) o = MatMul(zz, out) r = Relu(o)
    y = MatMul(r, last)""",
)  # fmt: skip
"""An attention, its heads along an axis of their own."""
ROWS = (
    "float[1,3,16,16] x", "float[1,6,64] y",
    "float[8,3,3,3] w, float[24,8] up, float[6,24] last",
    """s = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) flat = Constant<value_ints=[1,8,64]>() f = Reshape(s, flat)
    m = MatMul(up, f) r = Relu(m) y = MatMul(last, r)""",
)  # fmt: skip
"""The weight on the left: channels are rows."""
FLAT = (
    "float[1,3,16,16] x", "float[1,6] y",
    "float[8,3,3,3] w, float[512,24] up, float[24] b, float[6,24] last",
    """s = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) f = Flatten(s) m = Gemm(f, up, b) r = Relu(m)
    y = Gemm<transB=1>(r, last)""",
)  # fmt: skip
"""A Gemm reads every position of a channel."""
BATCH = (
    "float[3,3,16,16] x", "float[3,4] y",
    "float[8,3,3,3] w, float[8,8,1,1] v, float[8,6] d, float[6,4] u",
    """s = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) r = Relu(s) c = Conv(r, v) g = Sigmoid(c)
    p = GlobalAveragePool(g) f = Flatten(p) m = Gemm(f, d) n = Relu(m) y = Gemm(n, u)""",
)  # fmt: skip
"""Three images in every run."""
NETWORKS = {"maps": MAPS, "tokens": TOKENS, "rows": ROWS, "flat": FLAT, "batch": BATCH}


def pruned(name: str, *, heads: bool = False) -> Model:
    model = build(onnx_text(*NETWORKS[name], 18))
    model.whole_heads = heads
    PruneChannels(0.4, importance="weight").run(model)
    return model


@pytest.mark.parametrize(("name", "heads"), [*((name, False) for name in NETWORKS), ("tokens", True)])
@pytest.mark.parametrize(
    "costs", [Multiplications("avx2"), *(LatencyTable.analytic(r, "avx2") for r in ("ncnn", "onnxruntime"))]
)
def test_a_plan_costs_what_the_sliced_graph_costs(name: str, heads: bool, costs: LatencyTable) -> None:
    model = pruned(name, heads=heads)
    plan = open_plan(model)
    problem, macs = WidthProblem.of(model.graph, plan, costs), PlanCost.of(model.graph, plan.channels)
    whole, planned = (problem.latency(choice) for choice in ([u.width for u in problem.units], problem.planned))
    assert planned < whole  # the control: it is not what everything costs
    everything = macs.macs(np.ones(plan.channels.count, dtype=bool))
    assert everything == cost_of(model.graph).macs
    assert everything == whole or not isinstance(costs, Multiplications)
    said = macs.macs(plan.keep)
    for figure in (whole, planned):
        there = sum(costs.lookup(one.key.family, one.key.ins, one.key.outs) for one in describe(model.graph))
        assert figure == pytest.approx(there, rel=1e-9)
        SliceChannels().run(model)
    assert said == pytest.approx(cost_of(model.graph).macs, rel=1e-9)


def test_a_product_of_two_maps_has_no_weights() -> None:
    model = pruned("tokens")
    problem = WidthProblem.of(model.graph, open_plan(model), Parameters("avx2"))
    weights = {"w": 8 * 3 * 9 + 8, "qkv": 8 * 48 + 48, "out": 16 * 12 + 12, "last": 12 * 6 + 6}
    assert problem.latency([unit.width for unit in problem.units]) == sum(weights.values())
