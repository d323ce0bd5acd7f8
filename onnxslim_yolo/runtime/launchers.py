"""Children in another Python: on a board over ssh, under an emulator, in a container.

A launcher is a command that starts a Python which reads standard input, as one would type it:
`ssh pi@raspberrypi.local python3 -`. Of this package nothing is needed there; ncnn and numpy are.

1. The command is started without a shell, in the user's environment: it is the user's own. But it is started in an
   empty folder, with the files that it names made absolute: a Python at its prompt imports from where it stands, and
   where the user stands may be a stranger's folder. Its last `-` is replaced by `-q -i`: a Python that reads a
   program from a pipe waits for the pipe's end before it runs any of it, while a prompt runs what it has read line by
   line.
2. One line is sent, which answers with a mark; whatever else was printed before (a message of the day) is passed over.
3. Then `launched_child.py`, what to run, and the child's source are sent, and it says what it is: versions, processor,
   byte order. From there on the child is spoken to as one on this machine is, and files are sent where it reads them.

Everything has a time limit, and a launcher's own children cannot keep us waiting: reads and writes end when `kill` is
called, even where a process that the launcher started still holds the pipe.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.runtime.boards import Board, board_of
from onnxslim_yolo.runtime.children import Child
from onnxslim_yolo.runtime.pipes import StoppableReader, StoppableWriter
from onnxslim_yolo.runtime.replies import reply_of

PRELUDE = Path(__file__).with_name("launched_child.py")
STARTS_WITHIN = 120.0
"""Seconds from the launcher's start to its child's first word: a sleepy board, a password, an emulator."""
ENDS_WITHIN = 1.0
"""Seconds that a launcher which answers nothing any more has to end, so that its exit status can be said."""
NOISE = 1 << 20
"""Bytes that may come before the first word."""
OLDEST = (3, 8)
CRASH = "Fatal Python error"
"""How a Python that crashes begins its last words."""
MARK = b"onnxslim-yolo: ready "
PROMPT = ("-q", "-i")
_FACTS = {"python": str, "cores": int, "numpy": (str, None), "ncnn": (str, None)}
_LINE = (
    'import sys; _ = sys.stdout.write("onnxslim-" + "yolo: ready %d.%d\\n" % sys.version_info[:2]); '
    '_ = sys.stdout.flush(); exec(compile(sys.stdin.buffer.read({size}), "launched_child.py", "exec"))\n'
)
"""Typed at the prompt. The mark is in two parts, so that a terminal's echo is not mistaken for it."""


