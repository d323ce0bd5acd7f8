"""The pruned checkpoint in a real Ultralytics: opens, predicts what the ONNX predicts, trains at its widths, exports.

Opt-in (`-m peer`): ONNXSLIM_ULTRALYTICS_PYTHON names the interpreter of an environment with `ultralytics`, `ncnn`,
`onnxruntime` and this package (tried with 8.4.190). Checkpoints are written there, with random weights; some of each
family. What is done there stands in `ultralytics_side.py`. CI runs those that are not marked `long`, tests of one
network on one worker (`--dist loadgroup`), so that it is compiled once.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.peer

SIDE = Path(__file__).with_name("ultralytics_side.py")
FAMILIES = (
    *("yolov8n", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolov9t", "yolov5nu", "yolov6n", "yolov3-tinyu"),
    *("yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls"),
    *("yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo11n-cls"),
)


def networks(*names: str, ci: Collection[str] = ()) -> pytest.MarkDecorator:
    """A test of each; of those outside `ci` a long one."""
    marks = {name: [] if name in ci else [pytest.mark.long] for name in names}
    cases = [pytest.param(name, marks=[pytest.mark.xdist_group(name), *marks[name]], id=name) for name in names]
    return pytest.mark.parametrize("name", cases)


def python() -> str:
    found = os.environ.get("ONNXSLIM_ULTRALYTICS_PYTHON")
    if not found:
        pytest.skip("ONNXSLIM_ULTRALYTICS_PYTHON is not set")
    return found


def run(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    own = {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python(), *line], env={**os.environ, **own}, cwd=folder, capture_output=True, text=True, check=False
    )


def side(folder: Path, *line: str) -> Any:
    done = run(folder, str(SIDE), *line)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(row for row in reversed(done.stdout.splitlines()) if row.startswith("ANSWER"))[7:])


def tool(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "onnxslim_yolo", *line)


_MADE: dict[str, Path] = {}


def compiled(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint and, under `out`, of what compile made of it; once for all tests."""
    if name not in _MADE:
        folder = tmp_path_factory.mktemp(name)
        side(folder, "write", str(folder), name)
        emit = ("--emit", "onnx,ultralytics", "--will-train", "-q")
        done = tool(folder, "compile", f"{name}.pt", "--prune", "0.3", *emit, "-o", "out")
        assert done.returncode == 0, done.stderr[-2000:]
        _MADE[name] = folder
    return _MADE[name]


