"""Passes as text: `name{field=value field=value}` spells exactly the fields of a pass's dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, cast

from onnxslim_yolo.errors import UsageError

if TYPE_CHECKING:
    from onnxslim_yolo.passes.protocol import Pass


def spell(step: Pass) -> str:
    """A pass as text: its name, and in braces those options that differ from their defaults."""
    parts: list[str] = []
    for option in dataclasses.fields(cast(Any, step)):
        value = getattr(step, option.name)
        if option.default is not dataclasses.MISSING and value == option.default:
            continue
        if option.default_factory is not dataclasses.MISSING and value == option.default_factory():
            continue
        parts.append(f"{option.name}={_spell_value(value)}")
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
            default = _spell_value(option.default)
        elif option.default_factory is not dataclasses.MISSING:
            default = _spell_value(option.default_factory())
        else:
            default = "(required)"
        rows.append((option.name, _spell_type(hints[option.name]), default))
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
        options[key] = _parse_value(text, hints[key], f"{name}{{{key}}}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"pass '{name}': {error}") from error


def _parse_value(text: str, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _parse_first(text, arguments, where)
    if origin is typing.Literal:
        for choice in arguments:
            if str(choice) == text:
                return choice
        raise UsageError(f"{where}: '{text}' is none of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return tuple(_parse_value(part, arguments[0], where) for part in text.split("|") if part)
    if hint is type(None) and text in ("none", "None"):
        return None
    if hint is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
        return text.lower() in ("true", "1", "yes")
    if hint is str:
        return text
    if hint in (int, float, Path):
        try:
            return hint(text)
        except ValueError as error:
            raise UsageError(f"{where}: '{text}' is no {hint.__name__}") from error
    raise UsageError(f"{where}: '{text}' is no {_spell_type(hint)}")


def _parse_first(text: str, choices: Iterable[Any], where: str) -> Any:
    # `None` before numbers before strings, so that "none" and "16" mean what they look like.
    order = sorted(choices, key=lambda hint: (hint is str, hint is float))
    for hint in order:
        try:
            return _parse_value(text, hint, where)
        except UsageError:
            continue
    expected = " or ".join(_spell_type(hint) for hint in order)
    raise UsageError(f"{where}: '{text}' is no {expected}")


def _spell_value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "|".join(_spell_value(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def _spell_type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (typing.Union, UnionType):
        return "|".join(_spell_type(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {_spell_type(arguments[0])}"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"
