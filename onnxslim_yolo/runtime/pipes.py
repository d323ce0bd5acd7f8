"""A process's pipes that can be stopped: killing it is not enough where its own children still hold them."""

from __future__ import annotations

import io
import os
import select
from typing import IO, Any


class _Piped(io.RawIOBase):
    """One end of a pipe that stops when another can be read."""

    def __init__(self, stream: IO[bytes], woken: int) -> None:
        self._stream, self._woken = stream, woken
        os.set_blocking(stream.fileno(), False)

    def fileno(self) -> int:
        """The pipe's."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the pipe."""
        if not self.closed:
            super().close()
            self._stream.close()


class StoppableReader(_Piped):
    """Reads a pipe; at its end, too, once it is stopped."""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What there is, as soon as there is something."""
        while True:
            ready, _, _ = select.select([self.fileno(), self._woken], [], [])
            if self._woken in ready:
                return 0
            try:
                data = os.read(self.fileno(), len(buffer))
            except BlockingIOError:
                continue
            buffer[: len(data)] = data
            return len(data)


class StoppableWriter(_Piped):
    """Writes to a pipe; broken, once it is stopped."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """As much as there is room for."""
        while True:
            woken, ready, _ = select.select([self._woken], [self.fileno()], [])
            if woken:
                raise BrokenPipeError
            if ready:
                try:
                    return os.write(self.fileno(), data)
                except BlockingIOError:
                    continue
