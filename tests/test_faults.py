"""Faults: killed at any moment, a full disk, a read-only folder, two compilations at once, two in a row."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import INCOMING, STALE_SECONDS, move_into, staging
from tests.command import command
from tests.fault_processes import ENVIRONMENT, FULL, as_nobody, compiler, heal, sets_in, start, whole, writer
from tests.test_bad_input import good, write
from tests.test_compile import contents


@pytest.mark.parametrize("round_", range(6))
def test_killed_while_writing(round_: int, tmp_path: Path) -> None:
    """kill -9 at a random moment, in half of the rounds after something has been written: every file whole at once; all
    of one run when the next has come by."""
    folder = tmp_path / "out"
    process = writer(folder, "a")
    start(process)
    written = round_ % 2 == 0
    while written and not (folder.exists() and any(not p.name.startswith(INCOMING) for p in folder.iterdir())):
        assert process.poll() is None, "it ended without having written"
        time.sleep(0.001)
    time.sleep(random.Random(round_).uniform(0, 0.25))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before the kill"
    if folder.exists():
        sets_in(folder)
    for left in tmp_path.glob(".out.onnxslim-*"):
        os.utime(left, (time.time() - 2 * STALE_SECONDS,) * 2)
    heal(folder)
    assert len(set(sets_in(folder))) <= 1, "files of two runs are mixed"
    assert len(sets_in(folder)) in ((8,) if written else (0, 8))
    assert {p.name for p in tmp_path.iterdir()} == {"out"}, "a staging folder is left"
    assert not (folder / INCOMING).exists()


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point in the middle of the move: the next compilation finishes it, so that no run is half there."""
    from onnxslim_yolo.files import atomic as files

    class Killed(BaseException):
        pass

    replace = os.replace
    for moves in range(4):
        folder = tmp_path / f"out{moves}"
        folder.mkdir()
        for name in "abcd":
            (folder / name).write_text("old")
        done = 0

        def stop(source: str, target: str, limit: int = moves, **places: int) -> None:
            nonlocal done
            if done == limit:
                raise Killed
            done += 1
            replace(source, target, **places)

        stage = tmp_path / f".stage{moves}"
        stage.mkdir()
        for name in "abcd":
            (stage / name).write_text("new")
        monkeypatch.setattr(files.os, "replace", stop)
        with pytest.raises(Killed):
            move_into(stage, folder)
        monkeypatch.setattr(files.os, "replace", replace)
        assert [(folder / n).read_text() for n in "abcd"] == ["new"] * moves + ["old"] * (4 - moves)
        heal(folder)
        assert {n: (folder / n).read_text() for n in "abcd"} == dict.fromkeys("abcd", "new")
        assert {p.name for p in folder.iterdir()} == set("abcd")


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    pair = [writer(folder, run, turns=25) for run in "ab"]
    for process in pair:
        start(process)
    for process in pair:
        assert process.wait(timeout=60) == 0
    assert set(sets_in(folder)) in ({"a.24"}, {"b.24"}) and len(sets_in(folder)) == 8
    assert {p.name for p in tmp_path.iterdir()} == {"out"} and not (folder / INCOMING).exists()


