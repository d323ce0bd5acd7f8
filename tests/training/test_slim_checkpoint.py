"""What is refused before Ultralytics is asked for anything, and what the plan says beside the graph."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, OnnxSlimError, UnsupportedError, UsageError
from onnxslim_yolo.load.raw_module import RawModule
from onnxslim_yolo.pruning.plan import plan_as_json
from onnxslim_yolo.training import SlimTrainer
from onnxslim_yolo.training.slim_checkpoint import cuts_of, request_of, slim_from_plan, with_twins
from onnxslim_yolo.training.slim_trainer import check_classes, trainer_class

MODELS = Path(__file__).resolve().parents[2] / "models"
absent = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="ultralytics is installed")


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ultralytics were installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))


@absent
def test_without_ultralytics_it_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not installed"):
        oy.compile(tmp_path / "missing.pt", emit="ultralytics")
    with pytest.raises(UsageError, match="is not installed"):
        slim_from_plan({}, tmp_path / "missing.pt")
    with pytest.raises(UsageError, match="cannot be imported"):
        trainer_class("detect")


def test_an_export_is_refused(present: None) -> None:
    with pytest.raises(UnsupportedError, match="needs the checkpoint"):
        oy.compile(MODELS / "bccd-dense.onnx", emit="ultralytics")


def test_a_plan_of_another_file_is_refused(present: None, tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine.pt"
    checkpoint.write_bytes(b"PK")
    with pytest.raises(InputError, match="another file"):
        slim_from_plan({"source": {"file": "theirs.pt", "sha256": "0" * 64}}, checkpoint)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no trainer for the task 'depth'"):
        SlimTrainer(overrides={"task": "depth"})


@pytest.mark.parametrize(("names", "fits"), [({0: "a", 1: "b"}, True), ({0: "a"}, False), ({}, False)])
def test_data_with_other_classes_is_refused(names: dict[int, str], fits: bool) -> None:
    data = {"nc": 2, "names": {0: "a", 1: "b"}}
    if fits:
        check_classes(SimpleNamespace(names=names), data)
        return
    with pytest.raises(InputError, match="the data has 2 classes"):
        check_classes(SimpleNamespace(names=names), data)


def test_towers_that_are_only_trained_are_cut_as_their_twins() -> None:
    tensors = {f"{prefix}cv2.0.weight": np.zeros((4, 6, 1, 1)) for prefix in ("", "one2one_")}
    keep = {"one2one_cv2.0.weight": {"1": [0, 5]}}
    shapes = {"one2one_cv2.0.weight": [[4, 6, 1, 1], [4, 2, 1, 1]]}
    found = with_twins({"keep": keep, "shapes": shapes}, tensors)
    assert found["keep"]["cv2.0.weight"] == {"1": [0, 5]}
    assert found["shapes"]["cv2.0.weight"] == shapes["one2one_cv2.0.weight"]
    tensors["cv2.0.weight"] = np.zeros((4, 5, 1, 1))  # no twin
    assert with_twins({"keep": keep, "shapes": shapes}, tensors)["keep"] == keep


def test_one_to_many_towers_have_their_twins_likewise() -> None:
    tensors = {f"m.{prefix}cv2.0.weight": np.zeros((4, 6, 1, 1)) for prefix in ("", "one2one_")}
    keep = {"m.cv2.0.weight": {"1": [0, 5]}}
    assert with_twins({"keep": keep}, tensors)["keep"]["m.one2one_cv2.0.weight"] == {"1": [0, 5]}


def test_cuts_of_grouped_layers_count_through() -> None:
    tensors = {"a.weight": np.zeros((4, 3, 1, 1)), "b.weight": np.zeros(6)}
    keep = {"a.weight": {"1": [[0, 2], [1, 2]]}, "b.weight": {"0": [1]}, "c.bias": {"0": [0]}}
    assert cuts_of({"keep": keep}, tensors) == {"a": {"1": [0, 2, 4, 5]}, "b": {"0": [1]}}


@pytest.mark.parametrize("left_out", ["get_model", "setup_model", "save_model"])
def test_an_ultralytics_too_old_or_too_new_is_refused(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"get_model", "setup_model", "save_model"} - {left_out}
    base = type("DetectionTrainer", (), {name: lambda self: None for name in names})
    room = ModuleType("ultralytics.models.yolo.detect")
    room.DetectionTrainer = base  # type: ignore[attr-defined]
    for name in ("ultralytics", "ultralytics.models", "ultralytics.models.yolo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, room.__name__, room)
    trainer_class.cache_clear()
    with pytest.raises(UnsupportedError, match="builds its network in another way") as caught:
        trainer_class("detect")
    assert caught.value.exit_status == 2
    del room.DetectionTrainer  # and one that calls it otherwise
    with pytest.raises(OnnxSlimError, match="DetectionTrainer") as caught:
        trainer_class("detect")
    assert caught.value.exit_status == 2
    trainer_class.cache_clear()


@pytest.mark.parametrize(("towers", "expected"), [("file", False), ("one-to-one", True), ("one-to-many", False)])
def test_the_head_is_set_to_the_towers_that_were_compiled(towers: str, expected: bool) -> None:
    model = oy.load(MODELS / "digits-rep.onnx")
    model.towers = towers
    plan = plan_as_json(model.copy())
    assert ("towers" in plan) is (towers != "file")
    raw = RawModule("ultralytics.nn.tasks.DetectionModel", {}, {}, {}, {"_end2end": False, "max_det": 9}, {}, {}, {})
    assert request_of(raw, plan, mask=False)["head"] == {"_end2end": expected, "max_det": 9}
