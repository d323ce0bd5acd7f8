"""A result that is predicted to be slower says so, without anything being timed."""

from __future__ import annotations

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.measure.predicted import PREDICTION_ERROR, predicted_verdict


def facts(us: float) -> dict[str, object]:
    return {"latency_us": us, "table": "a table"}


@pytest.mark.parametrize(("before", "after"), [(100.0, 100.0), (100.0, 60.0), (100.0, 109.9), (0.0, 50.0)])
def test_nothing_is_said_within_the_error_of_predictions(before, after):
    assert predicted_verdict(facts(before), facts(after), "ncnn") is None


def test_beyond_it_the_ratio_and_its_source_are_named():
    text = predicted_verdict(facts(100.0), facts(100.0 * (1 + PREDICTION_ERROR) + 0.1), "ncnn")
    assert text is not None and "predicted" in text and "SLOWER" in text
    assert "1.10 of its latency" in text and "a table" in text


@pytest.mark.parametrize(("snap", "slower"), [("none", True), (16, False)])
def test_the_report_says_it_where_odd_widths_cost_more_than_channels_save(tmp_path, snap, slower):
    zoo = pytest.importorskip("tests.zoo")
    options = {"target": "ncnn", "isa": "avx512", "emit": "onnx", "verify": False, "out": tmp_path / "out"}
    result = oy.compile(zoo.model_path("yolov8n", size=160, width=1.0), prune=0.1, snap=snap, **options)
    notes = [note for note in result.report["notes"] if "predicted to be SLOWER" in note]
    assert bool(notes) is slower
    ratio = result.report["after"]["latency_us"] / result.report["before"]["latency_us"]
    assert (ratio > 1 + PREDICTION_ERROR) is slower
