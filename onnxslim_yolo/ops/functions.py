"""Functions applied value by value: one row an operator, everything that the compiler asks about it.

A row is told once, and the questions derive from it: channel rules (a value stays where it is), moments (by quadrature
of the function itself), adjoints (by its differences), signs (its floor), the layer that ncnn has for it, the function
that torch has, and the kind of layer that its time is measured as. Attribute defaults are the ONNX schema's own, so
none is written here. "None" is an answer: there is no such layer or function. To add an operator is to add a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxslim_yolo.ir.attributes import attributes, defaults
from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.ops.question import one_of

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Function:
    """One element-wise operator of one input.

    Attributes:
        f: the function of x, and of the attributes by name, in float64.
        floor: no value is below this; None where there is no such bound.
        slope: False for step functions, of which no gradient says anything.
        slope_of_value: f′ as a polynomial of y = f(x), its coefficients of 1, y, y²; None where it is none, and
            differences of f tell it.
        ncnn: the layer, and parameter id → attribute or number; None where ncnn has none.
        torch: how torch.nn.functional or else torch calls it; None where a function of ours says it.
        arguments: attribute → the keyword that `torch` takes it by.
        kind: as which kind of layer runtimes are timed.
    """

    f: Callable[..., Array]
    floor: float | None = None
    slope: bool = True
    slope_of_value: tuple[float, float, float] | None = None
    ncnn: tuple[str, Mapping[int, str | float]] | None = None
    torch: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    kind: str = "exp"


def apply(op: str, given: Mapping[str, object], x: Array) -> Array:
    """The operator's values at x, under a node's attributes."""
    said = attributes(op, given)
    return np.asarray(FUNCTIONS[op].f(x, **{name: said[name] for name in defaults(op)}))


HALVES = np.concatenate([-(2.0 ** np.arange(-8, 8)), np.zeros(1), 2.0 ** np.arange(-8, 8), [-3.0, -0.3, 0.3, 3.0]])
"""Where a function is looked at for being homogeneous."""


def is_homogeneous(node: Node) -> bool:
    """Whether f(λ·x) = λ·f(x) for λ > 0: it is asked of the function itself, at λ = 2, which is exact."""
    if node.op not in FUNCTIONS:
        return False
    with np.errstate(all="ignore"):
        once, twice = (apply(node.op, node.attrs, points) for points in (HALVES, 2 * HALVES))
    return bool(np.array_equal(2 * once, twice))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _negative_exp(x: Array, alpha: float, scale: float = 1.0) -> Array:
    """α·(exp(x/scale) − 1) below zero, x above."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / scale))


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))


def _shrink(x: Array, bias: float, lambd: float) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


def _unary(code: int) -> tuple[str, dict[int, str | float]]:
    return "UnaryOp", {0: code}


