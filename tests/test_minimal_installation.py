"""Without ncnn and faster-coco-eval: ONNX is written and checked, and what needs them says so before it begins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import environment
from tests.docs_snippets import ROOT

MODEL = ROOT / "models/digits-sparse.onnx"
LEFT_OUT = ("ncnn", "faster_coco_eval")


def command(*words: object, cwd: Path, missing: tuple[str, ...] = LEFT_OUT) -> subprocess.CompletedProcess[str]:
    """The command line in a Python that does not find these packages."""
    gone = "".join(f"sys.modules[{name!r}] = None; " for name in missing)
    code = f"import sys; {gone}sys.argv[0] = 'onnxslim-yolo'; from onnxslim_yolo.cli.main import main; main()"
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment(), timeout=300, check=False)


def test_onnx_is_written_and_checked_without_them(tmp_path: Path) -> None:
    done = command("compile", MODEL, "--emit", "onnx", "-q", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/digits-sparse.onnx").is_file()


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (("compile", MODEL), "ncnn"),
        (("compile", MODEL, "--emit", "onnx", "--data", "data.yaml"), "faster-coco-eval"),
    ],
)
def test_what_needs_them_says_so_and_writes_nothing(words: tuple[object, ...], package: str, tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"needs the package {package}, which is not installed" in said and f"pip install {package}" in said
    assert "Traceback" not in said and not list(tmp_path.iterdir())


def test_a_pair_is_not_opened_without_ncnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from onnxslim_yolo.errors import UsageError
    from onnxslim_yolo.measure.measurer import Measurer
    from onnxslim_yolo.runtime.ncnn_run import NcnnSession

    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(UsageError, match="needs the package ncnn"):
        NcnnSession(tmp_path / "a.param", tmp_path / "a.bin")
    with pytest.raises(UsageError, match="needs the package ncnn"):
        Measurer("ncnn", 1)
    Measurer("onnxruntime", 1)


def test_the_list_of_requirements_is_pyprojects_without_the_two() -> None:
    tomllib = pytest.importorskip("tomllib")
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    listed = [line for line in (ROOT / "requirements-onnx.txt").read_text().splitlines() if not line.startswith("#")]
    left_out = {name.replace("_", "-") for name in LEFT_OUT}
    assert listed == [line for line in whole if re.split("[>=; ]", line)[0] not in left_out]
