"""Which table a compilation reads: the one it is given, else one that comes with the package, else none.

The choice depends on the runtime, the instruction set and the threads that are asked for only, so that the same input
and options give the same bytes. int8 times of x86 are those of processors with VNNI, and are left out for others. A
table of several threads is `RUNTIME-NAME-THREADS.json`, of one `RUNTIME-NAME.json`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency.devices import Device, adds_in_16_bits, device_of, isa_of
from onnxslim_yolo.latency.int8 import without_int8
from onnxslim_yolo.latency.methods import INSTRUCTIONS
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.latency.table_format import read_table

DATA = Path(__file__).with_name("data")


def shipped_tables() -> list[Path]:
    """The table files of this package, by name."""
    return sorted(DATA.glob("*.json"))


def table_for(runtime: Runtime, isa: str = "host", path: Path | None = None, threads: int = 1) -> LatencyTable:
    """The table to judge latency by.

    Args:
        runtime: what the model will run in.
        isa: the device that it will run on, or an instruction set; "host" is this machine.
        path: a table file that goes before any other.
        threads: of the runtime there; of the tables that come with the package, the one of most threads that is no
            more than these is taken.

    Raises:
        InputError: the file is no table.
        UsageError: the file is a table of another runtime, or there is no such device.
    """
    if path is None:
        return _shipped(runtime, isa, threads, int8=not adds_in_16_bits(isa))
    table = read_table(path)
    if table.runtime != runtime:
        raise UsageError(
            f"{path} was measured in {table.runtime}, but the target is {runtime}",
            hint=f"--target {table.runtime}, or profile {runtime}",
        )
    return table


def table_file(runtime: Runtime, name: str, threads: int = 1) -> Path:
    """Where the table of an instruction set or a device comes to lie in the package."""
    return DATA / f"{runtime}-{name}{'' if threads == 1 else f'-{threads}'}.json"


def shipped_file(runtime: Runtime, name: str, threads: int) -> Path | None:
    """The file of most threads that is no more than these; None where there is none."""
    several = [path.stem.rpartition("-")[2] for path in DATA.glob(f"{runtime}-{name}-*.json")]
    counts = sorted({1, *(int(count) for count in several if count.isdecimal())}, reverse=True)
    files = (table_file(runtime, name, count) for count in counts if count <= threads)
    return next((path for path in files if path.is_file()), None)


@cache
def _shipped(runtime: Runtime, name: str, threads: int, *, int8: bool) -> LatencyTable:
    """One object for all who ask, since a table remembers what it was asked."""
    table = _chosen(runtime, name, threads)
    return table if int8 else without_int8(table)


def _chosen(runtime: Runtime, name: str, threads: int) -> LatencyTable:
    """A device's own table, else that of the device it is like, else its instruction set's, else the analytic model."""
    isa = isa_of(name)
    for stem in (name, isa):
        path = shipped_file(runtime, stem, threads)
        if path is not None:
            return read_table(path)
        if stem == name and (alike := _alike(runtime, device_of(name))) is not None:
            return alike
    return LatencyTable.analytic(runtime, isa)


def _alike(runtime: Runtime, device: Device) -> LatencyTable | None:
    """The table of the device that this one is like, at this one's speed; None where there is none."""
    like = device.like
    path = DATA / f"{runtime}-{like.of}.json" if like is not None else None
    if like is None or path is None or not path.is_file():
        return None
    table = read_table(path)
    error = f"±{100 * like.error:.0f} % on ncnn's published networks"
    method = f"{INSTRUCTIONS} of {device_of(like.of).title} × {like.factor:.3g}, as {like.timed} takes them, {error}"
    scale, overhead = table.scale * like.factor, table.overhead * like.factor
    return replace(table, cpu=device.title, method=method, scale=scale, overhead=overhead, _cache={}, _corrections={})
