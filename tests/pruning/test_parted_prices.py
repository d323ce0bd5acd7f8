"""What widths cost is what the network costs as it will be written, parted where that is faster at those widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.costs import Multiplications
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.passes import ConvBeforeSplit, FoldBatchNorm, SliceChannels
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import WidthProblem
from tests.numeric import build

TABLE = table_for("onnxruntime", "x86-avx2")


def network() -> Model:
    """A C2f block of 24 and 24 channels, before its BatchNormalization is folded, and a convolution behind it."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,32,80,80] x) => (float[1,4,80,80] z)
    <float[48,32,1,1] w, float[48] s, float[48] b, float[48] m, float[48] v, float[24,24,3,3] u, float[4,72,1,1] t,
     int64[2] at> {
    c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) g = Sigmoid(n) a = Mul(n, g) p, q = Split<axis=1>(a, at)
    r = Conv<pads=[1,1,1,1]>(q, u) h = Sigmoid(r) k = Mul(r, h) o = Concat<axis=1>(p, q, k) z = Conv(o, t) }"""
    return build(text, values={"at": np.array([24, 24]), "v": np.ones(48)})


def of_widths(widths: tuple[int, int, int]) -> tuple[WidthProblem, Model, int]:
    """The problem, the network cut to these widths and fused as it will be written, and how many it is parted in."""
    model = network()
    plan = open_plan(model)
    plan = replace(plan, importance=np.ones(plan.channels.count))
    problem = WidthProblem.of(model.graph, plan, TABLE)
    assert [unit.width for unit in problem.units] == [24] * 3
    model.plan = replace(plan, keep=problem.keep(plan, list(widths)), lossless=False)
    SliceChannels().run(model)
    FoldBatchNorm().run(model)
    return problem, model, ConvBeforeSplit("onnxruntime", "x86-avx2").run(model)


@pytest.mark.parametrize(
    ("widths", "parted"),
    [((24, 24, 24), 1), ((16, 16, 24), 1), ((24, 16, 8), 1), ((20, 24, 24), 0), ((16, 24, 17), 1)],
)
def test_widths_cost_what_the_written_network_costs(widths: tuple[int, int, int], parted: int) -> None:
    problem, written, count = of_widths(widths)
    assert count == parted
    assert problem.latency(list(widths)) == pytest.approx(TABLE.predict_graph(written.graph))


def test_curves_know_it_too() -> None:
    problem, _, _ = of_widths((24, 24, 24))
    curve = problem.curve(0, (20, 24), [24, 24, 24])
    whole = [problem.latency([width, 24, 24]) for width in (20, 24)]
    assert curve[0] - curve[1] == pytest.approx(whole[0] - whole[1])


def test_other_costs_are_as_they_were() -> None:
    """Parts take the same multiplications, and a runtime without blocks the same time."""
    model = network()
    plan = open_plan(model)
    for costs in (Multiplications("avx2"), table_for("ncnn", "x86-avx2")):
        problem = WidthProblem.of(model.graph, plan, costs)
        assert min(layer.latency([24, 24, 24], costs) for layer in problem.placed) >= 0