FUNCTIONS: dict[str, Function] = {
    "Relu": Function(lambda x: np.maximum(x, 0.0), floor=0, ncnn=("ReLU", {}), torch="relu", kind="relu"),
    "LeakyRelu": Function(
        lambda x, alpha: np.where(x >= 0, x, alpha * x),
        ncnn=("ReLU", {0: "alpha"}), torch="leaky_relu", arguments={"alpha": "negative_slope"}, kind="leaky",
    ),
    "ThresholdedRelu": Function(lambda x, alpha: np.where(x > alpha, x, 0.0), kind="relu"),
    "Elu": Function(
        _negative_exp, ncnn=("ELU", {0: "alpha"}), torch="elu", arguments={"alpha": "alpha"}, kind="elu"
    ),
    "Celu": Function(
        lambda x, alpha: _negative_exp(x, alpha, alpha),
        ncnn=("CELU", {0: "alpha"}), torch="celu", arguments={"alpha": "alpha"}, kind="elu",
    ),
    "Selu": Function(
        lambda x, alpha, gamma: gamma * _negative_exp(x, alpha), ncnn=("SELU", {0: "alpha", 1: "gamma"}), kind="elu"
    ),
    "Shrink": Function(_shrink, ncnn=("Shrink", {0: "bias", 1: "lambd"}), kind="relu"),
    "Sigmoid": Function(
        _sigmoid, floor=0, slope_of_value=(0, 1, -1), ncnn=("Sigmoid", {}), torch="sigmoid", kind="sigmoid"
    ),
    "HardSigmoid": Function(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
        floor=0, ncnn=("HardSigmoid", {0: "alpha", 1: "beta"}), kind="hardsigmoid",
    ),
    "HardSwish": Function(
        lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
        ncnn=("HardSwish", {0: 1 / 6, 1: 0.5}), torch="hardswish", kind="hardswish",
    ),
    "Swish": Function(lambda x, alpha=1.0: x * _sigmoid(alpha * x), kind="silu"),  # older schemas lack it
    "Mish": Function(lambda x: x * np.tanh(_softplus(x)), ncnn=("Mish", {}), torch="mish", kind="mish"),
    "Gelu": Function(_gelu, torch="gelu", arguments={"approximate": "approximate"}, kind="gelu"),
    "Softplus": Function(_softplus, floor=0, ncnn=("Softplus", {}), torch="softplus", kind="mish"),
    "Softsign": Function(lambda x: x / (1.0 + np.abs(x)), torch="softsign", kind="sigmoid"),
    "Tanh": Function(np.tanh, slope_of_value=(1, 0, -1), ncnn=_unary(16), torch="tanh", kind="tanh"),
    "Erf": Function(_erf, ncnn=("Erf", {}), torch="erf", kind="gelu"),
    "Exp": Function(np.exp, floor=0, slope_of_value=(0, 1, 0), ncnn=_unary(7), torch="exp"),
    "Log": Function(np.log, ncnn=_unary(8), torch="log"),
    "Sqrt": Function(np.sqrt, floor=0, ncnn=_unary(5), torch="sqrt", kind="scale"),
    "Reciprocal": Function(
        lambda x: 1.0 / x, slope_of_value=(0, 0, -1), ncnn=_unary(15), torch="reciprocal", kind="scale"
    ),
    "Abs": Function(np.abs, floor=0, ncnn=_unary(0), torch="abs", kind="scale"),
    "Neg": Function(np.negative, slope_of_value=(-1, 0, 0), ncnn=_unary(1), torch="neg", kind="scale"),
    "Floor": Function(np.floor, slope=False, ncnn=_unary(2), torch="floor", kind="scale"),
    "Ceil": Function(np.ceil, slope=False, ncnn=_unary(3), torch="ceil", kind="scale"),
    "Round": Function(np.round, slope=False, ncnn=_unary(18), torch="round", kind="scale"),
    "Sign": Function(np.sign, slope=False, torch="sign", kind="scale"),
    "Sin": Function(np.sin, ncnn=_unary(9), torch="sin"),
    "Cos": Function(np.cos, ncnn=_unary(10), torch="cos"),
    "Tan": Function(np.tan, slope_of_value=(1, 0, 1), ncnn=_unary(11), torch="tan"),
    "Asin": Function(np.arcsin, ncnn=_unary(12), torch="asin"),
    "Acos": Function(np.arccos, floor=0, ncnn=_unary(13), torch="acos"),
    "Atan": Function(np.arctan, ncnn=_unary(14), torch="atan"),
    "Sinh": Function(np.sinh, torch="sinh"),
    "Cosh": Function(np.cosh, floor=1, torch="cosh"),
    "Asinh": Function(np.arcsinh, torch="asinh"),
    "Acosh": Function(np.arccosh, floor=0, torch="acosh"),
    "Atanh": Function(np.arctanh, torch="atanh"),
}  # fmt: skip
"""Operator → what it is."""

is_swish = one_of("Swish")
is_root = one_of("Sqrt")
is_sigmoid = one_of("Sigmoid")
"""A gate, where its input is multiplied by it."""
