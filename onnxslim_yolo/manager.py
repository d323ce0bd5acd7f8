"""Runs passes: times them, checks invariants between them, and spells them as text.

A pass is a frozen dataclass with a class-level `name`; its fields are its options, and the text form
`name{field=value field=value}` spells exactly those. Passes of third parties come from the entry point group
`onnxslim_yolo.passes` and are then spelt the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import onnx

from onnxslim_yolo.check import InvariantError, check_graph
from onnxslim_yolo.errors import OnnxSlimError, PassError, UsageError
from onnxslim_yolo.graph import Model, toposort

ENTRY_POINT_GROUP = "onnxslim_yolo.passes"


@runtime_checkable
class Pass(Protocol):
    """One rewrite of a model.

    `run` edits the model in place and returns how many rewrites it made; run again, it makes none. `name` is the
    pass's name in a textual pipeline.

    A pass may say what its result has to be compared with by a class attribute `effect`: "exact" (the default: the
    same function), "plan" (only the plan changes), "slice" (the function of the model with the removed channels
    masked), "head" (other outputs of the same network) or "approximate" (a loss that is reported, not checked).
    """

    name: ClassVar[str]

    def run(self, model: Model) -> int:
        """Edit the model in place; return the number of rewrites."""
        ...


Effect = typing.Literal["exact", "plan", "slice", "approximate", "head"]


def effect_of(step: Pass) -> Effect:
    """What a pass does to the function that the model computes (see `Pass`)."""
    return cast(Effect, getattr(step, "effect", "exact"))


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: rewrites made, wall seconds, nodes left."""

    name: str
    spec: str
    rewrites: int
    seconds: float
    nodes: int


Observer = Callable[[Pass, Model, Model], None]
"""Called after each pass with the pass, the model before it (a copy) and the model after it."""


@dataclass
class PassManager:
    """Runs passes in order.

    Args:
        passes: the passes, in order.
        check: check the graph's invariants after every pass that changed something.
        dump_to: a directory that gets the graph after every pass, as `03-fold-bn.onnx`.
        observe: called after every pass that rewrote something, with (pass, copy of the model before, model after);
            `--verify-each` is one.
        first_index: the number that dumps begin with.
    """

    passes: Sequence[Pass]
    check: bool = True
    dump_to: Path | None = None
    observe: Observer | None = None
    first_index: int = 0

    def run(self, model: Model) -> list[PassRecord]:
        """Run all passes on the model, in place.

        Raises:
            PassError: a pass failed or left a graph that breaks an invariant; `pass_name` says which, and the message
                which passes ran before it.
        """
        records: list[PassRecord] = []
        for index, step in enumerate(self.passes):
            before = model.copy() if self.observe is not None else None
            records.append(self._run_one(step, model, records))
            if self.dump_to is not None:
                _dump(model, self.dump_to, self.first_index + index, step.name)
            if self.observe is not None and before is not None and records[-1].rewrites:
                self.observe(step, before, model)
        return records

    def _run_one(self, step: Pass, model: Model, done: list[PassRecord]) -> PassRecord:
        history = ", ".join(record.name for record in done) or "none"
        start = time.perf_counter()
        try:
            rewrites = step.run(model)
            if rewrites:
                model.graph.nodes = toposort(model.graph)
                if self.check and effect_of(step) != "plan":
                    check_graph(model.graph)
        except InvariantError as error:
            message = f"left a broken graph: {error} (passes before it: {history})"
            raise PassError(message, pass_name=step.name, file=model.source.file, hint=_BUG_HINT) from error
        except OnnxSlimError:
            raise
        except Exception as error:
            message = f"failed: {type(error).__name__}: {error} (passes before it: {history})"
            raise PassError(message, pass_name=step.name, file=model.source.file, hint=_BUG_HINT) from error
        return PassRecord(step.name, spell(step), rewrites, time.perf_counter() - start, len(model.graph.nodes))


_BUG_HINT = "this is a bug of the pass; leave it out with --passes, and report it with the output of --debug"


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


def parse_pipeline(spec: str, registry: dict[str, type[Pass]] | None = None) -> list[Pass]:
    """The passes that a text like `prune{ratio=0.7},snap{to=pow2},slice` spells.

    Options stand in braces, separated by blanks or semicolons; a list's items by `|`.

    Raises:
        UsageError: an unknown pass or option (with the nearest known one), or a value of the wrong type.
    """
    known = available_passes() if registry is None else registry
    if not spec.strip(" ,"):
        raise UsageError("the pipeline is empty", hint=f"known passes: {', '.join(sorted(known))}")
    return [_parse_pass(item, known) for item in _split_items(spec)]


def available_passes() -> dict[str, type[Pass]]:
    """Every pass by name: this package's own and those of installed entry points."""
    from onnxslim_yolo.pipeline import PASSES

    found: dict[str, type[Pass]] = {cls.name: cls for cls in PASSES}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        cls = _load(point)
        if found.setdefault(cls.name, cls) is not cls:
            raise UsageError(f"entry point '{point.value}': a pass named '{cls.name}' exists already")
    return found


def _load(point: EntryPoint) -> type[Pass]:
    try:
        cls = point.load()
    except Exception as error:
        raise UsageError(
            f"the pass '{point.name}' of entry point '{point.value}' cannot be loaded: {error}",
            hint="repair or uninstall the package that provides it",
        ) from error
    named = isinstance(getattr(cls, "name", None), str) and hasattr(cls, "run")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and named):
        raise UsageError(f"entry point '{point.value}' is no pass: expected a dataclass with `name` and `run`")
    return cast("type[Pass]", cls)


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


def _dump(model: Model, folder: Path, index: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model.to_onnx(), str(folder / f"{index:02d}-{name}.onnx"))
