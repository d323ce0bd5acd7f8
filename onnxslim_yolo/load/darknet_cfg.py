"""Darknet's `.cfg`: sections of `key=value` lines, read as darknet's own parser reads them.

Blanks inside a line mean nothing, `#` and `;` start comments, and of a key given twice the first value counts. Values
are converted where they are used, so that a wrong one is reported with its section's line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files.atomic import require_file

_MAX_BYTES = 4 << 20
_MAX_SECTIONS = 4096
_MAX_INTEGER = 1 << 24


@dataclass(frozen=True)
class Section:
    """One `[name]` block: where it stands and what it sets.

    Attributes:
        name: without the brackets, in lower case.
        line: the line of its header, counted from 1.
        file: the `.cfg`.
        options: key to value, both without blanks.
    """

    name: str
    line: int
    file: Path
    options: dict[str, str]

    def text(self, key: str, default: str) -> str:
        """An option as it was written, in lower case."""
        return self.options.get(key, default).lower()

    def integer(self, key: str, default: int, *, low: int = 0, high: int = _MAX_INTEGER) -> int:
        """An option as a whole number in [low, high]."""
        value = self._whole(key, self.options.get(key, str(default)))
        if not low <= value <= high:
            self.fail(f"'{key}' is {value}; expected a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float) -> float:
        """An option as a finite number."""
        return self._real(key, self.options.get(key, str(default)))

    def integers(self, key: str) -> list[int]:
        """A comma-separated list of whole numbers; empty if the option is missing."""
        return [self._whole(key, part) for part in self._parts(key)]

    def numbers(self, key: str) -> list[float]:
        """A comma-separated list of finite numbers; empty if the option is missing."""
        return [self._real(key, part) for part in self._parts(key)]

    def refuse(self, *keys: str) -> None:
        """Refuse options that change what the layer computes, unless they are switched off.

        Raises:
            UnsupportedError: naming the option.
        """
        for key in keys:
            value = self.text(key, "0")
            if value not in ("0", "none", "0.0"):
                raise UnsupportedError(f"'{key}={value}' is not supported", file=self.file, node=self.where)

    def fail(self, message: str) -> NoReturn:
        """Report something wrong with this section."""
        raise InputError(message, file=self.file, node=self.where)

    @property
    def where(self) -> str:
        """The section as people find it in the file."""
        return f"[{self.name}], line {self.line}"

    def _parts(self, key: str) -> list[str]:
        return [part for part in self.options.get(key, "").split(",") if part]

    def _whole(self, key: str, text: str) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise InputError(f"'{key}={text[:40]}' is no whole number", file=self.file, node=self.where) from error

    def _real(self, key: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise InputError(f"'{key}={text[:40]}' is no number", file=self.file, node=self.where) from error
        if not abs(value) < 1e9:
            self.fail(f"'{key}={text[:40]}' is out of range")
        return value


def read_sections(path: Path) -> list[Section]:
    """Parse a `.cfg`. The first section is `[net]` or `[network]`.

    Raises:
        InputError: unreadable, not text, too large, or not a Darknet configuration.
    """
    sections: list[Section] = []
    for number, raw in enumerate(_read_text(path).splitlines(), start=1):
        line = "".join(raw.split("#")[0].split(";")[0].split())
        if not line:
            continue
        if line.startswith("["):
            sections.append(Section(line.strip("[]").lower(), number, path, {}))
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            raise InputError(
                f"line {number} is '{line[:40]}'; expected '[section]' or, inside one, 'key=value'", file=path
            )
        sections[-1].options.setdefault(key, value)
    if len(sections) < 2 or sections[0].name not in ("net", "network"):
        raise InputError("no Darknet configuration: it has to start with [net], followed by layers", file=path)
    if len(sections) > _MAX_SECTIONS:
        raise InputError(f"{len(sections)} sections; at most {_MAX_SECTIONS} are read", file=path)
    return sections


def _read_text(path: Path) -> str:
    require_file(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"larger than {_MAX_BYTES >> 20} MiB, which no Darknet configuration is", file=path)
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error
    if b"\0" in data:
        raise InputError(
            "is not a text file; expected a Darknet .cfg", file=path, hint="if an editor wrote UTF-16, save it as UTF-8"
        )
    return data.decode("utf-8-sig", errors="replace")  # comments are in any encoding; what is read is ASCII
