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
    """

    f: Callable[..., Array]
    kind: str = "add"
    keeps_sign: bool = False
    many: bool = False


def _sum(*xs: Array) -> Array:
    return np.asarray(sum(xs[1:], xs[0]))


ARITHMETIC: dict[str, Arithmetic] = {
    "Add": Arithmetic(np.add, keeps_sign=True),
    "Sum": Arithmetic(_sum, keeps_sign=True, many=True),
    "Mean": Arithmetic(lambda *xs: _sum(*xs) / len(xs), keeps_sign=True, many=True),
    "Sub": Arithmetic(np.subtract),
    "Mul": Arithmetic(np.multiply, "mul", keeps_sign=True),
    "Div": Arithmetic(np.divide, "mul", keeps_sign=True),
    "Max": Arithmetic(lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)), keeps_sign=True, many=True),
    "Min": Arithmetic(lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)), keeps_sign=True, many=True),
    "Pow": Arithmetic(np.power, "mul", keeps_sign=True),
    "Mod": Arithmetic(lambda a, b, fmod: np.fmod(a, b) if fmod else np.mod(a, b), "mul", keeps_sign=True),
}
"""Operator → what it is."""

SUMS = ("Add", "Sum")

is_sum = one_of(*SUMS)
is_difference = one_of("Sub")
is_product = one_of("Mul")
is_quotient = one_of("Div")


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
LOGIC = ("And", "Or", "Xor", "Not", "IsInf", "IsNaN")
BITS = ("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")
BOUNDED = ("Clip", "PRelu")
"""Functions of one map that take parameters as inputs."""
ELEMENTWISE = (*ARITHMETIC, *COMPARISONS, *LOGIC, *BITS, *BOUNDED, "Where")
"""All that are no function of one input alone."""
