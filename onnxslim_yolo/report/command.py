"""The command line that repeats a compilation, from the options its report lists."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

_FLAGS = {"out": "-o", "device": "--for", "dump_to": "--print-after-all"}
"""Options whose flag is not their name."""
_SHARES = ("target_macs", "target_params", "target_latency")
"""Options that are a share of the source's cost."""
_REPEATED = ("keep",)
"""Options given once per value."""


def command_of(report: Mapping[str, Any]) -> str:
    """The shell command, quoted; the input is named as the report names it, without its folder."""
    words = ["onnxslim-yolo", "compile", shlex.quote(str(report["source"]["file"]))]
    for name, value in report["options"].items():
        words += _words(name, value)
    return " ".join(words)


def _words(name: str, value: Any) -> list[str]:
    if name == "verify":
        return [] if value else ["--no-verify"]
    flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
    if value is True:
        return [flag]
    if value is False or value is None:
        return []
    if name in _REPEATED and isinstance(value, list):
        return [word for item in value for word in (flag, shlex.quote(str(item)))]
    if isinstance(value, list):
        return [flag, shlex.quote(",".join(str(item) for item in value))]
    if name in _SHARES and isinstance(value, (int, float)):
        return [flag, f"{value:g}x"]
    return [flag, shlex.quote(str(value))]
