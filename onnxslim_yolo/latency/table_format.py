"""A latency table as text, and back with every value checked: tables are passed around between machines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file, write_atomically
from onnxslim_yolo.latency.layers import Family, Pair
from onnxslim_yolo.latency.packing import PACK, RUNTIMES
from onnxslim_yolo.latency.table import FORMAT, SQUARE, VERSION, Grid, LatencyTable, Widths

MAX_BYTES = 64 << 20
MAX_WIDTH = 1 << 20
_HINT = "`onnxslim-yolo profile` makes a table"


def table_as_text(table: LatencyTable) -> str:
    """The file's contents: one family a line, families in order, so that equal tables are equal bytes."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "runtime": table.runtime,
        "runtime_version": table.runtime_version,
        "cpu": table.cpu,
        "isa": table.isa,
        "threads": table.threads,
        "scale": _rounded(table.scale),
        "overhead": _rounded(table.overhead),
        **({"method": table.method} if table.method else {}),
        **({} if table.noise is None else {"noise": _rounded(table.noise)}),
    }
    lines = [json.dumps(_family_as_json(family, table.families[family])) for family in sorted(table.families)]
    return json.dumps(head)[:-1] + ',\n "families": [\n  ' + ",\n  ".join(lines) + "\n ]}\n"


def _family_as_json(family: Family, grid: Grid) -> dict[str, Any]:
    square = family.kind in SQUARE
    row = [_rounded(grid.us.get((a,))) for a in grid.ins]
    rows = [[_rounded(grid.us.get((a, b))) for b in grid.outs] for a in grid.ins]
    return {
        "kind": family.kind,
        "op": family.op,
        "kernel": list(family.kernel),
        "stride": list(family.stride),
        "groups": family.groups,
        "size": list(family.size),
        "in": list(grid.ins),
        **({"out": list(grid.outs)} if square else {}),
        "us": rows if square else row,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def write_table(table: LatencyTable, path: Path) -> Path:
    """Write a table, completely or not at all. Returns the path."""
    return write_atomically(path, table_as_text(table))


def read_table(path: Path) -> LatencyTable:
    """Read and check a table file.

    Raises:
        InputError: it cannot be read or is no such table; the message says where.
    """
    require_file(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"more than {MAX_BYTES} bytes, which no latency table has", file=path)
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path, hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}", file=path, hint=_HINT) from error
    return _Checker(path).table(data)


class _Checker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"no latency table: {message}", file=self.path, hint=_HINT)

    def table(self, data: Any) -> LatencyTable:
        self.require(isinstance(data, dict) and data.get("format") == FORMAT, f'"format" is not "{FORMAT}"')
        self.require(data.get("version") == VERSION, f"version {data.get('version')!r}, expected {VERSION}")
        self.require(str(data.get("runtime")) in RUNTIMES, f'"runtime" is none of {", ".join(RUNTIMES)}')
        self.require(str(data.get("isa")) in PACK, f'"isa" is none of {", ".join(PACK)}')
        self.require(_whole(data.get("threads"), 1, 1024), '"threads" is no number above 0')
        self.require(isinstance(data.get("families"), list), '"families" is no list')
        scale = self.time(data.get("scale", 1.0), '"scale"')
        self.require(scale > 0, '"scale" is not above 0')
        overhead = self.time(data.get("overhead", 0.0), '"overhead"')
        families: dict[Family, Grid] = {}
        for index, item in enumerate(data["families"]):
            family, grid = self.family(item, f"families[{index}]")
            self.require(family not in families, f"families[{index}] occurs twice")
            families[family] = grid
        return LatencyTable(
            data["runtime"],
            data["isa"],
            data["threads"],
            str(data.get("runtime_version", "")),
            str(data.get("cpu", "")),
            families,
            scale,
            overhead,
            str(data.get("method", "")),
            None if data.get("noise") is None else self.time(data["noise"], '"noise"'),
        )

    def family(self, item: Any, where: str) -> tuple[Family, Grid]:
        self.require(isinstance(item, dict), f"{where} is no object")
        self.require(isinstance(item.get("kind"), str), f'{where}: "kind" is missing')
        self.require(isinstance(item.get("op", ""), str), f'{where}: "op" is no text')
        self.require(_whole(item.get("groups", 1), 1, MAX_WIDTH), f'{where}: "groups" is no number above 0')
        pairs = {key: self.pair(item.get(key), f'{where}: "{key}"') for key in ("kernel", "stride", "size")}
        family = Family(item["kind"], item.get("op", ""), groups=item.get("groups", 1), **pairs)
        ins = self.widths(item.get("in"), f'{where}: "in"')
        square = family.kind in SQUARE
        outs = self.widths(item.get("out"), f'{where}: "out"') if square else ()
        rows = item.get("us")
        self.require(isinstance(rows, list) and len(rows) == len(ins), f'{where}: "us" has not {len(ins)} rows')
        us: dict[Widths, float] = {}
        for a, row in zip(ins, rows, strict=True):
            if square:
                self.require(
                    isinstance(row, list) and len(row) == len(outs), f"{where}: a row has not {len(outs)} values"
                )
                us.update({(a, b): self.time(v, where) for b, v in zip(outs, row, strict=True) if v is not None})
            elif row is not None:
                us[(a,)] = self.time(row, where)
        self.require(bool(us), f"{where} has no measured value")
        if not square:
            ins = tuple(a for a in ins if (a,) in us)
        return family, Grid(ins, outs, us)

    def pair(self, value: Any, where: str) -> Pair:
        good = isinstance(value, list) and len(value) == 2 and all(_whole(v, 1, MAX_WIDTH) for v in value)
        self.require(good, f"{where} is no pair of numbers above 0")
        return (value[0], value[1])

    def widths(self, value: Any, where: str) -> Widths:
        good = isinstance(value, list) and bool(value) and all(_whole(v, 1, MAX_WIDTH) for v in value)
        self.require(good and value == sorted(set(value)), f"{where} is no ascending list of widths")
        return tuple(value)

    def time(self, value: Any, where: str) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        self.require(good, f"{where}: {value!r} is no number of 0 or more")
        return float(value)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
