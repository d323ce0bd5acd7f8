"""The analytic model of ARM against a sample of counted layers (`bench/arm_tables.py sample`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.latency.analytic import AnalyticModel
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.shipped import table_for
from tests.numeric import build

CALL = 2.0
"""µs that whole networks take per layer beyond the sum of their layers counted alone."""


def layers(device: str) -> tuple[list[LayerKey], list[float]]:
    rows = json.loads(Path(__file__).with_name(f"counted-{device}.json").read_text())
    keys = [
        LayerKey(Family(kind, op, tuple(kernel), tuple(stride), 1, tuple(size)), tuple(ins), tuple(outs))
        for kind, op, kernel, stride, size, ins, outs, _ in rows
    ]
    return keys, [row[-1] + CALL for row in rows]


def rank_correlation(one: list[float], other: list[float]) -> float:
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (one, other)))[0, 1])


@pytest.mark.parametrize(("device", "isa", "other"), [("pi5", "neon-fp16", "neon"), ("pi4", "neon", "avx512")])
def test_the_formula_follows_counted_layers(device: str, isa: str, other: str) -> None:
    keys, counted = layers(device)
    assert len(keys) > 80 and {key.family.kind for key in keys} >= {"conv", "concat", "unary", "binary"}
    predicted = [AnalyticModel("ncnn", isa).predict(key) for key in keys]
    assert rank_correlation(predicted, counted) > 0.97
    errors = np.abs(np.log(np.array(predicted) / counted))
    assert np.median(errors) < 0.2 and np.quantile(errors, 0.9) < 0.7
    wrong = [AnalyticModel("ncnn", other).predict(key) for key in keys]  # the control: other registers
    assert (
        np.quantile(np.abs(np.log(np.array(wrong) / counted) - np.median(np.log(np.array(wrong) / counted))), 0.9) > 0.7
    )


@pytest.mark.parametrize("device", ["pi5", "pi4"])
def test_the_shipped_table_has_the_layers_it_was_made_of(device: str) -> None:
    keys, counted = layers(device)
    predicted = np.array([table_for("ncnn", device).predict(key) for key in keys])
    assert np.quantile(np.abs(predicted / counted - 1), 0.8) < 0.25


DECODE = [("view", 231.9, 1562.5), ("transpose", 673.0, 2242.4), ("slice", 214.9, 1542.1)]
"""µs of what decodes YOLOv5n's boxes at 320 px, on a Pi 5 and a Pi 4: instructions counted blob by blob, weighted."""
MAPS = (408_000, 102_000, 25_500)
"""Elements that each of the three moves, level by level."""


@pytest.mark.parametrize(("place", "isa"), [(1, "neon-fp16"), (2, "neon")])
@pytest.mark.parametrize("row", DECODE, ids=lambda row: row[0])
def test_what_decodes_boxes_is_no_free_copy(row: tuple[str, float, float], place: int, isa: str) -> None:
    def predicted(op: str, runtime: str) -> float:
        model = AnalyticModel(runtime, isa)  # type: ignore[arg-type]
        keys = [LayerKey(Family("move", op), (elements,), (elements,)) for elements in MAPS]
        return sum(map(model.predict, keys)) - (len(MAPS) - 1) * model.constants.call

    counted = row[place]
    assert predicted(row[0], "ncnn") == pytest.approx(counted, rel=0.25)
    assert predicted("view", "onnxruntime") < 0.5 * counted  # the control: there a view moves nothing


def test_a_decoder_is_described_by_what_it_moves() -> None:
    model = build(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[1,16,8,8] x) => (float[1,64,16] y) '
        "<int64[3] shape = {1, 16, 64}> "
        "{ b = Reshape(x, shape) c = Transpose<perm=[0,2,1]>(b) y = Softmax<axis=-1>(c) }"
    )
    assert [key.family.op for key in layers_of(model.graph)] == ["view", "transpose", "softmax"]


@pytest.mark.parametrize(
    ("isa", "kernel", "width", "counted"),
    [
        ("neon-fp16", 5, 64, 33.9),
        ("neon-fp16", 5, 60, 412.8),
        ("neon-fp16", 5, 57, 1697.8),
        ("neon-fp16", 7, 57, 3154.3),
        ("neon", 5, 64, 308.2),
        ("neon", 5, 35, 166.5),
    ],
)
def test_a_depthwise_kernel_that_ncnn_has_not_is_dear(isa: str, kernel: int, width: int, counted: float) -> None:
    """Counted at 22×22, weighted. The control: as if the kernel were 3×3, whose taps all machines have one for."""
    model = AnalyticModel("ncnn", isa)

    def us(size: int) -> float:
        key = LayerKey(Family("depthwise", kernel=(size, size), size=(22, 22)), (width,), (width,))
        return model.predict(key) - model.constants.call

    assert us(kernel) == pytest.approx(counted, rel=0.45)
    if isa == "neon-fp16" and width == 57:
        assert us(3) * kernel**2 / 9 < 0.4 * counted
