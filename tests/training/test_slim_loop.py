"""The loop in one command: stages in order, each once; what is stopped anywhere goes on there, and limits decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxslim_yolo.errors import BudgetError, InputError, UsageError
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.sweep.slim_loop import STAGES, LoopOptions, epochs_done, run_loop, table_of
from onnxslim_yolo.training.stages import Stages


class StoppedError(Exception):
    """As when a machine goes down."""


class Fake:
    """Work that writes what the commands write. `stop` names a call before which it is stopped; `half` a training."""

    def __init__(self, stop: str = "", half: str = "", map50: tuple[float, ...] = (0.9, 0.5, 0.89)) -> None:
        self.calls: list[str] = []
        self.given: dict[str, Any] = {}
        self.stop, self.half, self.map50 = stop, half, dict(zip(("dense", "pruned", "final"), map50, strict=True))

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.stop:
            raise StoppedError

    def compile(self, source: Path, options: CompileOptions) -> Mapping[str, Any]:
        assert source.is_file() and options.out is not None
        self.note(options.out.name)
        options.out.mkdir(parents=True, exist_ok=True)
        for name in (f"{options.name}.onnx", f"{options.name}-slim.pt"):
            (options.out / name).write_text(f"{options.out.name} of {source.name}")
        self.given[options.out.name] = options
        before = {"latency_us": 20.0, "macs": 9, "parameters": 6}
        return {"before": before, "after": {"latency_us": 10.0, "macs": 5, "parameters": 3}}

    def train(
        self, stage: str, source: Path, epochs: int, settings: Mapping[str, Any], kept: str, resume: bool
    ) -> Path:
        self.note(f"{stage} again" if resume else stage)
        folder = Path(settings["project"]) / settings["name"]
        assert source == folder if resume else source.is_file()
        (folder / "weights").mkdir(parents=True, exist_ok=True)
        done = epochs // 2 if self.half == stage else epochs
        (folder / "results.csv").write_text("epoch\n" + "".join(f"{i}\n" for i in range(done)))
        for name in ("last.pt", kept):
            (folder / "weights" / name).write_text(f"{name} of {stage}")
        if self.half == stage:
            raise StoppedError
        return folder

    def sparsify(self, source: Path, epochs: int, target: float, settings: Mapping[str, Any], *, resume: bool) -> Path:
        self.given["share"] = target
        return self.train("sparse", source, epochs, settings, "sparse.pt", resume)

    def finetune(self, source: Path, epochs: int, teacher: Path, settings: Mapping[str, Any], *, resume: bool) -> Path:
        self.given["teacher"] = teacher
        return self.train("tuned", source, epochs, settings, "best.pt", resume)

    def score(self, onnx: Path) -> Mapping[str, float]:
        return {"map50": self.map50[onnx.parent.name], "map": 0.5}


@pytest.fixture
def options(tmp_path: Path) -> LoopOptions:
    (tmp_path / "best.pt").write_bytes(b"weights")
    return LoopOptions(
        tmp_path / "best.pt", tmp_path / "data.yaml", tmp_path / "run", "0.6x", 10, settings={"imgsz": 320, "batch": 2}
    )


def test_stages_in_order(options: LoopOptions) -> None:
    work = Fake()
    rows = run_loop(options, work)
    assert tuple(work.calls) == STAGES
    assert [row["stage"] for row in rows] == ["dense", "pruned", "final"]
    assert [row["map50"] for row in rows] == [0.9, 0.5, 0.89]
    pruned: CompileOptions = work.given["pruned"]
    assert pruned.target_latency == "0.6x" and "ultralytics" in pruned.emit and pruned.imgsz == (320, 320)
    assert (
        work.given["dense"].prune == 0
        and work.given["final"].prune == "dead"
        and work.given["teacher"] == options.checkpoint
    )
    assert work.given["share"] == pytest.approx(0.4)
    assert (options.out / "stages.csv").read_text() == table_of(rows)
    assert [row["latency_us"] for row in rows] == [20.0, 10.0, 10.0], "of what was given, as it came"
    again = Fake()
    assert run_loop(options, again) == rows and again.calls == []


@pytest.mark.parametrize("stage", STAGES)
def test_it_goes_on_where_it_was_stopped(options: LoopOptions, stage: str) -> None:
    with pytest.raises(StoppedError):
        run_loop(options, Fake(stop=stage))
    work = Fake()
    run_loop(options, work)
    assert tuple(work.calls) == STAGES[STAGES.index(stage) :]


@pytest.mark.parametrize("stage", ["sparse", "tuned"])
def test_a_training_goes_on_within(options: LoopOptions, stage: str) -> None:
    with pytest.raises(StoppedError):
        run_loop(options, Fake(half=stage))
    work = Fake()
    run_loop(options, work)
    assert work.calls == [f"{stage} again", *STAGES[STAGES.index(stage) + 1 :]]


def test_a_finished_training_is_not_done_again(options: LoopOptions) -> None:
    """It was stopped after its last epoch, before the note was written."""
    with pytest.raises(StoppedError):
        run_loop(options, Fake(stop="pruned"))
    note = options.out / "slim.json"
    held = json.loads(note.read_text())
    del held["done"]["sparse"]
    note.write_text(json.dumps(held))
    work = Fake()
    run_loop(options, work)
    assert work.calls == ["pruned", "tuned", "final"]


def test_what_is_gone_is_made_again_with_all_behind_it(options: LoopOptions) -> None:
    run_loop(options, Fake())
    (options.out / "pruned/best-slim.pt").unlink()
    work = Fake()
    run_loop(options, work)
    assert work.calls == ["pruned", "final"]  # the training's own folder says that it is finished


def test_another_run_has_another_folder(options: LoopOptions) -> None:
    run_loop(options, Fake())
    with pytest.raises(UsageError, match=r"a run with target_latency 0\.6x, asked for is 0\.5x"):
        run_loop(replace(options, target_latency="0.5x", target=0.4), Fake())
    options.checkpoint.write_bytes(b"others")
    with pytest.raises(UsageError, match="a run with checkpoint"):
        run_loop(options, Fake())
    (options.out / "slim.json").write_text("[]")
    with pytest.raises(InputError, match="no note of a run"):
        run_loop(options, Fake())


def test_the_limit_decides(options: LoopOptions) -> None:
    limited = replace(options, max_drop=0.02)
    assert run_loop(limited, Fake())
    with pytest.raises(BudgetError, match=r"mAP50 fell by 0\.100, from 0\.900; allowed are 0\.02"):
        run_loop(replace(limited, out=options.out.with_name("other")), Fake(map50=(0.9, 0.5, 0.8)))
    assert (options.out.with_name("other") / "stages.csv").is_file()


def test_bad_wishes(options: LoopOptions) -> None:
    wrong: list[dict[str, Any]] = [
        {"target_latency": "half"},
        {"target_latency": "1.5x"},
        {"epochs": 2},
        {"target": 1.0},
        {"max_drop": 2.0},
        {"device": "toaster"},
        {"settings": {"project": "x"}},
    ]
    for change in wrong:
        with pytest.raises(UsageError):
            replace(options, **change)
    options.checkpoint.unlink()
    with pytest.raises(InputError, match="no such file"):
        run_loop(options, Fake())


def test_rows_of_a_damaged_table(tmp_path: Path) -> None:
    assert epochs_done(tmp_path) == 0
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\n\n")
    assert epochs_done(tmp_path) == 0


def test_a_stage_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise StoppedError

    with pytest.raises(StoppedError):
        Stages.open(tmp_path / "run/slim.json", {"a": 1}).run("one", fails)
    again = Stages.open(tmp_path / "run/slim.json", {"a": 1})
    (tmp_path / "run/x").write_text("x")
    assert again.run("one", lambda: {"file": "x"}) == {"file": "x"} and again.skipped == []


def test_the_commands_data_have_a_root(tmp_path: Path) -> None:
    from onnxslim_yolo.files.yaml import read_yaml
    from onnxslim_yolo.sweep.slim_work import rooted

    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: {0: cell}\n")
    found = read_yaml(rooted(tmp_path / "data.yaml", tmp_path / "run"), "data.yaml", "")
    assert found == {"path": str(tmp_path.resolve()), "train": "images", "val": "images", "names": {0: "cell"}}
