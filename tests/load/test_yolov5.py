"""Checkpoints written by real YOLOv5 (v5.0, v7.0) and YOLOv5-Lite checkouts open without them and compute the same.

Opt-in (`-m peer`): ONNXSLIM_YOLOV5_PYTHON names an interpreter that can import them, ONNXSLIM_YOLOV5_CHECKOUTS a folder
with the checkouts `v5.0`, `v7.0` and `YOLOv5-Lite`. Nothing of them is imported here.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from onnxslim_yolo.load.checkpoint import read_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peer

SOURCES = {
    "v7.0": (
        *("yolov5n.yaml", "hub/yolov5n6.yaml", "segment/yolov5n-seg.yaml"),
        *("hub/yolov3-tiny.yaml", "hub/yolov3-spp.yaml", "hub/yolov5-p2.yaml", "hub/yolov5-panet.yaml"),
        "hub/yolov5s-LeakyReLU.yaml",  # last: it changes the activation of every model made after it
    ),
    "v5.0": ("yolov5s.yaml", "hub/yolov5s6.yaml", "hub/yolov3-tiny.yaml"),
    "YOLOv5-Lite": ("v5Lite-e.yaml", "v5Lite-s.yaml", "v5Lite-c.yaml", "v5Lite-g.yaml"),
}
CASES = [(checkout, source) for checkout, sources in SOURCES.items() for source in sources]
WITH_YAML = [case for case in CASES if case[0] == "v7.0"]


@pytest.fixture(scope="module")
def checkouts() -> Path:
    folder = os.environ.get("ONNXSLIM_YOLOV5_CHECKOUTS")
    if not folder:
        pytest.skip("ONNXSLIM_YOLOV5_CHECKOUTS is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def folder(checkouts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("yolov5")
    python = os.environ["ONNXSLIM_YOLOV5_PYTHON"]
    script = Path(__file__).with_name("write_yolov5.py")
    environment = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(path), "YOLOv5_AUTOINSTALL": "false"}
    for checkout, sources in SOURCES.items():
        path.joinpath(checkout).mkdir()
        files = [f"models/{source}" for source in sources]
        command = [python, str(script), str(checkouts / checkout), str(path / checkout), *files]
        subprocess.run(command, check=True, env=environment, cwd=path)
    return path


def compare(module, reference: Path) -> None:
    """What inference uses, within 1e-6 of its spread: the decoded boxes and a segmenter's prototypes."""
    expected = torch.load(reference)
    with torch.no_grad():
        outputs = module(expected["x"])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for ours, theirs in zip(outputs, expected["outputs"], strict=False):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) <= 1e-6 * float(theirs.max() - theirs.min())


@pytest.mark.parametrize(("checkout", "source"), CASES)
def test_opens_and_agrees(checkout, source, folder):
    path = folder / checkout / Path(source).with_suffix(".pt").name
    checkpoint = read_checkpoint(path)
    assert checkpoint.names == {index: f"kind{index}" for index in range(5)}
    assert checkpoint.imgsz == (256, 256)
    compare(checkpoint.module, path.with_suffix(".reference.pt"))


@pytest.mark.parametrize(("checkout", "source"), WITH_YAML)
def test_its_state_dict_and_yaml_agree_as_well(checkout, source, folder, checkouts, tmp_path):
    path = folder / checkout / Path(source).with_suffix(".pt").name
    torch.save(read_checkpoint(path).state_dict, tmp_path / "weights.pt")
    again = read_checkpoint(tmp_path / "weights.pt", model_yaml=checkouts / checkout / "models" / source)
    compare(again.module, path.with_suffix(".reference.pt"))


@pytest.mark.parametrize("source", ["yolov5n.yaml"])
def test_the_comparison_sees_one_percent(source, folder):
    path = folder / "v7.0" / Path(source).with_suffix(".pt").name
    module = read_checkpoint(path).module
    module.model[1].conv.weight.data[0] *= 1.01
    with pytest.raises(AssertionError):
        compare(module, path.with_suffix(".reference.pt"))
