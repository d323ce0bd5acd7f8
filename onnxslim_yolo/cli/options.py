"""What was typed → `CompileOptions`: how each option of `compile` is spelt, and how a spelling is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.options import CompileOptions, parse_size

if TYPE_CHECKING:
    from onnxslim_yolo.analysis.limits import Asked

FIELDS = {"output": "out", "print_after_all": "dump_to", "pixels": "input"}
"""Parameters of the command that are called otherwise in `CompileOptions`."""


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def compile_options(given: Mapping[str, Any]) -> CompileOptions:
    """The options of one compilation from the command's parameters. What is missing keeps its default.

    Raises:
        UsageError: a value that the option does not take; the message names the option.
    """
    known = {field.name for field in fields(CompileOptions)}
    values = {FIELDS.get(name, name): value for name, value in given.items()}
    chosen = {name: _READ[name](value) if name in _READ else value for name, value in values.items() if name in known}
    if "no_verify" in given:
        chosen["verify"] = not given["no_verify"]
    return CompileOptions(**chosen)


def parse_limit(option: str, text: str | None) -> float | None:
    """A limit from text: `3GB`, `500 M`, `2e12`, or `none` for no limit. Raises UsageError."""
    if text is None:
        return None
    if text.strip().lower() == "none":
        return math.inf
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?(?:e\d{1,2})?)\s?([kmgt]?)b?", text.strip().lower())
    if match is None or not float(match[1]) > 0:
        raise UsageError(f"{option} takes an amount like 3G, or none, not '{text:.40}'")
    return float(match[1]) * _UNITS[match[2]]


def asked_for(memory: str | None, work: str | None) -> Asked:
    """The limits of one command. Raises UsageError."""
    from onnxslim_yolo.analysis.limits import Asked

    return Asked(parse_limit("--limit-memory", memory), parse_limit("--limit-work", work))


def _ratio(text: str) -> float | Literal["dead"]:
    if text == "dead":
        return "dead"
    return _number("--prune", text, "a ratio in [0, 1) or 'dead'")


def _share(option: str) -> Callable[[str | None], float | None]:
    return lambda text: None if text is None else _number(option, text.removesuffix("x"), "a share like 0.7x")


def _number(option: str, text: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option} takes {expected}, not '{text}'") from error


def _snap(text: str) -> str | int:
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and len(digits) < 10 else text


_READ: dict[str, Callable[[Any], Any]] = {
    "imgsz": parse_size,
    "prune": _ratio,
    "target_macs": _share("--target-macs"),
    "target_params": _share("--target-params"),
    "snap": _snap,
    "limit_memory": lambda text: parse_limit("--limit-memory", text),
    "limit_work": lambda text: parse_limit("--limit-work", text),
    "keep": lambda patterns: tuple(patterns or ()),
    "emit": lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
"""Field → how its text is read. A choice is taken as typed: `CompileOptions` knows which exist and says so."""
