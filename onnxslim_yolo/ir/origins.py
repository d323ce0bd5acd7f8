"""What a constant was made from: positions of the source's initializers, handed on through every rewrite.

A rewrite makes constants out of constants. Which positions of an operand a position of the result depends on is what
matters to whoever cuts the operand: `Part.back` leads from a mask over the result (what of it is to stay) to the mask
over the operand that is needed for it, and `Part.forth` from what stays of the operand to what that can give. Where
`forth` gives more than was to stay, the operand alone cannot say what was cut, and `source_terms` leaves it out.

A constant that says nothing about itself is nobody's: cutting it cannot be told in the source's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]
Mask: TypeAlias = Array
Move: TypeAlias = Callable[[Array], Array]
"""Moves elements: an array of the operand's shape becomes one of the result's, with 0 where nothing was moved to."""

UNKNOWN = "a pass computed it"
"""Why a constant that nobody gave an origin cannot be named."""

Indices: TypeAlias = list[int] | list[list[int]]
"""Kept indices along an axis, ascending; for the input axis of a grouped convolution whose groups keep different
channels, one such list per group."""

Cut: TypeAlias = dict[int, Indices]
"""Axis → kept indices."""

_ATTRIBUTE = "onnxslim_yolo_origin"


@dataclass(frozen=True)
class Leaf:
    """An initializer of the source; or, with `unnamed`, a constant that is none, and why."""

    name: str
    shape: Shape
    unnamed: str | None = None


@dataclass(frozen=True)
class Part:
    """One operand of what a constant was computed from.

    Attributes:
        origin, shape: the operand's.
        back: mask over the result → mask over the operand: what is needed.
        forth: mask over the operand → mask over the result: what can be computed; everything where the operand has no
            say.
        silent: where in the result that is.
    """

    origin: Origin
    shape: Shape
    back: Callable[[Mask], Mask]
    forth: Callable[[Mask, Shape], Mask]
    silent: Callable[[Shape], Mask] = lambda result: np.zeros(result, dtype=bool)


@dataclass(frozen=True)
class Made:
    """A constant computed from others.

    Attributes:
        cut: by `slice`, which takes positions away and adds zeros: per axis what was kept, or one such list per group
            of rows. None: nothing was taken away.
    """

    parts: tuple[Part, ...]
    cut: Cut | None = None


Origin: TypeAlias = Leaf | Made

ADDED = Made(())
"""The origin of what a pass adds to the network: nothing of the source is in it."""


def origin_of(constant: Any) -> Origin:
    """A constant's origin; one that says nothing was written by a pass from nobody knows what."""
    known = getattr(constant, _ATTRIBUTE, None)
    if isinstance(known, (Leaf, Made)):
        return known
    return Leaf(constant.name, tuple(int(d) for d in constant.shape), UNKNOWN)


def set_origin(constant: Any, origin: Origin) -> None:
    """Note where a constant comes from."""
    setattr(constant, _ATTRIBUTE, origin)


def hand_on(old: Any, new: Any) -> None:
    """Note that a constant has other values, position by position, or another name."""
    known = getattr(old, _ATTRIBUTE, None)
    if known is not None:
        setattr(new, _ATTRIBUTE, known)


def moved(origin: Origin, shape: Shape, move: Move) -> Part:
    """The operand's elements, each at one place, several or none of the result."""

    def numbers() -> Array:
        return move(np.arange(1, int(np.prod(shape)) + 1).reshape(shape))

    def back(mask: Mask) -> Mask:
        needed = np.zeros(int(np.prod(shape)) + 1, dtype=bool)
        needed[numbers()[mask]] = True
        return needed[1:].reshape(shape)

    def forth(mask: Mask, result: Shape) -> Mask:
        return np.asarray(np.concatenate([[True], mask.reshape(-1)])[numbers()].reshape(result))

    return Part(origin, shape, back, forth, lambda result: np.asarray((numbers() == 0).reshape(result)))


def made_by_cutting(origin: Origin, shape: Shape, move: Move, cut: Cut) -> Made:
    """What `slice` leaves of a constant."""
    return Made((moved(origin, shape, move),), cut)


def broadcast(operands: Sequence[tuple[Origin, Shape]]) -> Made:
    """Elementwise in all operands, which broadcast as numpy's do."""
    return Made(tuple(_broadcast(origin, shape) for origin, shape in operands))


def _broadcast(origin: Origin, shape: Shape) -> Part:
    def back(mask: Mask) -> Mask:
        inner = np.asarray(mask.any(axis=tuple(range(mask.ndim - len(shape)))))
        repeated = tuple(k for k, extent in enumerate(shape) if extent == 1)
        return np.asarray(inner.any(axis=repeated, keepdims=True))

    return Part(origin, shape, back, lambda mask, result: np.asarray(np.broadcast_to(mask, result)))


def reduced(origin: Origin, shape: Shape, axes: Sequence[int]) -> Made:
    """Every element of the result depends on all that is reduced along these axes, whether they are kept or not."""
    gone = tuple(sorted(axis % len(shape) for axis in axes))
    flat = tuple(1 if k in gone else extent for k, extent in enumerate(shape))

    def forth(mask: Mask, result: Shape) -> Mask:
        return np.asarray(np.logical_or.reduce(mask, axis=gone)).reshape(result)

    return Made((Part(origin, shape, lambda mask: np.broadcast_to(mask.reshape(flat), shape), forth),))


def left_of(made: Origin, before: Origin, axis: int) -> list[int] | None:
    """Which positions along an axis of the constant `before` are left in what was cut out of it, in order; None where
    it is something else, or its groups kept different ones."""
    left: list[int] | None = None
    while made is not before and isinstance(made, Made) and made.cut is not None:
        if axis in made.cut:
            kept = [k for k in made.cut[axis] if isinstance(k, int)]
            if len(kept) < len(made.cut[axis]):
                return None
            left = kept if left is None else [kept[k] for k in left]
        made = made.parts[0].origin
    return left if made == before else None


def mixed(operands: Sequence[tuple[Origin, Shape]]) -> Made:
    """Everything may depend on everything."""

    def part(origin: Origin, shape: Shape) -> Part:
        return Part(
            origin, shape, lambda mask: np.full(shape, mask.any()), lambda mask, result: np.full(result, mask.any())
        )

    return Made(tuple(part(origin, shape) for origin, shape in operands))
