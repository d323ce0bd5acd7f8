"""Values of options that are text, paths, or as they come, read without the library that typer loads for every type.

typer 0.29 makes a validator of pydantic's for every option of a command, used or not: 0.15 s of every start.
What needs no more than to be handed on is handed on here, with typer's own result; all else is typer's to read and to
refuse, and so is everything where its inner parts are not those known here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperOption


def read_plainly(parameters: list[Any]) -> None:
    """Let these parameters of a command read plain values at once."""
    for each in parameters:
        known = isinstance(each, (TyperArgument, TyperOption)) and callable(getattr(each, "get_runtime_param", None))
        if known and hasattr(each, "type_descriptor") and getattr(each, "_runtime_param", each) is None:
            each._runtime_param = _Reader(each, each.type_descriptor)


class _Reader:
    """Stands in for typer's reader of one parameter, which is made where it is needed."""

    def __init__(self, parameter: Any, descriptor: Any) -> None:
        self._parameter, self._descriptor = parameter, descriptor

    def coerce(self, value: Any, *args: Any, **given: Any) -> Any:
        """The value as the command gets it."""
        several = self._parameter.multiple or self._parameter.nargs == -1
        if value is None:
            return () if several else None
        if several and self._descriptor.annotation == list[str] and type(value) in (list, tuple):
            if all(type(each) is str for each in value):
                return list(value)
        elif not several and self._parameter.nargs == 1 and self._is_plain(value):
            return Path(value) if self._descriptor.annotation is Path else value
        self._parameter._runtime_param = None  # now typer makes its own
        return self._parameter.get_runtime_param().coerce(value, *args, **given)

    def _is_plain(self, value: Any) -> bool:
        """Whether typer would hand it on: it is of the type, and nothing about it is to be checked."""
        info, kind = self._descriptor.parameter_info, self._descriptor.annotation
        if getattr(info, "parser", None) is not None or getattr(info, "click_type", None) is not None:
            return False
        if kind is Path:
            checked = info.exists or info.resolve_path or info.writable or info.allow_dash or info.path_type is not None
            everything = info.file_okay and info.dir_okay and not checked
            return isinstance(value, str) and everything and (not Path(value).exists() or os.access(value, os.R_OK))
        bounded = info.min is not None or info.max is not None
        return kind in (str, int, float) and type(value) is kind and not bounded
