"""The folder: complete or not at all, with the metadata that Ultralytics' loader reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import InputError
from tests.emit.ncnn_cases import CONV
from tests.numeric import build

METADATA = {
    "stride": "32",
    "task": "detect",
    "names": "{0: 'a b', 1: 'ü: \"x\"'}",
    "imgsz": "[1, 2]",
    "date": "2024-01-01",
}


def test_folder_and_metadata(tmp_path: Path) -> None:
    folder = write_ncnn(emit_ncnn(build(CONV["conv"])), tmp_path / "deep" / "m_ncnn_model", METADATA)
    assert sorted(file.name for file in folder.iterdir()) == ["metadata.yaml", "model.ncnn.bin", "model.ncnn.param"]
    data = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
    assert (data["stride"], data["batch"], data["imgsz"], data["task"]) == (32, 1, [9, 10], "detect")
    assert data["names"] == {0: "a b", 1: 'ü: "x"'} and data["date"] == "2024-01-01"
    assert data["onnxslim_yolo"]["inputs"] == {"in0": {"onnx": "x", "shape": [1, 6, 9, 10]}}
    assert data["onnxslim_yolo"]["outputs"] == {"out0": {"onnx": "y", "shape": [1, 8, 9, 10]}}
    assert [file.name for file in folder.parent.iterdir()] == ["m_ncnn_model"], "temporary files were left behind"


def test_overwriting_keeps_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "m_ncnn_model"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "model.ncnn.param").write_text("old")
    write_ncnn(emit_ncnn(build(CONV["conv"])), folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "model.ncnn.param").read_text().startswith("7767517")
    assert len(list(folder.iterdir())) == 4


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m_ncnn_model"
    converted = emit_ncnn(build(CONV["conv"]))
    write_ncnn(converted, folder, METADATA)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    real = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "metadata.yaml" and Path(target).parent == folder and self.parent.name != "before":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(InputError, match="No space left"):
        write_ncnn(emit_ncnn(build(CONV["conv-no-bias"])), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["m_ncnn_model"]


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_ncnn(emit_ncnn(build(CONV["conv"])), tmp_path / "file" / "m_ncnn_model")
