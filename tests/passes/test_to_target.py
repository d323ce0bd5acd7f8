from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.table_format import write_table
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import (
    ConvBeforeResize,
    ConvBeforeSplit,
    FoldBatchNorm,
    PruneToTarget,
    SliceChannels,
    to_target,
)
from onnxslim_yolo.passes.to_target import _candidates, parse_target
from onnxslim_yolo.pipeline import parse_pipeline, remainder
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import Unit
from tests.latency.models import zoo
from tests.numeric import build
from tests.passes.cutting import onnx_text


def network():
    """Large enough that widths matter more than what any call of a layer costs."""
    return zoo("yolov8n", width=1.0, size=320)


def run(model, step: PruneToTarget) -> None:
    """Plan, cut, and fuse what the step has counted on."""
    parts = ConvBeforeSplit(runtime=step.runtime, isa=step.isa)
    PassManager([step, SliceChannels(), FoldBatchNorm(), parts, ConvBeforeResize()]).run(model)


def predicted(model, runtime: str = "ncnn") -> float:
    return table_for(runtime, "avx512").predict_graph(model.graph)


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_the_share_is_met_and_not_far_undershot(runtime, share):
    model = network()
    before = predicted(model, runtime)
    step = PruneToTarget(f"{share}x", runtime=runtime, isa="avx512")
    run(model, step)
    assert 0.9 * share < predicted(model, runtime) / before <= share * 1.01


def test_milliseconds():
    model = network()
    limit = 0.7 * predicted(model) / 1000
    run(model, PruneToTarget(f"{limit:.4f}ms", isa="avx512"))
    assert predicted(model) / 1000 <= limit * 1.01


def test_a_tighter_limit_keeps_less():
    kept = []
    for share in (0.9, 0.7, 0.4):
        model = network()
        PruneToTarget(f"{share}x", isa="avx512").run(model)
        plan = open_plan(model)
        kept.append(plan.importance[plan.keep].sum())
    assert kept == sorted(kept, reverse=True)


def test_a_limit_that_holds_already_changes_nothing():
    model = zoo("yolov8n")
    assert PruneToTarget("1x", isa="avx512").run(model) == 0
    assert open_plan(model).keep.all()


def test_no_layer_is_starved():
    """The stem is the slowest layer and has few channels: a sum of importance would take nearly all of them."""
    model = network()
    PruneToTarget("0.5x", isa="avx512").run(model)
    plan = open_plan(model)
    shares = [group.kept / group.width for group in plan.group_plans() if not group.frozen and group.width >= 16]
    assert min(shares) >= 0.1


def test_the_unreachable_is_refused_with_what_can_be_reached():
    model = zoo("yolov8n")
    with pytest.raises(UsageError, match="cannot come down to"):
        PruneToTarget("0.01x", isa="avx512").run(model)
    assert open_plan(model).keep.all()


def test_nothing_that_can_be_pruned_is_said_as_that():
    for height in ("8", "h"):
        text = onnx_text(f"float[1,3,{height},8] x", f"float[1,4,{height},8] y", "float[4,3,1,1] w", "y = Conv(x, w)")
        with pytest.raises(UsageError, match="macs cannot come down: no channel of this network can be pruned"):
            PruneToTarget("0.7x", cost="macs").run(build(text))


@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_products_whose_channels_lie_last_come_down(cost):
    model = zoo("convnext")
    before = cost_of(model.graph).macs, predicted(model, "onnxruntime")
    run(model, PruneToTarget("0.8x", cost=cost, runtime="onnxruntime", isa="avx512"))
    after = cost_of(model.graph).macs, predicted(model, "onnxruntime")
    at = ["macs", "latency"].index(cost)
    assert 0.7 * before[at] < after[at] <= 0.8 * before[at]


def test_small_costs_have_small_units():
    words = PruneToTarget("0.7x", cost="macs")._words, PruneToTarget("0.7x")._words
    assert [words[0](20_840), words[0](1_234_567), words[1](84.31), words[1](1234.5)] == [
        "20.8 k", "1.23 M", "84.3 µs", "1.23 ms",
    ]  # fmt: skip


def test_what_may_not_be_touched_stays():
    model = network()
    PruneToTarget("0.8x", isa="avx512", keep=("model.0",)).run(model)
    plan = open_plan(model)
    assert not plan.keep.all()
    assert plan.keep[~plan.removable].all()


def test_the_same_every_time():
    choices = []
    for _ in range(2):
        model = network()
        PruneToTarget("0.7x", isa="avx512").run(model)
        choices.append(open_plan(model).keep.copy())
    assert np.array_equal(*choices)


