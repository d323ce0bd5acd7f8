"""`--run-on`: a second Python behind a pipe stands for ssh; launchers that will not do give one message."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import UsageError, VerificationError
from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.measurer import Measurer
from onnxslim_yolo.runtime import launchers, ncnn_run
from onnxslim_yolo.runtime.boards import board_of
from onnxslim_yolo.runtime.launchers import LaunchedChild, command_of
from onnxslim_yolo.runtime.ncnn_run import CHILD, NcnnSession, ncnn_files
from tests.command import command
from tests.numeric import build, random_feeds, run_onnx

HERE = f"{shlex.quote(sys.executable)} -"
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,32,32] x) => (float[1,8,16,16] y)
<float[8,3,3,3] w, float[8,1,3,3] d> { a = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x, w)
b = Relu(a) y = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(b, d) }"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build(TEXT)
    model.save(tmp_path / "m.onnx")
    return write_ncnn(emit_ncnn(model, weights="fp32"), tmp_path / "m_ncnn_model")


def shell(script: str) -> str:
    """A launcher that does something before, or instead of, starting a Python: `"$@"` are the Python's arguments."""
    return f"sh -c {shlex.quote(script)} sh -"


def test_a_pair_runs_in_another_python_as_it_does_here(folder: Path) -> None:
    feed = random_feeds(build(TEXT))
    with NcnnSession(*ncnn_files(folder)) as here, NcnnSession(*ncnn_files(folder), run_on=HERE) as there:
        assert there.board is not None
        for _ in range(2):
            wanted, found = (each.run({"in0": feed["x"][0]})["out0"] for each in (here, there))
            np.testing.assert_array_equal(found, wanted)
        there.load(*ncnn_files(folder))  # files are sent anew
        assert there.outputs == here.outputs
    assert not np.allclose(run_onnx(build(TEXT), random_feeds(build(TEXT), 1))["y"][0], wanted, atol=1e-3)


