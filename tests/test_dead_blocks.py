"""A third of the residual branches and parts of Concats killed: all of them gone, exactly, in ONNX and in ncnn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import onnx

import onnxslim_yolo as oy
from tests.dead_blocks import blocks_left, with_dead_blocks


@pytest.mark.parametrize(  # bench/dead_blocks.py takes every architecture, each both ways
    ("name", "beta"), [("yolov5n", False), ("yolo11n", True), ("v5lite-e", False), ("yolov4-tiny", True)]
)
def test_dead_blocks_are_gone(name: str, beta: bool, tmp_path: Path) -> None:
    proto, killed = with_dead_blocks(name, beta=beta)
    assert killed
    source = tmp_path / f"{name}.onnx"
    onnx.save(proto, source)
    result = oy.compile(source, out=tmp_path / "out")  # each file is run and compared with the source
    plan = json.loads((tmp_path / "out" / f"{name}.plan.json").read_text())
    assert not blocks_left(killed, plan["removed"])
    assert set(plan["removed"]) == set(result.report["pruning"]["gone"])
    assert not any(key.startswith(f"{layer}.") for key in plan["keep"] for layer in plan["removed"])
    checks = result.report["verification"]["checks"]
    assert {"ncnn", "onnxruntime"} <= {check["runtime"].split(",")[0] for check in checks}
    assert all(check["passed"] for check in checks)
