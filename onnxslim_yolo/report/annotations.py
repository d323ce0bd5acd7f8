"""What went wrong as the workflow commands of GitHub Actions, which shows them beside the file they name.

    ::error file=models/best.onnx,title=onnxslim-yolo::parameters 112,745, allowed 4,586

Whatever stands in a name or a message stays in it: no line of it can be a command of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {"fail": "error", "warn": "warning"}
"""A verdict's level → the command; what passes is no annotation."""


def annotation(kind: str, message: str, file: object = None) -> str:
    """One line: `kind` is "error", "warning" or "notice"."""
    where = f"file={_property(str(file))}," if file else ""
    return f"::{kind} {where}title=onnxslim-yolo::{_data(message)}"


def annotation_of(verdict: Mapping[str, Any], file: object) -> str | None:
    """A verdict's line; None for one that passes."""
    kind = _KINDS.get(verdict["level"])
    text = f"{verdict['word']}: {verdict['text']}" if verdict["text"] else verdict["word"]
    return None if kind is None else annotation(kind, text, file)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
