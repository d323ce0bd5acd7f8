"""The table of options on the command line: `compile`'s parameters are made of it, and read by it."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

from onnxslim_yolo.cli.help import choice
from onnxslim_yolo.options import ROWS, CompileOptions, Row, parse_limit

if TYPE_CHECKING:
    from onnxslim_yolo.analysis.limits import Asked

Function = TypeVar("Function", bound=Callable[..., Any])


def typed(name: str, help: str | None = None) -> Any:
    """An option of the table as typer has it, for a command that shares it; `help`: what it means there."""
    return _as_typed(next(row for row in ROWS if row.name == name), help)


def _as_typed(row: Row, help: str | None = None) -> Any:
    flags = row.told.flags or (row.flag,)
    return choice(row.shown, help or row.told.help, *flags)


def with_options(command: Function) -> Function:
    """A command whose `**given` are the options of the table, for whoever asks for its parameters."""
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    parameters = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for row in ROWS:
                hint = operator.getitem(cast(Any, Annotated), (row.kind, _as_typed(row)))
                parameters.append(_parameter(row.parameter, hint, row.typed_default))
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": hints.get("return")}
    return command


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)


def compile_options(given: Mapping[str, Any]) -> CompileOptions:
    """The options of one compilation from the command's parameters. What is missing keeps its default.

    Raises:
        UsageError: a value that the option does not take; the message names the option.
    """
    chosen = {row.name: row.from_command(given[row.parameter]) for row in ROWS if row.parameter in given}
    return CompileOptions(**chosen)


def asked_for(memory: str | None, work: str | None) -> Asked:
    """The limits of one command. Raises UsageError."""
    from onnxslim_yolo.analysis.limits import Asked

    return Asked(parse_limit("--limit-memory", memory), parse_limit("--limit-work", work))
