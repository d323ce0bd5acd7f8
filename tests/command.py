"""The command as a process of its own."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

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


def _forked(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "arguments": words,
            "cwd": str(cwd),
            "environment": environment() | WIDE,
            "streams": [str(out), str(err)],
        }
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, status, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks, one for all tests of a worker."""
    line = [sys.executable, "-m", "tests.command_server"]
    server = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment() | WIDE
    )
    atexit.register(lambda: (server.stdin.close(), server.wait(10)))  # type: ignore[union-attr]
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return server
