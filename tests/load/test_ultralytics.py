"""Checkpoints written by a real Ultralytics open without it and compute the same.

Opt-in (`-m peer`): ONNXSLIM_ULTRALYTICS_PYTHON names the interpreter of an environment with `ultralytics` (tried with
8.4.190). It is not imported here: this process must not be able to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.checkpoint import read_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

NAMES = [
    *("yolov3-tiny", "yolov5nu", "yolov5n-p6", "yolov6n", "yolov8n", "yolov8s", "yolov8n-p2", "yolov8n-p6"),
    *("yolov8n-ghost", "yolov8n-ghost-p6", "yolov9t", "yolov9e", "yolov10n", "yolov10m", "yolo11n", "yolo11m"),
    *("yolo12n", "yolo12l", "yolo26n", "yolo26m", "yolo26n-p2", "yolo26n-p6"),
    *("yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov9c-seg"),
    *("yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls", "yolo12n-seg"),
    *("yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls"),
]
REFUSED = {"yolo26n-sem": "SemanticSegment", "yolo26n-depth": "Depth"}
"""Tasks without boxes: their heads are not known here."""

WITHOUT_YAML_ROWS = ("yolov9e", "yolov6n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb")
"""Checkpoints that open, but of whose yaml some modules cannot be built beside a bare state_dict."""

BY_YAML = [name for name in NAMES if not any(part in name for part in WITHOUT_YAML_ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    python = os.environ.get("ONNXSLIM_ULTRALYTICS_PYTHON")
    if not python:
        pytest.skip("ONNXSLIM_ULTRALYTICS_PYTHON is not set")
    path = tmp_path_factory.mktemp("ultralytics")
    script = Path(__file__).with_name("write_ultralytics.py")
    environment = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(path)}
    subprocess.run([python, str(script), str(path), *NAMES, *REFUSED], check=True, env=environment, cwd=path)
    return path


def flatten(value):
    return [value] if isinstance(value, torch.Tensor) else [t for item in value for t in flatten(item)]


def compare(module, folder: Path, name: str, tolerance: float = 1e-5) -> None:
    """Every output within `tolerance` of its spread; of the best 300 the order among equals does not matter."""
    reference = torch.load(folder / f"{name}.reference.pt")
    expected, towers = reference["outputs"], reference["towers"]
    with torch.no_grad():
        outputs = flatten(module(reference["x"]))
    assert [tuple(t.shape) for t in outputs] == [tuple(t.shape) for t in expected]
    if towers:
        same_detections(outputs[0][0], expected[0][0])
        outputs, expected = [*raw_levels(module, reference["x"])[: len(towers)], *outputs[1:]], [*towers, *expected[1:]]
    for ours, theirs in zip(outputs, expected, strict=True):
        spread = float(theirs.max() - theirs.min())
        assert float((ours - theirs).abs().max()) <= tolerance * spread


def same_detections(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Rows (x1, y1, x2, y2, score, …) clearly above the last place are the same, in whatever order."""
    margin = 1e-4
    clear = ours[ours[:, 4] > ours[:, 4].min() + margin]
    assert len(clear) > 50
    distance = torch.cdist(clear.double(), theirs.double(), p=float("inf")).amin(1)
    assert float(distance.max()) <= 1e-5 * float(theirs.max() - theirs.min())


def raw_levels(module, x) -> list[torch.Tensor]:
    head = module.model[-1]
    head.output = "raw"
    with torch.no_grad():
        levels = flatten(module(x))
    head.output = "decoded"
    return levels


@pytest.mark.parametrize("name", NAMES)
def test_opens_and_agrees(name, folder):
    checkpoint = read_checkpoint(folder / f"{name}.pt")
    assert "ultralytics" not in sys.modules
    assert checkpoint.imgsz == ((256, 256) if name.endswith("-p6") else (224, 224))
    assert checkpoint.licence.startswith("AGPL-3.0")
    compare(checkpoint.module, folder, name)


@pytest.mark.parametrize("name", BY_YAML)
def test_its_state_dict_and_yaml_agree_as_well(name, folder, tmp_path):
    checkpoint = read_checkpoint(folder / f"{name}.pt")
    torch.save(checkpoint.state_dict, tmp_path / "weights.pt")
    again = read_checkpoint(tmp_path / "weights.pt", model_yaml=folder / f"{name}.yaml")
    assert list(again.state_dict) == list(checkpoint.state_dict)
    assert (again.task, again.stride) == (checkpoint.task, checkpoint.stride)
    compare(again.module, folder, name)


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_heads_are_named_with_the_way_out(name, folder):
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        read_checkpoint(folder / f"{name}.pt")
    assert "register_block" in str(caught.value)
    assert "keep_initializers_as_inputs=True" in str(caught.value)


def test_the_comparison_sees_one_percent(folder):
    module = read_checkpoint(folder / "yolov8n.pt").module
    module.model[1].conv.weight.data[0] *= 1.01
    with pytest.raises(AssertionError):
        compare(module, folder, "yolov8n")
