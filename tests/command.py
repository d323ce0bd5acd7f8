"""The command as a process of its own."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests import command_server

ROOT = Path(__file__).resolve().parents[1]
WIDE = {"COLUMNS": "120"}


def environment() -> dict[str, str]:
    """This process's, for a child that runs the package as it stands here, on one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `onnxslim-yolo` with these arguments; `options` are those of `subprocess.run`.

    Without an environment or options it is a fork of a process that has the modules loaded: loading them takes half a
    second. There no module in the folder it runs in or in PYTHONPATH is found; ask for `launched` where that matters.
    """
    if env is not None or options:
        return launched(*arguments, cwd=cwd, env=env, **options)
    return _forked([str(argument) for argument in arguments], cwd or Path.cwd())


def launched(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As `command`, from the interpreter's start."""
    return subprocess.run(
        [sys.executable, "-m", "onnxslim_yolo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment() if env is None else env,
        **options,
    )


def shim() -> str:
    """A line of shell that is the command with the words "$@", forked as `command` is; for scripts."""
    return f'exec "{sys.executable}" -I -S "{command_server.__file__}" "{_server()}" "$@"'


def _forked(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    with Path(os.devnull).open() as nothing, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = [nothing.fileno(), out.fileno(), err.fileno()]
        status = command_server.ask(_server(), words, str(cwd), environment() | WIDE, streams)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())


@cache
def _server() -> str:
    """Where the process that forks is asked, one for all tests of a worker."""
    folder = tempfile.TemporaryDirectory(prefix="command-")
    line = [sys.executable, "-m", "tests.command_server", f"{folder.name}/socket"]
    server = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment() | WIDE
    )
    assert server.stdin is not None and server.stdout is not None
    atexit.register(folder.cleanup)
    atexit.register(server.wait, 10)
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == "ready\n"
    return f"{folder.name}/socket"
