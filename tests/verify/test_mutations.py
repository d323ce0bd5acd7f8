"""One mistake anywhere: the check notices it, or names the column as blind. All architectures: bench/mutations.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.model import Model
from tests.mutations import Subject, all_outcomes, columns_spoiled, weights_spoiled
from tests.zoo import model_path

FILES = {"digits-sparse": Path(__file__).parents[2] / "models" / "digits-sparse.onnx"}


@pytest.mark.parametrize("name", ["digits-sparse", "yolov8n", "nanodet", "resnet"])
def test_every_mistake_is_noticed_or_named(name: str) -> None:
    subject = Subject(FILES.get(name) or model_path(name))
    assert all(d.worst == 0 for d in subject.judge.compare(subject.run(subject.model))), "the control: nothing is wrong"
    found = list(all_outcomes(subject, most=6))
    missed = [each for each in found if each.outcome == "missed"]
    assert not missed
    # What is under rounding cannot be seen by running; of trained weights that is one tensor in a hundred.
    assert Counter(each.outcome for each in found)["named"] <= 1
    assert Counter(each.outcome for each in found)["noticed"] > 10


def test_what_is_equal_is_called_equal_to_rounding() -> None:
    subject = Subject(model_path("yolov8n"))
    again = [{k: v * 1 for k, v in run.items()} for run in subject.run(subject.model)]
    assert all(each.outcome == "noticed" for each in columns_spoiled(subject.judge, again))


@pytest.mark.parametrize("pick", [0, 5])
def test_compile_notices_a_spoiled_file(pick: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is spoiled as it is written, which nothing but the check can see."""
    save = Model.save
    monkeypatch.setattr(Model, "save", lambda model, path: save(list(weights_spoiled(model, 6))[pick][2], path))
    with pytest.raises(VerificationError, match="differs by"):
        oy.compile(model_path("yolov8n"), out=tmp_path / "out", emit="onnx")
    assert not (tmp_path / "out").exists()
