"""What a pickle turns into here: plain containers, and these inert objects where it names a class or a tensor.

Nothing in this file has behaviour that a pickle could reach: no `__setstate__`, no `__dict__`, no attribute that a
name in a file selects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxslim_yolo.errors import InputError


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle refers to, `models.common.Conv`. It is never looked up."""

    name: str

    @property
    def short(self) -> str:
        """The name without its module."""
        return self.name.rpartition(".")[2]


@dataclass(slots=True, eq=False)
class Record:
    """An instance of a class that was not imported: its name, and what the pickle would have given it.

    Attributes:
        name: the class's dotted name.
        arguments: what `__new__` would have got.
        state: what `__setstate__` would have got, usually the instance's `__dict__`.
        items: what would have been appended.
        entries: what would have been stored under keys.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The class's name without its module."""
        return self.name.rpartition(".")[2]

    @property
    def attributes(self) -> dict[str, Any]:
        """The instance's dictionary as the pickle holds it; empty if there is none."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}

    def __repr__(self) -> str:
        return f"<record of {self.name}>"


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers in the archive: `count` elements of `dtype` (a torch name, "float16") under `key`.

    A legacy view starts `start` elements into it.
    """

    dtype: str
    key: str
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A tensor over a storage, in elements. Nothing is checked or read until it is asked for."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    is_parameter: bool = False


def plain_number(value: Any) -> Any:
    """A numpy scalar's record as a Python number; anything else as it is.

    Raises:
        InputError: bytes and type do not fit.
    """
    if not isinstance(value, Record) or not value.name.endswith("multiarray.scalar"):
        return value
    dtype, data = (*value.arguments, None, None)[:2]
    code = dtype.arguments[0] if isinstance(dtype, Record) and dtype.arguments else None
    if not isinstance(data, bytes) or code not in _NUMPY_CODES or len(data) != int(str(code)[1:]):
        raise InputError(f"a numpy scalar of type {str(code)[:20]!r} does not fit its bytes")
    return np.frombuffer(data, np.dtype(f"<{code}"))[0].item()


_NUMPY_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
