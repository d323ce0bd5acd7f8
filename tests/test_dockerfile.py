"""The Dockerfile without a container: its lines run in folders, and what they make given the documented commands.

What cannot be shown here is the base image itself. The image needs nothing of it but Python, the C and C++ runtimes and
zlib: a test below looks at what the wheels' libraries ask for.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs_snippets import PAGES, blocks, lines_of
from tests.test_bad_input import good, write

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "onnxslim-yolo"


@dataclass(frozen=True)
class Line:
    """One instruction: its word, and the rest."""

    word: str
    rest: str


def stages() -> list[list[Line]]:
    """The instructions behind each FROM."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [Line(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip() and line[0] != "#"]
    starts = [i for i, line in enumerate(lines) if line.word == "FROM"]
    return [lines[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def of(stage: list[Line], word: str) -> list[str]:
    return [line.rest for line in stage if line.word == word]


def in_context(name: str) -> bool:
    """Whether .dockerignore lets a file through, for the patterns used there."""
    included = True
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        bare = pattern.lstrip("!").removeprefix("**/")
        parts = name.split("/")
        hit = any(fnmatch.fnmatch(part, bare) for part in (parts if "**/" in pattern else parts[:1]))
        included = pattern.startswith("!") if hit else included
    return included


def copied(stage: list[Line], target: Path) -> None:
    """What the stage's COPY lines bring into its working directory, as the context has it."""
    for rest in of(stage, "COPY"):
        *sources, there = rest.split()
        for source in sources:
            assert in_context(source), f"{source} is kept out by .dockerignore"
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, target / there, symlinks=True, ignore=skip)
            else:
                shutil.copy(ROOT / source, target / there)


def shell(line: str, folder: Path, places: dict[str, Path], path: Path, **environment: str) -> str:
    """Run one RUN line as /bin/sh does, its absolute folders moved below the test's own."""
    for name, place in places.items():
        line = re.sub(rf"(?<![\w.]){name}\b", str(place), line)
    variables = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"} | environment
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final stage's bin folder. Dependencies are this interpreter's, as a test downloads nothing."""
    folder = tmp_path_factory.mktemp("image")
    build, final = stages()
    places = {"/src": folder / "src", "/wheels": folder / "wheels"}
    for place in places.values():
        place.mkdir()
    assert of(build, "WORKDIR") == ["/src"]
    copied(build, folder / "src")
    tools = folder / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)
    for line in of(build, "RUN"):
        shell(line, folder / "src", places, tools, PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert of(final, "COPY") == ["--from=build /wheels /wheels"]
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    binaries = folder / "venv" / "bin"
    site = sysconfig.get_paths()["purelib"]
    install, *rest = of(final, "RUN")
    alone = {"PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": ""}  # it would be there already
    shell(install, folder, places, binaries, EXTRAS="", **alone)
    for line in rest:
        assert IMAGE in shell(line, folder, places, binaries, PYTHONPATH=site)
    return binaries


def documented() -> list[list[str]]:
    """The words of every `docker` line that the page shows."""
    lines = [line for block in blocks(PAGES / "ci.md") if block.language == "sh" for line in lines_of(block)]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("docker ")]


def test_the_documented_commands_run(image: Path, tmp_path: Path) -> None:
    """Behind the image's name stands what the entry point gets; it runs as in /work, without torch."""
    write(good(), tmp_path / "model.onnx")
    runs = [words for words in documented() if words[1] == "run"]
    assert len(runs) >= 2
    entry = json.loads(of(stages()[1], "ENTRYPOINT")[0])
    variables = {"PYTHONPATH": sysconfig.get_paths()["purelib"], "PATH": f"{image}:{os.environ['PATH']}"}
    for words in runs:
        assert words[words.index("-v") + 1] == f"$PWD:{of(stages()[1], 'WORKDIR')[0]}"
        command = [str(image / entry[0]), *entry[1:], *words[words.index(IMAGE) + 1 :]]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "slim" / "model.onnx").is_file() and (tmp_path / "summary.md").stat().st_size > 100
    where = subprocess.run(
        [str(image / "python"), "-c", "import onnxslim_yolo; print(onnxslim_yolo.__file__)"],
        cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True,
    )  # fmt: skip
    assert str(image.parent) in where.stdout, "it was the installed wheel that ran"


def test_the_documented_builds_fit_the_file() -> None:
    builds = [words for words in documented() if words[1] == "build"]
    comments = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    declared = set(re.findall(r"^ARG (\w+)", comments, re.MULTILINE))
    assert len(builds) >= 2
    for words in builds:
        assert words[-1] == "." and words[words.index("-t") + 1] == IMAGE
        given = [words[i + 1] for i, word in enumerate(words) if word == "--build-arg"]
        for name, value in (argument.split("=") for argument in given):
            assert name in declared
            extras = json.dumps((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            assert name != "EXTRAS" or f"\\n{value} = [" in extras
    for line in comments.splitlines():
        if line.startswith("#   docker build"):
            assert shlex.split(line[4:], comments=True) in builds


def test_the_image_gets_what_it_is_built_of_and_no_more() -> None:
    for name in ("pyproject.toml", "passes/prune.py", "onnxslim_yolo/report/vendor/plotly-basic.min.js.gz"):
        assert in_context(name), name
    for name in (".git/config", "tests/zoo.py", "model.onnx", "passes/__pycache__/prune.pyc", "models/x.state"):
        assert not in_context(name), name


@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_the_libraries_ask_for_nothing_that_a_slim_image_lacks() -> None:
    """Beyond what wheels bring along: the C and C++ runtimes and zlib, which Debian's apt and Python need as well."""
    allowed = re.compile(r"lib(c|m|mvec|dl|rt|pthread|gcc_s|stdc\+\+|z)\.so|ld-linux|linux-vdso")
    site = Path(sysconfig.get_paths()["purelib"])
    libraries = [f for package in ("ncnn", "onnxruntime", "onnx", "PIL") for f in (site / package).rglob("*.so*")]
    assert len(libraries) >= 4
    for library in libraries:
        for line in subprocess.run(["ldd", str(library)], capture_output=True, text=True).stdout.splitlines():
            words = line.split()
            if words and words[0] != "statically":
                inside = len(words) > 2 and str(site) in words[2]
                assert inside or allowed.search(words[0]), f"{library.name} needs {words[0]}"
