"""conv-before-split: parts of a Split computed by convolutions of their own give the same, whatever stands between."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import ConvBeforeSplit
from tests.numeric import build, check_declines, check_rewrite, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHTS = """float[9,6,3,3] w, float[9] b, float[9,2,1,1] g, float k, float[1,9,1,1] c, float[1,1,1,1,1] d,
    int64[2] two, int64[3] three, int64[2] rows"""
VALUES = {
    "two": np.array([4, 5]), "three": np.array([2, 3, 4]), "rows": np.array([2, 3]), "k": np.array(6.0),
    "c": np.arange(9.0).reshape(1, 9, 1, 1), "d": np.full((1, 1, 1, 1, 1), 2.0),
}  # fmt: skip
CONV = "y = Conv<pads=[1,1,1,1]>(x, w, b)"
SILU = f"{CONV} s = Sigmoid(y) m = Mul(s, y)"
PARTS = "p, q = Split<axis=1>(m, two)"


def model_of(body: str, outputs: str = "p q") -> Model:
    shapes = ", ".join(f"float[2,c_{name},h_{name},w_{name}] {name}" for name in outputs.split())
    text = f"{HEADER} g (float[2,6,5,7] x) => ({shapes}) <{WEIGHTS}> {{ {body} }}"
    return build(text, values=VALUES)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (f"{CONV} p, q = Split<axis=1>(y, two)", ["Conv"] * 2),
        ("y = Conv(x, w) p, q = Split<axis=-3>(y, two)", ["Conv"] * 2),
        (f"{SILU} {PARTS}", ["Conv", "Conv", "Mul", "Mul", "Sigmoid", "Sigmoid"]),
        (f"{CONV} r = Add(y, k) m = Clip(r, , k) {PARTS}", ["Add", "Add", "Clip", "Clip", "Conv", "Conv"]),
    ],
)
def test_parts_are_computed_by_themselves(body: str, left: list[str]) -> None:
    before = model_of(body)
    after = check_rewrite(before, ConvBeforeSplit())
    assert sorted(ops(after)) == left
    assert cost_of(after.graph).macs == cost_of(before.graph).macs


def test_three_parts_one_of_which_nobody_reads() -> None:
    after = check_rewrite(
        model_of(f"{SILU} p, n, q = Split<axis=1>(m, three) r = Concat<axis=1>(q, p)", "r"), ConvBeforeSplit()
    )
    assert sorted(ops(after)) == ["Concat", "Conv", "Conv", "Mul", "Mul", "Sigmoid", "Sigmoid"]


def test_what_is_read_whole_stays_whole() -> None:
    check_declines(model_of(f"{SILU} {PARTS} z = Relu(m)", "p q z"), ConvBeforeSplit())


def test_compile_parts_for_onnxruntime_whatever_else_is_asked_for_but_codes() -> None:
    from onnxslim_yolo.options import CompileOptions
    from onnxslim_yolo.pipeline import _folding

    part = ConvBeforeSplit(runtime="onnxruntime", isa="x86-avx2")
    for more in ({}, {"target_macs": 0.5}):
        assert part in _folding(CompileOptions(target="onnxruntime", device="x86-avx2", **more))
    int8 = CompileOptions(target="onnxruntime", device="x86-avx2", quantize="int8", calib="images")
    assert part not in _folding(int8)
