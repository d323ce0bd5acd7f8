"""Whether a result still detects: what is counted, what is left of the response, and what follows from both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.ir.graph import input_constant, nodes_of, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.passes import PruneChannels
from onnxslim_yolo.verify.alive import judge, kept
from onnxslim_yolo.verify.control import last_layers
from onnxslim_yolo.verify.disorder import disordered, looks_trained
from onnxslim_yolo.verify.response import groups_of, response
from onnxslim_yolo.verify.scenes import scene_feeds
from tests.zoo import model_path

MODELS = Path(__file__).resolve().parents[2] / "models"


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), np.zeros((len(table), 0), np.float32))


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ((0, 0, 10, 10, 0.9, 1), 1),
        ((0, 0, 10, 10, 0.71, 1), 1),
        ((0, 0, 10, 10, 0.69, 1), 0),
        ((0, 0, 10, 10, 0.9, 2), 0),
        ((5, 0, 15, 10, 0.9, 1), 0),
        ((1, 0, 11, 10, 0.9, 1), 1),
    ],
)
def test_what_counts_as_kept(row: tuple[float, float, float, float, float, int], count: int) -> None:
    assert kept(detections((0, 0, 10, 10, 0.9, 1)), detections(row)) == count
    assert kept(detections(), detections(row)) == 0 == kept(detections(row), detections())


def test_a_detection_keeps_one_only() -> None:
    twice = detections((0, 0, 10, 10, 0.9, 1), (1, 0, 11, 10, 0.8, 1))
    assert kept(twice, detections((0, 0, 10, 10, 0.85, 1))) == 1 and kept(twice, twice) == 2


def groups(*images: np.ndarray) -> list[dict[tuple[str, bool], np.ndarray]]:
    return [groups_of([image], ["y"], None) for image in images]


def test_the_response_is_per_column() -> None:
    """A column of pixels does not hide that one of probabilities is gone."""
    rng = np.random.default_rng(0)
    source = [rng.random((1, 50, 2)) * [600, 1] for _ in range(3)]
    (same,) = response(groups(*source), groups(*source))
    assert same.size == pytest.approx(1) and same.alike == pytest.approx(1)
    blind = [image * [1, 0] for image in source]
    (half,) = response(groups(*source), groups(*blind))
    assert half.alike == pytest.approx(np.sqrt(0.5), abs=0.01)
    constant = [source[0]] * 3
    (gone,) = response(groups(*source), groups(*constant))
    assert gone.size == gone.alike == 0
    assert response(groups(*constant), groups(*source)) == [], "a source that does not respond says nothing"


def test_a_detector_beside_itself_and_without_its_objectness() -> None:
    model = load(MODELS / "bccd-dense.onnx")
    feeds = scene_feeds(model, 4)
    same = judge(model, model, feeds, "made-up")
    assert same.state == "alive" and same.detections == same.kept and same.detections >= 10
    for factor, state in ((0.99, "alive"), (0.0, "needs training")):
        spoiled = model.copy()
        for node in nodes_of(spoiled.graph, "Conv"):
            weight = np.asarray(input_constant(node, 1))
            replace_constant(node, 1, (weight * factor).astype(weight.dtype))
            if not factor:
                break
        found = judge(model, spoiled, feeds, "made-up")
        assert found.state == state, found


def test_networks_that_see_nothing_or_everything_are_not_judged() -> None:
    model = load(MODELS / "digits-sparse.onnx")
    flat = [{name: np.full_like(value, 0.4) for name, value in feed.items()} for feed in scene_feeds(model, 2)]
    assert judge(model, model, flat, "calibration").state == "not judged"
    loud = model.copy()
    last = [n for n in nodes_of(loud.graph, "Conv") if len(n.inputs) > 2 and n.outputs[0].shape[1] == 45]
    assert last
    for node in last:  # logits around one, as freshly initialised networks may have
        for index in (1, 2):
            value = np.asarray(input_constant(node, index))
            replace_constant(node, index, np.full_like(value, index - 1))
    found = judge(loud, model, scene_feeds(model, 2), "made-up")
    assert found.state == "not judged" and "never trained" in found.why


def test_scenes_are_the_same_every_time() -> None:
    model = load(MODELS / "digits-sparse.onnx")
    one, two = (scene_feeds(model, 2) for _ in range(2))
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(one, two, strict=True) for k in a)
    assert not np.array_equal(one[0]["images"], one[1]["images"])
    assert one[0]["images"].min() >= 0 and one[0]["images"].max() <= 1 and one[0]["images"].std() > 0.1


def test_a_dense_detector_cut_in_half_is_said_to_need_training(tmp_path: Path) -> None:
    options = {"prune": 0.5, "emit": ("onnx",), "out": tmp_path / "o"}
    result = oy.compile(MODELS / "bccd-dense.onnx", **options)
    assert result.onnx is not None and result.onnx.is_file(), "written all the same"
    verdict = result.verdict
    assert verdict["word"] == "PRUNED, NEEDS TRAINING" and result.report["exit"] == 5
    assert verdict["equal"]["state"] == "equal" and verdict["alive"]["state"] == "needs training"
    assert "0 of" in verdict["text"] and any("--prune dead" in advice for advice in verdict["advice"])
    assert any("not trained for sparsity" in advice for advice in verdict["advice"])
    trained = oy.compile(MODELS / "bccd-dense.onnx", **options, will_train=True)
    assert trained.report["exit"] == 0 and trained.verdict["word"] == verdict["word"]


def test_what_removes_only_dead_channels_is_alive_without_a_run(tmp_path: Path) -> None:
    result = oy.compile(MODELS / "bccd-sparse.onnx", emit=("onnx",), out=tmp_path / "o")
    assert result.verdict["word"] == "PASS" and result.verdict["alive"]["state"] == "alive"
    assert result.verdict["alive"]["images"] == 0 and result.report["exit"] == 0
    unchecked = oy.compile(MODELS / "bccd-sparse.onnx", emit=("onnx",), out=tmp_path / "u", verify=False)
    assert unchecked.verdict["word"] == "NOT VERIFIED" and unchecked.report["exit"] == 0


def test_damage_that_is_certain_is_foretold(tmp_path: Path) -> None:
    said: list[str] = []
    options = {"emit": ("onnx",), "out": tmp_path / "o", "progress": said.append}
    result = oy.compile(MODELS / "digits-dense.onnx", prune=0.3, **options)
    (warning,) = [stage for stage in said if stage.startswith("WARNING: ")]
    assert said.index(warning) < said.index("emit") and "nothing that detects" in warning
    assert warning in result.report["notes"] and result.report["exit"] == 5, "and so it came"
    said.clear()
    oy.compile(MODELS / "digits-dense.onnx", prune=0.01, verify=False, **options)
    oy.compile(MODELS / "digits-sparse.onnx", prune=0.5, verify=False, **options)
    assert not [stage for stage in said if stage.startswith("WARNING: ")]


@pytest.mark.parametrize(("fitted", "kind"), [(True, "calibration"), (True, "held-out"), (False, "calibration")])
def test_images_that_were_fitted_to_are_said(fitted: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxslim_yolo.options import CompileOptions
    from onnxslim_yolo.report import judging
    from onnxslim_yolo.verify.alive import Alive

    model = load(MODELS / "digits-sparse.onnx")
    PruneChannels(ratio=0.1).run(model)
    monkeypatch.setattr(judging, "_on_images", lambda *_: Alive("alive", "9 of 9 detections kept", 3, kind))
    options = CompileOptions(prune=0.1, calib=Path("images"), compensate="reconstruct" if fitted else "none")
    why = judging.judge_result(model, model, options, run=True).why
    assert ("fitted to" in why) == (fitted and kind == "calibration")


def test_where_the_images_show_nothing_made_up_ones_tell(tmp_path: Path) -> None:
    """int8 with ranges of dark frames: nothing of what the network detects otherwise is left."""
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        small = rng.integers(0, 30, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((192, 192), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    options = {"prune": 0, "emit": ("onnx",), "out": tmp_path / "o", "calib": folder, "quantize": "all"}
    result = oy.compile(MODELS / "digits-dense.onnx", **options)
    verdict = result.verdict
    assert verdict["alive"]["kind"] == "made-up" and "the source detects nothing on the images" in verdict["text"]
    assert verdict["word"] == "INT8, NO LONGER DETECTS" and result.report["exit"] == 5
    assert "--calib images like those" in verdict["advice"][0] and len(verdict["advice"]) == 1


def _biased(model: Model, shift: float) -> Model:
    """As trainers initialise the last layers: objects are rare."""
    for layer in last_layers(model):
        bias = input_constant(layer, 2) if layer.op == "Conv" else None
        if bias is not None:
            replace_constant(layer, 2, (bias + np.float32(shift)).astype(bias.dtype))
    return model


@pytest.mark.parametrize(
    ("name", "shift"),
    [("yolov3-tiny", 0), ("yolov5n", -3), ("yolov8n", 0), ("yolov8n", -3), ("nanodet", 0), ("yolo26n", -3)],
)
def test_random_weights_have_nothing_to_lose(name: str, shift: float) -> None:
    model = _biased(load(model_path(name)), shift)
    other = model.copy()
    for node in nodes_of(other.graph, "Conv")[3:]:
        weight = np.asarray(input_constant(node, 1))
        replace_constant(node, 1, np.ascontiguousarray(weight[..., ::-1, ::-1] * np.float32(0.7)))
    found = judge(model, other, scene_feeds(model, 3), "made-up")
    assert found.state == "not judged", found.why


@pytest.mark.parametrize("name", ["digits-dense", "digits-sparse", "bccd-dense", "bccd-sparse", "digits-rep"])
def test_trained_ones_are_judged(name: str) -> None:
    model = load(MODELS / f"{name}.onnx")
    assert judge(model, model, scene_feeds(model, 3), "made-up").state == "alive"


def test_disorder_keeps_what_an_untrained_network_goes_by() -> None:
    """Pixels in another order have the same colours; other phases have the same spectrum, too, where nothing is cut."""
    (scene,) = scene_feeds(load(MODELS / "bccd-dense.onnx"), 1)
    image = scene["images"]
    (shuffled,), (dephased,) = disordered([scene])
    flat = [np.sort(value[0, 0].ravel()) for value in (image, shuffled["images"])]
    np.testing.assert_array_equal(*flat)
    other = dephased["images"]
    assert other.dtype == image.dtype and image.min() <= other.min() and other.max() <= image.max()
    np.testing.assert_allclose(other.mean((2, 3)), image.mean((2, 3)), atol=0.02)
    powers = [np.abs(np.fft.fft2(value[0, 0]))[1:9, 1:9].sum() for value in (image, other, shuffled["images"])]
    assert 0.7 < powers[1] / powers[0] < 1.3 and powers[2] < 0.5 * powers[0]


def test_what_trained_and_untrained_detectors_score() -> None:
    rng = np.random.default_rng(0)
    quiet, found = rng.uniform(0, 1e-3, 1000), np.full(20, 0.7)
    assert looks_trained(np.r_[quiet, found], quiet, quiet)
    assert looks_trained(np.r_[quiet, found[:1]], quiet, quiet), "one object on an empty image"
    assert not looks_trained(quiet, quiet, quiet)
    assert not looks_trained(np.r_[quiet, found], np.r_[quiet, found], np.r_[quiet, found]), "it sees them in disorder"
    loud = np.r_[quiet[:400], np.full(600, 0.9)]
    assert not looks_trained(loud, quiet, quiet) and looks_trained(loud, quiet, quiet, every=False)
    assert not looks_trained(np.full(1000, 1.0), np.full(1000, 1.0), np.full(1000, 1.0))
