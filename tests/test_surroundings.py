"""Nothing that lies in the working directory or the temporary folder is run, and nothing is left in the home."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxslim_yolo.runtime.children import Child, environment_for, import_path
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from tests.command import ROOT, environment
from tests.test_bad_input import good, write

PLANTED = """import os
with open({marks!r}, "a") as stream:
    stream.write({name!r} + "\\n")
os._exit(66)
"""
SCRIPT = Path(sys.executable).with_name("onnxslim-yolo")
PROFILE = """import sys
from pathlib import Path
from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.measure.measurer import Measurer
with Measurer(sys.argv[1], 1) as measure:
    print(measure([LayerKey(Family("conv", kernel=(3, 3), size=(8, 8)), (8,), (8,))]))
"""


def module_names() -> set[str]:
    """Every module that anything here could import: Python's own, and those of all installed packages."""
    return (
        set(sys.stdlib_module_names)
        | set(importlib.metadata.packages_distributions())
        | {"sitecustomize", "usercustomize"}
    )


def plant(folder: Path, marks: Path) -> Path:
    """A folder with a module of every name, each of which leaves a mark and ends the process."""
    folder.mkdir(exist_ok=True)
    for name in module_names():
        if name.isidentifier():
            (folder / f"{name}.py").write_text(PLANTED.format(marks=str(marks), name=name))
    return folder


@pytest.fixture
def place(tmp_path):
    """A model in a working directory full of modules, with a temporary folder full of them; and where marks appear."""
    plant(tmp_path / "temporary", tmp_path / "marks")
    write(good(), plant(tmp_path / "work", tmp_path / "marks") / "m.onnx")
    return tmp_path


def surroundings(place: Path) -> dict[str, str]:
    names = ("TMPDIR", "TEMP", "TMP")
    return {**environment(), **dict.fromkeys(names, str(place / "temporary")), "HOME": str(place / "home")}


