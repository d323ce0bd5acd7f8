"""The process that measures is run on real runtimes; nothing is said about how long anything takes."""

from __future__ import annotations

import pytest

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency import Family, LayerKey
from onnxslim_yolo.latency.table import SQUARE, cell_widths
from onnxslim_yolo.measure.measurer import Measurer
from onnxslim_yolo.measure.profile import Whole, calibrate, families_of, measure_families, profile
from tests.latency.models import formula, small

KINDS = [
    LayerKey(Family("conv", kernel=(3, 3), stride=(2, 2), size=(8, 8)), (3,), (16,)),
    LayerKey(Family("conv", kernel=(1, 1), size=(8, 8)), (13,), (7,)),
    LayerKey(Family("conv", kernel=(6, 6), stride=(2, 2), size=(8, 8)), (3,), (8,)),
    LayerKey(Family("group-conv", kernel=(3, 3), groups=4, size=(8, 8)), (16,), (8,)),
    LayerKey(Family("depthwise", kernel=(5, 5), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("maxpool", kernel=(5, 5), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("maxpool", kernel=(2, 2), stride=(2, 2), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("avgpool", kernel=(8, 8), size=(1, 1)), (12,), (12,)),
    LayerKey(Family("resize", "nearest", kernel=(2, 2), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("resize", "linear", kernel=(2, 2), size=(8, 8)), (12,), (12,)),
    LayerKey(Family("concat", size=(8, 8)), (12, 12), (24,)),
    LayerKey(Family("split", size=(8, 8)), (24,), (12, 12)),
    LayerKey(Family("binary", "add", size=(8, 8)), (12, 12), (12,)),
    LayerKey(Family("gate", "mul", size=(8, 8)), (12,), (12,)),
    *(
        LayerKey(Family("unary", op, size=(8, 8)), (12,), (12,))
        for op in ("silu", "sigmoid", "relu", "leaky", "hardswish", "tanh", "elu", "exp", "scale")
    ),
]


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_every_kind_of_layer_can_be_measured(runtime):
    with Measurer(runtime, 1) as measure:
        times = measure(KINDS)
    assert [key for key, us in zip(KINDS, times, strict=True) if us is None or us < 0] == []
    assert sum(us for us in times if us is not None) > 0


def test_a_layer_that_crashes_the_process_costs_itself_only():
    good = KINDS[0]
    bad = LayerKey(Family("split", size=(8, 8)), (8,), (12, 12))  # more channels out than in: ncnn dies or refuses
    with Measurer("ncnn", 1) as measure:
        times = measure([good, bad, good])
    assert times[0] is not None
    assert times[2] is not None


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_a_whole_graph_can_be_measured(runtime):
    with Measurer(runtime, 1) as measure:
        us = measure.whole(small().graph)
    assert us is not None
    assert us > 0


def test_profile_measures_what_the_graphs_have():
    seen = []
    model = small()
    table = profile([model.graph], target="ncnn", measure=formula("ncnn"), progress=lambda a, b: seen.append((a, b)))
    assert set(table.families) == set(families_of([model.graph]))
    assert seen
    assert all(done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1]


def test_profile_is_deterministic():
    first, second = (profile([small().graph], measure=formula("ncnn")) for _ in range(2))
    assert first.families == second.families


def test_a_bent_curve_is_sampled_more_densely():
    family = Family("conv", kernel=(1, 1), size=(10, 10))

    def bent(keys):
        return [1000.0 if key.ins[0] == 48 else float(key.ins[0] * key.outs[0]) for key in keys]

    def straight(keys):
        return [float(key.ins[0] * key.outs[0]) for key in keys]

    smooth = measure_families({family: (256, 256)}, "ncnn", 16, straight)[family]
    rough = measure_families({family: (256, 256)}, "ncnn", 16, lambda keys: [9e6 if 32 in key.ins else us for key, us in zip(keys, bent(keys), strict=True)])[family]  # fmt: skip  # noqa: E501
    assert 32 not in smooth.ins
    assert 32 in rough.ins


def test_every_cell_of_a_grid_is_measured():
    grids = measure_families(families_of([small().graph]), "ncnn", 16, formula("ncnn"))
    for family, grid in grids.items():
        wanted = {(a, b) for a in grid.ins for b in grid.outs} if family.kind in SQUARE else {(a,) for a in grid.ins}
        assert wanted == set(grid.us), family


def test_an_image_keeps_its_three_channels():
    grids = measure_families(families_of([small().graph]), "ncnn", 16, formula("ncnn"))
    stem = next(grid for family, grid in grids.items() if family.kind == "conv" and family.size == (16, 16))
    assert stem.ins == (3,)


def test_what_a_runtime_refuses_is_left_out():
    family = Family("conv", kernel=(1, 1), size=(10, 10))
    grids = measure_families({family: (64, 64)}, "ncnn", 16, lambda keys: [None] * len(keys))
    assert grids == {}


def test_cells_say_what_was_measured():
    assert cell_widths(Family("concat"), (12,)) == ((12, 12), (24,))
    assert cell_widths(Family("split"), (12,)) == ((24,), (12, 12))
    assert cell_widths(Family("conv"), (3, 5)) == ((3,), (5,))


def test_bad_requests():
    with pytest.raises(UsageError, match="target"):
        profile([], target="tflite")
    with pytest.raises(UsageError, match="threads"):
        profile([], threads=10_000)


def test_wholes_tell_scale_from_overhead():
    wholes = [
        Whole(1.1 * us + 3.0 * count, us, count) for us, count in ((9000, 170), (2500, 170), (5000, 160), (30000, 171))
    ]
    assert calibrate(wholes) == pytest.approx((1.1, 3.0))


def test_wholes_that_are_alike_give_a_scale_alone():
    assert calibrate([Whole(1.1 * us + 300.0, us, 170) for us in (5000, 5500, 6000)]) == (
        pytest.approx(1.1545, abs=1e-4),
        0.0,
    )
    assert calibrate([Whole(0.9 * us, us, us // 10 + 100) for us in (1000, 40000)])[1] == 0.0
    assert calibrate([]) == (1.0, 0.0)
