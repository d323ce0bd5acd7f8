"""What a child answers, held against what it may answer: a launched one runs on a machine that is not known."""

from __future__ import annotations

import json
import math
from typing import Any

MOST_VALUES = 1 << 29
"""Numbers in one blob that is sent back: 2 GiB."""


class GarbledError(EOFError):
    """A child answered with something else than its answer; whoever speaks to it treats it as gone."""


def reply_of(line: str | bytes, like: Any = dict) -> dict[str, Any]:
    """One line of JSON as an object. Raises GarbledError unless it is one and is `like` (see `is_like`)."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GarbledError from error
    if not isinstance(reply, dict):
        raise GarbledError
    require(reply, like)
    return reply


def require(value: Any, like: Any) -> None:
    """Raises GarbledError unless a value is `like`."""
    if not is_like(value, like):
        raise GarbledError


def is_like(value: Any, like: Any) -> bool:
    """Whether a value is of a form: a type; `[form]` for a list of such; a dict of forms for one with these keys; a
    tuple of forms for any of them. `float` is any finite number, None is None; a bool is no number."""
    if isinstance(like, dict):
        return isinstance(value, dict) and all(key in value and is_like(value[key], like[key]) for key in like)
    if isinstance(like, list):
        return isinstance(value, list) and all(is_like(each, like[0]) for each in value)
    if isinstance(like, tuple):
        return any(is_like(value, each) for each in like)
    if like is None:
        return value is None
    if like is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, like) and (like is bool or not isinstance(value, bool))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def blob_size(shape: Any) -> int:
    """Numbers in a blob of this shape. Raises GarbledError where it is none, or larger than any."""
    require(shape, [int])
    size = 1
    for side in shape:
        size *= side
        if side < 0 or size > MOST_VALUES:
            raise GarbledError
    return size
