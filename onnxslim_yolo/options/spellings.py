"""Options with a spelling of their own: a size, a share, a ratio, an amount."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Literal

from onnxslim_yolo.errors import UsageError

_KIND = re.compile(r"(?:u?int|b?float|fp|bf)\d+")
"""A number's type, which is no layer's name."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) from `N`, `HxW` or `H,W`. Raises UsageError."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--imgsz takes N or HxW (or H,W) in pixels, not '{text}'")
    sides = [int(part) for part in parts]
    return sides[0], sides[-1]


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


def limit(option: str) -> Callable[[str], float | None]:
    """Reads a limit of this option."""
    return lambda text: parse_limit(option, text)


def ratio(text: str) -> float | Literal["dead"]:
    """A share of channels, or "dead". Raises UsageError."""
    return "dead" if text == "dead" else _number("--prune", text, "a ratio in [0, 1) or 'dead'")


def share(option: str) -> Callable[[str], float]:
    """Reads a share like `0.7x` of this option."""
    return lambda text: _number(option, text.removesuffix("x"), "a share like 0.7x")


def grid(text: str) -> str | int:
    """A width to round to, or a word."""
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and len(digits) < 10 else text


def _number(option: str, text: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option} takes {expected}, not '{text}'") from error


def int8_layers(text: str) -> tuple[str, ...]:
    """What `--quantize` names: "auto", "all", or patterns; nothing for "none". Raises UsageError."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if parts == ("none",):
        return ()
    if (other := next((part for part in parts if _KIND.fullmatch(part)), "int8")) != "int8":
        raise UsageError(f"--quantize knows int8, not '{other}'", hint="int8, all, patterns of layers' names, or none")
    found = tuple("auto" if part == "int8" else part for part in parts)
    if not found:
        raise UsageError("--quantize names nothing", hint="int8, all, patterns of layers' names, or none")
    if len(found) > 1 and {"none", "auto", "all"} & set(found):
        raise UsageError(f"--quantize takes int8, all or patterns of layers' names, not '{text}'")
    return found