@networks(*FAMILIES, ci=set(FAMILIES) - {"yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls"})
def test_predicts_what_the_onnx_predicts(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled(name, tmp_path_factory)
    source, slim, exported = side(
        folder, "predict", str(folder), f"{name}.pt", f"out/{name}-slim.pt", f"out/{name}.onnx"
    )
    assert slim.keys() == exported.keys()
    for key, value in slim.items():
        allowed = 1.0 if key in ("boxes", "points") else 1e-3
        assert np.allclose(value, exported[key], atol=allowed, rtol=0), key
        assert len(value)
    assert str(source) != str(slim)  # and pruning shows


@networks("yolov8n", "yolov5nu", "yolo11n")
def test_a_dead_block_becomes_an_identity(name: str, tmp_path: Path) -> None:
    side(tmp_path, "write", str(tmp_path), name)
    block = side(tmp_path, "kill", str(tmp_path), f"{name}.pt")
    emit = ("--emit", "onnx,ultralytics", "--will-train", "-q")
    done = tool(tmp_path, "compile", f"{name}.pt", "--prune", "0.3", *emit, "-o", "out")
    assert done.returncode == 0, done.stderr[-2000:]
    plan = json.loads((tmp_path / f"out/{name}.plan.json").read_text())
    assert plan["removed"] and all(layer.startswith(f"{block}.") for layer in plan["removed"])
    before = side(tmp_path, "facts", str(tmp_path), f"out/{name}-slim.pt")
    assert before["identities"] == [block]
    _, slim, exported = side(
        tmp_path, "predict", str(tmp_path), f"{name}.pt", f"out/{name}-slim.pt", f"out/{name}.onnx"
    )
    assert np.allclose(slim["scores"], exported["scores"], atol=1e-3)
    side(tmp_path, "data", str(tmp_path))
    assert side(tmp_path, "train", str(tmp_path), f"out/{name}-slim.pt", "slim") == before
    assert (
        tool(
            tmp_path, "apply-plan", f"out/{name}.plan.json", f"{name}.pt", "--as", "ultralytics", "-o", "x.pt"
        ).returncode
        == 0
    )
    assert side(tmp_path, "facts", str(tmp_path), "x.pt")["widths"] == before["widths"]
    done = tool(tmp_path, "compile", f"out/{name}-slim.pt", "--prune", "dead", *emit, "-o", "again")
    assert done.returncode == 0, done.stderr[-2000:]
    _, slim, again = side(
        tmp_path, "predict", str(tmp_path), f"{name}.pt", f"out/{name}-slim.pt", f"again/{name}-slim.onnx"
    )
    assert np.allclose(slim["scores"], again["scores"], atol=1e-3)


@networks("yolov10n", "yolo26n", ci=["yolo26n"])
@pytest.mark.parametrize("towers", [pytest.param("file", marks=pytest.mark.long), "one-to-one"])
def test_the_towers_that_a_validation_has_chosen_are_compiled_or_the_others(
    name: str, towers: str, tmp_path: Path
) -> None:
    side(tmp_path, "write", str(tmp_path), name)
    side(tmp_path, "validated", str(tmp_path), f"{name}.pt")
    emit = ("--emit", "onnx,ncnn,ultralytics", "--will-train", "-q", "--towers", towers)
    done = tool(tmp_path, "compile", f"{name}.pt", "--prune", "0.3", *emit, "-o", "out")
    assert done.returncode == 0, done.stderr[-2000:]
    notes = json.loads((tmp_path / f"out/{name}.report.json").read_text())["notes"]
    assert any("need NMS" in note for note in notes) is (towers == "file")
    _, made, exported = side(
        tmp_path, "predict", str(tmp_path), f"{name}.pt", f"out/{name}-slim.pt", f"out/{name}.onnx"
    )
    assert len(made["scores"]) and len(made["scores"]) == len(exported["scores"])
    assert np.allclose(made["scores"], exported["scores"], atol=1e-3)
    assert np.allclose(made["boxes"], exported["boxes"], atol=1)


@networks("yolov10n", "yolo11n", "yolo12n", "yolo26n")
def test_dead_heads_go_whole(name: str, tmp_path: Path) -> None:
    side(tmp_path, "write", str(tmp_path), name)
    before = side(tmp_path, "facts", str(tmp_path), f"{name}.pt")["heads"]
    side(tmp_path, "silence", str(tmp_path), f"{name}.pt")
    emit = ("--attention", "heads", "--emit", "onnx,ultralytics", "--will-train", "-q")
    done = tool(tmp_path, "compile", f"{name}.pt", *emit, "-o", "out")
    assert done.returncode == 0, done.stderr[-2000:]
    slim = side(tmp_path, "facts", str(tmp_path), f"out/{name}-slim.pt")
    assert before and slim["heads"] == [[heads - 1, size] for heads, size in before]
    _, made, exported = side(
        tmp_path, "predict", str(tmp_path), f"{name}.pt", f"out/{name}-slim.pt", f"out/{name}.onnx"
    )
    assert np.allclose(made["scores"], exported["scores"], atol=1e-3) and len(made["scores"])


@pytest.mark.long
def test_a_row_of_layers_becomes_an_identity(tmp_path: Path) -> None:
    """A bottleneck without a shortcut, a tower's first layer: bridged, and its readers fitted."""
    name, rng = "yolov8n", np.random.default_rng(0)
    side(tmp_path, "write", str(tmp_path), name)
    (tmp_path / "calib").mkdir()
    for index in range(6):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "calib" / f"{index}.png")
    asked = ("--target-macs", "0.85x", "--depth", "only", "--calib", "calib", "--compensate", "reconstruct")
    done = tool(
        tmp_path, "compile", f"{name}.pt", *asked, "--emit", "onnx,ultralytics", "--will-train", "-q", "-o", "out"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / f"out/{name}.plan.json").read_text())["bridged"]
    assert side(tmp_path, "facts", str(tmp_path), f"out/{name}-slim.pt")["identities"]
    _, slim, exported = side(
        tmp_path, "predict", str(tmp_path), f"{name}.pt", f"out/{name}-slim.pt", f"out/{name}.onnx"
    )
    assert np.allclose(slim["scores"], exported["scores"], atol=1e-3) and len(slim["scores"])


