"""The size at which a model file is run: what it is fixed to, what its metadata declare, or a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import UsageError

DEFAULT_SIZE = 640

GUESSED, DECLARED, FIXED = range(3)


def common_size(found: Sequence[tuple[tuple[int, int], int]]) -> tuple[int, int] | None:
    """The size at which models are compared, of each one's size and how sure it is: the surest; None where they agree.

    Those that are open take it; who is fixed to another one says so when opened.
    """
    if len({size for size, _ in found}) < 2:
        return None
    return max(found, key=lambda each: each[1])[0]  # of several the first


def input_size(
    file: Path, declared: Sequence[Any], wanted: tuple[int, int] | None, metadata: Mapping[str, str]
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """(h, w), and a note where it was guessed."""
    sides = [dim if isinstance(dim, int) and dim > 0 else None for dim in declared[:2]]
    if wanted is not None and any(side not in (None, asked) for side, asked in zip(sides, wanted, strict=True)):
        fixed = "x".join("?" if side is None else str(side) for side in sides)
        raise UsageError(f"{file}: the input is fixed to {fixed}, asked for was {wanted[0]}x{wanted[1]}")
    known = wanted or declared_size(metadata) or (DEFAULT_SIZE, DEFAULT_SIZE)
    height, width = (own or taken for own, taken in zip(sides, known, strict=True))
    if None not in sides or wanted or declared_size(metadata):
        return (height, width), ()
    return (height, width), (
        f"the file leaves the input's size open: {height}x{width} is taken; --imgsz says otherwise",
    )


def declared_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """The image size that a file's metadata declares (`imgsz: [h, w]`), or None."""
    numbers = metadata.get("imgsz", "").strip("[]() ").replace(",", " ").split()
    if len(numbers) not in (1, 2) or not all(
        number.isdecimal() and len(number) < 10 and int(number) > 0 for number in numbers
    ):
        return None
    return int(numbers[0]), int(numbers[-1])
