"""Limits that a compiled model has to keep: a budget file, `--max-drop`, `--require-speedup`. Not met: exit status 4.

A budget is a TOML file; every key is optional:

    params = 2_000_000        # or "0.5x": a share of the source's
    macs = "0.6x"
    file_size = "4 MB"        # the ONNX file, or the NCNN folder where no ONNX is written; or "0.5x"
    max_difference = 1e-3     # worst |Δ| / spread over all checks that must agree
    latency_ratio = 0.8       # measured, in the target runtime, to the source
    map_drop = 0.02           # of mAP50, needs --data
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.toml import read_toml

if TYPE_CHECKING:
    from onnxslim_yolo.options import CompileOptions

LARGEST = 1e30
"""Nothing that is limited is larger, and JSON and tables can show it."""
LONGEST = 100
"""Characters of a limit. The pattern that reads one takes their square in time where it does not match."""

UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "k": 10**3,
    "m": 10**6,
}


@dataclass(frozen=True)
class Limit:
    """At most `value`, or at most the share `value` of the source's where `relative`."""

    value: float
    relative: bool = False

    def allows(self, before: float) -> float:
        """The absolute limit, given the source's figure."""
        return self.value * before if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.value:g}x" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Budget:
    """The limits of one compilation; None means no limit."""

    params: Limit | None = None
    macs: Limit | None = None
    file_size: Limit | None = None
    max_difference: Limit | None = None
    latency_ratio: Limit | None = None
    map_drop: Limit | None = None

    def with_options(self, max_drop: float | None, require_speedup: float | None) -> Budget:
        """The same with what the command line says on top."""
        budget = self
        if max_drop is not None:
            budget = replace(budget, map_drop=Limit(max_drop))
        if require_speedup is not None:
            budget = replace(budget, latency_ratio=Limit(1 / require_speedup))
        return budget


def budget_of(options: CompileOptions) -> Budget:
    """The limits of a compilation: its budget file's, and what the command line says on top.

    Raises:
        InputError: as `read_budget`.
    """
    limits = Budget() if options.budget is None else read_budget(options.budget)
    return limits.with_options(options.max_drop, options.require_speedup)


def read_budget(path: Path) -> Budget:
    """Read a budget file.

    Raises:
        InputError: no TOML, an unknown key, or a value that is no limit; the message names the key.
    """
    data = read_toml(path)
    known = {f.name for f in fields(Budget)}
    if not data:
        raise InputError("sets no limit", file=path, hint=f"known: {', '.join(sorted(known))}")
    limits: dict[str, Limit] = {}
    for key, value in data.items():
        if key not in known:
            raise InputError(f"unknown key '{key}'", file=path, hint=f"known: {', '.join(sorted(known))}")
        limits[key] = _limit(key, value, path)
    return Budget(**limits)


def _limit(key: str, value: Any, path: Path) -> Limit:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LARGEST:
        return Limit(float(value))
    if isinstance(value, str) and len(value) <= LONGEST:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", value)
        unit = match.group(2).lower() if match else ""
        if match and unit == "x" and key in ("params", "macs", "file_size") and float(match.group(1)) < LARGEST:
            return Limit(float(match.group(1)), relative=True)
        if match and (unit in UNITS or not unit) and float(match.group(1)) < LARGEST:
            return Limit(float(match.group(1)) * UNITS.get(unit, 1))
    raise InputError(
        f"'{key}': {str(value)[:60]!r} is no limit",
        file=path,
        hint="a number, a size like '4 MB', or a share like '0.5x'",
    )


def violations(budget: Budget, report: dict[str, Any]) -> list[str]:
    """Which limits a report breaks, one sentence each."""
    return [one["message"] for one in budget_as_json(budget, report)["broken"]]


def budget_as_json(budget: Budget, report: Mapping[str, Any]) -> dict[str, Any]:
    """The limits by name, as they were given, and those that a report breaks: `limit`, `found`, `allowed`, and in words
    `text` for the headline and `message`, which names the key of the budget file."""
    facts = _facts(report)
    broken: list[dict[str, Any]] = []
    limits = {option.name: limit for option in fields(budget) if (limit := getattr(budget, option.name)) is not None}
    for name, limit in limits.items():
        source, found = facts[name]
        title, form = _WORDS[name]
        allowed = limit.allows(source)
        if found is None:
            text = message = f"not measured, so the limit {limit} cannot be shown to hold"
        elif not found <= allowed:
            share = f" ({limit} of the source's)" if limit.relative else ""
            text = message = f"{form(found)}, allowed {form(allowed)}{share}"
        else:
            continue
        words = {"text": f"{title} {text}", "message": f"{name}: {message}"}
        broken.append({"limit": name, "found": found, "allowed": allowed, **words})
    return {"limits": {name: str(limit) for name, limit in limits.items()}, "broken": broken}


def _facts(report: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Per limit the source's figure and the result's; None for what was not measured."""
    before, after = report["before"], report["after"]
    return {
        "params": (before["parameters"], after["parameters"]),
        "macs": (before["macs"], after["macs"]),
        "file_size": _sizes(report),
        "max_difference": (0.0, _worst(report)),
        "latency_ratio": (1.0, (report.get("speed") or {}).get("ratio")),
        "map_drop": (0.0, (report.get("accuracy") or {}).get("map50_drop")),
    }


def _whole(value: float) -> str:
    return f"{math.floor(value):,}"


_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "params": ("parameters", _whole),
    "macs": ("MACs", _whole),
    "file_size": ("file size", lambda value: f"{_whole(value)} B"),
    "max_difference": ("largest difference", "{:.2g}".format),
    "latency_ratio": ("latency ratio", "{:.3g}".format),
    "map_drop": ("mAP50 drop", "{:.3g}".format),
}
"""What a limit is called, and how its figures are put."""


def _sizes(report: Mapping[str, Any]) -> tuple[float, float | None]:
    """The source's size and the result's, of the same kind of file."""
    source, files = report["source"], report["files"]
    kind = "onnx_bytes" if any(name.endswith(".onnx") for name in files) or not files else "ncnn_bytes"
    return source.get(kind) or source["bytes"], _file_size(report)


def _file_size(report: Mapping[str, Any]) -> float | None:
    files = report["files"]
    single = [size for name, size in files.items() if name.endswith(".onnx")]
    return float(single[0]) if single else float(sum(files.values())) if files else None


def _worst(report: Mapping[str, Any]) -> float | None:
    if report["verification"] is None:
        return None
    required = [c["worst"] for c in report["verification"]["checks"] if c["tolerance"] is not None]
    return max(required, default=None)
