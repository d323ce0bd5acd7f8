"""Element-wise operators of several operands: arithmetic, comparisons, logic, choices. One row an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxslim_yolo.ir.attributes import attributes, defaults
from onnxslim_yolo.ops.question import one_of

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arithmetic:
    """One arithmetic operator.

    Attributes:
        f: of the operands, which are broadcast, and of the attributes by name.
        kind: as which kind of layer runtimes are timed: "add" or "mul".
        keeps_sign: no value is negative if no operand is.
        many: takes any number of operands.
        line: of the other operand's value and of x's place: (scale, shift) with y = scale·x + shift; see `line`.
    """

    f: Callable[..., Array]
    kind: str = "add"
    keeps_sign: bool = False
    many: bool = False
    line: Callable[[Array, int], tuple[Array, Array] | None] | None = None


def _sum(*xs: Array) -> Array:
    return np.asarray(sum(xs[1:], xs[0]))


_ONE, _ZERO = np.ones(()), np.zeros(())


def _quotient(value: Array, place: int) -> tuple[Array, Array] | None:
    return (1 / value, _ZERO) if place == 0 and value.all() else None


ARITHMETIC: dict[str, Arithmetic] = {
    "Add": Arithmetic(np.add, keeps_sign=True, line=lambda value, place: (_ONE, value)),
    "Sum": Arithmetic(_sum, keeps_sign=True, many=True),
    "Mean": Arithmetic(lambda *xs: _sum(*xs) / len(xs), keeps_sign=True, many=True),
    "Sub": Arithmetic(np.subtract, line=lambda value, place: (-_ONE, value) if place else (_ONE, -value)),
    "Mul": Arithmetic(np.multiply, "mul", keeps_sign=True, line=lambda value, place: (value, _ZERO)),
    "Div": Arithmetic(np.divide, "mul", keeps_sign=True, line=_quotient),
    "Max": Arithmetic(lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)), keeps_sign=True, many=True),
    "Min": Arithmetic(lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)), keeps_sign=True, many=True),
    "Pow": Arithmetic(np.power, "mul", keeps_sign=True),
    "Mod": Arithmetic(lambda a, b, fmod: np.fmod(a, b) if fmod else np.mod(a, b), "mul", keeps_sign=True),
}
"""Operator → what it is."""

SUMS = ("Add", "Sum")

is_sum = one_of(*SUMS)
is_difference = one_of("Sub")
PRODUCT = "Mul"
is_product = one_of(PRODUCT)
is_quotient = one_of("Div")
is_power = one_of("Pow")
is_greatest = one_of("Max")
is_clip = one_of("Clip")

AFFINE = tuple(op for op, row in ARITHMETIC.items() if row.line is not None)
"""Affine in each operand, the other one being constant."""


def line(op: str, value: Array, place: int) -> tuple[Array, Array] | None:
    """(scale, shift) with y = scale·x + shift, x being the operand at `place` and the other one this value, of its
    shape or scalars; None where that is not so."""
    row = ARITHMETIC.get(op)
    return None if row is None or row.line is None else row.line(value, place)


def apply(op: str, given: Mapping[str, object], *operands: Array) -> Array:
    """The operator's values, under a node's attributes."""
    said = attributes(op, given)
    names = [name for name in defaults(op) if name in said and name not in DROPPED]
    return np.asarray(ARITHMETIC[op].f(*operands, **{name: said[name] for name in names}))


DROPPED = ("broadcast", "consumed_inputs")
"""Attributes of the first opsets, from before operands were broadcast by themselves."""

COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
CONNECTIVES = ("And", "Or", "Xor")
LOGIC = (*CONNECTIVES, "Not", "IsInf", "IsNaN")
BITS = ("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")
BOUNDED = ("Clip", "PRelu")
"""Functions of one map that take parameters as inputs."""
is_prelu = one_of("PRelu")
BROADCASTING = (*ARITHMETIC, *COMPARISONS, *CONNECTIVES, "Where")
"""Any of their operands may be repeated along an axis of size 1."""
ELEMENTWISE = (*ARITHMETIC, *COMPARISONS, *LOGIC, *BITS, *BOUNDED, "Where")
"""All that are no function of one input alone."""
