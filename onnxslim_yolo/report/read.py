"""Read a report.json that somebody else may have written: checked field by field before anything uses it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file

FORMAT, VERSION = "onnxslim-yolo/report", 1
LARGEST = 1 << 28
"""Bytes. A report of a 10⁵-node graph has 30 MB."""


class _Added:
    """A field that earlier versions did not write: it may be missing, and then stays so."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class _Maybe:
    """A field that may be null or missing."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


_COUNT, _NUMBER, _TIME = "a count", "a number", "a time"
_LAYER = {"name": str, "op": str, "macs": _COUNT, "parameters": _COUNT, "latency_us": _Maybe(_TIME)}
_KIND = {"kind": str, "layers": _COUNT, "us": _TIME}
_COST = {
    "macs": _COUNT,
    "parameters": _COUNT,
    "nodes": _COUNT,
    "layers": [_LAYER],
    "latency_us": _Maybe(_TIME),
    "latency_kinds": _Maybe([_KIND]),
    "table": _Maybe(str),
}
_COMPENSATION = {
    "pass": str,
    "without": _Maybe(_NUMBER),
    "compensated": _Maybe(_NUMBER),
    "measure": str,
    "images": _COUNT,
    "kind": str,
}
_OUTPUT = {"output": str, "blind": _Added([str]), "dim": _Added([str]), "silent": _Added([str])}
_CHECK = {
    "label": str,
    "runtime": str,
    "tolerance": _Maybe(_NUMBER),
    "worst": _Maybe(_NUMBER),
    "passed": bool,
    "outputs": _Added([_OUTPUT]),
}
_MAP = {"map50": _NUMBER, "map": _NUMBER}
_TENSOR = {"name": str, "before": _Maybe(_COUNT), "after": _Maybe(_COUNT), "gone": bool}
_NETWORK = {
    "blocks": [{"name": str, "kind": str, "nodes": [str], "ops": dict}],
    "edges": [{"from": _COUNT, "to": _COUNT, "tensors": [_TENSOR]}],
}
_BLOCK_COST = {"layers": _COUNT, "macs": _COUNT, "parameters": _COUNT, "latency_us": _TIME}
_SHAPE = {
    "tool": {"name": str, "version": str},
    "source": {"file": str, "sha256": str, "bytes": _COUNT, "onnx_bytes": _Added(_COUNT), "ncnn_bytes": _Added(_COUNT)},
    "options": dict,
    "before": _COST,
    "after": _COST,
    "pruning": _Maybe(
        {
            "channels": _COUNT,
            "prunable": _COUNT,
            "removed": _COUNT,
            "dead": _Maybe(_COUNT),
            "importance": _Maybe(str),
            "threshold": _Maybe(_NUMBER),
            "lossless": bool,
            "gone": _Added([str]),
            "histogram": _Maybe({"counts": [_COUNT], "going": _Maybe([_COUNT]), "edges": [_NUMBER]}),
        }
    ),
    "groups": [
        {"id": _COUNT, "width": _COUNT, "wanted": _COUNT, "kept": _COUNT, "members": [str], "frozen": _Maybe(str)}
    ],
    "frozen": [{"reason": str, "channels": _COUNT}],
    "blocks": _Added([{"name": str, "before": _BLOCK_COST, "after": _Maybe(_BLOCK_COST)}]),
    "passes": [{"name": str, "spec": str, "rewrites": _COUNT, "nodes": _COUNT}],
    "verification": _Maybe(
        {
            "checks": [_CHECK],
            "control": {"layer": str, "spoiled_by": _NUMBER, "worst": _Maybe(_NUMBER), "noticed": bool},
            "difference_from_source": _Maybe(_CHECK),
        }
    ),
    "files": dict,
    "speed": _Maybe(
        {
            "runtime": str,
            "source_ms": _NUMBER,
            "result_ms": _NUMBER,
            "ratio": _NUMBER,
            "quartiles": [_NUMBER],
            "control": _NUMBER,
            "threads": _COUNT,
            "rounds": _COUNT,
        }
    ),
    "verdict": _Added(
        {
            "word": str,
            "text": str,
            "level": str,
            "advice": [str],
            "equal": {"state": str},
            "alive": {"state": str, "why": str},
            "accuracy": {"state": str},
        }
    ),
    "journal": _Maybe([{"pass": _COUNT, "tensor": str, "change": str, "before": str, "after": str}]),
    "network": _Maybe(_NETWORK),
    "budget": _Added({"limits": dict, "broken": [{"limit": str, "text": str, "message": str}]}),
    "exit": _Added(_COUNT),
    "compensation": _Maybe([_COMPENSATION]),
    "accuracy": _Maybe({"data": str, "images": _COUNT, "models": {"source": _MAP}, "map50_drop": _NUMBER}),
    "notes": [str],
}


def read_report(path: Path) -> dict[str, Any]:
    """A report as `build_report` made it. Optional fields that are missing are there as None afterwards.

    Raises:
        InputError: the file cannot be read, is no JSON, is no report, or of another version; or a field is missing or
            of the wrong kind, and then the message names it.
    """
    report = _parse(path)
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise InputError(
            f'is no report: expected an object with "format": "{FORMAT}"',
            file=path,
            hint="give the NAME.report.json that 'onnxslim-yolo compile' wrote",
        )
    if report.get("version") != VERSION:
        raise InputError(
            f"is a report of version {report.get('version')!r:.40}, expected {VERSION}",
            file=path,
            hint="compile again with this version of onnxslim-yolo",
        )
    try:
        _check(report, _SHAPE, "")
        _check(list(report["files"].values()), [_COUNT], "files")
        _check(list(((report["accuracy"] or {}).get("models") or {}).values()), [_MAP], "accuracy.models")
        _consistent(report)
    except _Malformed as error:
        raise InputError(f"is a malformed report: {error}", file=path, hint="compile again") from error
    return report


def _parse(path: Path) -> Any:
    require_file(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"is larger than {LARGEST >> 20} MiB, too large for a report", file=path)
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    except RecursionError as error:
        raise InputError("is nested too deeply for a report", file=path) from error
    except ValueError as error:  # JSON and UTF-8 errors both are
        raise InputError(f"is no JSON: {error}", file=path, hint="give a NAME.report.json") from error


class _Malformed(Exception):  # noqa: N818 (caught in this file)
    pass


def _check(value: Any, shape: Any, where: str) -> None:
    """Compare a value with its shape: a type, a named kind, a list of one shape, or an object of fields."""
    if isinstance(shape, dict):
        _require(isinstance(value, dict), value, "an object", where)
        for key, inner in shape.items():
            name = f"{where}.{key}" if where else key
            if isinstance(inner, _Added):
                if key in value:
                    _check(value[key], inner.shape, name)
            elif isinstance(inner, _Maybe):
                if value.setdefault(key, None) is not None:
                    _check(value[key], inner.shape, name)
            elif key not in value:
                raise _Malformed(f"'{name}' is missing")
            else:
                _check(value[key], inner, name)
    elif isinstance(shape, list):
        _require(isinstance(value, list), value, "a list", where)
        for index, item in enumerate(value):
            _check(item, shape[0], f"{where}[{index}]")
    elif shape is _COUNT:
        _require(type(value) is int and 0 <= value < 1 << 63, value, "a whole number from 0", where)
    elif shape is _TIME:
        finite = (type(value) is int or type(value) is float) and 0 <= value < 1e15
        _require(finite, value, "a number of microseconds from 0", where)
    elif shape is _NUMBER:
        _require(type(value) is int or type(value) is float, value, "a number", where)
    else:
        _require(isinstance(value, shape), value, {str: "text", bool: "true or false"}.get(shape, "an object"), where)


def _consistent(report: dict[str, Any]) -> None:
    network = report["network"] or {"blocks": [], "edges": []}
    if any(max(edge["from"], edge["to"]) >= len(network["blocks"]) for edge in network["edges"]):
        raise _Malformed("'network.edges' names a block that there is not")
    histogram = (report["pruning"] or {}).get("histogram")
    if histogram is None:
        return
    if len(histogram["edges"]) != len(histogram["counts"]) + 1:
        raise _Malformed("'pruning.histogram' needs one edge more than counts")
    if histogram["going"] is not None and len(histogram["going"]) != len(histogram["counts"]):
        raise _Malformed("'pruning.histogram.going' needs as many entries as counts")
    if not all(math.isfinite(edge) for edge in histogram["edges"]):
        raise _Malformed("'pruning.histogram.edges' has numbers that are not finite")


def _require(holds: bool, value: Any, expected: str, where: str) -> None:
    if not holds:
        raise _Malformed(f"'{where}' is {value!r:.40}, expected {expected}")
