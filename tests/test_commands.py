"""The commands that read a model and say something about it, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
from tests.command import command
from tests.zoo import model_path

MATERIAL = Path(__file__).resolve().parents[2] / "shared" / "material"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled YOLOv8n, half its channels pruned."""
    out = tmp_path_factory.mktemp("compiled")
    done = command("compile", model_path("yolov8n"), "--prune", "0.5", "-o", out, "--name", "slim", "-q")
    assert done.returncode == 0, done.stderr
    return out


def test_inspect_tells_size_groups_and_sparsity() -> None:
    done = command("inspect", model_path("yolov8n", dead=0.4), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["sparsity"]["kind"] == "gamma"
    assert facts["sparsity"]["sparse"]
    assert 0.3 < facts["sparsity"]["below_001"] < 0.5
    assert facts["parameters"] > 0


def test_inspect_warns_of_a_network_that_is_not_sparse(tmp_path: Path) -> None:
    page = tmp_path / "gamma.html"
    done = command("inspect", model_path("yolov8n"), "--html", page)
    assert done.returncode == 0, done.stderr
    assert "not trained for sparsity" in done.stdout.replace("\n", " ")
    assert page.read_text().startswith("<!doctype html>")


def test_inspect_reads_ncnn(compiled: Path) -> None:
    done = command("inspect", compiled / "slim_ncnn_model", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["types"]["Convolution"] > 10


def test_verify_agrees_with_itself_in_both_runtimes(compiled: Path) -> None:
    done = command("verify", compiled / "slim.onnx", compiled / "slim_ncnn_model", "--tolerance", "0.05", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["worst"] < 0.05


def test_verify_control_a_pruned_model_is_not_its_source(compiled: Path) -> None:
    done = command("verify", model_path("yolov8n"), compiled / "slim.onnx")
    assert done.returncode == 3
    assert "disagrees" in done.stderr


def test_bench_gives_ratios_and_a_control(compiled: Path) -> None:
    done = command("bench", model_path("yolov8n"), compiled / "slim.onnx", "--rounds", "3", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["models"][0]["ratio"] == 1
    assert facts["control"] > 0
    assert [row["name"] for row in facts["models"]] == [model_path("yolov8n").name, "slim.onnx"]


def test_bench_tells_files_of_one_name_apart(compiled: Path, tmp_path: Path) -> None:
    (tmp_path / "slim.onnx").write_bytes((compiled / "slim.onnx").read_bytes())
    done = command("bench", "slim.onnx", compiled / "slim.onnx", "--rounds", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads(done.stdout)["models"]]
    assert names == ["slim.onnx", str(compiled / "slim.onnx")]


@pytest.mark.parametrize(("share", "status"), [("0.9x", 0), ("0.01x", 4)])
def test_a_budget_decides_the_exit_status(tmp_path: Path, share: str, status: int) -> None:
    (tmp_path / "budget.toml").write_text(f'params = "{share}"\n')
    words = ("--prune", "0.5", "--emit", "onnx", "-o", tmp_path / "out", "-q", "--budget", tmp_path / "budget.toml")
    done = command("compile", model_path("yolov8n"), *words)
    assert done.returncode == status, done.stderr
    assert ("params" in done.stderr) == (status == 4)


def test_diff_of_two_reports(compiled: Path) -> None:
    done = command("diff", compiled / "slim.report.json", compiled / "slim.report.json")
    assert done.returncode == 0, done.stderr
    assert "|" in done.stdout


def test_passes_lists_every_option() -> None:
    done = command("passes", "--json")
    assert done.returncode == 0
    listed = json.loads(done.stdout)
    assert {option["name"] for option in listed["prune"]} >= {"ratio", "scope", "keep"}


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "nothing.onnx"),
        ("verify", "a.onnx", "b.onnx"),
        ("bench", "nothing.onnx"),
        ("eval", "nothing.onnx", "--data", "nothing.yaml"),
        ("diff", "a.json", "b.json"),
        ("trace", "nothing.pt"),
        ("apply-plan", "plan.json", "nothing.pt", "-o", "out.pt"),
    ],
)
def test_what_is_not_there_is_bad_input(words: tuple[str, ...], tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.material
@pytest.mark.skipif(not MATERIAL.is_dir(), reason="the shared material is not here")
def test_a_darknet_network_compiles_and_evaluates_alike_in_both_runtimes(tmp_path: Path) -> None:
    cfg, data = MATERIAL / "weights" / "yolo-fastest-1.1.cfg", MATERIAL / "data" / "coco-val128" / "data.yaml"
    done = command("compile", cfg, "-o", tmp_path, "--name", "fast", "-q")
    assert done.returncode == 0, done.stderr
    found = []
    for path in (tmp_path / "fast.onnx", tmp_path / "fast_ncnn_model"):
        done = command("eval", path, "--data", data, "--json")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["map50"])
    assert found[0] == pytest.approx(0.3305, abs=0.005)
    assert found[1] == pytest.approx(found[0], abs=0.005)
