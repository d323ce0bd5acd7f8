"""Adjoints of operators: the table `ADJOINTS`, one row an operator.

Linear operators have theirs spelled out. A function applied value by value is differentiated by a central difference of
the operator itself, f′(x) ≈ (f(x + h) − f(x − h)) / 2h, which is good to about 1e-4 and needs no table of derivatives;
where its slope is a polynomial of its value, by that.
Functions that end at zero have theirs spelled out: a variance of less than h is common (a LayerNorm on a flat patch),
and x − h has no root; one NaN is every layer's in front.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxslim_yolo.analysis.adjoint_movement import MOVEMENTS
from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, Cotangents, Found, Rule, given, refusal, shape_of
from onnxslim_yolo.analysis.adjoint_norm import NORMALISATIONS, REDUCTIONS
from onnxslim_yolo.analysis.adjoint_windows import WINDOWS, pads_of, spread_windows
from onnxslim_yolo.analysis.movement import axes_of
from onnxslim_yolo.ir.attributes import attribute, per_axis, softmax_axes
from onnxslim_yolo.ir.graph import Node, input_constant, is_constant, is_empty
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.linear import groups_of

STEP = 1e-2
"""h of the central difference: float32 rounds off 1e-5 of it, the curvature of a sigmoid spoils less."""

LEAST_ROOT = 1e-4
"""Below this a root counts as this: its slope has no end."""


def _conv(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    weight = input_constant(node, 1)
    if weight is None:
        raise refusal(node, "its weight is not constant")
    size, out = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    attrs = _geometry(node, weight.ndim - 2) | {"pads": pads_of(node, size, out, weight.shape[2:])}
    return {0: spread_windows(adjoint, given(values), weight, attrs, size, out)}


def _conv_transpose(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    weight = input_constant(node, 1)
    if weight is None or attribute(node, "auto_pad") != "NOTSET" or "output_shape" in node.attrs:
        raise refusal(node, "its weight or its padding is not constant")
    rank = weight.ndim - 2
    attrs = _geometry(node, rank)
    # What output_padding added at the end is read by no tap of the adjoint: it pads so much less there.
    return {0: adjoint.add("Conv", [given(values), weight], **attrs)}


def _geometry(node: Node, rank: int) -> dict[str, Any]:
    return {
        "strides": per_axis(node, "strides", rank),
        "dilations": per_axis(node, "dilations", rank),
        "pads": per_axis(node, "pads", rank),
        "group": groups_of(node),
    }


def _gemm(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    if attribute(node, "transA"):
        raise refusal(node, "its first matrix is transposed")
    turned = 0 if attribute(node, "transB") else 1
    alpha = attribute(node, "alpha")
    return {0: adjoint.gemm(given(values), node.inputs[1], transB=turned, alpha=alpha)}


def _matmul(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    a, b = node.inputs
    shapes = shape_of(a), shape_of(b)
    if min(len(shapes[0]), len(shapes[1])) < 2:
        raise refusal(node, "one side is a vector")
    cotangent, wide = given(values), shape_of(node.outputs[0])
    found: Found = {}
    if not is_constant(a):
        value = adjoint.add("MatMul", [cotangent, _transposed(adjoint, b, len(shapes[1]))])
        found[0] = adjoint.to_shape_of(value, shapes[0], (*wide[:-2], *shapes[0][-2:]))
    if not is_constant(b):
        value = adjoint.add("MatMul", [_transposed(adjoint, a, len(shapes[0])), cotangent])
        found[1] = adjoint.to_shape_of(value, shapes[1], (*wide[:-2], *shapes[1][-2:]))
    return found


def _transposed(adjoint: Adjoint, tensor: Any, rank: int) -> Any:
    return adjoint.add("Transpose", [tensor], perm=[*range(rank - 2), rank - 1, rank - 2])


def _batch_norm(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    gamma, variance = input_constant(node, 1), input_constant(node, 4)
    if gamma is None or variance is None:
        raise refusal(node, "its statistics are not constant")
    scale = gamma / np.sqrt(variance + float(attribute(node, "epsilon")))
    shape = [1, -1] + [1] * (len(shape_of(node.inputs[0])) - 2)
    return {0: adjoint.add("Mul", [given(values), np.asarray(scale).reshape(shape)])}


def _add(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    wide = shape_of(node.outputs[0])
    return {k: adjoint.to_shape_of(given(values), shape_of(t), wide) for k, t in enumerate(node.inputs)}


def _sub(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    found = _add(adjoint, node, values)
    return {0: found[0], 1: adjoint.add("Neg", [found[1]])}


def _mul(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    wide, (a, b) = shape_of(node.outputs[0]), node.inputs
    found: Found = {}
    for index, (mine, other) in enumerate(((a, b), (b, a))):
        if not is_constant(mine):
            found[index] = adjoint.to_shape_of(adjoint.add("Mul", [given(values), other]), shape_of(mine), wide)
    return found


def _div(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    wide, (a, b) = shape_of(node.outputs[0]), node.inputs
    share = adjoint.add("Div", [given(values), b])
    found: Found = {0: adjoint.to_shape_of(share, shape_of(a), wide)}
    if not is_constant(b):
        turned = adjoint.add("Neg", [adjoint.add("Mul", [share, node.outputs[0]])])
        found[1] = adjoint.to_shape_of(turned, shape_of(b), wide)
    return found


def _function(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """A function of the first input, value by value; further inputs are constants."""
    if any(not is_empty(t) and not is_constant(t) for t in node.inputs[1:]):
        raise refusal(node, "more than its first input varies")
    if shape_of(node.inputs[0]) != shape_of(node.outputs[0]):
        raise refusal(node, "its input is broadcast")
    row = FUNCTIONS.get(node.op)
    if row is not None and row.slope_of_value is not None:
        return {0: adjoint.add("Mul", [given(values), _polynomial(adjoint, row.slope_of_value, node.outputs[0])])}
    step = np.asarray(STEP)
    above = adjoint.twin(node, adjoint.add("Add", [node.inputs[0], step]))
    below = adjoint.twin(node, adjoint.add("Sub", [node.inputs[0], step]))
    slope = adjoint.add("Mul", [adjoint.add("Sub", [above, below]), np.asarray(0.5 / STEP)])
    return {0: adjoint.add("Mul", [given(values), slope])}


def _polynomial(adjoint: Adjoint, coefficients: tuple[float, float, float], y: Any) -> Any:
    """c₀ + c₁·y + c₂·y², without the terms that are nothing."""
    constant, linear, square = (np.asarray(float(c)) for c in coefficients)
    if not square:
        first = adjoint.add("Mul", [y, linear]) if linear else None
    elif square == -1:
        first = adjoint.add("Mul", [adjoint.add("Sub", [linear, y]), y])
    else:
        first = adjoint.add("Mul", [adjoint.add("Add", [adjoint.add("Mul", [y, square]), linear]), y])
    return constant if first is None else adjoint.add("Add", [first, constant]) if constant else first


def _root(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """√x has the slope 1 / 2√x."""
    root = adjoint.at_least(node.outputs[0], LEAST_ROOT)
    return {0: adjoint.add("Div", [adjoint.add("Mul", [given(values), np.asarray(0.5)]), root])}


def _log(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    return {0: adjoint.add("Div", [given(values), adjoint.at_least(node.inputs[0], LEAST_ROOT**2)])}


def _power(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Of whole powers from 1 on by a difference; of others, which end at zero, x^p has the slope p·x^(p − 1)."""
    power = input_constant(node, 1)
    if power is None or (power == np.maximum(np.round(power), 1)).all():
        return _function(adjoint, node, values)
    if shape_of(node.inputs[0]) != shape_of(node.outputs[0]):
        raise refusal(node, "its input is broadcast")
    base = node.inputs[0]
    if not (power == np.round(power)).all():
        base = adjoint.at_least(base, LEAST_ROOT**2)
    less = adjoint.add("Pow", [base, power.astype(np.float32) - 1])
    return {0: adjoint.add("Mul", [given(values), adjoint.add("Mul", [less, power.astype(np.float32)])])}


