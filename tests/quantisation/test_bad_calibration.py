"""Images that say nothing of what int8 is for: refused or told, by one message, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.passes.quantise import Quantise, calibration
from tests.quantisation.test_quantise import built

DETECTOR = Path(__file__).parents[2] / "models" / "digits-dense.onnx"


def folder(where: Path, pictures: list[np.ndarray]) -> Path:
    where.mkdir(exist_ok=True)
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(where / f"{index}.png")
    return where


def noise(count: int, largest: int = 256, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, largest, (64, 64, 3)).astype(np.uint8) for _ in range(count)]


def test_one_image_many_times_is_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are 1 image, not counting 11 that are the same as others"):
        Quantise(("all",), folder(tmp_path, noise(1) * 12)).run(built("relu"))
    model = built("relu")
    kept = calibration(folder(tmp_path / "mixed", noise(9) + noise(3)), model)
    assert len(kept) == 8 and any("3 of 12 calibration images are the same as others" in note for note in model.notes)


def test_images_in_which_nothing_is_detected(tmp_path: Path) -> None:
    """Noise and dark frames: with a budget it is refused, for nothing would tell what is lost; else it is said."""
    options = {"prune": 0, "emit": "onnx", "out": tmp_path / "out"}
    with pytest.raises(InputError, match="detects nothing in the 11 calibration images"):
        oy.compile(DETECTOR, quantize="int8", calib=folder(tmp_path / "noise", noise(12)), **options)
    assert not (tmp_path / "out").exists()
    result = oy.compile(DETECTOR, quantize="all", calib=folder(tmp_path / "dark", noise(12, 8)), **options)
    assert any("ranges may be wrong for other images" in note for note in result.report["notes"])


def test_a_tensor_that_hardly_varies_far_from_zero(tmp_path: Path) -> None:
    """Its values are too near to one another for bins between them."""
    body = ("float[8,3,1,1] w, float[8] b, float[6,8,1,1] v", "c = Conv(x, w, b) r = Relu(c) y = Conv(r, v)")
    weight, bias = np.full((8, 3, 1, 1), 1e-5, np.float32), np.full(8, 50, np.float32)
    model = built("far", bodies={"far": body}, w=weight, b=bias)
    Quantise(("all",), folder(tmp_path, noise(9))).run(model)
    assert model.quantised is not None and model.quantised.ranges["r"].high == pytest.approx(50, rel=0.1)
