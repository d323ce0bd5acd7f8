"""Reductions: many elements become one. One row an operator.

`f(x, times, axes)` reduces x over axes, which stay with size 1; every element stands there `times` times, so that what
is constant along an axis need not be spelt out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxslim_yolo.ops.question import one_of

Array: TypeAlias = np.ndarray[Any, Any]
Axes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Reduction:
    """One reduction.

    Attributes:
        f: see the module's docstring.
        ncnn: the operation of ncnn's Reduction layer.
        adds_up: a channel of zeros adds nothing (a mean being a sum over the source's number of channels).
        beside_zero: the operator by which a zero that was left out is taken into account, where it does not add up.
        floor: no value is below this, whatever it is of; None where there is no such bound.
        keeps_sign: no value is negative if no element is.
        steady: of equal elements comes that element, however many there are.
        one: the function that a single element undergoes; None where it stays.
    """

    f: Callable[[Array, float, Axes], Array]
    ncnn: int
    adds_up: bool = False
    beside_zero: str | None = None
    floor: float | None = None
    keeps_sign: bool = False
    steady: bool = False
    one: str | None = None


def _sum(x: Array, times: float, axes: Axes) -> Array:
    return np.asarray(x.sum(axis=axes, keepdims=True) * times)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": Reduction(_sum, 0, adds_up=True, keeps_sign=True),
    "ReduceMean": Reduction(
        lambda x, times, axes: x.mean(axis=axes, keepdims=True), 3, adds_up=True, keeps_sign=True, steady=True
    ),
    "ReduceMax": Reduction(
        lambda x, times, axes: x.max(axis=axes, keepdims=True), 4, beside_zero="Max", keeps_sign=True, steady=True
    ),
    "ReduceMin": Reduction(
        lambda x, times, axes: x.min(axis=axes, keepdims=True), 5, beside_zero="Min", keeps_sign=True, steady=True
    ),
    "ReduceProd": Reduction(
        lambda x, times, axes: x.prod(axis=axes, keepdims=True) ** times, 6, keeps_sign=True
    ),
    "ReduceL1": Reduction(
        lambda x, times, axes: _sum(np.abs(x), times, axes), 7, adds_up=True, floor=0, one="Abs"
    ),
    "ReduceL2": Reduction(
        lambda x, times, axes: np.sqrt(_sum(x * x, times, axes)), 8, adds_up=True, floor=0, one="Abs"
    ),
    "ReduceSumSquare": Reduction(
        lambda x, times, axes: _sum(x * x, times, axes), 2, adds_up=True, floor=0, one="Square"
    ),
    "ReduceLogSum": Reduction(lambda x, times, axes: np.log(_sum(x, times, axes)), 9, adds_up=True, one="Log"),
    "ReduceLogSumExp": Reduction(lambda x, times, axes: np.log(_sum(np.exp(x), times, axes)), 10),
}  # fmt: skip
"""Operator → what it is."""

is_mean = one_of("ReduceMean")
takes_greatest = one_of("ReduceMax")
