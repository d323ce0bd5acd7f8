"""What machine a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.runtime.boards import Board


def machine() -> dict[str, str]:
    """CPU model, system, and the versions of the runtimes."""
    facts = {"cpu": _cpu_model(), "system": platform.platform(), "cores": str(os.cpu_count() or 1)}
    for package in ("onnxruntime", "ncnn"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def machine_of(board: Board) -> dict[str, str]:
    """The same of a machine that a launcher leads to, and what its user should know as `notes`."""
    facts = {"cpu": board.cpu, "system": board.system, "cores": str(board.cores), "ncnn": board.ncnn}
    facts |= {"onnxruntime": board.onnxruntime or "not installed"}
    return facts | ({"notes": "; ".join(board.notes)} if board.notes else {})


def cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_cores(threads: int, cores: int) -> None:
    """Raises UsageError where so many threads cannot be timed."""
    if not 1 <= threads <= cores:
        found = f"{threads} threads on {cores} {'core' if cores == 1 else 'cores'}"
        most = f"1 to {cores}" if cores > 1 else "1"
        raise UsageError(f"{found} would measure the scheduler", hint=f"--threads {most}")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
