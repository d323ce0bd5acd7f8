"""Progress: counted where the work is done, drawn where somebody looks, and nothing anywhere else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import onnxslim_yolo as oy
from onnxslim_yolo.cli import progress as module
from onnxslim_yolo.runtime.progress import counted, listening, tell
from onnxslim_yolo.verify.alive import judge
from onnxslim_yolo.verify.pair import compare_models
from onnxslim_yolo.verify.scenes import scene_feeds
from tests.test_bad_input import good, write


def test_counts_reach_who_listens_and_nobody_else() -> None:
    seen: list[tuple[str, int, int]] = []
    assert list(counted("things", "ab", 2)) == ["a", "b"]
    with listening(lambda *one: seen.append(one)):
        assert list(counted("things", "ab", 2)) == ["a", "b"]
    tell("things", 3, 3)
    assert seen == [("things", 0, 2), ("things", 1, 2), ("things", 2, 2)]


def test_a_compilation_counts_its_passes_and_its_runs(tmp_path: Path) -> None:
    write(good(), tmp_path / "m.onnx")
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *one: seen.append(one)):
        oy.compile(tmp_path / "m.onnx", out=tmp_path / "o", emit="onnx", prune=0.25)
    assert {"slice", "reparam", "inputs"} <= {what for what, _, _ in seen}
    assert all(0 <= done <= total for _, done, total in seen)
    assert [one for one in seen if one[0] in ("figures", "verdict", "pages")] == [
        ("figures", 0, 3),
        ("verdict", 1, 3),
        ("pages", 2, 3),
    ]


def test_a_comparison_tells_what_it_reads_and_when_it_runs(tmp_path: Path) -> None:
    path = write(good(), tmp_path / "m.onnx")
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *one: seen.append(one)):
        assert compare_models(path, path).passed
    assert [what for what, *_ in seen if what != "inputs"] == ["m.onnx"] * 2 + [
        "an input on which they fire",
        "their outputs",
    ]
    assert [done for what, done, _ in seen if what != "inputs"] == [0, 1, 2, 3]


def test_a_judgement_counts_what_it_runs() -> None:
    model, other = oy.Model.from_onnx(good()), oy.Model.from_onnx(good())
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *one: seen.append(one)):
        judge(model, other, scene_feeds(model, 3), "made-up")
    assert {("made-up photographs", 3, 3), ("images", 1, 3), ("images", 3, 3), ("parts of the output", 1, 1)} <= set(
        seen
    )


def drawn(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(module, "err", Console(file=stream, force_terminal=terminal, width=100))
    with module.stages(silent=False) as stage:
        stage("verify")
        tell("inputs", 1, 4)
        stage("WARNING: damage is certain")
    with module.bar("profiling", silent=False) as count:
        count(3, 4)
    return stream.getvalue()


def test_a_terminal_shows_what_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, terminal=True)
    assert "verify: inputs" in text and "25%" in text and "1/4" in text and "0:00:0" in text
    assert "profiling" in text and "75%" in text and "3/4" in text
    assert drawn(monkeypatch, terminal=False).strip() == "WARNING: damage is certain"
