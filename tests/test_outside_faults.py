"""What surrounds a command goes wrong: streams, signals, disks, files that are none. One message, nothing left."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from onnxslim_yolo import compile as compile_model
from onnxslim_yolo.emit.ncnn.write import _value
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.files.atomic import staging
from onnxslim_yolo.latency.table_format import read_table
from onnxslim_yolo.load import load
from onnxslim_yolo.sweep.rows import read_rows
from tests.command import command, environment
from tests.test_bad_input import good, write

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pipes, devices and signals")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(good(), tmp_path / "m.onnx")
    return tmp_path


def in_shell(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    front = f'"{sys.executable}" -m onnxslim_yolo'
    return subprocess.run(
        ["bash", "-c", f"{front} {line}"], cwd=place, env=environment(), capture_output=True, text=True, timeout=120
    )


FULL, CLOSED = ">/dev/full", ">&-"
SAID = [  # text and JSON, of a command that writes and of one that reads, to each kind of stream
    *(("compile m.onnx --no-verify", FULL), ("compile m.onnx --no-verify --json", CLOSED)),
    *(("inspect m.onnx", CLOSED), ("inspect m.onnx --json", FULL), ("passes", FULL)),
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("line", "where"), SAID)
def test_standard_output_that_is_full_or_closed(line: str, where: str, place: Path) -> None:
    done = in_shell(f"{line} {where}", place)
    assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
    assert "standard output cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_nothing_is_said_to_a_stream_that_nobody_needs(place: Path) -> None:
    done = in_shell("compile m.onnx -q >&-", place)
    assert done.returncode == 0 and (place / "m-slim" / "m.onnx").exists(), done.stderr
    done = in_shell("inspect m.onnx 2>&-", place)
    assert done.returncode == 0 and "parameters" in done.stdout
    assert in_shell("inspect none.onnx 2>&-", place).returncode == 2


NO_FILES = {"pipe": "a pipe", "zero": "a device", "linked": "a device", "socket": "a socket"}


@pytest.fixture
def no_file(request, place: Path, monkeypatch) -> Path:
    path = place / "x"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        import socket

        monkeypatch.chdir(place)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("x")
    else:
        path.symlink_to("/dev/zero")
        if request.param == "linked":
            path.rename(place / "y")
            path.symlink_to("y")
    return path


@pytest.mark.parametrize("no_file", list(NO_FILES), indirect=True)
def test_pipes_devices_and_sockets_are_refused_at_once(no_file: Path, place: Path, request) -> None:
    what = NO_FILES[request.node.callspec.params["no_file"]]
    lines: list[tuple[object, ...]] = [
        ("compile", "m.onnx", "--budget", "x.toml"),
        ("compile", "m.onnx", "--config", "x.toml"),
        ("compile", "m.onnx", "--data", "x.yaml"),
        ("inspect", "x.report.json"),
        ("diff", "x.report.json", "x.report.json"),
    ]
    for suffix in (".onnx", ".cfg", ".pt", ".safetensors"):
        lines.append(("compile", f"x{suffix}"))
    (place / "n.cfg").write_text("[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=4\nsize=1\n")
    lines.append(("compile", "n.cfg", "--weights", "x.weights"))
    for line in lines if what == "a pipe" else lines[5:7]:  # every reader asks the same question
        name = next(str(word) for word in line if str(word).startswith("x."))
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to("x")
        done = command(*line, cwd=place)
        assert done.returncode == 2 and f"is {what}" in done.stderr, (line, done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_summary_on_a_full_disk(place: Path) -> None:
    done = command("compile", "m.onnx", "--no-verify", "--summary", "/dev/full", cwd=place)
    assert done.returncode == 2 and "cannot write the summary: No space left" in done.stderr


def test_a_cache_on_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from onnxslim_yolo.ci.job import Job, compile_job
    from onnxslim_yolo.errors import InputError
    from onnxslim_yolo.options import CompileOptions

    options = CompileOptions(out=place / "out", emit=("onnx",), verify=False)
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        copy(source, target)
        if str(target).endswith(".html"):
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="cannot write: No space left on device") as caught:
        compile_job(Job(place / "m.onnx", options, place / "cache"), lambda stage: None)
    assert "--cache" in (caught.value.hint or "") and caught.value.exit_status == 2
    assert list((place / "cache").iterdir()) == [] and (place / "out" / "m.onnx").exists()
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert not compile_job(Job(place / "m.onnx", options, place / "cache"), lambda stage: None).cached
    assert compile_job(Job(place / "m.onnx", options, place / "cache"), lambda stage: None).cached


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_signals_leave_nothing(number: signal.Signals, place: Path) -> None:
    """At random moments of a compilation: no staging folder, no child's folder, and no child is left."""
    dice, temporary = random.Random(number), place / "temporary"
    temporary.mkdir()
    ended = set()
    for delay in (0.2, dice.uniform(0.6, 1.6), dice.uniform(1.6, 2.6)):
        line = [sys.executable, "-m", "onnxslim_yolo", "compile", "m.onnx", "-q", "--measure"]
        process = subprocess.Popen(
            line, cwd=place, env={**environment(), "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True
        )
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        ended.add(process.returncode)
        if process.returncode != -number:  # it was not up yet
            assert "Traceback" not in said, said
        assert not [p.name for p in place.iterdir() if p.name.startswith(".")]
        assert list(temporary.iterdir()) == []
    assert ended & {128 + number, 1, 130, 0}, ended


def test_control_a_kill_does_leave_something(place: Path) -> None:
    temporary = place / "temporary"
    temporary.mkdir()
    code = "import time; from pathlib import Path; from onnxslim_yolo.files.atomic import staging\n"
    code += "with staging(Path('out')):\n print(1, flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=place, env=environment(), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.kill()
    process.wait()
    assert [p.name for p in place.iterdir() if p.name.startswith(".")]


def test_a_child_whose_parent_was_killed_removes_its_folder(place: Path) -> None:
    (temporary := place / "temporary").mkdir()
    code = "import time; from onnxslim_yolo.runtime.ncnn_run import CHILD, start\n"
    code += "child = start(CHILD); print(child.folder, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment() | {"TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and Path(process.stdout.readline().strip()).is_dir()
    process.kill()
    process.wait()
    for _ in range(400):
        if not list(temporary.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError(f"left: {list(temporary.iterdir())}")


METADATA = [
    *("1j", "[1j]", "{1: 2j}", "b'x'", "[b'x']", "...", "[...]", "{1, 2}", "[{1, 2}]", "1e999", "-1e999", "[1e999]"),
    *(
        "9" * 5000,
        "0x" + "f" * 9000,
        "[" * 900 + "]" * 900,
        "{(1, 2): 3}",
        "{'a': {'b': {1j}}}",
        "nan",
        "'\\x00'",
        "\x01",
    ),
    *("[[1e999, -1e999]]", "{None: None}", "(1, 2)", "-" * 3000 + "1", "'\\ud800'", "['\\udfff']", "{'\\ud800': 1}"),
]


@pytest.mark.parametrize("text", METADATA, ids=range(len(METADATA)))
def test_metadata_that_yaml_or_numbers_cannot_hold(text: str, place: Path) -> None:
    """Under every key that is read as well: compiled, and the metadata can be read, or refused in a sentence."""
    yaml.safe_load(yaml.safe_dump(_value(text)))
    model = good()
    for key in (
        "names",
        "stride",
        "imgsz",
        "task",
        "batch",
        "nc",
        "head",
        "kpt_shape",
        "anything",
        "channels",
        "end2end",
    ):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    path = write(model, place / "m.onnx")
    try:
        load(path)
        compile_model(path, out=place / "out", verify=False)
    except OnnxSlimError as error:  # whatever else is raised would be a bug
        assert error.exit_status == 2
        return
    assert yaml.safe_load((place / "out" / "m_ncnn_model" / "metadata.yaml").read_text(encoding="utf-8"))


def left_in(folder: Path) -> list[str]:
    """Staging folders and half-written files, at any depth."""
    return [p.name for p in folder.rglob(".*") if "onnxslim-" in p.name or p.name.endswith(".part")]


def killed_after(delay: float, place: Path, *words: object) -> None:
    line = [sys.executable, "-m", "onnxslim_yolo", *map(str, words)]
    process = subprocess.Popen(line, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()


def test_a_sweep_killed_again_and_again_ends_with_every_row_once(place: Path) -> None:
    words = ("sweep", "m.onnx", "--prune", "0.2,0.4,0.6", "--snap", "none", "--no-verify", "--jobs", "2", "-o", "s")
    dice = random.Random(0)
    for _ in range(3):
        killed_after(dice.uniform(1.0, 4.0), place, *words)
        if (place / "s" / "sweep.csv").exists():
            assert read_rows(place / "s" / "sweep.csv"), "half a table"
    done = command(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = read_rows(place / "s" / "sweep.csv")
    assert len({row["key"] for row in rows}) == len(rows) == 4 and not any(row["error"] for row in rows)
    for row in rows:
        assert (place / "s" / row["file"]).exists()


def test_a_cache_killed_while_it_is_written_gives_whole_results_or_none(place: Path) -> None:
    words = ("compile", "m.onnx", "--no-verify", "--emit", "onnx", "--cache", "c", "-q", "-o", "o")
    dice = random.Random(1)
    assert command(*words, cwd=place).returncode == 0
    wanted = {p.name: p.read_bytes() for p in (place / "o").iterdir()}
    for _ in range(3):
        for folder in ("c", "o"):
            shutil.rmtree(place / folder, ignore_errors=True)
        killed_after(dice.uniform(0.7, 2.0), place, *words)
        assert command(*words, cwd=place).returncode == 0
        assert {p.name: p.read_bytes() for p in (place / "o").iterdir()} == wanted
        shutil.rmtree(place / "o")
        assert command(*words, cwd=place).returncode == 0, "from the cache"
        assert {p.name: p.read_bytes() for p in (place / "o").iterdir()} == wanted


def test_a_profile_killed_leaves_a_whole_table_or_none(place: Path) -> None:
    dice = random.Random(2)
    for _ in range(3):
        killed_after(dice.uniform(1.0, 4.0), place, "profile", "m.onnx", "-o", "t.json")
        if (place / "t.json").exists():
            read_table(place / "t.json")


@pytest.mark.skipif(not hasattr(os, "fork") or os.getuid() != 0, reason="needs to become another user")
def test_another_users_working_directory_that_cannot_be_written() -> None:
    """The whole command as nobody, in a folder of root's: one message; with -o elsewhere it works."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to other users
        place, elsewhere = Path(name) / "work", Path(name) / "elsewhere"
        place.mkdir()
        elsewhere.mkdir()
        elsewhere.chmod(0o777)
        Path(name).chmod(0o755)
        write(good(), place / "m.onnx").chmod(0o644)
        place.chmod(0o555)
        status, said = as_user(65534, place, "compile", "m.onnx", "--no-verify", "--emit", "onnx", "-q")
        assert status == 2 and "m-slim: cannot write here: Permission denied" in said, said
        assert [p.name for p in place.iterdir()] == ["m.onnx"]
        out = elsewhere / "out"
        status, said = as_user(65534, place, "compile", "m.onnx", "--no-verify", "--emit", "onnx", "-q", "-o", out)
        assert status == 0 and (out / "m.onnx").stat().st_uid == 65534, said


def as_user(user: int, folder: Path, *words: object) -> tuple[int, str]:
    """Exit status and standard error of the command, run by another user in a forked child with all modules loaded."""
    import onnxslim_yolo.ci.job
    import onnxslim_yolo.cli.main

    with tempfile.TemporaryDirectory() as warm:  # what is imported late is closed to other users here
        line = ["compile", str(folder / "m.onnx"), "--no-verify", "--emit", "onnx", "-o", warm]
        assert CliRunner().invoke(onnxslim_yolo.cli.main.app, line).exit_code == 0
        with contextlib.suppress(InputError), staging(folder / "m.onnx"):
            pass
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(log.fileno(), 2)
                os.chdir(folder)
                os.setuid(user)
                sys.argv = ["onnxslim-yolo", *map(str, words)]
                sys.stderr = os.fdopen(2, "w")
                onnxslim_yolo.cli.main.main()
                status = 0
            except SystemExit as leaving:
                status = leaving.code if isinstance(leaving.code, int) else 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        return status, log.read().decode()
