from __future__ import annotations

import pytest

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.table_format import read_table
from onnxslim_yolo.measure.latency import predicted_latency, profile_command
from tests.latency.models import small


def test_profile_writes_a_table_that_predicts(tmp_path):
    model = small()
    path = model.save(tmp_path / "small.onnx")
    seen = []
    done = profile_command([path], out=tmp_path / "t.json", progress=lambda a, b: seen.append((a, b)))
    again = read_table(done.path)
    assert done.families == len(again.families) > 5
    assert done.layers == sum(len(grid.us) for grid in again.families.values())
    assert again.cpu
    assert again.runtime_version
    assert seen[-1][0] == seen[-1][1]
    said = predicted_latency(model.graph, "ncnn", table=done.path)
    assert said == {"latency_us": pytest.approx(again.predict_graph(model.graph), abs=0.1), "table": again.name}


def test_a_report_names_the_table():
    said = predicted_latency(small().graph, "onnxruntime", "neon")
    assert said["table"] == table_for("onnxruntime", "neon").name == "onnxruntime, neon: analytic estimate"
    assert said["latency_us"] > 0


def test_nothing_to_profile(tmp_path):
    with pytest.raises(UsageError, match="at least one model"):
        profile_command([])
    with pytest.raises(InputError):
        profile_command([tmp_path / "none.onnx"])
