"""What surrounds a command: streams that are closed, full or cannot show a character, and signals that end it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from onnxslim_yolo.errors import InputError

ENDING = ("SIGTERM", "SIGHUP")
"""Signals that end the command as Ctrl-C does: what is half written goes, children are ended."""

_FULL = "redirect it to where there is room, or give --quiet"


class ClosedStream(io.TextIOBase):
    """Stands for a standard stream that was closed before we started: nothing can be written to it."""

    def writable(self) -> bool:
        """As any stream that is written to."""
        return True

    def write(self, text: str) -> int:
        """Raises OSError."""
        raise OSError(errno.EBADF, "it is closed")


def prepare_streams() -> None:
    """Let no character of a name, and no stream that is missing, be an error of its own."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            # Whatever is opened next would get this number, and what C libraries print.
            with contextlib.suppress(OSError):
                taken = os.open(os.devnull, os.O_WRONLY)
                if taken != number:
                    os.dup2(taken, number)
                    os.close(taken)
            setattr(sys, name, ClosedStream() if name == "stdout" else io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def flush_output() -> None:
    """Write out what is left. Raises OSError as `write` does."""
    if not isinstance(sys.stdout, ClosedStream):
        sys.stdout.flush()


def give_up_output() -> None:
    """Nothing more goes to standard output: whatever is still in its buffer fails no second time."""
    with contextlib.suppress(OSError, ValueError):
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, 1)
        os.close(empty)


def system_error(error: OSError) -> InputError:
    """What the system refused, as an error of the input: it is no bug of ours."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EBADF, errno.EIO, errno.EFBIG, errno.EDQUOT):
        return InputError(f"standard output cannot be written: {reason}", hint=_FULL)
    return InputError(f"the system refused: {reason}", file=error.filename)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn the signals that end a process into an exit that runs every `finally`, once; ignored ones stay ignored."""
    taken: list[signal.Signals] = []

    def leave(number: int, frame: FrameType | None) -> None:
        for each in _known():
            signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise SystemExit(128 + number)

    for each in _known():
        with contextlib.suppress(ValueError, OSError):  # not in the main thread
            if signal.getsignal(each) == signal.SIG_DFL:
                signal.signal(each, leave)
                taken.append(each)
    try:
        yield
    finally:
        for each in taken:
            if signal.getsignal(each) == leave:
                signal.signal(each, signal.SIG_DFL)


def _known() -> list[signal.Signals]:
    return [signal.Signals[name] for name in ENDING if name in signal.Signals.__members__]
