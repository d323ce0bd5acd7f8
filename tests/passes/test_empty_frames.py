"""Calibration images in which the detector sees nothing are ordinary: no step may stumble over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.heads.decode import Candidates, candidates
from onnxslim_yolo.heads.metric import HeadMetric
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load import load
from onnxslim_yolo.measure.estimate import estimate_loss
from onnxslim_yolo.passes import PruneChannels
from onnxslim_yolo.pruning.calibration import collect
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.fold_removed import regression
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build
from tests.passes.cutting import onnx_text, run

DIGITS = Path(__file__).parents[2] / "models" / "digits-sparse.onnx"
SEES_NOTHING = "the detector sees nothing in any calibration image"


def scene(seed: int) -> Array:
    """A digit as the bundled model knows them: a bright stroke on a dark patch. It sees a 0 (confidence 0.46)."""
    picture = Image.new("RGB", (192, 192), (60, 70, 80))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((30, 20 + seed, 85, 105 + seed), fill=(15, 18, 20))
    draw.ellipse((42, 28 + seed, 72, 97 + seed), outline=(240, 240, 235), width=9)
    return np.asarray(picture)


def write(folder: Path, frames: dict[str, Array]) -> Path:
    folder.mkdir()
    for name, pixels in frames.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def frames(scenes: int) -> dict[str, Array]:
    black = np.zeros((32, 48, 3), np.uint8)
    return {f"a{i}": scene(i) for i in range(scenes)} | {"black": black, "flat": np.full_like(black, 114)}


@pytest.mark.parametrize("scenes", [0, 2])
def test_ranking_with_black_frames(scenes: int, tmp_path: Path) -> None:
    calib = write(tmp_path / "calib", frames(scenes))
    model = run(load(DIGITS), PruneChannels(ratio=0.3, importance="output", calib=calib))
    assert model.plan is not None and model.plan.removed
    assert any(note.startswith(SEES_NOTHING) for note in model.notes) == (scenes == 0)


def test_compile_with_black_frames_alone(tmp_path: Path) -> None:
    calib = write(tmp_path / "calib", frames(0))
    result = oy.compile(
        DIGITS, out=tmp_path / "out", emit="onnx", prune=0.3, calib=calib, importance="output", compensate="reconstruct"
    )
    assert "the source detects nothing" in " ".join(result.report["notes"])


HEADS = {
    HeadSpec("v5", 3): (1, 20, 8),
    HeadSpec("v8", 3): (1, 7, 20),
    HeadSpec("fastestdet", 3, strides=(16,)): (1, 8, 4, 5),
    HeadSpec("v5-raw", 3, strides=(8,), anchors=(((9.0, 9.0),),)): (1, 8, 4, 5),
    HeadSpec("v8-raw", 3, strides=(8,), reg_max=4): (1, 19, 4, 5),
    HeadSpec("v8-raw", 3, strides=(8,), reg_max=1): (1, 7, 4, 5),
}


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}-{head.reg_max}")
def test_the_metric_of_an_image_without_objects(head: HeadSpec) -> None:
    logits = head.kind.endswith("-raw")
    outputs = [np.full(HEADS[head], -20.0 if logits else 0.0, np.float32)]
    metric = HeadMetric(outputs, head)
    assert metric.error(outputs) == 0
    assert [not c.any() and c.shape == outputs[0].shape for c in metric.cotangents(np.random.default_rng(0))] == [True]
    seen = HeadMetric([np.full(HEADS[head], 2.0 if logits else 0.5, np.float32)], head)  # the control
    assert seen.error(outputs) > 0 and seen.cotangents(np.random.default_rng(0))[0].any()


def test_images_that_show_something_are_preferred() -> None:
    head = HeadSpec("v8", 1)
    empty, full = np.zeros((1, 5, 20), np.float32), np.full((1, 5, 20), 0.5, np.float32)
    outputs = [[empty], [full], [empty], [full]]
    error = HeadError([o[0] for o in outputs], head, outputs, [])
    error.cells = [_cells(error, o) for o in outputs]
    assert error.seen == [1, 3]
    assert error.subset(2).inputs[0] is full and error.subset(2).inputs[1] is full
    blind = HeadError([empty], head, [[empty]], [_cells(error, [empty])])
    assert blind.seen == [] and len(blind.subset(1).inputs) == 1 and blind.undecoded().seen == [0]
    assert error.error_of([[np.full_like(o[0], np.nan)] for o in outputs]) > 1  # no number is no detection


def _cells(error: HeadError, outputs: list[Array]) -> Candidates:
    assert error.head is not None
    return candidates(outputs, error.head, 0, -1.0, False)


def test_constant_columns_are_known_to_be_constant() -> None:
    """Of flat images nothing but rounding varies: nothing may be predicted from that."""
    rng = np.random.default_rng(0)
    weights = "float[8,3,1,1] a.weight, float[4,8,1,1] p.weight"
    body = "a = Conv(x, a.weight) b = Relu(a) y = Conv(b, p.weight)"
    text = onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", weights, body)
    model = build(text, values={"a.weight": 1 + rng.random((8, 3))})
    places = [place for place in contractions(open_plan(model).channels) if place.taps is not None]
    flat = [np.full((1, 3, 16, 16), 0.7, np.float32)] * 3
    (found,) = collect(model, places, flat, window=False)
    assert (found.mean > 1).all() and not found.covariance.any()
    half = np.arange(8) < 4
    assert not regression(found.covariance, half, ~half, 1e-2).any()
    far = [(1000 + rng.random((1, 3, 16, 16))).astype(np.float32) for _ in range(3)]  # the control
    (spread,) = collect(model, places, far, window=False)
    expected = (np.asarray(model.graph.nodes[0].inputs[1].values)[:, :, 0, 0] ** 2).sum(axis=1) / 12
    assert np.diagonal(spread.covariance) == pytest.approx(expected, rel=0.15)


def test_an_estimate_without_objects_says_so(tmp_path: Path) -> None:
    model = load(DIGITS)
    images = CalibrationImages(write(tmp_path / "black", {"b": np.zeros((64, 64, 3), np.uint8)}), model)
    found = estimate_loss(model, run(model), images, held_out=False)
    assert found is not None and found.decoded and found.objects == 0 and "detects nothing" in found.sentence()
