"""The analytic model of ARM against a sample of counted layers (`bench/arm_tables.py sample`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.latency.analytic import AnalyticModel
from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.shipped import table_for

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
