"""YAML files, read with limits on their size and on what they unfold to, and one clear message for what is no YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file

LARGEST = 1 << 18
"""Bytes. A data.yaml with a thousand classes has 30,000; PyYAML takes a second for so many."""
MOST_VALUES = 100_000
"""Values, each counted as often as an alias repeats it."""


def read_yaml(path: Path, what: str, expected: str) -> dict[str, Any]:
    """The mapping that a file holds. No tags of Python objects; nothing in it is run.

    Args:
        what: the kind of file, for messages: "data.yaml".
        expected: what a file of this kind holds: "a mapping with path, val and names".

    Raises:
        InputError: unreadable, too large, no UTF-8, no YAML, no mapping, or aliases that unfold without end.
    """
    import yaml

    require_file(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(f"is larger than {LARGEST >> 10} KiB, too large for a {what}", file=path)
        data = yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        message = (
            "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
        )
        raise InputError(message, file=path, hint=f"give a {what}, {expected}") from error
    except RecursionError as error:
        raise InputError("cannot be read as yaml (nested too deeply)", file=path) from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # All but the first are what PyYAML's constructors raise, of dates and numbers that are none.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot be read as yaml ({first[:200]})", file=path) from error
    if not isinstance(data, dict):
        raise InputError(f"is no {what}: expected {expected}", file=path)
    if _unfolded(data) > MOST_VALUES:
        raise InputError(f"unfolds to more than {MOST_VALUES} values, too many for a {what}", file=path)
    return data


def _unfolded(value: Any) -> int:
    """Values in it, counted up to just above MOST_VALUES: a list may hold itself."""
    count, left = 0, [value]
    while left and count <= MOST_VALUES:
        one = left.pop()
        count += 1
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            left += one
    return count
