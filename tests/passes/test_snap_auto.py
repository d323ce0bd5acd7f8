from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.files.spelling import spell
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import LatencyTable, table_for
from onnxslim_yolo.latency.table_format import write_table
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.pruning.auto_widths import REACH
from onnxslim_yolo.pruning.plan import open_plan
from tests.latency.models import zoo

ISAS = ("avx512", "avx2", "neon")


def planned(name: str = "yolov8n", ratio: float | str = 0.5, **options: object) -> Model:
    model = zoo(name, **options)
    PruneChannels(ratio=ratio).run(model)
    return model


def snapped(model: Model, to: str | int, **options: object) -> tuple[float, float, np.ndarray]:
    """Predicted µs, what is kept of all that could be lost, and the choice."""
    model = model.copy()
    step = SnapWidths(to=to, **{"isa": "avx512", **options})
    step.run(model)
    plan = open_plan(model)
    losses = plan.importance if plan.losses is None else plan.losses
    keep, kept = plan.keep.copy(), float(losses[plan.keep].sum())
    SliceChannels().run(model)
    return table_for(step.runtime, step.isa, step.table).predict_graph(model.graph), kept, keep


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
@pytest.mark.parametrize("name", ["yolov8n", "v5lite-s"])
def test_never_slower_and_never_less_important_than_unsnapped(name, runtime):
    model = planned(name, 0.6)
    before, after = (snapped(model, to, runtime=runtime) for to in ("none", "auto"))
    assert after[0] < before[0]
    assert after[1] >= before[1] * (1 - 1e-9)


def test_what_is_lost_counts_not_its_price_per_mac():
    model = planned("yolov8n", 0.6)
    plan = open_plan(model)
    assert plan.importance_kind == "variance per MAC" and plan.losses is not None
    lost, ranked = plan.losses.sum(), plan.losses[plan.keep].sum()
    assert snapped(model, "auto")[1] >= ranked - 1e-9 * lost
    # The control: judged by prices, more is lost than the ranking lost.
    model.plan = replace(plan, losses=None)
    keep = snapped(model, "auto")[2]
    by_price = open_plan(planned("yolov8n", 0.6))
    assert by_price.losses is not None and by_price.losses[keep].sum() < ranked


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_has_something_to_judge_by(isa):
    model = planned()
    before, after = (snapped(model, to, isa=isa) for to in ("none", "auto"))
    assert after[0] < before[0]
    assert after[1] >= before[1] * (1 - 1e-9)


def test_as_fast_as_any_grid_that_keeps_as_much():
    model = planned("yolov8n", 0.5, width=1.0)
    auto = snapped(model, "auto")
    for grid in (4, 8, 16, "pow2"):
        latency, kept, _ = snapped(model, grid)
        assert latency >= auto[0] or kept < auto[1]


def test_the_same_every_time():
    model = planned()
    assert np.array_equal(snapped(model, "auto")[2], snapped(model, "auto")[2])


def test_a_second_run_changes_nothing():
    model = planned()
    assert SnapWidths(isa="avx512").run(model) > 0
    first = open_plan(model).keep.copy()
    assert SnapWidths(isa="avx512").run(model) == 0
    assert np.array_equal(open_plan(model).keep, first)


def test_another_runtime_starts_from_the_ranking_again():
    model = planned()
    once = snapped(model, "auto", runtime="onnxruntime")[2]
    SnapWidths(isa="avx512").run(model)
    SnapWidths(isa="avx512", runtime="onnxruntime").run(model)
    assert np.array_equal(open_plan(model).keep, once)


def test_only_dead_channels_go_in_dead_mode():
    model = planned("yolov8n", "dead", dead=0.4)
    plan = open_plan(model)
    live = plan.keep.copy()
    assert not live.all()
    SnapWidths(isa="avx512").run(model)
    assert not (live & ~open_plan(model).keep).any()


def test_nothing_to_remove_means_nothing_to_do():
    model = planned(ratio=0.0)
    assert SnapWidths(isa="avx512").run(model) == 0
    assert open_plan(model).keep.all()


def test_widths_stay_within_a_few_registers_of_the_ranking():
    model = planned("yolov8n", 0.5, width=1.0)
    plan = open_plan(model)
    before = [group.kept for group in plan.group_plans()]
    SnapWidths(isa="avx512").run(model)
    moved = [abs(a - b.kept) for a, b in zip(before, open_plan(model).group_plans(), strict=True)]
    assert max(moved) <= 16 * REACH
    assert max(moved) > 0


def test_what_may_not_be_touched_stays():
    model = zoo("yolov8n")
    PruneChannels(ratio=0.5, keep=("model.0", "model.4")).run(model)
    plan = open_plan(model)
    protected = plan.keep & ~plan.removable
    assert protected.any()
    SnapWidths(isa="avx512").run(model)
    assert open_plan(model).keep[protected].all()


def test_grouped_convolutions_stay_equal():
    model = planned("regnet", 0.4)
    SnapWidths(isa="avx512").run(model)
    SliceChannels().run(model)  # raises where parts differ


def test_the_runtime_matters():
    model = planned("yolov8n", 0.5, width=1.0)
    assert not np.array_equal(snapped(model, "auto")[2], snapped(model, "auto", runtime="onnxruntime")[2])


def test_a_table_is_read_where_one_is_given(tmp_path):
    path = write_table(LatencyTable.analytic("ncnn", "avx512"), tmp_path / "table.json")
    model = planned()
    SnapWidths(table=path).run(model)
    assert any("analytic estimate" in note for note in model.notes)
    with pytest.raises(InputError, match="cannot be read"):
        SnapWidths(table=tmp_path / "none.json").run(planned())
    with pytest.raises(UsageError, match="measured in ncnn"):
        SnapWidths(table=path, runtime="onnxruntime").run(planned())


def test_spelling(tmp_path):
    [step] = parse_pipeline(f"snap{{to=auto runtime=onnxruntime table={tmp_path}/t.json}}")
    assert step == SnapWidths(runtime="onnxruntime", table=tmp_path / "t.json")
    assert parse_pipeline(spell(step)) == [step]


@pytest.mark.parametrize("to", ["auto", "pow2", 8, 4])
def test_no_tensor_falls_below_the_floor(to):
    model = zoo("yolov5n", width=1.0)
    PruneChannels(ratio=0.85, importance="gamma", floor=12).run(model)
    SnapWidths(to=to, isa="avx512").run(model)
    plan = open_plan(model)
    sections = [s[s >= 0] for s in plan.channels.sections]
    narrow = [int(plan.keep[s].sum()) for s in sections if plan.keep[s].sum() < min(12, len(s))]
    assert narrow == []
    PruneChannels(ratio=0.85, importance="gamma").run(model)
    plan = open_plan(model)
    assert any(plan.keep[s].sum() < min(12, len(s)) for s in sections)  # the floor was what held them
