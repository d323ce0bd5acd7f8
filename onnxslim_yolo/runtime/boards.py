"""What a Python in another place says that it is, and whether it will do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.runtime.processor import arm_bits


@dataclass(frozen=True)
class Board:
    """What a launched Python is.

    Attributes:
        cpu: its processor, or the board. machine: "aarch64", "x86_64", ….
        half: whether ncnn computes in fp16 there. isa: the instruction set, as `latency.packing` calls it.
        ncnn: its version; onnxruntime: its version, "" where there is none.
        notes: what the user should know.
    """

    cpu: str
    machine: str
    system: str
    half: bool
    isa: str
    cores: int
    ncnn: str
    onnxruntime: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What a report holds of it."""
        names = ("cpu", "machine", "system", "half", "isa", "cores", "ncnn", "onnxruntime")
        return {name: getattr(self, name) for name in names}


def board_of(facts: Mapping[str, Any]) -> Board:
    """What a launched Python says of itself. Raises UsageError where it will not do."""
    for package in ("numpy", "ncnn"):
        if not facts.get(package):
            raise UsageError(
                f"--run-on: no {package} in that Python {facts.get('python')} ({facts.get('why', 'not found')})",
                hint="pip install ncnn numpy, there",
            )
    if facts.get("byteorder") != sys.byteorder:
        raise UsageError(
            f"--run-on: that machine's byte order is {facts.get('byteorder')}, this one's {sys.byteorder}; "
            "numbers cannot be passed between them",
            hint="run it on one of the same byte order",
        )
    notes, ours = [], version("ncnn")
    if facts["ncnn"] != ours:
        notes.append(f"--run-on: ncnn {facts['ncnn']} there, {ours} here")
    machine, flags = str(facts.get("machine", "")).lower(), facts.get("flags")
    half = bool(facts.get("half"))
    return Board(
        cpu=str(facts.get("cpu", "")),
        machine=machine,
        system=str(facts.get("system", "")),
        half=half,
        isa=_isa(machine, half, flags if isinstance(flags, list) else []),
        cores=int(facts.get("cores", 1)),
        ncnn=str(facts["ncnn"]),
        onnxruntime=str(facts.get("onnxruntime") or ""),
        notes=tuple(notes),
    )


def _isa(machine: str, half: bool, flags: list[str]) -> str:
    if bits := arm_bits(machine):
        return "neon-fp16" if half and bits == 64 else "neon"
    return "avx512" if "avx512f" in flags else "avx2"
