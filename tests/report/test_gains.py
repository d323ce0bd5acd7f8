"""What a compilation gained, measured: with the threads that were asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import UsageError
from tests.numeric import build

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y)
<float[8, 3, 3, 3] w, float[8] b, float[4, 8, 1, 1] v>
{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  r = Relu(c)
  y = Conv(r, v) }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    build(GRAPH).save(path)
    return path


@pytest.mark.parametrize("asked", [{"measure": True}, {"require_speedup": 0.5}])
def test_a_result_is_timed_with_the_threads_asked_for(
    asked: dict[str, Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def benchmark(files: list[Path], *, threads: int, **_: Any) -> SimpleNamespace:
        timed.append(threads)
        one = SimpleNamespace(runtime="ncnn", ms=1.0, ratio=1.0, ratio_quartiles=(1.0, 1.0))
        return SimpleNamespace(models=[one] * 2, control=1.0, resolution=0.02)

    monkeypatch.setattr("onnxslim_yolo.measure.gain.benchmark", benchmark)
    monkeypatch.setattr("onnxslim_yolo.measure.machine.cores_here", lambda: 2)
    for threads in (1, 2):
        found = oy.compile(source, out=tmp_path / "out", threads=threads, verify=False, **asked)
        assert found.report["speed"]["threads"] == threads
    assert timed == [1, 2]


@pytest.mark.parametrize("asked", [{"measure": True}, {"require_speedup": 1.2}])
def test_threads_that_cannot_be_timed_are_refused_before_any_work(
    asked: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"300 threads on .* would measure the scheduler"):
        oy.compile(source, out=tmp_path / "out", threads=300, **asked)
    assert not (tmp_path / "out").exists()
    oy.compile(source, out=tmp_path / "out", threads=300, verify=False)  # only a table is chosen by them
