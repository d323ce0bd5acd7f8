"""Files that are none, behind every option and in the cache: refused at once, with one message."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import command, environment
from tests.test_bad_input import good, write

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(good(), tmp_path / "m.onnx")
    return tmp_path


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "dangling"])
@pytest.mark.parametrize("option", ["--reference", "--weights", "--cache", "-o", "apply-plan"])
def test_odd_files_behind_every_option(option: str, kind: str, place: Path) -> None:
    """One message and status 2, at once; a link to nothing as a target may be made good."""
    if kind == "pipe":
        os.mkfifo(place / "x")
    else:
        (place / "x").symlink_to({"device": "/dev/zero", "loop": "x", "dangling": "nowhere"}[kind])
    line = ["apply-plan", "p.json", "x", "-o", "x"] if option == "apply-plan" else ["compile", "m.onnx", option, "x"]
    if kind == "dangling" and option in ("--cache", "-o"):
        line += ["--limit-work", "1"]  # it need not fail for its name
    done = command(*line, cwd=place)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "internal" not in done.stderr, done.stderr
    assert not (place / "m-slim").exists() and os.path.lexists(place / "x") and not (place / "nowhere").exists()


def test_a_summary_into_a_pipe_that_nobody_reads(place: Path) -> None:
    os.mkfifo(place / "s")
    done = command("compile", "m.onnx", "--no-verify", "--emit", "onnx", "--summary", "s", cwd=place)
    assert done.returncode == 2 and "cannot write the summary" in done.stderr


def test_a_planted_cache_gives_listed_files_only(place: Path) -> None:
    """What lies beside the listed files stays there; a pipe for a manifest is no entry; control: the entry counts."""
    line = ("compile", "m.onnx", "--no-verify", "--emit", "onnx", "--cache", "c", "-o", "o")
    assert command(*line, cwd=place).returncode == 0
    (entry,) = (place / "c").iterdir()
    (entry / "files" / "extra").symlink_to("/dev/zero")
    os.mkfifo(entry / "files" / "pipe")
    (entry / "files" / "secret").symlink_to("/etc/passwd")
    wanted = {path.name for path in (place / "o").iterdir()}
    shutil.rmtree(place / "o")
    done = command(*line, cwd=place)
    assert done.returncode == 0 and "from the cache" in done.stdout, done.stderr
    assert {path.name for path in (place / "o").iterdir()} == wanted
    (entry / "cache.json").unlink()
    os.mkfifo(entry / "cache.json")
    done = command(*line, cwd=place)
    assert done.returncode == 0 and "from the cache" not in done.stdout, done.stderr


def test_a_profile_that_cannot_be_written_measures_nothing(place: Path) -> None:
    (place / "t").mkdir()
    done = command("profile", "m.onnx", "-o", "t", cwd=place)
    assert done.returncode == 2 and "is a folder" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["--json", "--output-format=github", "--json --no-such-option"])
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_an_error_that_standard_output_cannot_take(words: str, where: str, place: Path) -> None:
    line = f"{sys.executable} -m onnxslim_yolo compile none.onnx {words} {where}"
    done = subprocess.run(line, shell=True, cwd=place, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "internal" not in done.stderr, done.stderr
    assert "no such file" in done.stderr.lower() or "no such option" in done.stderr.lower()
