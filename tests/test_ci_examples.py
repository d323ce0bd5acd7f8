"""The documented CI configurations: their scripts are run as the service's runner would."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import shim
from tests.docs_snippets import PAGES, ROOT, blocks
from tests.test_bad_input import good, write


def documented(page: str, key: str) -> Any:
    """The page's YAML block with this key at the top."""
    texts = [block.text for block in blocks(PAGES / page) if block.language == "yaml"]
    (found,) = (data for data in map(yaml.safe_load, texts) if key in data)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with a model, a budget that it meets, and commands that the runner would find installed."""
    (tmp_path / "models").mkdir()
    write(good(), tmp_path / "models/best.onnx")
    write(good(), tmp_path / "model.onnx")
    (tmp_path / "budget.toml").write_text('params = "1.0x"\n')
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, body in {"pip": "true", "onnxslim-yolo": shim()}.items():
        (shims / name).write_text(f"#!/bin/sh\n{body}\n")
        (shims / name).chmod(0o755)
    return tmp_path


def run(line: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    surroundings = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(line, cwd=place, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


def script(lines: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """As runners do: line after line, until one fails."""
    (place / "script.sh").write_text("\n".join(lines))
    return run(["bash", "--noprofile", "--norc", "-e", "script.sh"], place)


def test_gitlab(place: Path) -> None:
    job = documented("ci.md", "slim")["slim"]
    done = script(job["script"], place)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = {path for path in job["artifacts"]["paths"] if (place / path).exists()}
    assert kept == {"slim", "slim.md"}, "there is nothing to compare with yet"
    assert all((place / path).is_dir() for path in job["cache"]["paths"])
    shutil.copy(place / "slim/best.report.json", place / "models/best.report.json")
    assert script(job["script"], place).returncode == 0
    assert "Nothing changed." in (place / "diff.md").read_text()
    assert "Unchanged: taken from the cache." in (place / "slim.md").read_text()
    (place / "budget.toml").write_text('params = "0.01x"\n')
    assert script(job["script"], place).returncode == 4


def test_github_in_plain_shell(place: Path) -> None:
    steps = documented("quickstart/ci.md", "jobs")["jobs"]["compile"]["steps"]
    lines = [step["run"] for step in steps if "run" in step]
    done = script(lines[:2], place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert script(lines[2:], place).returncode == 0, "the first run has nothing to compare with"
    shutil.copy(place / "slim/model.report.json", place / "baseline.report.json")
    assert script(lines, place).returncode == 0
    summary = (place / "summary.md").read_text()
    assert "✅ **PASS**" in summary and "Nothing changed." in summary
    (uploaded,) = (step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", ""))
    assert (place / uploaded / "model.onnx").is_file()


def test_pre_commit(place: Path) -> None:
    (hook,) = documented("ci.md", "repos")["repos"][0]["hooks"]
    entry = shlex.split(hook["entry"])
    done = run([*entry, "models/best.onnx", "model.onnx"], place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout
    (place / "budget.toml").write_text('params = "0.01x"\n')
    done = run([*entry, "model.onnx", "models/best.onnx"], place)
    assert done.returncode == 4 and "params" in done.stderr


def test_the_action_as_documented() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    steps = documented("ci.md", "jobs")["jobs"]["slim"]["steps"]
    (used,) = (step for step in steps if "onnxslim-yolo@" in step.get("uses", ""))
    assert set(used["with"]) <= set(action["inputs"])
    table = (PAGES / "ci.md").read_text(encoding="utf-8")
    for name in action["inputs"]:
        assert f"| `{name}`" in table or f", `{name}` |" in table, f"input {name} is not documented"
