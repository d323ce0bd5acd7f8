"""Inputs on which scores fire, and what a graph shows of its scores."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.verify.feeds import firing_feed, photographs, score_maps, shared_feeds
from onnxslim_yolo.verify.shown_logits import shown_logits
from tests.zoo import model_path

MODELS = Path(__file__).parents[2] / "models"


def model_of(path) -> Model:
    model = Model.from_onnx(onnx.load(path))
    Canonicalise().run(model)
    return model


def text(body: str, shape: str) -> Model:
    return Model.from_onnx(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float{shape} y) '
            f"<float[5,3,1,1] w = {{{', '.join(['0.1'] * 15)}}}, int64[3] flat = {{1, 5, 64}}> {{ {body} }}"
        )
    )


@pytest.mark.parametrize("name", ["digits-sparse", "bccd-sparse"])
def test_every_score_of_a_trained_detector_fires(name: str) -> None:
    model = model_of(MODELS / f"{name}.onnx")
    plain = image_like_feeds(model, 1)
    fired = firing_feed(model)
    assert fired is not None
    mask = shown_logits(model).masks["output0"]
    before, after = (run_onnx(model, [feed])[0]["output0"] for feed in (plain[0], fired))
    scores = mask.all(axis=(0, 1))
    assert scores.tolist() == [False] * 4 + [True] * (len(scores) - 4)
    assert after[..., scores].max(axis=(0, 1)).min() > 0.5
    assert after[..., 4].max() > before[..., 4].max(), "objectness"


@pytest.mark.parametrize("name", ["yolov8n", "yolov5n", "yolov10n", "yolo12n", "yolox", "yolov6n", "efficientdet"])
def test_scores_of_other_heads_rise(name: str) -> None:
    model = model_of(model_path(name))
    fired = firing_feed(model)
    assert fired is not None and next(iter(fired.values())).dtype == np.float32
    (output, mask), *_ = shown_logits(model).masks.items()
    values = run_onnx(model, [*image_like_feeds(model, 1), fired])
    before, after = (np.where(mask, run[output], 0).max() for run in values)
    assert after > before and after > 0.9


@pytest.mark.parametrize(
    ("body", "shape", "shown"),
    [
        ("c = Conv(x, w) y = Sigmoid(c)", "[1,5,8,8]", 5),
        ("c = Conv(x, w) s = Sigmoid(c) r = Reshape(s, flat) y = Transpose<perm = [0, 2, 1]>(r)", "[1,64,5]", 5),
        ("c = Conv(x, w) s = Sigmoid(c) y = Concat<axis = 1>(c, s)", "[1,10,8,8]", 5),
        ("c = Conv(x, w) s = Sigmoid(c) y = Mul(s, s)", "[1,5,8,8]", 5),
        ("c = Conv(x, w) s = Softmax<axis = 1>(c) y = Identity(s)", "[1,5,8,8]", 5),
        ("c = Conv(x, w) s = Sigmoid(c) y = Mul(s, c)", "[1,5,8,8]", 0),
        ("c = Conv(x, w) s = Sigmoid(c) y = Add(s, s)", "[1,5,8,8]", 0),
        ("y = Conv(x, w)", "[1,5,8,8]", 0),
    ],
)
def test_what_is_shown(body: str, shape: str, shown: int) -> None:
    masks = shown_logits(text(body, shape)).masks
    assert sum(int(mask.sum()) for mask in masks.values()) == shown * 64


def test_a_second_run_makes_the_same_input() -> None:
    model = model_of(model_path("yolov8n"))
    first, second = firing_feed(model), firing_feed(model)
    assert first is not None and second is not None
    np.testing.assert_array_equal(first["images"], second["images"])


def test_where_there_is_nothing_to_raise() -> None:
    assert firing_feed(model_of(model_path("resnet"))) is None
    assert len(shared_feeds(model_of(model_path("resnet")))) == 2
    assert not score_maps(text("y = Conv(x, w)", "[1,5,8,8]"))


def test_photographs_that_cannot_be_read_are_said_and_the_others_taken(tmp_path) -> None:
    from PIL import Image

    model = model_of(MODELS / "digits-sparse.onnx")
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "b.png")
    found = photographs(model, tmp_path, 2)
    assert len(found) == 1 and found[0]["images"].max() > 0.7
    assert any("a.png" in note and "left out" in note for note in model.notes)
    (tmp_path / "b.png").unlink()
    assert photographs(model, tmp_path, 2) == []
    (tmp_path / "a.png").unlink()
    assert photographs(model, tmp_path, 2) == []
    assert any("gives no image" in note for note in model.notes)