def test_control_without_the_lock_they_do_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files moved one by one by two runs in turn, as without a lock: the check of the tests above sees it."""
    for run in ("a.0", "b.0"):
        (tmp_path / f"f{run[0]}").write_text(f"{run} " * 2000)
    assert set(sets_in(tmp_path)) == {"a.0", "b.0"}
    (tmp_path / "fa").write_text("a.0 " * 1999)
    with pytest.raises(AssertionError, match="half written"):
        sets_in(tmp_path)


@pytest.mark.parametrize("delay", [0.4, 1.0, 1.6, 2.2])
def test_the_command_killed(delay: float, tmp_path: Path) -> None:
    """The same with the command itself: what was there stays, or the new result is whole."""
    path = write(good(), tmp_path / "m.onnx")
    out = tmp_path / "out"
    out.mkdir()
    old = {"m.onnx": b"old", "m.report.json": b"old"}
    for name, data in old.items():
        (out / name).write_bytes(data)
    arguments = [sys.executable, "-m", "onnxslim_yolo", "compile", str(path), "-o", str(out), "--emit", "onnx", "-q"]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, cwd=tmp_path)
    time.sleep(delay)
    process.kill()
    process.wait()
    found = {name: data for name, data in contents(out).items() if not name.startswith(INCOMING)}
    if found["m.report.json"] != b"old":
        report = json.loads(found["m.report.json"])
        assert report["files"] == {"m.onnx": len(found["m.onnx"])}
    else:
        assert found == old or len(found["m.onnx"]) > 100


def test_compilations_killed_at_random_moments(tmp_path: Path) -> None:
    """kill -9, again and again, of compilations into one folder: after each the next finishes what was begun."""
    folder, rounds = tmp_path / "out", 25
    process = compiler(folder, "kill", 1, rounds)
    assert process.stdin is not None and process.stdout is not None
    seen = []
    for _ in range(rounds):
        assert process.stdout.readline() == "killed\n", process.stderr and process.stderr.read()
        if folder.exists():
            heal(folder)
            seen.append(whole(folder))
            assert not (folder / INCOMING).exists()
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(timeout=60) == 0
    assert len(set(seen) - {None}) >= 2, f"the kills came too early to tell anything: {seen}"


def test_compilations_at_once_do_not_mix(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _, errors = compiler(folder, "together").communicate(timeout=120)
    assert errors == ""
    assert whole(folder) in (0.25, 0.5, 0.75)
    assert {p.name for p in folder.iterdir()} == {"m.onnx", "m.plan.json", "m.report.json", "m.report.html"}
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "out"}


def test_control_files_of_two_compilations_are_seen(tmp_path: Path) -> None:
    import onnxslim_yolo as oy

    path = write(good(), tmp_path / "m.onnx")
    for prune in (0.25, 0.5):
        oy.compile(path, out=tmp_path / str(prune), prune=prune, snap="none", emit="onnx", verify=False)
        assert whole(tmp_path / str(prune)) == prune
    for name in ("m.onnx", "m.plan.json", "m.report.html"):
        mixed = tmp_path / f"with {name}"
        shutil.copytree(tmp_path / "0.25", mixed)
        shutil.copy(tmp_path / "0.5" / name, mixed / name)
        with pytest.raises(AssertionError):
            whole(mixed)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file system with room for none, some and all of the new files: all of them appear, or none."""
    source = write(good(), tmp_path / "m.onnx")
    place = tmp_path / "disk"
    place.mkdir()
    line = ["unshare", "--mount", sys.executable, "-c", FULL, str(place), str(source)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    if done.returncode == 77 or "Operation not permitted" in done.stderr:
        pytest.skip("may not mount a file system")
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said.count("refused") >= 6 and said[-1] == "written", said


def test_a_full_disk(tmp_path: Path) -> None:
    """No file may grow beyond 2 kB: the report does. One message, and nothing has changed."""
    path = write(good(), tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.onnx").write_text("old")

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = command(
        "compile", path, "-o", "out", "--emit", "onnx", "--no-verify", cwd=tmp_path, env=ENVIRONMENT, preexec_fn=small
    )
    assert done.returncode == 2 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert contents(tmp_path / "out") == {"m.onnx": b"old"}
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "out"}


@pytest.mark.skipif(os.name != "posix", reason="needs users")
def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to other users
        place, out = Path(name), Path(name) / "out"
        out.mkdir()
        place.chmod(0o777)
        assert as_nobody(out) == "allowed"
        place.chmod(0o555)
        assert "out: cannot write here: Permission denied" in as_nobody(out)
        assert [p.name for p in place.iterdir()] == ["out"]


@pytest.mark.skipif(os.name != "posix", reason="needs users")
def test_a_folder_of_ones_own_in_a_folder_that_is_read_only() -> None:
    """A home, or a container's working directory: what comes into it is made in it, as nothing can be beside it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place, out = Path(name), Path(name) / "out"
        out.mkdir()
        out.chmod(0o777)
        place.chmod(0o555)
        assert as_nobody(out) == "allowed"
        assert [p.name for p in place.iterdir()] == ["out"] and list(out.iterdir()) == []


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "a").write_text("old")
    with pytest.raises(InputError, match="b: is a folder, but a file of this name"), staging(out) as stage:
        (stage / "a").write_text("new")
        (stage / "b").write_text("new")
        move_into(stage, out)
    assert (out / "a").read_text() == "old" and {p.name for p in out.iterdir()} == {"a", "b"}


def test_what_others_left_is_swept_and_what_they_hold_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staging(out) as held:
        os.utime(held, (0, 0))
        left = tmp_path / ".out.onnxslim-left"
        left.mkdir()
        os.utime(left, (0, 0))
        young = tmp_path / ".out.onnxslim-young"
        young.mkdir()
        with staging(out):
            assert held.exists() and young.exists() and not left.exists()


def test_a_second_run_gives_the_same_bytes_for_every_file(tmp_path: Path) -> None:
    """Timings are in no file; a fresh process with another hash seed gives what the first gave."""
    write(good(), tmp_path / "m.onnx")
    found = []
    for seed in ("1", "2"):
        done = command("compile", "m.onnx", "--prune", "0.4", "--isa", "avx2", cwd=tmp_path, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        found.append(contents(tmp_path / "m-slim"))
        (tmp_path / "m-slim").rename(tmp_path / seed)
        ENVIRONMENT["PYTHONHASHSEED"] = seed
    ENVIRONMENT.pop("PYTHONHASHSEED")
    assert found[0] == found[1] and len(found[0]) == 7
