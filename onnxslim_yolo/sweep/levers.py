"""The levers that need no training, at a latency: a smaller input, int8, pruning, and two of them together.

Latency is known before anything is compiled: of sizes by the table, of pruning because it is pruned to it, of int8 by
what the network takes in int8 at full size. So only what can meet the target is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.measure.smaller_input import Size, Sizes, smaller_sizes
from onnxslim_yolo.passes.to_target import limit_of

PRUNED: dict[str, Any] = {"compensate": "reconstruct"}
CLOSE = 0.03
"""Pruning that comes so close to a latency is not done again to come closer."""


@dataclass(frozen=True)
class Lever:
    """One way to the target: what it is, and the options of `compile` that do it."""

    name: str
    options: dict[str, Any] = field(hash=False)

    @property
    def quantize(self) -> str | None:
        """What of it is int8."""
        found: str | None = self.options.get("quantize")
        return found


INT8 = Lever("int8", {"quantize": "int8"})
INT8_ALL = Lever("int8 throughout", {"quantize": "all"})
"""Also the layers that `--quantize int8` leaves float for what they cost in accuracy."""


def usable_sizes(sizes: Sizes, shapes: Sequence[Size] = ()) -> tuple[list[Size], str | None]:
    """The smaller sizes that a network can have, largest first; and why there are none where there are none.

    Args:
        shapes: (h, w) of images: see `smaller_sizes`.
    """
    found = smaller_sizes(sizes.full, shapes)
    if not found:
        return [], "its input is too small to shrink"
    try:
        found, _ = sizes.first_below(found, sizes.us(sizes.full))
    except (InputError, UnsupportedError) as error:
        return [], f"the input's size stays: {error.message}"
    return found, None


def levers(
    sizes: Sizes,
    smaller: Sequence[Size],
    limit: float,
    int8: Mapping[Lever, float],
    target: str | None = None,
) -> list[Lever]:
    """What can meet a limit, the plain ones first; int8 alone is not among them.

    Args:
        smaller: sizes below the full one, largest first. limit: µs.
        int8: ways to int8, the one that keeps most first, and the share of latency that is left by it.
        target: the limit as it was asked for.
    """
    found = []
    there, alone = sizes.first_below(smaller, limit)
    found += [Lever(f"input {text_of(size)}", size_option(size)) for size in there[alone : alone + 1]]
    found.append(Lever("pruned", {**PRUNED, "target_latency": target or as_ms(limit)}))
    above = there[max(alone - 1, 0) : alone]
    for number, (lever, left) in enumerate(int8.items()):
        if left >= 1 or sizes.us(sizes.full) * left <= limit:
            continue
        others, index = sizes.first_below(smaller, limit / left)
        larger = others[index : index + 1] != there[alone : alone + 1]
        if larger:
            found.append(sized(lever, others[index]))
        if number:
            continue
        rest = {**PRUNED, **lever.options, "target_latency": as_ms(limit / left)}
        if not larger:  # int8 does not save a step of the input's size
            found += [Lever(f"input {text_of(size)}, pruned, int8", {**size_option(size), **rest}) for size in above]
        found.append(Lever("pruned, int8", rest))
    rest = {**PRUNED, "target_latency": as_ms(limit)}
    return found + [Lever(f"input {text_of(size)}, pruned", {**size_option(size), **rest}) for size in above]


def sized(lever: Lever, size: Size) -> Lever:
    """A lever, and a smaller input."""
    return Lever(f"input {text_of(size)}, {lever.name}", {**size_option(size), **lever.options})


def nearer(lever: Lever, reached: float, sizes: Sizes, smaller: Sequence[Size]) -> Lever | None:
    """The same lever where it would meet the target closely; None where it does, or there is none such.

    Args:
        reached: the latency that was measured, as a share of what was asked for. smaller: as of `levers`.
    """
    pruned = lever.options.get("target_latency")
    if pruned is not None:
        if abs(reached - 1) <= CLOSE:
            return None
        limit = limit_of(pruned, sizes.us(sizes.full)) / reached
        return Lever(f"{lever.name} to {as_ms(limit)}", {**lever.options, "target_latency": as_ms(limit)})
    size = lever.options.get("imgsz")
    if size is None and (lever.quantize is None or reached <= 1 + CLOSE):
        return None
    there, index = sizes.first_below(smaller, sizes.us(sizes.full if size is None else (size[0], size[1])) / reached)
    chosen = there[index : index + 1]
    if not chosen or list(chosen[0]) == size:
        return None
    if size is None:  # int8 alone was predicted to meet it
        return sized(lever, chosen[0])
    alone = {key: value for key, value in lever.options.items() if key != "imgsz"}
    name = f"input {text_of(chosen[0])}{lever.name.removeprefix(f'input {size[0]}x{size[1]}')}"
    return Lever(name, {**size_option(chosen[0]), **alone})


def size_option(size: Size) -> dict[str, Any]:
    """As an option of `compile`."""
    return {"imgsz": list(size)}


def text_of(size: Size) -> str:
    """As it is spelt."""
    return f"{size[0]}x{size[1]}"


def as_ms(us: float) -> str:
    """µs as a target."""
    return f"{us / 1000:.6g}ms"
