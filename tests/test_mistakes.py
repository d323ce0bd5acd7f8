"""Mistakes that are easily made on the command line: one line that says what is wrong, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.cli.main import app
from onnxslim_yolo.errors import InputError, OnnxSlimError, UsageError
from onnxslim_yolo.options import CompileOptions, options_from
from onnxslim_yolo.report.budget import Budget, Limit, budget_as_json, read_budget
from tests.test_bad_input import good, write
from tests.test_budget import report


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(good(), tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str) -> str:
    """What the command answers instead of writing anything."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(OnnxSlimError) as caught:
        app(list(words), standalone_mode=False)
    assert caught.value.exit_status == 2 and sorted(Path().rglob("*")) == before
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compile m.onnx -o . --emit onnx", "would be written over"),
        ("compile m.onnx -o there/.. --name m", "would be written over"),
        ("trace m.onnx -o m.onnx", "would be written over"),
        ("trace m.onnx", "would be written over"),
        ("compile m.onnx --quantize int4", "knows int8, not 'int4'"),
        ("compile m.onnx --quantize fp16", "knows int8, not 'fp16'"),
        ("compile m.onnx --imgsz 0", "size 0x0 has a side"),
        ("compile m.onnx --input 0..2", "does not take '0..2'"),
        ("compile m.onnx --budget empty.toml", "sets no limit"),
        ("compile m.onnx --summary .", "cannot write the summary"),
    ],
)
def test_mistakes_are_said_before_any_work(place: Path, words: str, message: str) -> None:
    (place / "empty.toml").write_text("# params = 3\n")
    model = (place / "m.onnx").read_bytes()
    assert message in said(*words.split())
    assert (place / "m.onnx").read_bytes() == model


def test_another_name_beside_the_source_is_fine(place: Path) -> None:
    assert CompileOptions(out=Path()).folder_for(Path("other/m.onnx")) == Path()
    assert CompileOptions(out=Path(), name="slim").folder_for(Path("m.onnx")) == Path()
    with pytest.raises(InputError):
        CompileOptions(out=Path(), name="x", reference=Path("x.onnx")).folder_for(Path("m.onnx"))


def test_layers_called_like_no_type_are_patterns() -> None:
    assert options_from({"quantize": "model.int8*", "calib": "."}).int8 == ("model.int8*",)
    with pytest.raises(UsageError):
        options_from({"quantize": "int16,model.*", "calib": "."})


def test_a_budget_says_the_same_everywhere_and_nothing_rounded_up() -> None:
    (one,) = budget_as_json(Budget(params=Limit(59.9)), report())["broken"]
    assert one["message"] == "params: 60, allowed 59" and one["text"] == "parameters 60, allowed 59"


def test_a_budget_with_limits_is_read(tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("params = 3\n")
    assert read_budget(tmp_path / "budget.toml") == Budget(params=Limit(3.0))


def test_blocks_alone_that_all_stay_are_said(place: Path) -> None:
    result = oy.compile("m.onnx", prune=0.25, depth="only", emit="onnx", out="out", verify=False)
    assert any("no block goes" in note for note in result.report["notes"])
    assert result.report["pruning"]["removed"] == 0
