"""Child processes that run nothing of the folder this process was started in, nor of the temporary folder.

1. Python is started isolated (`-I`): no PYTHON* variable, no folder of the user's, no working directory on the path.
2. The child imports from where this process does (`import_path`), less every folder that a stranger may have filled:
   the working directory, the temporary folder, whatever is world-writable, whatever is relative.
3. It works in a folder of its own that nobody else may open, which is its temporary folder and its home as well, and
   which is gone when it has ended.
4. Of the environment it keeps what a runtime needs (`KEPT`). onnxruntime's telemetry is switched off.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""onnxruntime 1.32 leaves a device id and a database under the user's cache folder without this."""

KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE")
KEPT_PREFIXES = ("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_", "NCNN_")
"""Variables, and beginnings of names, that reach a child: where libraries lie, and how threads and memory are used."""

_START = (
    "import atexit, os, runpy, sys; most, parent, file, *sys.path[:] = sys.argv[1:]; own = os.getcwd(); "
    "atexit.register(lambda: os.getppid() == int(parent) or __import__('shutil').rmtree(own, True)); "
    "most == '0' or __import__('resource').setrlimit(2, (int(most),) * 2); runpy.run_path(file, run_name='__main__')"
)
"""A child whose parent was killed, and cannot, removes its folder at its end. 2 is RLIMIT_DATA, which counts what a
process has reserved to write to."""

INTERPRETER = 512 << 20
"""Bytes that Python, numpy and a runtime take before any model is opened."""


def _working_directory() -> str:
    try:
        return str(Path.cwd().resolve())
    except OSError:  # it was removed
        return ""


_STARTED_IN = _working_directory()


def give_back() -> None:
    """Hand freed memory back to the system, which glibc keeps for later; other C libraries are left alone."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Child:
    """A running child. `close` ends it and removes its folder.

    Args:
        script: the file to run.
        environment: variables besides those that are kept.
        text: whether the pipes carry text, as UTF-8, or bytes.
        stderr: what `subprocess.Popen` takes.
        memory: bytes that it may reserve besides `INTERPRETER`; None: any. Held on Linux only.
    """

    def __init__(
        self,
        script: Path,
        *,
        environment: Mapping[str, str] | None = None,
        text: bool = False,
        stderr: Any = None,
        memory: float | None = None,
    ) -> None:
        give_back()
        # Named before it is there: a signal that came between the two would leave it.
        self.folder = Path(tempfile.gettempdir()) / f"onnxslim-child-{secrets.token_hex(8)}"
        try:
            self.folder.mkdir(0o700)
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                command_of(script, memory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env=environment_for(self.folder) | dict(environment or {}),
                encoding="utf-8" if text else None,
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def stdin(self) -> IO[Any]:
        """The child's standard input."""
        if self.process.stdin is None:
            raise EOFError
        return self.process.stdin

    @property
    def stdout(self) -> IO[Any]:
        """The child's standard output."""
        if self.process.stdout is None:
            raise EOFError
        return self.process.stdout

    def ask(self, request: Mapping[str, Any]) -> bytes:
        """Send a line of JSON to a child that speaks bytes. Returns the line it answers, b"" where it is gone."""
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()
            line: bytes = self.stdout.readline()
        except OSError:
            return b""
        return line

    def file(self, path: Path) -> str:
        """A file's name as the child reads it."""
        return file_name(path)

    def kill(self) -> None:
        """End it now; safe to call at any time, from any thread."""
        with contextlib.suppress(OSError):
            self.process.kill()

    def close(self) -> None:
        """End it, wait for it, and remove its folder."""
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def command_of(script: Path, memory: float | None = None) -> list[str]:
    """The command line that runs a script of ours isolated, with this process's trusted folders to import from."""
    held = memory is not None and math.isfinite(memory) and sys.platform == "linux"
    most = INTERPRETER + int(memory) if held and memory is not None else 0
    flags = ["-I", "-X", "utf8", *(["-B"] if sys.dont_write_bytecode else [])]
    return [sys.executable, *flags, "-c", _START, str(most), str(os.getpid()), str(script), *import_path()]


def environment_for(folder: Path) -> dict[str, str]:
    """The least environment: what is kept of ours, and a private folder as home and temporary folder."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    places = ("HOME", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "USERPROFILE")
    return kept | dict.fromkeys(places, str(folder)) | NO_TELEMETRY


def import_path() -> list[str]:
    """The folders and archives that a child imports from: ours, in our order, without those a stranger may fill."""
    foreign = {_working_directory(), _STARTED_IN, str(Path(tempfile.gettempdir()).resolve())}
    return [entry for entry in sys.path if Path(entry).is_absolute() and not _is_foreign(Path(entry), foreign)]


def _is_foreign(entry: Path, foreign: set[str]) -> bool:
    try:
        return str(entry.resolve()) in foreign or bool(entry.stat().st_mode & stat.S_IWOTH and os.name == "posix")
    except OSError:  # it does not exist
        return True


def file_name(path: Path) -> str:
    """A file's absolute name as a child reads it, whatever the locale of this process is."""
    return os.fsencode(path.absolute()).decode("utf-8", "surrogateescape")
