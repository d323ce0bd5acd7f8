"""Options of `compile` from a file, so that a project says once how its models are compiled.

`onnxslim-yolo.toml`, or the table `[tool.onnxslim-yolo]` of a `pyproject.toml`: the nearest one, looked for in the
working directory and then upwards. Keys are the long names of `compile`'s options; the command line wins.

    prune = 0.5
    snap = "pow2"
    keep = ["model.22.*"]
    budget = "budget.toml"     # paths are relative to the file that names them

A file that was found, rather than named, may be a stranger's: it says what to compute, but names no path outside its
own folder, and sets nothing of `ONLY_BY_HAND`. `ONNXSLIM_YOLO_NO_CONFIG=1` has none looked for.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.files.toml import read_toml
from onnxslim_yolo.options import ROWS

OWN_FILE, PROJECT_FILE, TABLE = "onnxslim-yolo.toml", "pyproject.toml", "onnxslim-yolo"
NO_CONFIG = "ONNXSLIM_YOLO_NO_CONFIG"
IGNORE = "--no-config ignores the file"
ONLY_BY_HAND = ("summary", "cache", *(row.key for row in ROWS if row.told.reach == "named"))
"""What only the command line sets, or a file that it names: where results go, what is run, what it may cost."""
_LISTS = ("imgsz", "emit", "passes")
"""Options that take several words, separated by commas on the command line."""
_OLDER = {"isa": "for"}
"""Keys by other names that they had."""
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text or a number",
    Path: "a path",
    list: "a list of texts",
}


@dataclass(frozen=True)
class Option:
    """An option of the command line: its long name without dashes, the parameter behind it, and its type."""

    key: str
    parameter: str
    kind: type


@dataclass(frozen=True)
class Config:
    """What a file says: values by parameter, as the command line would have read them; `found`: nobody named it."""

    file: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    found: bool = False


def find_config(start: Path) -> Path | None:
    """The nearest configuration file of a folder or its parents. A pyproject.toml without our table does not count.

    Raises:
        InputError: a pyproject.toml on the way is no TOML.
    """
    for folder in (start, *start.parents):
        if (folder / OWN_FILE).is_file():
            return folder / OWN_FILE
        project = folder / PROJECT_FILE
        if project.is_file() and TABLE in _tools(project):
            return project
    return None


def may_look() -> bool:
    """Whether configuration files may be looked for: not where the environment forbids it."""
    return os.environ.get(NO_CONFIG, "").lower() in ("", "0", "false", "no")


def read_config(
    path: Path, options: Mapping[str, Option], check: Callable[[dict[str, Any]], object], *, found: bool = False
) -> Config:
    """Read and check a configuration file.

    Args:
        path: an onnxslim-yolo.toml, or a pyproject.toml with our table; under its heading another file is read as well.
        options: what may be set, by key.
        check: reads one parameter's value as the command would. Raises UsageError for one that it does not take.
        found: the file was looked for, not named: it may not set everything.

    Raises:
        InputError: no TOML, no such table, an unknown key, a value of the wrong type or that the option does not take,
            a key or a path that a file which was found may not set; the message names the key and what was expected.
    """
    table = _table(path)
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = _option(key, options, path)
        if found:
            _refuse_reach(option, value, path)
        values[option.parameter] = _value(option, value, path)
        try:
            check({option.parameter: values[option.parameter]})
        except UsageError as error:
            raise InputError(f"'{key}': {error.message}", file=path, hint=error.hint or IGNORE) from error
    return Config(path, values, found)


def _refuse_reach(option: Option, value: Any, path: Path) -> None:
    """Raises InputError for what a file that nobody named may not say."""
    hint = f"give it on the command line, or name the file: --config {path.name}; {IGNORE}"
    if option.key in ONLY_BY_HAND:
        raise InputError(f"'{option.key}' cannot be set by a file that was found, not named", file=path, hint=hint)
    for base, name in _paths_in(option, value, path):
        if not _stays_inside(base, name, path):
            raise InputError(f"'{option.key}' leads out of the file's folder: {name!r:.100}", file=path, hint=hint)


def _paths_in(option: Option, value: Any, path: Path) -> list[tuple[Path, str]]:
    """The paths in a value, each with the folder it is relative to; a pipeline's passes have some, too."""
    if not isinstance(value, str):
        return []
    if option.key != "passes":
        return [(path.parent, value)] if option.kind is Path else []
    from onnxslim_yolo.pipeline import parse_pipeline

    try:
        steps = parse_pipeline(value)
    except UsageError:  # whoever compiles says so
        return []
    given = [each for step in steps for each in vars(step).values()]
    return [(Path.cwd(), str(each)) for each in given if isinstance(each, Path)]


def _stays_inside(base: Path, name: str, path: Path) -> bool:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return False
    try:
        return (base / name).resolve().is_relative_to(path.resolve().parent)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file system takes
        return False


def _tools(path: Path) -> dict[str, Any]:
    tools = read_toml(path, hint=IGNORE).get("tool", {})
    return tools if isinstance(tools, dict) else {}


def _table(path: Path) -> dict[str, Any]:
    whole = read_toml(path, hint=IGNORE)
    headed = set(whole) == {"tool"} and TABLE in _tools(path)  # the heading of a pyproject.toml, copied with its lines
    table = _tools(path).get(TABLE) if headed or path.name == PROJECT_FILE else whole
    if not isinstance(table, dict):
        raise InputError(f"has no table [tool.{TABLE}]", file=path, hint=IGNORE)
    return table


def _option(key: str, options: Mapping[str, Option], path: Path) -> Option:
    plain = key.replace("_", "-")
    option = options.get(key) or options.get(_OLDER.get(plain, plain))
    if option is not None:
        return option
    if key == "trust":
        raise InputError(
            "'trust' runs code from the model file and cannot be set in a file", file=path, hint="give --trust by hand"
        )
    close = difflib.get_close_matches(key.replace("_", "-"), options, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(options))}"
    raise InputError(f"unknown key '{key}'", file=path, hint=hint)


def _value(option: Option, value: Any, path: Path) -> Any:
    """A TOML value as what the command line's parser would have given for the option."""
    kind = option.kind
    if kind is list:
        words = [value] if isinstance(value, str) else value
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    elif kind is Path and isinstance(value, str):
        return str(path.parent / value)
    elif kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif kind is str and type(value) in (str, int, float):
        return str(value)
    elif kind is str and option.key in _LISTS and isinstance(value, list) and all(_is_word(v) for v in value):
        return ",".join(str(word) for word in value)
    elif kind in (bool, int) and type(value) is kind:
        return value
    found = f"{value!r:.60} ({type(value).__name__})"
    raise InputError(f"'{option.key}' is {found}, expected {_EXPECTED[kind]}", file=path, hint=IGNORE)


def _is_word(value: Any) -> bool:
    return type(value) in (str, int)


def as_toml(values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Options as a file that `read_config` reads; those without a value are commented out."""
    lines = []
    for key, value in values.items():
        unset = value is None or value == []
        line = f"# {key} =" if unset else f"{key} = {_toml(value)}"
        lines.append(f"{line:<40} # {comments[key]}" if key in comments else line)
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """A basic string of TOML: backslash, quote and control characters escaped."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain) + '"'
