"""An attention's heads as channels: each goes with all its positions, what is left computes what was planned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.module_parts import module_balances
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from tests.analysis.test_module_parts import attention


def by_heads(heads: int = 4, returned: int = 16) -> Model:
    model = attention(heads, returned)
    model.whole_heads = True
    return model


def heads_of(model: Model) -> Array:
    """The classes of the attention's heads."""
    found = [group.classes for group in open_plan(model).channels.groups if "w2" in str(group.members)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def widths(model: Model) -> dict[str, tuple[int, ...]]:
    return {t.name: t.values.shape for node in model.graph.nodes for t in node.inputs if t.name in ("w1", "w2", "w3")}


def output(model: Model, like: Model) -> Array:
    return next(iter(run_onnx(model, image_like_feeds(like, 1))[0].values()))


@pytest.mark.parametrize("heads", [2, 4])
def test_a_head_is_one_channel_or_every_position_is(heads: int) -> None:
    rows = {name for group in open_plan(attention(heads, 16)).channels.groups for name in group.members}
    model = by_heads(heads)
    channels = open_plan(model).channels
    uses = [use for use in channels.uses if use.constant.name == "w2" and use.role == "out"]
    assert rows and len(uses) == 1
    each = uses[0].labels.reshape(heads, -1)
    assert (each == each[:, :1]).all() and len(np.unique(each)) == heads
    tied = next(u for u in analyse_channels(model.graph).uses if u.constant.name == "w2" and u.role == "out").labels
    assert (tied.reshape(heads, -1) == tied.reshape(heads, -1)[:1]).all()  # the control: positions of all heads


@pytest.mark.parametrize("gone", [0, 2, 3])
def test_what_is_left_computes_what_was_planned(gone: int) -> None:
    model = by_heads()
    plan = open_plan(model)
    uses = [use for use in plan.channels.uses if use.constant.name == "w2" and use.role == "out"]
    heads = uses[0].labels.reshape(4, -1)[:, 0]
    model.plan = plan = plan.without(heads[[gone]])
    expected, others = output(masked(model, plan), model), output(masked(model, plan.without(heads[[1]])), model)
    predicted = PlanCost.of(model.graph, plan.channels).macs(plan.keep)
    SliceChannels().run(model)
    assert widths(model) == {"w1": (8, 3, 1, 1), "w2": (24, 8, 1, 1), "w3": (2, 12, 1, 1)}
    assert predicted == cost_of(model.graph).macs
    assert list(model.carried.kept["w2"][0]) == [row for row in range(32) if row // 8 != gone]
    got = output(model, model)
    assert np.abs(expected - got).max() < 1e-5 < np.abs(others - got).max()


def test_nothing_is_put_between_the_positions_of_a_head() -> None:
    model = by_heads()
    plan = open_plan(model)
    uses = [use for use in plan.channels.uses if use.constant.name == "w2" and use.role == "out"]
    gone = uses[0].labels[:1]
    keep = plan.keep.copy()
    keep[gone] = False
    model.plan = replace(plan, keep=keep, wanted=keep, removable=~keep)
    for step in (SnapWidths(to="pow2"), SliceChannels()):
        step.run(model)
    found = widths(model)["w2"][0]
    assert found % 8 == 0 and found // 8 == widths(model)["w3"][1] // 4


@pytest.mark.parametrize("told", [False, True])
def test_heads_cost_what_was_given_unless_the_code_tells_its_width(told: bool) -> None:
    model = by_heads(2, 8)
    names = {node.name for node in model.graph.nodes} if told else set()
    channels = analyse_channels(model.graph, whole_heads=True)
    assert bool(module_balances(model.graph, channels, names)) != told
    if told:
        return
    for ratio in (0.2, 0.5):
        found = model.copy()
        found.equal_parts = True
        for step in (PruneChannels(ratio=ratio, importance="weight"), SnapWidths(to="none"), SliceChannels()):
            step.run(found)
        left = widths(found)
        assert left["w1"][0] == left["w2"][1] == left["w3"][1] and left["w2"][0] % 8 == 0