def run_in(place: Path, *words: object, start: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command as users start it, in the planted folder."""
    front = start or ((str(SCRIPT),) if SCRIPT.exists() else (sys.executable, "-m", "onnxslim_yolo"))
    return subprocess.run(
        [*front, *map(str, words)],
        cwd=place / "work",
        env=surroundings(place),
        capture_output=True,
        text=True,
        timeout=300,
    )


def marks(place: Path) -> str:
    found = place / "marks"
    return found.read_text() if found.exists() else ""


COMMANDS = {
    "compile": [("compile", "m.onnx", "--measure", "-q")],
    "bench": [
        ("compile", "m.onnx", "-q", "--no-verify"),
        ("bench", "m.onnx", "m-slim/m_ncnn_model", "--rounds", "3", "--layers"),
    ],
    "verify": [("compile", "m.onnx", "-q", "--no-verify"), ("verify", "m.onnx", "m-slim/m_ncnn_model")],
    "sweep": [("sweep", "m.onnx", "--prune", "0.2,0.4", "--snap", "none", "--jobs", "2", "--measure")],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_module_beside_the_model_or_in_the_temporary_folder_is_run(name: str, place: Path) -> None:
    for words in COMMANDS[name]:
        done = run_in(place, *words)
        assert done.returncode == 0, done.stderr
        assert marks(place) == ""
    if name == "sweep":
        assert "error" not in (place / "work/m-sweep/sweep.csv").read_text().partition("\n")[2]
    assert not list((place / "temporary").glob("onnxslim-*")), "a child's folder was left"


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
def test_nor_by_the_measuring_of_layers(runtime: str, place: Path) -> None:
    (place / "measure.py").write_text(PROFILE)
    done = run_in(place, runtime, start=(sys.executable, str(place / "measure.py")))
    assert done.returncode == 0 and "[" in done.stdout and "None" not in done.stdout, done.stderr
    assert marks(place) == ""


def test_started_as_a_module_the_working_directory_is_off_the_path_again(place: Path) -> None:
    for each in ("onnxslim_yolo", "runpy", "os"):  # what Python itself loads before it comes to us
        (place / "work" / f"{each}.py").unlink(missing_ok=True)
    done = run_in(place, "compile", "m.onnx", "-q", start=(sys.executable, "-m", "onnxslim_yolo"))
    assert done.returncode == 0 and marks(place) == "", (done.stderr, marks(place))


@pytest.mark.parametrize("where", ["work", "temporary"])
def test_control_a_child_started_the_old_way_runs_them(where: str, place: Path) -> None:
    line = [sys.executable, "-c", "import numpy"]
    subprocess.run(line, cwd=place / where, env=surroundings(place), capture_output=True, timeout=60)
    assert marks(place)


def test_a_child_sees_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys; print(json.dumps([dict(os.environ), sys.path, os.getcwd(), sys.flags.isolated]))"
    )
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", ".", tempfile.gettempdir(), str(tmp_path), *sys.path])
    child = Child(script, text=True)
    try:
        import json

        seen, path, folder, isolated = json.loads(child.stdout.readline())
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    finally:
        child.close()
    assert isolated and folder == str(child.folder) and not child.folder.exists()
    assert "SECRET_TOKEN" not in seen and "PYTHONPATH" not in seen
    assert seen["HOME"] == seen["TMPDIR"] == folder and seen["ORT_DISABLE_TELEMETRY"] == "1"
    assert path == import_path() and str(tmp_path) not in path and all(Path(p).is_absolute() for p in path)
    assert set(environment_for(tmp_path)) <= set(os.environ) | {"HOME", "TMPDIR", "TEMP", "TMP", "USERPROFILE"} | {
        "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY"
    }  # fmt: skip


def test_a_folder_that_anybody_may_write_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    theirs.chmod(0o777)
    monkeypatch.setattr(sys, "path", [str(theirs), str(ours), *sys.path])
    assert str(ours) in import_path() and str(theirs) not in import_path()


IMPORTS = (
    "import sys; sys.path.insert(0, sys.argv[1]); import onnxslim_yolo, onnxruntime as ort, onnx, onnx.parser, numpy\n"
)
RUN = """
text = '<ir_version: 8, opset_import: ["":13]> g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }'
session = ort.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros((1, 3), "f")})
"""


def files_of(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def at_home(home: Path) -> dict[str, str]:
    # Where onnxruntime sees a CI's variables it leaves nothing by itself, and nothing would be tested.
    hidden = ("XDG_", "ORT_", "CI", "GITHUB_")
    kept = {name: value for name, value in environment().items() if not name.startswith(hidden)}
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


def test_no_telemetry_and_nothing_in_the_home(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    write(good(), work / "m.onnx")
    line = [sys.executable, "-m", "onnxslim_yolo", "compile", "m.onnx", "--measure", "-q"]
    done = subprocess.run(line, cwd=work, env=at_home(home), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files_of(home) == []


def test_the_library_switches_telemetry_off_before_onnxruntime_comes(tmp_path: Path) -> None:
    line = [sys.executable, "-c", IMPORTS + RUN, str(ROOT)]
    subprocess.run(line, cwd=tmp_path, env=at_home(tmp_path), check=True, timeout=120)
    assert files_of(tmp_path) == []


def test_control_onnxruntime_by_itself_leaves_files(tmp_path: Path) -> None:
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32) or sys.platform != "linux":
        pytest.skip("this onnxruntime has no telemetry here")
    code = IMPORTS.replace("onnxslim_yolo, ", "") + RUN
    subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, env=at_home(tmp_path), check=True, timeout=120
    )
    assert files_of(tmp_path) != []


def test_a_session_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n.param").write_text("7767517\n2 2\nInput in 0 1 in0\nReLU r 1 1 in0 out0\n")
    (tmp_path / "n.bin").write_bytes(b"")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with NcnnSession(tmp_path / "n.param", tmp_path / "n.bin") as session:
        assert session.outputs == ("out0",) and len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []
