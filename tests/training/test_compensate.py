"""`--compensate distil`: a cut network is taught by its source on the calibration images, or stays as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxslim_yolo as oy  # noqa: E402
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from onnxslim_yolo.files.spelling import spell  # noqa: E402
from onnxslim_yolo.ir.model import Model  # noqa: E402
from onnxslim_yolo.manager import PassManager  # noqa: E402
from onnxslim_yolo.options import CompileOptions  # noqa: E402
from onnxslim_yolo.passes import FoldBatchNorm, PruneChannels, SliceChannels  # noqa: E402
from onnxslim_yolo.pruning.calibration_images import CalibrationImages  # noqa: E402
from onnxslim_yolo.pruning.head_error import HeadError  # noqa: E402
from onnxslim_yolo.training.compensate import Distil, write_back  # noqa: E402
from tests.training.test_distil import place, read  # noqa: E402, F401

LONG = 60
"""Epochs: with rates as small as these it takes some until anything moves."""


def cut(source: Path) -> tuple[Model, Model]:
    """A network, and what is left of it after a third of its channels went."""
    teacher = read(source)
    model = teacher.copy()
    PassManager([PruneChannels(ratio=0.3, importance="weight"), SliceChannels()]).run(model)
    return teacher, model


def weights(model: Model) -> list[np.ndarray]:
    return [np.array(t.values) for node in model.graph.nodes for t in node.inputs if hasattr(t, "values")]


def test_what_was_cut_gets_nearer(place: Path) -> None:  # noqa: F811
    teacher, model = cut(place / "teacher.onnx")
    held = HeadError.of(teacher, CalibrationImages(place / "images", teacher, part="held-out"))
    before, names = held.error(model), [node.name for node in model.graph.nodes]
    step = Distil(teacher, place / "images", epochs=LONG, lr=1e-4)
    assert step.run(model) > 3
    assert held.error(model) < 0.98 * before
    assert held.error(model) == pytest.approx(step.facts["after"], rel=1e-3)
    assert step.facts["maps"] == 4 and str(step.facts["images"]) in model.notes[-1]
    assert names == [node.name for node in model.graph.nodes]
    assert step.run(model) == 0  # it has been done
    assert spell(step).startswith("distil{calib=") and "teacher" not in spell(step)


def test_a_rate_of_nothing_changes_nothing(place: Path) -> None:  # noqa: F811
    """The control."""
    teacher, model = cut(place / "teacher.onnx")
    PassManager([FoldBatchNorm()]).run(model)  # else statistics would be taken again
    before = weights(model)
    assert Distil(teacher, place / "images", epochs=2, lr=0.0).run(model) == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_nothing_is_taught_to_what_lost_nothing(place: Path) -> None:  # noqa: F811
    teacher = read(place / "teacher.onnx")
    step = Distil(teacher, place / "images")
    assert step.run(teacher.copy()) == 0 and not step.facts


def test_large_rates_and_other_graphs_are_refused(place: Path) -> None:  # noqa: F811
    teacher, model = cut(place / "teacher.onnx")
    with pytest.raises(UsageError, match="above"):
        Distil(teacher, place / "images", lr=5e-4)
    with pytest.raises(UnsupportedError, match="another graph"):
        write_back(model, {"nodes": []}, {})


def test_compile_teaches(place: Path, tmp_path: Path) -> None:  # noqa: F811
    how = {"prune": 0.3, "importance": "weight", "snap": "none", "calib": place / "images", "emit": "onnx"}
    found = {
        compensate: oy.compile(place / "teacher.onnx", out=tmp_path / compensate, compensate=compensate, **how)
        for compensate in ("reconstruct", "distil")
    }
    assert "distillation" not in found["reconstruct"].report
    facts = found["distil"].report["distillation"]
    assert facts["after"] <= facts["before"] and facts["held_out"] == 2 and facts["lr"] <= 1e-4
    assert [p["name"] for p in found["distil"].report["passes"]].count("distil") == 1
    assert any("distilled on" in note for note in found["distil"].report["notes"])


def test_what_it_needs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="--compensate distil needs images"):
        CompileOptions(compensate="distil")
    with pytest.raises(UsageError, match="default pipeline"):
        CompileOptions(compensate="distil", calib=place / "images", passes="slice")
    few = tmp_path / "few"
    few.mkdir()
    for image in sorted((place / "images").iterdir())[:3]:
        (few / image.name).write_bytes(image.read_bytes())
    how = {"prune": 0.3, "importance": "weight", "compensate": "distil", "emit": "onnx", "out": tmp_path / "out"}
    with pytest.raises(InputError, match="3 images are too few"):
        oy.compile(place / "teacher.onnx", calib=few, **how)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a))
    with pytest.raises(UsageError, match="needs torch"):
        oy.compile(place / "teacher.onnx", calib=place / "images", **how)
    assert not (tmp_path / "out").exists()
