"""TOML files, read with a limit on their size and one clear message for what is no TOML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file

LARGEST = 1 << 20
"""Bytes. Configuration files have a few hundred."""


def read_toml(path: Path, *, hint: str | None = None) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: the file cannot be read, is larger than 1 MiB, is no UTF-8 or no TOML, or is nested too deeply.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    require_file(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError("is larger than 1 MiB, too large for a configuration", file=path, hint=hint)
        data: dict[str, Any] = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path, hint=hint) from error
    except RecursionError as error:
        raise InputError("is nested too deeply", file=path, hint=hint) from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and numbers with thousands of digits
        raise InputError(f"is no TOML: {str(error)[:200]}", file=path, hint=hint) from error
    return data
