"""What a model may cost: judged from its shapes, before anything of it is run.

A file of 150 bytes can ask for 10 GB. A detector that large has weights to match: without a limit of the user's, what
is allowed grows with the weights that the file brings, so that a large YOLO at 4K passes and a small file's bomb does
not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from onnxslim_yolo.analysis.effort import Effort, effort_of, name_of
from onnxslim_yolo.analysis.most_shapes import of_any_size
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import initializers
from onnxslim_yolo.ir.model import Model

MEMORY, MEMORY_PER_WEIGHT_BYTE = 320 << 20, 16
"""Bytes that live tensors may take at once where the user sets no limit: at least, and for each byte of weights."""

PAIR_MEMORY, PAIR_MEMORY_PER_BYTE = 1 << 30, 32
"""The same of the process that runs an NCNN pair, which is not told what it would take before."""

WORK, WORK_PER_WEIGHT = 30 * 10**9, 60_000
"""Multiply-adds of one run where the user sets no limit: at least, and for each weight. A 4K image gives a YOLO's
deepest layers 8,160 positions and its first ones two million; over a network that is 30,000 to 45,000 a weight."""

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Asked:
    """What the user allows: bytes and multiply-adds; None: by the model's weights."""

    memory: float | None = None
    work: float | None = None


BY_WEIGHTS, ANY = Asked(), Asked(math.inf, math.inf)


@dataclass(frozen=True)
class Limits:
    """Bytes and multiply-adds that one run of a model may take; `math.inf`: any."""

    memory: float
    work: float

    def require(self, model: Model) -> None:
        """Raises InputError where a model whose shapes are inferred takes more, with the node that takes most, or
        where what it takes depends on the image's values alone."""
        endless = of_any_size(model.graph) if math.isfinite(max(self.memory, self.work)) else None
        if endless is not None:
            raise InputError(
                "what the image holds says how much this makes, so nobody can say before what running it takes",
                file=model.source.file,
                node=name_of(endless),
                hint="export it with sizes that are known; or allow any: --limit-memory none --limit-work none",
            )
        self.hold(effort_of(model.graph), model.source.file)

    def hold(self, effort: Effort, file: str | Path | None = None) -> None:
        """Raises InputError where an effort is more than that, with the node that has the greatest part in it."""
        if effort.memory > self.memory:
            raise InputError(
                f"running it takes {in_units(effort.memory)}B at once, more than the limit of {in_units(self.memory)}B",
                file=file,
                node=effort.memory_node,
                hint=f"if it is meant to be that large: --limit-memory {in_units(effort.memory * 1.1)}B",
            )
        if effort.work > self.work:
            raise InputError(
                f"running it takes {in_units(effort.work)} multiply-adds, more than the limit of {in_units(self.work)}",
                file=file,
                node=effort.work_node,
                hint=f"if it is meant to be that large: --limit-work {in_units(effort.work * 1.1)}",
            )


def limits_for(model: Model, memory: float | None, work: float | None) -> Limits:
    """The user's limits, or those that a file with so many weights has.

    Args:
        model: as read, before anything is computed.
        memory, work: the user's; None: by the weights.
    """
    weights = [tensor.values for tensor in initializers(model.graph)]
    return limits_of(sum(int(w.size) for w in weights), sum(int(w.nbytes) for w in weights), memory, work)


def limits_of(count: int, size: int, memory: float | None, work: float | None) -> Limits:
    """The user's limits, or those of a model with `count` weights in `size` bytes."""
    return Limits(
        MEMORY + MEMORY_PER_WEIGHT_BYTE * size if memory is None else memory,
        WORK + WORK_PER_WEIGHT * count if work is None else work,
    )


def pair_memory(weights: Path, memory: float | None = None) -> float:
    """Bytes that a process may take for an NCNN pair, whose shapes nobody has inferred: the user's limit, or by its
    `.bin`, whose weights are half as long as a graph's and are rearranged in several ways."""
    return PAIR_MEMORY + PAIR_MEMORY_PER_BYTE * weights.stat().st_size if memory is None else memory


def held_to(memory: float) -> str:
    """The way out where a process that is held to so much memory has failed."""
    return f"it may take {in_units(memory)}B of memory here; --limit-memory allows more"


def in_units(value: float) -> str:
    """A number with K, M, G or T, to three digits."""
    unit = next((u for u in "TGMK" if value >= UNITS[u.lower()]), "")
    return f"{value / UNITS[unit.lower()]:.3g}{unit}"
