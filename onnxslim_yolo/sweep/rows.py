"""What a sweep tries, and the table of it: one row per trial, as CSV, and as Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from onnxslim_yolo._version import __version__
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file, write_atomically

Row = dict[str, Any]
"""A trial: the columns below; what is not known is None or missing."""

WORDS = ("key", "model", "prune", "snap", "importance", "compensate", "imgsz", "file", "error")
WHOLE = ("macs", "parameters", "bytes")
REAL = ("macs_ratio", "difference", "kept", "map50", "map", "latency_ms", "latency_ratio", "seconds")
COLUMNS = ("key", "model", "imgsz", "prune", "snap", "importance", "compensate", *WHOLE, *REAL, "file", "error")


@dataclass(frozen=True)
class Trial:
    """One compilation: the model's file, and options of `compile`. `key` names its folder and its row.

    `judged`: what it keeps of the source's detections is counted, on the images of `calib`.
    """

    model: str
    sha256: str
    options: dict[str, Any]
    verify: bool
    data: str | None
    judged: bool = False

    @property
    def key(self) -> str:
        """The same for the same source, options, data and version of this package."""
        facts = [Path(self.model).name, self.sha256, self.options, self.verify, self.data, __version__]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def write_rows(rows: Sequence[Row], path: Path, *, parquet: bool = False) -> None:
    """Write the table, complete or not at all.

    Args:
        path: the CSV file.
        parquet: also write it with the suffix `.parquet`, if pyarrow is there.

    Raises:
        InputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
    if parquet:
        _write_parquet(rows, path.with_suffix(".parquet"))


def read_rows(path: Path) -> list[Row]:
    """The rows of a table; none if there is no such file. Numbers are numbers again, empty cells None.

    Raises:
        InputError: the file is no such table.
    """
    if not path.exists():
        return []
    require_file(path)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise InputError("is no table of a sweep, or of another version", file=path, hint="move it away")
            return [{name: _value(name, text) for name, text in row.items()} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot be read: {error}", file=path, hint="move it away to start again") from error


def _value(name: str, text: str | None) -> Any:
    if not text:
        return None
    return int(text) if name in WHOLE else float(text) if name in REAL else text


def _write_parquet(rows: Sequence[Row], path: Path) -> None:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        return  # CSV is the table; Parquet is an extra
    kinds = {name: pyarrow.string() for name in WORDS}
    kinds |= {name: pyarrow.int64() for name in WHOLE} | {name: pyarrow.float64() for name in REAL}
    columns = {name: [_typed(name, row.get(name)) for row in rows] for name in COLUMNS}
    arrays = [pyarrow.array(columns[name], kinds[name]) for name in COLUMNS]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays, names=list(COLUMNS)), buffer)
    write_atomically(path, buffer.getvalue())


def _typed(name: str, value: Any) -> Any:
    return str(value) if name in WORDS and value is not None else value
