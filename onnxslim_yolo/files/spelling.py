"""Passes as text: `name{field=value field=value}` spells exactly the fields of a pass's dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.files.values import read_value, spell_type, spell_value

if TYPE_CHECKING:
    from onnxslim_yolo.passes.protocol import Pass

_BETWEEN = "|"
"""Between a list's items: commas stand between passes."""


def spell(step: Pass) -> str:
    """A pass as text: its name, and in braces those options that differ from their defaults.

    What a pass was given to work with, a graph say, is no option: a field with `repr=False`.
    """
    parts: list[str] = []
    for option in (option for option in dataclasses.fields(cast(Any, step)) if option.repr):
        value = getattr(step, option.name)
        if option.default is not dataclasses.MISSING and value == option.default:
            continue
        if option.default_factory is not dataclasses.MISSING and value == option.default_factory():
            continue
        parts.append(f"{option.name}={spell_value(value, _BETWEEN)}")
    return f"{step.name}{{{' '.join(parts)}}}" if parts else step.name


def parse_passes(spec: str, known: dict[str, type[Pass]]) -> list[Pass]:
    """The passes that a text like `prune{ratio=0.7},snap{to=pow2},slice` spells.

    Options stand in braces, separated by blanks or semicolons; a list's items by `|`.

    Args:
        spec: the text.
        known: every pass by name.

    Raises:
        UsageError: an unknown pass or option (with the nearest known one), or a value of the wrong type.
    """
    if not spec.strip(" ,"):
        raise UsageError("the pipeline is empty", hint=f"known passes: {', '.join(sorted(known))}")
    return [_parse_pass(item, known) for item in _split_items(spec)]


def options_of(cls: type[Pass]) -> list[tuple[str, str, str]]:
    """The options of a pass as (name, type, default), all as text."""
    hints = typing.get_type_hints(cls)
    rows: list[tuple[str, str, str]] = []
    for option in dataclasses.fields(cast(Any, cls)):
        if option.default is not dataclasses.MISSING:
            default = spell_value(option.default, _BETWEEN)
        elif option.default_factory is not dataclasses.MISSING:
            default = spell_value(option.default_factory(), _BETWEEN)
        else:
            default = "(required)"
        rows.append((option.name, spell_type(hints[option.name]), default))
    return rows


def _split_items(spec: str) -> list[str]:
    items = re.findall(r"[^,{}]+(?:\{[^{}]*\})?", spec)
    if "".join(items).replace(",", "") != spec.replace(",", "") or spec.count("{") != spec.count("}"):
        raise UsageError(
            f"cannot read the pipeline '{spec}'", hint="write it as name{option=value option=value},name,…"
        )
    return [item.strip() for item in items if item.strip()]


def _parse_pass(item: str, known: dict[str, type[Pass]]) -> Pass:
    name, _, body = item.partition("{")
    name = name.strip()
    if name not in known:
        raise UsageError(f"unknown pass '{name}'", hint=_nearest(name, known))
    cls = known[name]
    hints = typing.get_type_hints(cls)
    names = {option.name for option in dataclasses.fields(cast(Any, cls))}
    options: dict[str, Any] = {}
    for pair in re.split(r"[\s;]+", body.rstrip("} ").strip()):
        if not pair:
            continue
        key, equals, text = pair.partition("=")
        key = key.replace("-", "_")
        if not equals or key not in names:
            raise UsageError(f"pass '{name}' has no option '{pair}'", hint=_nearest(key, names))
        options[key] = read_value(text, hints[key], f"{name}{{{key}}}", _BETWEEN)
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"pass '{name}': {error}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"
