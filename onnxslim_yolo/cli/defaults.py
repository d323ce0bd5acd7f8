"""Between a configuration file and the command line of `compile`: which keys there are, who wins, what was merged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from onnxslim_yolo.cli.config import Config, Option, as_toml, find_config, may_look, read_config
from onnxslim_yolo.cli.options import compile_options
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.options import ROWS

NOT_IN_A_FILE = (
    *(row.key for row in ROWS if row.told.reach == "typed"),
    *("config", "no-config", "print-config"),
)
"""What only a person at the command line may say."""

_DEFAULTS = "default_map"
"""Where click keeps values that replace an option's default and give way to the command line."""


def options_of(command: Callable[..., object]) -> dict[str, Option]:
    """What a configuration file may set of a command, by long name, from the command's own signature."""
    hints = get_type_hints(command, include_extras=True)
    found = {}
    for parameter in inspect.signature(command).parameters:
        hint = _annotated(hints[parameter])
        kind, *notes = get_args(hint) or (hint,)
        info = next((note for note in notes if isinstance(note, typer.models.OptionInfo)), None)
        if info is None:
            continue
        flags = (info.default, *(info.param_decls or ()))  # in an Annotated, typer keeps the first flag as a default
        long = [flag for flag in flags if isinstance(flag, str) and flag.startswith("--")]
        key = (long[0] if long else parameter).removeprefix("--").replace("_", "-")
        if key not in NOT_IN_A_FILE:
            found[key] = Option(key, parameter, _plain(kind))
    return found


def _annotated(hint: Any) -> Any:
    """Python 3.10 puts an Optional around the Annotated of a parameter that is None by default."""
    inner = [part for part in get_args(hint) if get_origin(part) is Annotated]
    return hint if get_origin(hint) is Annotated or not inner else inner[0]


def _plain(kind: Any) -> type:
    """`Path` of `Path | None`, `list` of `list[str] | None`."""
    if get_origin(kind) is list:
        return list
    inner = next((part for part in get_args(kind) if part is not type(None)), kind)
    plain: type = get_origin(inner) or inner
    return plain


def use_config(context: typer.Context, value: Path | None) -> Path | None:
    """Callback of `--config`: let the file's values stand where the command line says nothing.

    Raises:
        InputError: see `read_config`. UsageError: `--no-config` is given as well.
    """
    if context.resilient_parsing:
        return value
    if context.params.get("no_config"):
        _refuse_both(value)
        return None
    found = value is None
    path = (find_config(Path.cwd()) if may_look() else None) if value is None else Path(value)
    if path is not None:
        command = inspect.unwrap(context.command.callback)  # type: ignore[arg-type]
        config = read_config(path, options_of(command), _check, found=found)
        setattr(context, _DEFAULTS, config.values)
        context.meta["config"] = config
    return path


def use_no_config(context: typer.Context, value: bool) -> bool:
    """Callback of `--no-config`. Raises UsageError where `--config` is given as well."""
    if value:
        _refuse_both(context.params.get("config"))
    return value


def _refuse_both(path: Path | None) -> None:
    if path is not None:
        raise UsageError("--config and --no-config contradict each other", hint="give one of them")


def _check(given: dict[str, Any]) -> object:
    # On its own, so that the message can name the key; labels may still come from the command line.
    return compile_options({"data": Path("data.yaml"), **given})


def merged(context: typer.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command goes by, ready for JSON: the file, every option, and where those that are set come from."""
    command = inspect.unwrap(context.command.callback)  # type: ignore[arg-type]
    config: Config = context.meta.get("config", Config())
    sources = {"COMMANDLINE": "command line", "DEFAULT_MAP": str(config.file)}
    options = options_of(command)
    values = {key: given[option.parameter] for key, option in options.items()}
    origin = {key: context.get_parameter_source(option.parameter) for key, option in options.items()}
    return {
        "file": None if config.file is None else str(config.file),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
        "from": {k: sources[s.name] for k, s in origin.items() if s is not None and s.name in sources},
    }


def merged_as_toml(facts: Mapping[str, Any]) -> str:
    """`merged` as a configuration file."""
    file = facts["file"]
    head = "# no configuration file" if file is None else f"# options from {_plain_line(file)}"
    return f"{head}\n{as_toml(facts['options'], facts['from'])}"


def told(context: typer.Context) -> str | None:
    """One line on what a file sets that nobody named, for whoever compiles; None where there is none."""
    config: Config = context.meta.get("config", Config())
    keys = ", ".join(sorted(name.replace("_", "-") for name in config.values))
    return _plain_line(f"options from {config.file}: {keys}") if config.found and keys else None


def _plain_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
