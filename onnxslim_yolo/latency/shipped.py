"""Which table a compilation reads: the one it is given, else one that comes with the package, else none.

The choice depends on the runtime and the instruction set only, so that the same input and options give the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency.devices import Device, device_of, isa_of
from onnxslim_yolo.latency.methods import INSTRUCTIONS
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.latency.table_format import read_table

DATA = Path(__file__).with_name("data")


def shipped_tables() -> list[Path]:
    """The table files of this package, by name."""
    return sorted(DATA.glob("*.json"))


def table_for(runtime: Runtime, isa: str = "host", path: Path | None = None) -> LatencyTable:
    """The table to judge latency by.

    Args:
        runtime: what the model will run in.
        isa: the device that it will run on, or an instruction set; "host" is this machine.
        path: a table file that goes before any other.

    Raises:
        InputError: the file is no table.
        UsageError: the file is a table of another runtime, or there is no such device.
    """
    if path is None:
        return _shipped(runtime, isa)
    table = read_table(path)
    if table.runtime != runtime:
        raise UsageError(
            f"{path} was measured in {table.runtime}, but the target is {runtime}",
            hint=f"--target {table.runtime}, or profile {runtime}",
        )
    return table


@cache
def _shipped(runtime: Runtime, name: str) -> LatencyTable:
    """A device's own table, else that of the device it is like, else its instruction set's, else the analytic model."""
    isa = isa_of(name)
    for stem in (name, isa):
        path = DATA / f"{runtime}-{stem}.json"
        if path.is_file():
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
