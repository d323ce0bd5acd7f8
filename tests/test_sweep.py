"""The sweep: what it runs, what it does not run again, what a failure leaves, and the front it draws."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.report.sweep import axes, label, pareto_front, render_sweep
from onnxslim_yolo.sweep import run as module
from onnxslim_yolo.sweep.rows import COLUMNS, read_rows, write_rows
from onnxslim_yolo.sweep.run import Grid, SweepOptions, grid_value, plan_trials, require_some, sweep


@pytest.fixture
def model(tmp_path) -> Path:
    zoo = pytest.importorskip("tests.zoo")
    return Path(shutil.copy(zoo.model_path("yolov5n", width=0.25), tmp_path / "best.onnx"))


def options_for(model: Path, **given: object) -> SweepOptions:
    grid = given.pop("grid", Grid(prune=(0.3, 0.6), snap=("none",)))
    return SweepOptions(model, model.parent / "out", grid, target="onnxruntime", verify=False, **given)


def test_every_trial_is_a_row_and_none_runs_twice(model, monkeypatch):
    options = options_for(model)
    seen: list[tuple[int, int]] = []
    rows = sweep(options, lambda done, total: seen.append((done, total)))
    assert [row["prune"] for row in rows] == ["0.0", "0.3", "0.6"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not any(row["error"] for row in rows)
    assert all((options.out / row["file"]).is_file() for row in rows)
    assert rows[0]["macs_ratio"] > rows[1]["macs_ratio"] > rows[2]["macs_ratio"] > 0
    monkeypatch.setattr(module, "run_trial", None)  # calling it would fail
    assert sweep(options) == rows == read_rows(options.out / "sweep.csv")


def test_a_larger_grid_keeps_what_is_there(model, monkeypatch):
    first = sweep(options_for(model, grid=Grid(prune=(0.3,), snap=("none",))))
    ran: list[str] = []
    original = module.run_trial
    monkeypatch.setattr(module, "run_trial", lambda trial, folder: ran.append(trial.key) or original(trial, folder))
    rows = sweep(options_for(model))
    assert rows[:2] == first and ran == [rows[2]["key"]]
    sweep(options_for(model, grid=Grid(prune=(0.6,), snap=("none",))))
    assert len(read_rows(model.parent / "out/sweep.csv")) == 3  # a smaller grid forgets nothing


def test_a_failure_is_a_row_and_is_tried_again(model, monkeypatch):
    options = options_for(model, grid=Grid(prune=(0.3,), snap=("none",), imgsz=(None, (99, 99))))
    good, fails, fine, bad = sweep(options)
    assert not good["error"] and not fine["error"] and fails["error"]
    assert "InputError" in bad["error"] and "99x99" in bad["error"] and bad["file"] is None
    require_some([good, fails, fine, bad], options.out / "sweep.csv")  # one came of it
    with pytest.raises(InputError, match=r"none of the 1 trials could be compiled; .*99x99"):
        require_some([good, fails, bad], options.out / "sweep.csv")
    with pytest.raises(InputError, match="none of the 1 trials"):
        require_some([fails], options.out / "sweep.csv")
    require_some([good], options.out / "sweep.csv")
    ran: list[str] = []
    original = module.run_trial
    monkeypatch.setattr(module, "run_trial", lambda trial, folder: ran.append(trial.key) or original(trial, folder))
    sweep(options)
    assert ran == [fails["key"], bad["key"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": Grid(prune=(0.3, 1.5))}, "ratio 1.5"),
        ({"grid": Grid(importance=("auto", "gama"))}, "gama"),
        ({"grid": Grid(compensate=("reconstruct",))}, "needs images"),
        ({"grid": Grid(snap=("pow3",))}, "pow3"),
        ({"data": Path("nothing.yaml")}, "no such file"),
    ],
)
def test_what_no_trial_can_be_is_said_before_the_first(model, given, said, monkeypatch):
    monkeypatch.setattr(module, "run_trial", None)  # calling it would fail
    with pytest.raises((InputError, UsageError), match=said):
        sweep(options_for(model, **given))
    assert not (model.parent / "out").exists()


def test_the_key_knows_the_source_and_the_options(model):
    keys = {trial.key for trial in plan_trials(options_for(model))}
    assert len(keys) == 3
    assert keys == {trial.key for trial in plan_trials(options_for(model))}
    assert keys.isdisjoint(trial.key for trial in plan_trials(options_for(model, trust=True)))
    model.write_bytes(model.read_bytes() + b" ")
    assert keys.isdisjoint(trial.key for trial in plan_trials(options_for(model)))


def test_rivals_are_compiled_unpruned_at_every_size(model):
    rival = Path(shutil.copy(model, model.parent / "small.onnx"))
    trials = plan_trials(options_for(model, grid=Grid(prune=(0.5,), imgsz=((64, 64), (32, 64))), against=(rival,)))
    assert [(Path(t.model).name, t.options["prune"], t.options["imgsz"]) for t in trials] == [
        *(("best.onnx", 0.0, [64, 64]), ("small.onnx", 0.0, [64, 64])),
        *(("best.onnx", 0.0, [32, 64]), ("small.onnx", 0.0, [32, 64])),
        *(("best.onnx", 0.5, [64, 64]), ("best.onnx", 0.5, [32, 64])),
    ]


def test_parallel_trials_give_the_same_rows(model):
    rows = sweep(options_for(model))
    again = sweep(SweepOptions(**{**vars(options_for(model, jobs=2)), "out": model.parent / "parallel"}))
    timeless = [{**row, "seconds": None} for row in (*rows, *again)]
    assert timeless[:3] == timeless[3:]


def test_trials_on_a_dask_cluster(model):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        rows = sweep(options_for(model, backend="dask", scheduler=cluster.scheduler_address))
    assert len(rows) == 3 and not any(row["error"] for row in rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jobs": 0}, "at a time"),
        ({"backend": "dask"}, "belong together"),
        ({"backend": "threads"}, "neither local nor dask"),
        ({"scheduler": "host:1"}, "belong together"),
    ],
)
def test_usage_errors(model, given, message):
    with pytest.raises(UsageError, match=message):
        sweep(options_for(model, **given))


def test_a_missing_rival_and_an_empty_grid(model):
    with pytest.raises(InputError, match="no such file"):
        sweep(options_for(model, against=(model.parent / "none.onnx",)))
    with pytest.raises(UsageError, match="compared by mAP"):
        sweep(options_for(model, against=(model,)))
    with pytest.raises(UsageError, match="no value for prune"):
        Grid(prune=())


def test_values_of_the_grid():
    assert (grid_value("prune", "0.5"), grid_value("prune", "dead")) == (0.5, "dead")
    assert (grid_value("snap", "8"), grid_value("snap", "pow2")) == (8, "pow2")
    with pytest.raises(UsageError, match=r"--snap: '0\.5'"):
        grid_value("snap", "0.5")


def test_the_table_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep/sweep.csv"
    assert read_rows(path) == []
    row = dict.fromkeys(COLUMNS) | {"key": "a", "model": 'x,"y"\nz', "macs": 12, "map50": 0.1 + 0.2, "error": "no: é"}
    write_rows([row], path)
    assert read_rows(path) == [row]
    path.write_text("key,model\n1,2\n")
    with pytest.raises(InputError, match="no table of a sweep"):
        read_rows(path)


def points(count: int, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "key": str(k),
            "model": "m",
            "prune": "0.5",
            "macs": int(cost),
            "map50": float(gain),
            "difference": -float(gain),
        }
        for k, (cost, gain) in enumerate(rng.integers(0, 8, (count, 2)))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_beats(seed):
    rows = points(25, seed)

    def beaten(row):
        worse = lambda o: o["macs"] <= row["macs"] and o["map50"] >= row["map50"]  # noqa: E731
        return any(worse(o) and (o["macs"], o["map50"]) != (row["macs"], row["map50"]) for o in rows)

    expected = {row["key"] for row in rows if not beaten(row)}
    assert {row["key"] for row in pareto_front(rows, "macs", "map50")} == expected
    assert {row["key"] for row in pareto_front(rows, "macs", "difference")} == expected  # less of it is better


def test_axes_need_a_number_in_every_row():
    rows = points(3, 0)
    assert axes(rows) == ("macs", "map50")
    assert axes([*rows, {**rows[0], "map50": None}]) == ("macs", "difference")
    assert axes([{**row, "latency_ratio": 1.0} for row in rows]) == ("latency_ratio", "map50")
    assert axes([{**row, "latency_ratio": 1.0} for row in rows[1:]] + [{**rows[0], "error": "x"}])[0] == "latency_ratio"


def test_the_smaller_sizes_of_the_family_are_in_the_picture():
    rival = {"key": "r", "model": "small.onnx", "prune": "0.0", "macs": 1, "map50": 99.0}
    mine = [row | {"macs": row["macs"] + 2} for row in points(5, 0)]
    html = render_sweep([*mine, rival], "m")
    data = json.loads(re.search(r'<script[^>]* id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert data["points"]["other models"] == {"x": [1], "y": [99.0], "text": [label(rival)]}
    assert data["front"]["x"] == [1]  # it costs less and finds more: the front says that pruning was not worth it
    assert len(data["points"]["trials"]["x"]) == 5


def test_the_page_runs_its_own_scripts_only_and_no_name_breaks_out():
    evil = "</script><script>alert(1)</script>.onnx"
    rows = [*points(5, 1), {**points(1, 2)[0], "model": evil}, {"key": "z", "model": evil, "error": "<b>no</b>"}]
    html = render_sweep(rows, evil)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    allowed = set(re.findall(r"'sha256-([^']+)'", unescape(html[:2000])))
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts}
    assert hashes == allowed and len(scripts) == 2
    assert "alert(1)</script>" not in html and "<b>no" not in html
    assert all(label(row) for row in itertools.islice(rows, 5))


def test_the_command(model, monkeypatch):
    from onnxslim_yolo.cli.main import app

    monkeypatch.chdir(model.parent)
    arguments = ["sweep", "best.onnx", "--prune", "0.5", "--snap", "none", "--target", "onnxruntime", "--no-verify"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "best.onnx, unpruned" in done.output and Path("best-sweep/sweep.html").is_file()
