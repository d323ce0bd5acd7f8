"""One reader of values by their type: what an option holds, of a command, of a pass, or of a call from Python.

A value comes as text, as somebody typed it, or as the plain value that a file or a call has got; both come to the same.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any

from onnxslim_yolo.errors import UsageError

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def read_value(value: object, hint: Any, where: str, separator: str = ",") -> Any:
    """A value of an option.

    Args:
        value: text, or a plain value.
        hint: the option's type: bool, int, float, str, Path, None, a Literal of words, a tuple or a union of those.
        where: the option's name, for the message.
        separator: what stands between a list's items in a text.

    Raises:
        UsageError: the value is none that the type has; the nearest word is named.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _read_first(value, arguments, where, separator)
    if origin is typing.Literal:
        return _read_word(value, arguments, where)
    if origin is tuple:
        items = [read_value(item, arguments[0], where, separator) for item in _items(value, where, separator)]
        if ... not in arguments and len(items) != len(arguments):
            raise UsageError(f"{where}: {len(arguments)} values, not '{value}'")
        return tuple(items)
    text = value if isinstance(value, str) else None
    if hint is type(None) and (value is None or text in ("none", "None")):
        return None
    if hint is bool and (isinstance(value, bool) or (text or "").lower() in _TRUE + _FALSE):
        return value if isinstance(value, bool) else str(text).lower() in _TRUE
    if hint is str and text is not None:
        return text
    if hint in (int, float, Path) and (text is not None or _is_plain(value, hint)):
        try:
            return hint(value)
        except ValueError as error:
            raise UsageError(f"{where}: '{value}' is no {hint.__name__}") from error
    raise UsageError(f"{where}: '{value}' is no {spell_type(hint)}")


def _is_plain(value: object, hint: type) -> bool:
    """Whether a value that is no text is one of the type: a bool is no number, a whole number is a float as well."""
    if hint is Path:
        return isinstance(value, Path)
    return not isinstance(value, bool) and isinstance(value, int if hint is int else (int, float))


def _items(value: object, where: str, separator: str) -> Iterable[object]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, (tuple, list)):
        return value
    raise UsageError(f"{where}: '{value}' is no list")


def _read_word(value: object, words: tuple[Any, ...], where: str) -> Any:
    for word in words:
        if value == word or (isinstance(value, str) and str(word) == value):
            return word
    raise UsageError(f"{where}: '{value}' is none of {', '.join(map(str, words))}", hint=_meant(value, words))


def _meant(value: object, words: Iterable[Any]) -> str | None:
    close = difflib.get_close_matches(str(value), list(map(str, words)), n=1)
    return f"did you mean '{close[0]}'?" if close else None


def _read_first(value: object, choices: Iterable[Any], where: str, separator: str) -> Any:
    # `None` before numbers before strings, so that "none" and "16" mean what they look like.
    order = sorted(choices, key=lambda hint: (hint is not type(None), hint is str, hint is float))
    some = [hint for hint in order if hint is not type(None)]
    for hint in order:
        try:
            return read_value(value, hint, where, separator)
        except UsageError as error:
            if some == [hint]:
                raise error
    words = [word for hint in some if typing.get_origin(hint) is typing.Literal for word in typing.get_args(hint)]
    others = [spell_type(hint) for hint in some if typing.get_origin(hint) is not typing.Literal]
    listed = f"none of {', '.join(map(str, words))}" if words else ""
    expected = ", and ".join(part for part in (f"no {' or '.join(others)}" if others else "", listed) if part)
    raise UsageError(f"{where}: '{value}' is {expected}", hint=_meant(value, words))


def spell_value(value: object, separator: str = ",") -> str:
    """A value as the text that `read_value` reads."""
    if isinstance(value, (tuple, list)):
        return separator.join(spell_value(item, separator) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def spell_type(hint: Any) -> str:
    """A type as text: `none|pow2|auto|int`, `list of str`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (typing.Union, UnionType):
        return "|".join(spell_type(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {spell_type(arguments[0])}"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
