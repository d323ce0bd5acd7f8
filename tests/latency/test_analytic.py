from __future__ import annotations

import numpy as np
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
    wide = 0.85 if isa == "neon" else 1.0  # counted: 4.95 against 5.31 M instructions
    alone = 1.5 if isa == "neon" else 2.0  # moving fp32 maps takes most of it, however they lie
    for family, factor in ((CONV, wide), (POOL, 2.0), (DEPTHWISE, alone)):
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


A76 = {
    (3, 1): {
        8: 0.22,
        12: 0.75,
        16: 0.44,
        20: 0.77,
        24: 0.73,
        28: 1.15,
        32: 1.08,
        36: 1.58,
        40: 1.49,
        48: 1.96,
        64: 3.1,
    },
    (3, 2): {
        8: 0.09,
        12: 0.53,
        16: 0.2,
        20: 0.65,
        24: 0.39,
        28: 1.01,
        32: 0.65,
        36: 1.43,
        40: 0.98,
        48: 1.37,
        64: 2.38,
    },
    (1, 1): {
        8: 0.08,
        12: 0.16,
        16: 0.16,
        20: 0.28,
        24: 0.27,
        28: 0.43,
        32: 0.41,
        36: 0.61,
        40: 0.58,
        48: 0.78,
        64: 1.26,
    },
}
A72 = {
    (3, 1): {8: 0.3, 12: 0.49, 16: 0.67, 20: 0.92, 24: 1.16, 28: 1.46, 32: 1.76, 36: 2.12, 40: 2.47, 48: 3.3, 64: 5.31},
    (3, 2): {
        8: 0.12,
        12: 0.22,
        16: 0.36,
        20: 0.54,
        24: 0.75,
        28: 1.01,
        32: 1.49,
        36: 1.83,
        40: 2.18,
        48: 3.0,
        64: 5.03,
    },
}
"""10⁶ instructions of ncnn's kernels, C → C at 40×40 in the output, counted under emulation; (kernel, stride)."""


@pytest.mark.parametrize(("isa", "counted"), [("neon-fp16", A76), ("neon", A72)])
def test_arm_follows_counted_instructions(isa, counted):
    model = AnalyticModel("ncnn", isa)
    for (kernel, stride), row in counted.items():
        size = (40 // stride, 40 // stride) if stride == 2 else (40, 40)
        family = Family("conv", kernel=(kernel, kernel), stride=(stride, stride), size=size)
        times = [model.estimate(family, (c,), (c,)) for c in row]
        order = np.corrcoef(np.argsort(np.argsort(times)), np.argsort(np.argsort(list(row.values()))))[0, 1]
        assert order > 0.95, (kernel, stride, order)


def test_four_beyond_a_multiple_of_eight_is_dear_in_fp16_and_free_in_fp32():
    half, full = AnalyticModel("ncnn", "neon-fp16"), AnalyticModel("ncnn", "neon")
    depthwise = Family("depthwise", kernel=(3, 3), size=(20, 20))
    assert half.predict(key(depthwise, 36)) > 5 * half.predict(key(depthwise, 40))
    assert half.predict(key(depthwise, 31)) < half.predict(key(depthwise, 36))
    assert full.predict(key(depthwise, 36)) < full.predict(key(depthwise, 40))
    assert half.predict(key(CONV, 28)) > half.predict(key(CONV, 32)) > 0
    assert full.predict(key(CONV, 28)) < full.predict(key(CONV, 32))


def test_winograd_takes_one_wide_side():
    model = AnalyticModel("ncnn", "neon-fp16")
    narrow, one, both = (model.estimate(CONV, (a,), (b,)) / (a * b) for a, b in ((8, 8), (8, 64), (64, 64)))
    assert both < one < 0.9 * narrow


def test_onnxruntime_has_no_staircase_on_arm():
    model = AnalyticModel("onnxruntime", "neon-fp16")
    times = [model.estimate(CONV, (c,), (c,)) for c in range(8, 65)]
    assert times == sorted(times) and times[-1] > 20 * times[0]
    assert model.predict(key(POOL, 57)) < model.predict(key(POOL, 64))