def test_it_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is its own to remove: it is let end before it is ended."""
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with NcnnSession(*ncnn_files(folder), run_on=HERE) as there:
        assert list(place.iterdir()) and there.run({"in0": random_feeds(build(TEXT))["x"][0]})
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    "before", ["echo Welcome; echo 'no mail'", "printf 'Last login: today '", "echo warning >&2; yes | head -c 5000"]
)
def test_what_is_printed_before_python_starts_is_passed_over(folder: Path, before: str) -> None:
    run_on = shell(f'{before}; exec {shlex.quote(sys.executable)} "$@"')
    with NcnnSession(*ncnn_files(folder), run_on=run_on) as there:
        assert there.outputs == ("out0",)


@pytest.mark.parametrize(
    ("run_on", "said"),
    [
        ("/nowhere/python -", "cannot be started"),
        ("false -", "exit status 1"),
        (shell("echo no route to host >&2; exit 255"), "exit status 255; it said: no route to host"),
        (shell('exec python-of-another-name "$@"'), "exit status 127"),
        ("' -", "takes a command"),
        (" - ", "names no command"),
    ],
)
def test_a_launcher_that_starts_no_python(
    folder: Path, run_on: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with pytest.raises(UsageError, match=said):
        NcnnSession(*ncnn_files(folder), run_on=run_on)
    assert not list(place.iterdir())


@pytest.mark.parametrize("script", ["cat >/dev/null", "sleep 3", "sleep 3 & wait", "yes"])
def test_a_launcher_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(launchers, "STARTS_WITHIN", 0.3)
    with pytest.raises(UsageError, match=r"did not answer within 0\.3 s|something else than"):
        LaunchedChild(shell(script), CHILD)


def test_a_connection_that_is_lost_later_is_said(folder: Path) -> None:
    dying = "import os, sys; sys.stdin.readline(); os.write(2, b'connection reset\\n'); os._exit(255)"
    child = folder / "dying.py"
    child.write_text(dying)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UsageError, match="255; it said: connection reset, while"),
    ):
        patch.setattr(ncnn_run, "CHILD", child)
        NcnnSession(*ncnn_files(folder), run_on=HERE)


def test_a_crash_of_what_runs_there_is_no_lost_connection(folder: Path, tmp_path: Path) -> None:
    child = tmp_path / "crashes.py"
    child.write_text("import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)\n")
    started = LaunchedChild(HERE, child)
    started.stdin.write(b"{}\n")
    started.stdin.flush()
    assert started.stdout.readline() == b""
    started.process.wait()
    assert started.lost("running") is None
    started.close()


FACTS = {"python": "3.11", "machine": "aarch64", "byteorder": sys.byteorder, "numpy": "2", "ncnn": "1.0", "half": True}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"ncnn": None, "why": "ModuleNotFoundError: No module named 'ncnn'"}, "no ncnn in that Python"),
        ({"numpy": None}, "no numpy in that Python"),
        ({"byteorder": "big" if sys.byteorder == "little" else "little"}, "byte order"),
    ],
)
def test_a_python_that_will_not_do(facts: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        board_of(FACTS | facts)


def test_another_version_of_ncnn_is_said_and_used() -> None:
    assert "ncnn 1.0 there" in board_of(FACTS).notes[0]
    isas = [board_of(FACTS | {"machine": m, "half": h}).isa for m, h in (("aarch64", True), ("aarch64", False))]
    assert [*isas, board_of(FACTS | {"machine": "armv7l"}).isa] == ["neon-fp16", "neon", "neon"]


def test_a_python_without_ncnn_is_told_from_one_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "ncnn.py").write_text("raise ImportError('libgomp.so.1: no such file')\n")
    with pytest.raises(UsageError, match=r"no ncnn in that Python .*libgomp"):
        LaunchedChild(f"env PYTHONPATH={shlex.quote(str(tmp_path))} {HERE}", CHILD)


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nread line\necho 'onnxslim-yolo: ready 2.7'\ncat >/dev/null\n")
    old.chmod(0o755)
    with pytest.raises(UsageError, match=r"Python 2.7 there; 3.8 or newer"):
        LaunchedChild(f"{old} -", CHILD)


def test_the_last_dash_becomes_a_prompt() -> None:
    assert command_of("ssh -p 22 pi@board python3 -") == ["ssh", "-p", "22", "pi@board", "python3", "-q", "-i"]
    assert command_of("python3") == ["python3", "-q", "-i"]


def test_bench_and_profile_measure_there(folder: Path) -> None:
    found = benchmark([folder, folder.parent / "m.onnx"], rounds=3, run_on=HERE, layers=True)
    assert [m.runtime for m in found.models] == ["ncnn", "onnxruntime"] and found.models[0].layers
    key = LayerKey(Family("conv", "", (3, 3), (1, 1), size=(8, 8)), (8,), (8,))
    with Measurer("ncnn", 1, run_on=HERE) as measurer:
        board = measurer.board()
        assert board is not None and board.ncnn
        assert [us is not None and us > 0 for us in measurer([key, key])] == [True, True]
        assert (measurer.whole(build(TEXT).graph) or 0) > 0
    with Measurer("onnxruntime", 1, run_on=HERE) as measurer:
        assert (measurer([key])[0] or 0) > 0


def test_verify_says_what_is_computed_there(folder: Path) -> None:
    onnx = folder.parent / "m.onnx"
    done = command("verify", onnx, folder, "--run-on", HERE, "--tolerance", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)["there"]
    assert there["state"] == "the same" and there["board"]["ncnn"] and there["outputs"][0]["relative"] < 0.02
    refused = command("verify", onnx, onnx, "--run-on", HERE)
    assert refused.returncode == 2 and "--run-on runs NCNN pairs" in refused.stderr


def test_a_wrong_pair_is_noticed_there(folder: Path) -> None:
    weights = folder / "model.ncnn.bin"
    data = bytearray(weights.read_bytes())
    data[4:8] = np.float32(np.inf).tobytes()
    weights.write_bytes(bytes(data))
    from onnxslim_yolo.verify.on_device import check_there, require_sound

    there = check_there(folder.parent / "m.onnx", folder, HERE)
    assert there.state == "broken"
    with pytest.raises(VerificationError, match="not finite"):
        require_sound(there, folder)


def test_compile_runs_the_pair_there_and_says_so(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command("compile", folder.parent / "m.onnx", "--run-on", HERE, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["there"]["state"] == "the same" and report["there"]["board"]["ncnn"]
    assert any(note.startswith("as computed on") for note in report["notes"])
    failed = command("compile", folder.parent / "m.onnx", "--run-on", "false -", "-o", tmp_path / "none")
    assert failed.returncode == 2 and "exit status 1" in failed.stderr and not (tmp_path / "none").exists()


def test_nothing_of_the_working_directory_is_run_there(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """A Python at its prompt imports from where it stands, its own readline first of all."""
    place = tmp_path / "work"
    place.mkdir()
    for name in ("readline", "rlcompleter", "json", "tempfile", "platform", "numpy", "ncnn"):
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'marks')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(place)
    (place / "python").symlink_to(sys.executable)
    assert command_of("./python -")[0] == str(place / "python")  # what it names is found all the same
    with NcnnSession(*ncnn_files(folder), run_on=HERE) as there:
        assert there.outputs == ("out0",) and not (tmp_path / "marks").exists()
    line = "import json\n"
    subprocess.run([sys.executable, "-q", "-i"], input=line, text=True, capture_output=True, check=False)
    assert "json" in (tmp_path / "marks").read_text()  # the control
