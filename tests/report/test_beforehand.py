"""What an option names is looked at before the model is read: here there is no model, and that is not what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from onnxslim_yolo.cli.main import app
from onnxslim_yolo.compiler import build
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.options import options_from

MISSING = Path("missing.onnx")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"calib": "nowhere"}, "nowhere: no such folder or list of images"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"budget": "nowhere.toml"}, "nowhere.toml: cannot be read"),
        ({"table": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"reference": "nowhere.onnx"}, "nowhere.onnx: no such file"),
        ({"run_on": "false"}, "--run-on: 'false' ended with exit status 1"),
        ({"passes": "nope"}, "unknown pass 'nope'"),
        ({"out": "file"}, "file: is a file, expected a folder to write to"),
        ({"out": "gone"}, "gone: is a link that leads nowhere, expected a folder to write to"),
        ({"out": "file/below"}, "file/below: cannot write here: file is no folder"),
    ],
)
def test_what_an_option_names_is_asked_for_before_the_model(options, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("gone").symlink_to("nowhere")
    paths = {name: Path(v) if name not in ("run_on", "passes") else v for name, v in options.items()}
    with pytest.raises(OnnxSlimError) as caught:
        build(MISSING, options_from(paths), lambda stage: None)
    assert str(caught.value).startswith(said) and caught.value.exit_status == 2


def test_the_model_is_asked_for_where_all_else_is_there(tmp_path, monkeypatch) -> None:
    """The control of the one above."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnnxSlimError, match=r"no such file"):
        build(MISSING, options_from({"out": Path("deep/out")}), lambda stage: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "sweep m.onnx --calib nowhere",
        "sweep m.onnx -o file/below",
        "advise m.onnx --calib m.png --target-latency 0.9x -o file/below",
        "profile missing.onnx -o file/below.json",
        "trace missing.pt -o file/below.onnx",
        "inspect missing.onnx --html file/below.html",
        "apply-plan missing.json missing.pt -o file/below.pt",
        "distil missing.onnx --teacher missing.onnx --images missing -o file/below",
        "compile m.onnx --cache file/below",
    ],
)
def test_commands_ask_for_their_place_before_any_work(line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("file", "m.onnx", "m.png"):
        Path(name).touch()
    done = CliRunner().invoke(app, line.split())
    wanted = "no such folder" if "nowhere" in line else "cannot write here: file is no folder"
    assert isinstance(done.exception, OnnxSlimError) and wanted in str(done.exception), done.exception
    option = "--html" if "--html" in line else "--cache" if "--cache" in line else "-o"
    assert "nowhere" in line or str(done.exception).endswith(f"choose another folder with {option}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "m.onnx", "m.png"]
