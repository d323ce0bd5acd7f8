"""One row of the table of options: what the command line, a configuration file and Python have to know of an option."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from onnxslim_yolo.files.values import read_value, spell_value

Reach = Literal["anywhere", "named", "typed"]
"""Who may set an option: any file, one that was named on the command line, or the command line alone."""

PANELS = (
    "Input",
    "What to cut",
    "Device",
    "Compensation",
    "Output",
    "Limits, and when it fails",
    "What is measured and checked",
)
"""Groups of options, in the order in which help shows them; what is in none stands last."""


@dataclass(frozen=True)
class Told:
    """What a field of the options says of itself besides its type and default (see `told`)."""

    help: str
    panel: str | None
    flags: tuple[str, ...]
    shown: str | None
    read: Callable[[str], Any] | None
    repeated: bool
    off: bool
    reach: Reach


def told(
    help: str,
    panel: str | None = None,
    *,
    flags: tuple[str, ...] = (),
    shown: str | None = None,
    read: Callable[[str], Any] | None = None,
    repeated: bool = False,
    off: bool = False,
    reach: Reach = "anywhere",
) -> dict[str, Told]:
    """What makes a dataclass's field an option: its metadata.

    Args:
        help: one line. panel: the group that help shows it in (see `PANELS`).
        flags: how it is typed, where its name does not say it; the first long one is its name in a file.
        shown: what may follow it, as help shows it: "0.6x|12ms". Words in small letters are completed by the shell.
        read: reads a spelling of its own, "0.7x" say. Raises UsageError.
        repeated: it is given once for each of its values. off: a flag that switches it off.
        reach: who may set it.
    """
    return {"told": Told(help, panel, flags, shown, read, repeated, off, reach)}


@dataclass(frozen=True)
class Row:
    """An option, as everybody reads it.

    Attributes:
        name: of the field. hint, default: its type and value there.
        told: what else is said of it.
    """

    name: str
    hint: Any
    default: Any
    told: Told

    @property
    def parameter(self) -> str:
        """Its name among a command's parameters, as its flag spells it."""
        return self.flag.removeprefix("--").replace("-", "_") if self.told.off else self.name

    @property
    def flag(self) -> str:
        """How it is typed, at length."""
        long = [flag for flag in self.told.flags if flag.startswith("--")]
        return long[0] if long else f"--{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """Its name in a file."""
        return self.flag.removeprefix("--")

    @property
    def shown(self) -> str | None:
        """What may follow it; None where its type says it."""
        if self.told.shown is not None:
            return self.told.shown
        words = [word for part in self._parts() if typing.get_origin(part) is Literal for word in typing.get_args(part)]
        return "|".join(words) or None

    @property
    def kind(self) -> Any:
        """Its type on the command line: what is neither a flag, a number nor a path is text, and read here."""
        (part, *others) = self._parts()
        if part is bool:
            return bool
        if self.told.repeated:
            return list[str] | None
        plain = part if not others and self.told.read is None and part in (int, float, Path) else str
        return plain if self.typed_default is not None else plain | None

    @property
    def typed_default(self) -> Any:
        """Its default, as the command line would have it."""
        if self.told.off:
            return not self.default
        if self.default is None or self.told.repeated:
            return None
        return self.default if self._parts()[0] in (bool, int, float) else spell_value(self.default)

    def from_command(self, value: Any) -> Any:
        """What was typed, as the field's value. Raises UsageError."""
        if self.told.off:
            return not value
        return () if self.told.repeated and value is None else self.from_value(value)

    def from_value(self, value: Any) -> Any:
        """A value of any spelling, as the field's own. Raises UsageError."""
        if self.told.read is not None and (isinstance(value, str) or (type(value) is int and not self._is_number())):
            value = self.told.read(str(value))
        if value is None and type(None) in typing.get_args(self.hint):
            return None
        where = self.flag if self.told.flags else self.name
        return read_value(value, typing.Union[tuple(self._parts())], where)  # noqa: UP007 - made of what there is

    def _is_number(self) -> bool:
        return bool({int, float} & set(self._parts()))

    def _parts(self) -> list[Any]:
        """The types that the option may have, without None."""
        united = typing.get_origin(self.hint) in (typing.Union, UnionType)
        return [part for part in (typing.get_args(self.hint) if united else (self.hint,)) if part is not type(None)]


@cache
def rows_of(cls: type) -> tuple[Row, ...]:
    """The options that a dataclass has, in its order."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    told = {name: each.metadata["told"] for name, each in fields.items() if "told" in each.metadata}
    assert all(fields[name].default is not MISSING for name in told)
    return tuple(Row(name, hints[name], fields[name].default, each) for name, each in told.items())