class LaunchedChild:
    """A child of this package in the Python that a launcher starts; used as `children.Child` is.

    Args:
        launcher: the command. script: the child to run. environment, text, stderr: as for `Child`.
        within: seconds that it may take to start.

    Raises:
        UsageError: the command cannot be started, ends, does not answer in time, or starts a Python that will not do.
    """

    def __init__(
        self,
        launcher: str,
        script: Path,
        *,
        environment: Mapping[str, str] | None = None,
        text: bool = False,
        stderr: Any = None,
        within: float | None = None,
    ) -> None:
        self.launcher = launcher
        words = command_of(launcher)
        self._files = 0
        self._folder = tempfile.mkdtemp(prefix="onnxslim-launcher-")
        self._woken, self._wake = os.pipe()
        self._log = stderr if hasattr(stderr, "read") else tempfile.TemporaryFile()  # noqa: SIM115 (lives as long)
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                cwd=self._folder,
            )
        except OSError as error:
            self._close_pipes()
            raise UsageError(
                f"--run-on: '{launcher}' cannot be started: {error.strerror or error}", hint=_HINT
            ) from error
        self._reads = io.BufferedReader(StoppableReader(self._file(self.process.stdout), self._woken))
        self._writes = io.BufferedWriter(StoppableWriter(self._file(self.process.stdin), self._woken))
        self.stdout: IO[Any] = io.TextIOWrapper(self._reads, "utf-8", errors="replace") if text else self._reads
        self.stdin: IO[Any] = io.TextIOWrapper(self._writes, "utf-8") if text else self._writes
        try:
            self.board = self._started(script, dict(environment or {}), STARTS_WITHIN if within is None else within)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _file(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise EOFError
        return stream

    def _started(self, script: Path, environment: dict[str, str], within: float) -> Board:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(within, stop)
        timer.start()
        try:
            return self._greet(script, environment)
        except (OSError, EOFError, ValueError) as error:
            timer.cancel()  # it would end what is asked for its status now
            why = f"did not answer within {within:g} s" if late.is_set() else self._ended()
            raise UsageError(f"--run-on: '{self.launcher}' {why}", hint=_HINT) from error
        finally:
            timer.cancel()

    def _greet(self, script: Path, environment: dict[str, str]) -> Board:
        prelude, source = PRELUDE.read_bytes(), script.read_bytes()
        self._send(_LINE.format(size=len(prelude)).encode())
        noise = 0
        while MARK not in (line := self._reads.readline(NOISE)):
            noise += len(line)
            if not line or noise > NOISE:
                raise EOFError
        numbers = line[line.index(MARK) + len(MARK) :].split(b".")
        found = tuple(int(number) for number in numbers)
        if len(found) != 2:
            raise EOFError
        if found < OLDEST:
            self.kill()
            wanted = ".".join(map(str, OLDEST))
            raise UsageError(f"--run-on: Python {found[0]}.{found[1]} there; {wanted} or newer is needed", hint=_HINT)
        header = {"name": script.name, "environment": environment, "size": len(source)}
        self._send(prelude + json.dumps(header).encode() + b"\n" + source)
        line = self._reads.readline()
        if not line:
            raise EOFError
        return board_of(reply_of(line, _FACTS))

    def _send(self, data: bytes) -> None:
        self._writes.write(data)
        self._writes.flush()

    def file(self, path: Path) -> str:
        """Send a file. Returns its name there."""
        data = path.read_bytes()
        self._files += 1
        name = f"{self._files}-{path.name if path.name.isascii() else 'file' + path.suffix}"
        self._writes.flush()
        self._send(json.dumps({"put": name, "size": len(data)}).encode() + b"\n" + data)
        return name

    def said(self) -> str:
        """What it printed to standard error, without the prompts."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").replace(">>> ", "").replace("... ", "").strip()

    def _ended(self) -> str:
        try:
            code: int | None = self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            code = None
        said = self.said().splitlines()
        ended = "answered with something else than Python" if code is None else f"ended with exit status {code}"
        return f"{ended}{f'; it said: {said[-1][-300:]}' if said else ' before it answered'}"

    def lost(self, doing: str) -> UsageError | None:
        """Why it went away, where that is the launcher's doing and not a crash of what it ran; None otherwise."""
        if CRASH in self.said():
            return None
        return UsageError(f"--run-on: '{self.launcher}' {self._ended()}, while {doing}", hint=_HINT)

    def kill(self) -> None:
        """End it now; safe to call at any time, from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._wake, b"x")
        with contextlib.suppress(OSError):
            self.process.kill()

    def close(self) -> None:
        """End it and wait for it: it removes its folder where it is left to see that nothing more will come."""
        with contextlib.suppress(OSError):
            self._file(self.process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_WITHIN)
        self.kill()
        self.process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        process = getattr(self, "process", None)
        for stream in (process.stdin, process.stdout) if process else ():
            with contextlib.suppress(OSError, AttributeError):
                stream.close()
        for descriptor in (self._woken, self._wake):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._woken = self._wake = -1


def start(
    script: Path,
    run_on: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    text: bool = False,
    stderr: Any = None,
    memory: float | None = None,
) -> Child | LaunchedChild:
    """A child on this machine, of which `memory` is held, or where a launcher leads."""
    if run_on is None:
        return Child(script, environment=environment, text=text, stderr=stderr, memory=memory)
    return LaunchedChild(run_on, script, environment=environment, text=text, stderr=stderr)


_HINT = "a launcher starts a Python with ncnn and numpy: --run-on 'ssh pi@raspberrypi.local python3 -'"


def command_of(launcher: str) -> list[str]:
    """A launcher's words, its Python told to read a prompt. Raises UsageError."""
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise UsageError(f"--run-on takes a command, not '{launcher}': {error}", hint=_HINT) from error
    if words and words[-1] == "-":
        words.pop()
    if not words:
        raise UsageError("--run-on names no command", hint=_HINT)
    return [*(_from_anywhere(word) for word in words), *PROMPT]


def _from_anywhere(word: str) -> str:
    """A word that names a file by its path, so that it does in another folder as well."""
    return str(Path(word).absolute()) if os.sep in word and Path(word).exists() else word
