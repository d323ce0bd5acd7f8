"""The wheel holds every package, and the folders at the top level are not importable by their bare names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"passes": "onnxslim_yolo.passes", "models": "onnxslim_yolo.models"}
"""Folders beside the package that are imported as parts of it."""

UNSHIPPED = {"onnxslim_yolo.models.zoo", "onnxslim_yolo.models.demo"}
"""What tests and training need, and users do not: kept in the repository, out of the wheel."""

MOST_BYTES = 2_000_000
"""Of the wheel."""

DATA = {".typed", ".json", ".j2", ".js", ".css", ".gz"}
"""Files that are no Python and have to be in the wheel, too."""


def packages_in_the_tree() -> set[str]:
    found = set()
    for folder in ("onnxslim_yolo", *OUTSIDE):
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if any((ROOT / Path(*parts[: k + 1])).is_symlink() for k in range(len(parts))):
                continue  # onnxslim_yolo/passes → ../passes, for type checkers
            found.add(".".join((OUTSIDE.get(parts[0], parts[0]), *parts[1:])))
    return found - UNSHIPPED


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project installed from a wheel into a folder, built from a copy so that nothing is left in the tree."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "__pycache__", "build", ".*_cache", "tests", "bench", "docs")
    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "target"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_holds_every_module(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    assert wheel.stat().st_size < MOST_BYTES
    for package in packages_in_the_tree():
        here = next(
            (ROOT / k / Path(*package.split(".")[2:]) for k, v in OUTSIDE.items() if package.startswith(v)), None
        )
        here = here or ROOT / Path(*package.split("."))
        there = installed / Path(*package.split("."))
        assert {p.name for p in here.glob("*.py")} == {p.name for p in there.glob("*.py")}, package
    data = [p for p in (ROOT / "onnxslim_yolo").rglob("*") if p.suffix in DATA and "stubs" not in p.parts]
    missing = [p.relative_to(ROOT).as_posix() for p in data if not (installed / p.relative_to(ROOT)).exists()]
    assert missing == [] and len(data) > 0
    assert not (installed / "tests").exists()
    for package in UNSHIPPED:
        assert not (installed / Path(*package.split("."))).exists(), package
    assert not list(installed.rglob("*.onnx"))


def test_the_wheel_works(installed: Path, tmp_path: Path) -> None:
    code = (
        "import onnxslim_yolo, onnxslim_yolo.passes as p; from onnxslim_yolo.pipeline import PASSES;"
        "print(onnxslim_yolo.__file__, p.__file__, len(PASSES))"
    )
    done = run_python(code, path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    module, passes, count = done.stdout.split()
    assert Path(module).is_relative_to(installed) and Path(passes).is_relative_to(installed) and int(count) > 10


def run_python(code: str, *, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    # -P and an explicit path: neither the working directory nor the editable install may answer.
    code = f"import sys; sys.path.insert(0, {str(path)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_importing_the_folder_itself_is_refused() -> None:
    """A second copy of every class would make isinstance and the pass registry lie."""
    done = run_python("import passes", path=ROOT, cwd=ROOT)
    assert done.returncode != 0
    assert "import onnxslim_yolo.passes, not passes" in done.stderr