def _step(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    raise refusal(node, "it is a step function, and has no slope")


def _softmax(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    rank = len(shape_of(node.outputs[0]))
    axis, *more = softmax_axes(node, rank, adjoint.graph.opset)
    if more:
        raise refusal(node, "before opset 13 it flattens its input")
    weighted = adjoint.add("Mul", [given(values), node.outputs[0]])
    mean = adjoint.add("Mul", [node.outputs[0], adjoint.sum_over(weighted, [axis])])
    return {0: adjoint.add("Sub", [weighted, mean])}


def _log_softmax(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    axis, *more = softmax_axes(node, len(shape_of(node.outputs[0])), adjoint.graph.opset)
    if more:
        raise refusal(node, "before opset 13 it flattens its input")
    total = adjoint.sum_over(given(values), [axis])
    share = adjoint.add("Mul", [adjoint.add("Exp", [node.outputs[0]]), total])
    return {0: adjoint.add("Sub", [given(values), share])}


def _extreme_of(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Of several tensors element by element: who holds the result gets it, in equal parts where several do."""
    if len(node.inputs) == 1:
        return {0: given(values)}
    wide, result = shape_of(node.outputs[0]), node.outputs[0]
    hits = [adjoint.hits(tensor, result) for tensor in node.inputs]
    share = adjoint.add("Div", [given(values), adjoint.add("Sum", hits)])
    return {
        index: adjoint.to_shape_of(adjoint.add("Mul", [share, hit]), shape_of(tensor), wide)
        for index, (hit, tensor) in enumerate(zip(hits, node.inputs, strict=True))
        if not is_constant(tensor)
    }


def _mean_of(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    wide = shape_of(node.outputs[0])
    part = adjoint.add("Mul", [given(values), np.asarray(1.0 / len(node.inputs))])
    return {k: adjoint.to_shape_of(part, shape_of(tensor), wide) for k, tensor in enumerate(node.inputs)}


def _mean(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    kept = node.op == "GlobalAveragePool" or bool(attribute(node, "keepdims"))
    value = given(values)
    if not kept:
        gone = {axis % len(shape) for axis in axes_of(node) or range(len(shape))}
        out = tuple(1 if k in gone else size for k, size in enumerate(shape))
        value = adjoint.reshape(value, out)
    share = np.full(shape, float(np.prod(out)) / float(np.prod(shape)), dtype=np.float32)
    return {0: adjoint.add("Mul", [value, share])}


ADJOINTS: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Add": _add,
    "Sum": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    **dict.fromkeys(("Max", "Min"), _extreme_of),
    "Mean": _mean_of,
    **MOVEMENTS,
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    **REDUCTIONS,
    **NORMALISATIONS,
    **WINDOWS,
    **{op: _function if row.slope else _step for op, row in FUNCTIONS.items()},
    **dict.fromkeys(("PRelu", "Clip"), _function),
    "Pow": _power,
    "Sqrt": _root,
    "Log": _log,
}