@networks(
    *("yolov8n", "yolo11n-cls", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolo26n"),
    ci=["yolov8n", "yolo11n-cls", "yolo26n"],
)
def test_training_keeps_the_widths(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled(name, tmp_path_factory)
    before = side(folder, "facts", str(folder), f"out/{name}-slim.pt")
    after = side(folder, "train", str(folder), f"out/{name}-slim.pt", "slim")
    assert after == before
    assert after["from"]["file"] == f"{name}.pt"


@pytest.mark.xdist_group("yolov8n")
def test_training_goes_on_where_it_was_stopped(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolov8n", tmp_path_factory)
    before = side(folder, "facts", str(folder), "out/yolov8n-slim.pt")
    assert side(folder, "train", str(folder), "out/yolov8n-slim.pt", "resume") == before


@pytest.mark.xdist_group("yolov8n")
def test_a_plain_training_says_what_to_do_instead(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolov8n", tmp_path_factory)
    done = run(folder, str(SIDE), "train", str(folder), "out/yolov8n-slim.pt", "plain")
    assert done.returncode
    assert "SlimTrainer" in done.stderr.splitlines()[-1]


@pytest.mark.xdist_group("yolo12n")
@pytest.mark.long
def test_the_trained_network_compiles_again_and_is_pruned_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolo12n", tmp_path_factory)
    emit = ("--emit", "onnx,ultralytics", "--will-train", "-q")
    done = tool(folder, "compile", "out/yolo12n-slim.pt", "--prune", "0.2", *emit, "-o", "again")
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = (
        side(folder, "facts", str(folder), path) for path in ("out/yolo12n-slim.pt", "again/yolo12n-slim-slim.pt")
    )
    assert after["parameters"] < before["parameters"]
    assert after["from"]["before that"] == before["from"]


@pytest.mark.xdist_group("yolov8n")
def test_exports_predict_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolov8n", tmp_path_factory)
    slim, *exported = side(folder, "export", str(folder), "out/yolov8n-slim.pt")
    for each in exported:
        assert np.allclose(slim["scores"][:20], each["scores"][:20], atol=5e-3)


@pytest.mark.xdist_group("yolov8n")
@pytest.mark.long
def test_sparsify_prune_finetune_as_commands(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolov8n", tmp_path_factory)
    data = side(folder, "data", str(folder))
    small = ("imgsz=96", "batch=2", "nbs=2", "workers=0", "plots=False", "amp=False", f"project={folder / 'runs'}")
    line = ("sparsify", "yolov8n.pt", "--data", data, "--epochs", "4", "--target", "0.5", *small, "name=sparse")
    done = tool(folder, *line)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (folder / "runs/sparse/results.csv").read_text().splitlines()
    shares = [float(row.split(",")[rows[0].split(",").index("sparsity/zero")]) for row in rows[1:]]
    assert shares[0] == 0 and 0.25 < shares[-1] <= 0.5
    assert (folder / "runs/sparse/sparsity.png").exists()
    emit = ("--emit", "onnx,ultralytics", "--will-train", "-q")
    assert tool(folder, "compile", "runs/sparse/weights/sparse.pt", *emit, "-o", "dead").returncode == 0
    before = side(folder, "facts", str(folder), "dead/sparse-slim.pt")
    tune = ("--data", data, "--epochs", "1", "--teacher", "yolov8n.pt", *small, "name=tuned")
    done = tool(folder, "finetune", "dead/sparse-slim.pt", *tune)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dis_loss" in done.stdout + done.stderr
    assert side(folder, "facts", str(folder), "runs/tuned/weights/best.pt")["widths"] == before["widths"]


@pytest.mark.xdist_group("yolov8n")
@pytest.mark.long
def test_the_loop_in_one_command(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled("yolov8n", tmp_path_factory)
    data = side(folder, "data", str(folder))
    small = ("imgsz=96", "batch=2", "nbs=2", "workers=0", "plots=False", "amp=False")
    line = ("slim", "yolov8n.pt", "--data", data, "--target-latency", "0.95x", "--epochs", "8", "-o", "loop", "--json")
    done = tool(folder, *line, *small)
    assert done.returncode == 0, done.stderr[-2000:]
    note = json.loads((folder / "loop/slim.json").read_text())
    assert list(note["done"]) == ["dense", "sparse", "pruned", "tuned", "final"]
    rows = [row.split(",") for row in (folder / "loop/stages.csv").read_text().splitlines()]
    assert [row[0] for row in rows[1:]] == ["dense", "pruned", "final"]
    latency = rows[0].index("latency_us")
    assert max(float(row[latency]) for row in rows[2:]) <= 0.95 * float(rows[1][latency])
    assert (folder / "loop/final/yolov8n_ncnn_model/model.ncnn.param").is_file()
    again = tool(folder, *line, *small)  # all of it is done
    assert again.returncode == 0 and "epoch" not in again.stdout.lower(), again.stdout[-500:]
    other = tool(folder, *line, *small, "lr0=0.001")
    assert other.returncode == 2 and "holds a run with settings" in other.stderr


def test_several_processes(tmp_path: Path) -> None:
    assert side(tmp_path, "handed", str(tmp_path))[0] == "SlimDetectionTrainer"
    one, two = side(tmp_path, "together", str(tmp_path))
    assert one == two and 8 <= one.count(0.0) <= 16


@networks("yolov8n-seg", "yolo12n", "yolo26n-pose", ci=["yolo26n-pose"])
def test_a_plan_is_applied_to_the_same_widths(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = compiled(name, tmp_path_factory)
    done = tool(folder, "apply-plan", f"out/{name}.plan.json", f"{name}.pt", "--as", "ultralytics", "-o", "applied.pt")
    assert done.returncode == 0, done.stderr
    made, applied = (side(folder, "facts", str(folder), path) for path in (f"out/{name}-slim.pt", "applied.pt"))
    assert applied == made


@pytest.mark.xdist_group("yolov8n")
@pytest.mark.long
def test_plans_that_do_not_fit_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, other = compiled("yolov8n", tmp_path_factory), compiled("yolo26n", tmp_path_factory)
    line = ("--as", "ultralytics", "-o", "x.pt")
    done = tool(folder, "apply-plan", "out/yolov8n.plan.json", str(other / "yolo26n.pt"), *line)
    assert done.returncode == 2 and "another file" in done.stderr
    done = tool(folder, "compile", "yolov8n.pt", "--prune", "0.3", "--emit", "onnx", "-q", "--will-train", "-o", "any")
    assert done.returncode == 0
    done = tool(folder, "apply-plan", "any/yolov8n.plan.json", "yolov8n.pt", *line)
    assert done.returncode == 2 and "--emit ultralytics" in done.stderr, done.stderr  # its halves are unequal
    assert not (folder / "x.pt").exists()
