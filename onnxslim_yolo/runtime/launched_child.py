"""What a launched Python runs first: says what it is, then runs one of this package's children where it stands.

Needs nothing of this package. It has been started by one line at an interactive prompt (see `launchers`), which reads
this file from standard input. Then come a line of JSON with the child's name, the environment it wants, and how long
its source is; and the source. Answered is one line of JSON on what this Python has. From then on the child reads
standard input as it does anywhere else, but for lines `{"put": name, "size": n}` between its requests, each followed by
n bytes, which become a file of that name in the folder that it works in.
"""

from __future__ import annotations

import faulthandler
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO


class Requests:
    """Standard input without the files in it. Reads bytes, whichever way a child asks."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.buffer = self

    def readline(self) -> bytes:
        """The next line that is for the child."""
        line = self.stream.readline()
        while line.startswith(b'{"put"'):
            facts = json.loads(line)
            with open(facts["put"], "wb") as file:  # noqa: PTH123 (nothing but what is needed is imported)
                file.write(self.stream.read(facts["size"]))
            line = self.stream.readline()
        return line

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all lines to the end."""
        return self.stream.read(size) if size >= 0 else b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def main() -> None:
    """Run one child, then end this Python, whatever prompt it was started from."""
    faulthandler.enable()
    requests = Requests(sys.stdin.buffer)
    header = json.loads(requests.readline())
    source = requests.read(header["size"])
    os.environ.update(header["environment"])
    folder = tempfile.mkdtemp(prefix="onnxslim-")
    os.chdir(folder)
    try:
        sys.stdout.write(json.dumps(facts()) + "\n")
        sys.stdout.flush()
        sys.stdin = requests
        exec(compile(source, header["name"], "exec"), {"__name__": "__main__", "__file__": header["name"]})
        sys.stdout.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def facts() -> dict[str, Any]:
    """What this Python and its machine are: versions (None: not there), and what ncnn sees of the processor."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "byteorder": sys.byteorder,
        "cpu": cpu(),
        "flags": flags(),
        "cores": os.cpu_count() or 1,
    }
    for name in ("numpy", "ncnn"):
        try:
            found[name] = getattr(__import__(name), "__version__", "?")
        except Exception as error:  # a broken wheel may raise anything
            found[name] = None
            found["why"] = f"{type(error).__name__}: {error}"
    try:
        from importlib.metadata import version

        found["onnxruntime"] = version("onnxruntime")
    except Exception:
        found["onnxruntime"] = None
    half = getattr(sys.modules.get("ncnn"), "cpu_support_arm_asimdhp", None)
    found["half"] = bool(half()) if half else "asimdhp" in found["flags"]
    return found


def cpu() -> str:
    """The processor's name, or the board's."""
    for path in ("/proc/device-tree/model", "/proc/cpuinfo"):
        try:
            with open(path, errors="replace") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue
        if path.startswith("/proc/device-tree"):
            return text.strip("\0\n ")
        for line in text.splitlines():
            if line.startswith(("Model", "model name", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def flags() -> list[str]:
    """The instruction sets among those that widths depend on which the system lists."""
    try:
        with open("/proc/cpuinfo", errors="replace") as file:  # noqa: PTH123
            words = set(file.read().split())
    except OSError:
        return []
    return sorted(words & {"asimdhp", "avx512f", "avx2"})


try:
    main()
except Exception as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.stderr.flush()
    os._exit(1)
except SystemExit:
    os._exit(0)
os._exit(0)
