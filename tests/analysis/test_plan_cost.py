"""What a plan is said to cost is what the network costs that the default pipeline makes of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.passes import ConvBeforeResize, FoldBatchNorm, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.plan import open_plan
from tests.latency.models import zoo


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