@pytest.mark.parametrize("text", ["", "0.6", "x", "0x", "-1ms", "0ms", "nanx", "12s", "1e3ms"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(UsageError, match="neither a share"):
        PruneToTarget(text)


@pytest.mark.parametrize("option", [{"target_latency": "2x"}, {"target_macs": 2.0}, {"target_params": "2x"}])
def test_a_target_above_the_source_is_told_what_a_target_is(option):
    with pytest.raises(UsageError, match="2x is more than the source: a target is the share") as caught:
        remainder(CompileOptions(**option), network())
    assert "1/2 of it is 0.5x" in (caught.value.hint or "")


def test_spelling():
    assert parse_target("0.6x") == (0.6, "x")
    assert parse_target("12ms") == (12.0, "ms")
    assert parse_pipeline("prune-to{target=12ms runtime=onnxruntime}") == [PruneToTarget("12ms", runtime="onnxruntime")]


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_other_costs(cost):
    model = network()
    before = cost_of(model.graph)
    run(model, PruneToTarget("0.6x", cost, isa="avx512"))
    after = cost_of(model.graph)
    share = after.macs / before.macs if cost == "macs" else after.parameters / before.parameters
    assert 0.57 < share <= 0.605
    assert any("widths do not go by latency: --target-latency" in note for note in model.notes)


def test_a_table_that_is_not_read_is_said(tmp_path):
    path = write_table(table_for("ncnn", "avx512"), tmp_path / "t.json")
    for cost, said in (("macs", True), ("latency", False)):
        model = network()
        PruneToTarget("0.9x", cost, isa="avx512", table=path).run(model)
        assert any("nor is --table read" in note for note in model.notes) is said
    for snap, allocate in ((16, "global"), ("auto", "global")):
        model = network()
        remainder(CompileOptions(target_macs=0.9, snap=snap, allocate=allocate, table=path), model)
        assert any("by one ratio" in note and "nor is --table read" in note for note in model.notes) is (snap == 16)


def test_only_latency_has_milliseconds():
    with pytest.raises(UsageError, match="macs cannot be '12ms'"):
        PruneToTarget("12ms", "macs")


def test_a_ratio_for_a_share_counts_what_is_merged_and_moved():
    """Merged branches and convolutions on the small map cost less: what is asked for is met, and not far exceeded."""
    model = zoo("v5lite-g")  # it has both
    whole = cost_of(model.graph).macs
    options = CompileOptions(target_macs=0.6, snap="none", importance="gamma", compensate="none")
    PassManager(remainder(options, model)).run(model)
    assert 0.58 < cost_of(model.graph).macs / whole <= 0.6


def test_a_tensor_keeps_the_channels_that_carry_a_share_of_it():
    """Two channels that carry nearly all stay, whatever they cost; a floor of one's own says otherwise."""
    weights = "float[20,3,3,3] a.weight, float[20] a.scale, float[20] a.b, float[20] a.m, float[20] a.var"
    body = (
        "c = Conv<pads=[1,1,1,1]>(x, a.weight) n = BatchNormalization(c, a.scale, a.b, a.m, a.var) r = Relu(n) "
        "y = Conv(r, b.weight)"
    )
    text = onnx_text("float[1,3,32,32] x", "float[1,9,32,32] y", f"{weights}, float[9,20,1,1] b.weight", body)
    scale = np.full(20, 0.01)
    scale[[3, 7]] = 1.0
    for carry, stay in ((0.0, 0), (0.95, 2)):
        model = build(text, values={"a.scale": scale})
        with pytest.raises(UsageError, match="cannot come down") as refused:
            PruneToTarget("0.001x", cost="macs", importance="gamma", carry=carry).run(model)
        assert ("--floor 2" in (refused.value.hint or "")) == bool(carry)
        PruneToTarget("0.7x", cost="macs", importance="gamma", carry=carry).run(model)
        assert open_plan(model).keep.sum() >= stay
    options = CompileOptions(target_macs=0.5)
    steps = {floor: remainder(replace(options, floor=floor), zoo("yolov8n")) for floor in (1, 2)}
    found = {floor: next(s.carry for s in made if isinstance(s, PruneToTarget)) for floor, made in steps.items()}
    assert found == {1: 0.1, 2: 0.0}


@pytest.mark.parametrize(
    ("width", "lanes", "floor", "widths"),
    [
        (96, 16, 8, [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96]),  # halves of a lane, and fours, where narrow
        (24, 8, 1, [4, 8, 12, 16, 20, 24]),
        (13, 4, 1, [4, 8, 12, 13]),  # half of four lanes fills nothing: no width of 2 or 6
    ],
)
def test_widths_that_are_tried(width: int, lanes: int, floor: int, widths: list[int]) -> None:
    unit = Unit(np.arange(width), 1, width, 1, (0.0,) * (width + 1))
    assert _candidates(unit, lanes, floor) == widths


@pytest.mark.parametrize("share", [0.7, 0.65, 0.5])
def test_what_parts_that_stay_equal_give_back_is_taken_elsewhere(share, monkeypatch):
    model = network()
    model.equal_parts = True
    kept = model.copy()
    run(model, PruneToTarget(f"{share}x", isa="avx512"))
    assert 0.95 * share < predicted(model) / predicted(network()) <= share * 1.01
    monkeypatch.setattr(to_target, "TRIES", 1)  # the control
    with pytest.raises(UsageError, match="cannot come down"):
        PruneToTarget(f"{share}x", isa="avx512").run(kept)


def test_a_problem_is_made_once_for_a_plan_and_a_cost():
    """Asked again for the same it is the same; for another cost, or a plan that ranks otherwise, it is made anew."""
    weights = "float[8,3,1,1] a.weight, float[8,8,1,1] b.weight, float[4,8,1,1] c.weight"
    body = "a = Conv(x, a.weight) b = Conv(a, b.weight) y = Conv(b, c.weight)"
    model = build(onnx_text("float[1,3,8,8] x", "float[1,4,8,8] y", weights, body))
    plan = open_plan(model)
    model.plan = replace(plan, importance=np.arange(1.0, plan.channels.count + 1))

    def asked(cost: str):
        step = PruneToTarget("0.5x", cost=cost, isa="avx2")
        return step.problem(model, open_plan(model), step.costs())[0]

    first = asked("macs")
    assert asked("macs") is first
    size = asked("params")
    assert size is not first and size.latency(size.planned) != first.latency(first.planned)
    first = asked("macs")
    assert first is not size
    model.plan = replace(open_plan(model), importance=open_plan(model).importance[::-1].copy())
    assert asked("macs") is not first
