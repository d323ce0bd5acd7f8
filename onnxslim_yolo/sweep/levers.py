"""The levers that need no training, at a latency: a smaller input, int8, pruning, and two of them together.

Latency is known before anything is compiled: of sizes by the table, of pruning because it is pruned to it, of int8 by
what the network takes in int8 at full size. So only what can meet the target is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.measure.smaller_input import Size, Sizes, smaller_sizes

PRUNED: dict[str, Any] = {"compensate": "reconstruct"}
INT8: dict[str, Any] = {"quantize": "int8"}


@dataclass(frozen=True)
class Lever:
    """One way to the target: what it is, and the options of `compile` that do it."""

    name: str
    options: dict[str, Any]


def usable_sizes(sizes: Sizes) -> tuple[list[Size], str | None]:
    """The smaller sizes that a network can have, largest first; and why there are none where there are none."""
    found = smaller_sizes(sizes.full)
    if not found:
        return [], "its input is too small to shrink"
    try:
        sizes.us(found[0])
    except (InputError, UnsupportedError) as error:
        return [], f"the input's size stays: {error.message}"
    return found, None


def levers(
    sizes: Sizes, smaller: Sequence[Size], limit: float, int8_left: float | None, target: str | None = None
) -> list[Lever]:
    """What can meet a limit, the plain ones first; int8 alone is not among them.

    Args:
        smaller: sizes below the full one, largest first. limit: µs.
        int8_left: the share of latency that is left in int8; None: int8 is not to be had.
        target: the limit as it was asked for.
    """
    full = sizes.full
    found = []
    alone = _largest(sizes, smaller, limit)
    if alone is not None:
        found.append(Lever(f"input {_text(alone)}", _size(alone)))
    found.append(Lever("pruned", {**PRUNED, "target_latency": target or _ms(limit)}))
    above = [size for size in smaller if sizes.us(size) > limit][-1:]
    if int8_left is not None and int8_left < 1 and sizes.us(full) * int8_left > limit:
        rest = {**PRUNED, **INT8, "target_latency": _ms(limit / int8_left)}
        with_int8 = _largest(sizes, smaller, limit / int8_left)
        if with_int8 is not None and with_int8 != alone:
            found.append(Lever(f"input {_text(with_int8)}, int8", {**_size(with_int8), **INT8}))
        elif with_int8 is not None:  # int8 alone does not save a step of the input's size
            found += [Lever(f"input {_text(size)}, pruned, int8", {**_size(size), **rest}) for size in above]
        found.append(Lever("pruned, int8", rest))
    rest = {**PRUNED, "target_latency": _ms(limit)}
    return found + [Lever(f"input {_text(size)}, pruned", {**_size(size), **rest}) for size in above]


def _largest(sizes: Sizes, smaller: Sequence[Size], limit: float) -> Size | None:
    for size in smaller:
        try:
            if sizes.us(size) <= limit:
                return size
        except (InputError, UnsupportedError):  # a size that the network cannot have
            continue
    return None


def _size(size: Size) -> dict[str, Any]:
    return {"imgsz": list(size)}


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _ms(us: float) -> str:
    return f"{us / 1000:.6g}ms"
