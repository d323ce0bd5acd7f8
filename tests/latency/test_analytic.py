from __future__ import annotations

import pytest

from onnxslim_yolo.latency import AnalyticModel, Family, LayerKey
from onnxslim_yolo.latency.packing import PACK, pack_of, padded

CONV = Family("conv", kernel=(3, 3), size=(40, 40))
POOL = Family("maxpool", kernel=(13, 13), size=(20, 20))
DEPTHWISE = Family("depthwise", kernel=(3, 3), size=(40, 40))


def key(family: Family, c: int) -> LayerKey:
    return LayerKey(family, (c,), (c,))


@pytest.mark.parametrize("isa", PACK)
@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_more_of_a_kind_takes_longer(runtime, isa):
    model = AnalyticModel(runtime, isa)
    for family in (CONV, POOL, DEPTHWISE):
        times = [model.predict(key(family, c)) for c in range(16, 257, 16)]
        assert times == sorted(times)


@pytest.mark.parametrize("isa", PACK)
def test_widths_that_fill_no_register_cost_more_than_the_next_that_do(isa):
    model = AnalyticModel("ncnn", isa)
    for family, factor in ((CONV, 1.0), (POOL, 2.0), (DEPTHWISE, 2.0)):
        assert model.predict(key(family, 57)) > factor * model.predict(key(family, 64))


def test_onnxruntime_is_a_staircase():
    model = AnalyticModel("onnxruntime", "avx512")
    times = {c: model.estimate(CONV, (64,), (c,)) for c in (20, 24, 28, 32)}
    assert max(times.values()) == pytest.approx(min(times.values()), rel=0.05)
    assert model.estimate(CONV, (64,), (36,)) > 1.3 * times[32]


def test_packs():
    assert [pack_of("ncnn", 16, c) for c in (1, 6, 12, 24, 48)] == [1, 1, 4, 8, 16]
    assert [pack_of("ncnn", 8, c) for c in (12, 24, 48)] == [4, 8, 8]
    assert [pack_of("onnxruntime", 16, c) for c in (6, 24, 48)] == [1, 4, 16]
    assert [padded("onnxruntime", 16, c) for c in (1, 16, 17)] == [16, 16, 32]
    assert padded("ncnn", 16, 17) == 17
