"""What `compile` writes opens in a real client: Ultralytics predicts the same boxes from it as from the source.

Opt-in (`-m peer`): ONNXSLIM_ULTRALYTICS_PYTHON names the interpreter of an environment with `ultralytics`, `ncnn` and
`onnxruntime` (tried with 8.4.190). The checkpoints are written by Ultralytics, with random but calibrated weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxslim_yolo as oy

pytest.importorskip("torch")
pytestmark = [pytest.mark.peer, pytest.mark.material]

MATERIAL = Path(__file__).resolve().parents[3] / "shared/material/data/coco-val128/images"
SIZE = 224
"""The image is cropped to the network's size: the client feeds checkpoints whole rectangles, ONNX files squares."""
CONF = 0.5


def python() -> str:
    found = os.environ.get("ONNXSLIM_ULTRALYTICS_PYTHON")
    if not found:
        pytest.skip("ONNXSLIM_ULTRALYTICS_PYTHON is not set")
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "0"}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    if not MATERIAL.is_dir():
        pytest.skip("../shared/material is absent")
    with Image.open(sorted(MATERIAL.glob("*.jpg"))[0]) as picture:
        path = tmp_path_factory.mktemp("image") / "crop.png"
        picture.convert("RGB").crop((100, 100, 100 + SIZE, 100 + SIZE)).save(path)
    return path


@pytest.fixture(scope="module", params=["yolov8n", "yolov5nu"])
def files(request, tmp_path_factory) -> dict[str, Path]:
    """The source, and what compile makes of it with nothing but dead channels removed."""
    folder = tmp_path_factory.mktemp("client")
    writer = Path(__file__).resolve().parents[1] / "load/write_ultralytics.py"
    line = [python(), str(writer), str(folder), request.param]
    subprocess.run(line, check=True, env=environment(folder), cwd=folder, capture_output=True)
    source = folder / f"{request.param}.pt"
    result = oy.compile(source, out=folder / "slim", name="slim", ncnn_weights="fp32")
    spoilt = onnx.load(result.onnx)
    weight = next(w for w in spoilt.graph.initializer if len(w.dims) == 4 and w.dims[1] > 3)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(spoilt, folder / "spoilt.onnx")
    return {"source": source, "onnx": result.onnx, "ncnn": result.ncnn, "spoilt": folder / "spoilt.onnx"}


@pytest.fixture(scope="module")
def found(files, image, tmp_path_factory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("run")
    script = shutil.copy(Path(__file__).with_name("ultralytics_client.py"), folder)
    line = [python(), str(script), str(image), str(CONF), *map(str, files.values())]
    done = subprocess.run(line, env=environment(folder), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    return {kind: printed[str(path)] for kind, path in files.items()}


def unmatched(ours: list, theirs: list, pixels: float = 0.05, score: float = 5e-4) -> float:
    """The share of `ours` without a box of the same class, place and score among `theirs`."""
    a, b = np.array(ours), np.array(theirs)
    near = (np.abs(a[:, None, :4] - b[None, :, :4]).max(axis=2) <= pixels) & (
        np.abs(a[:, None, 4] - b[None, :, 4]) <= score
    )
    same = near & (a[:, None, 5] == b[None, :, 5])
    return float((~same.any(axis=1)).mean())


def disagreement(found, kind: str) -> float:
    ours, theirs = found[kind]["boxes"], found["source"]["boxes"]
    assert len(theirs) >= 20, "too few boxes to compare anything"
    return max(unmatched(ours, theirs), unmatched(theirs, ours)) if ours else 1.0


@pytest.mark.parametrize("kind", ["onnx", "ncnn"])
def test_the_client_finds_the_sources_boxes(found, kind):
    # Of boxes that overlap by almost exactly the threshold, rounding decides which stays: 2 % may differ.
    assert disagreement(found, kind) <= 0.02


@pytest.mark.parametrize("kind", ["onnx", "ncnn"])
def test_the_client_reads_names_and_task(found, kind):
    assert found[kind]["names"] == found["source"]["names"]
    assert found[kind]["task"] == found["source"]["task"] == "detect"


def test_one_percent_on_one_filter_shows(found):
    assert disagreement(found, "spoilt") > 0.02
