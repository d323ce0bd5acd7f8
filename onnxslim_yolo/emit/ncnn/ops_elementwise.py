"""Element-wise operators: activations, and arithmetic with numpy's broadcasting made explicit."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.folding import element_type
from onnxslim_yolo.analysis.sign import is_positive
from onnxslim_yolo.emit.ncnn.format import FLT_MAX, Weight
from onnxslim_yolo.emit.ncnn.layout import Dims, broadcast_dims, padded, regrouped
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, Value, unsupported
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import is_computed, operand
from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, input_constant
from onnxslim_yolo.ops.functions import FUNCTIONS

ADD, SUB, MUL, DIV, MAX, MIN, POW, RSUB, RDIV, RPOW = range(10)
"""BinaryOp's operations."""
REVERSED = {SUB: RSUB, DIV: RDIV, POW: RPOW}

UNARY = {op: int(row.ncnn[1][0]) for op, row in FUNCTIONS.items() if row.ncnn is not None and row.ncnn[0] == "UnaryOp"}
"""UnaryOp's operations."""
SQUARE, SQRT, TRUNC = 4, UNARY["Sqrt"], 19


def clip(low: Lowering, node: Node) -> None:
    """Clip with constant bounds."""
    bounds: list[float] = []
    for key, none in (("min", -FLT_MAX), ("max", FLT_MAX)):
        if is_computed(node, key):
            raise unsupported(node, "its bounds are computed")
        constant = operand(node, key)
        bounds.append(none if constant is None else float(constant.reshape(-1)[0]))
    source = low.input(node, 0)
    low.emit(node, "Clip", [source], source.dims, {0: bounds[0], 1: bounds[1]}, to=node.outputs[0])


def prelu(low: Lowering, node: Node) -> None:
    """PReLU with one slope, or one per channel."""
    source, slope = low.input(node, 0), input_constant(node, 1)
    if slope is None:
        raise unsupported(node, "its slope is computed")
    if slope.size > 1:
        slope_shape = padded(slope.shape, len(source.shape))
        if source.shape[0] != 1 or slope.size != source.shape[1] or slope_shape[1] != slope.size:
            raise unsupported(node, f"a slope of shape {slope.shape} for an input of shape {source.shape}")
        if source.dims[0] != slope.size:
            source = low.view(source, (slope.size, int(np.prod(source.shape[2:], dtype=np.int64))))
    low.emit(node, "PReLU", [source], source.dims, {0: slope.size}, [Weight(slope)], to=node.outputs[0])


def binary(op: int) -> Lower:
    """BinaryOp with numpy's broadcasting made explicit."""

    def lower(low: Lowering, node: Node) -> None:
        left, right = node.inputs[0], node.inputs[1]
        scalar = _scalar(right)
        if scalar is not None:
            _with_scalar(low, node, low.value(left), op, scalar)
            return
        scalar = _scalar(left)
        if scalar is not None:
            _with_scalar(low, node, low.value(right), REVERSED.get(op, op), scalar)
            return
        a, b = operands(low, node, left, right, shape_of(node.outputs[0], node))
        low.emit(node, "BinaryOp", [a, b], _broadcast(a.dims, b.dims), {0: op}, to=node.outputs[0])

    return lower


def _scalar(tensor: Tensor) -> float | None:
    constant = constant_of(tensor)
    return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def _with_scalar(low: Lowering, node: Node, source: Value, op: int, scalar: float) -> None:
    if op == POW and _power(low, node, source, scalar):
        return
    low.emit(node, "BinaryOp", [source], source.dims, {0: op, 1: 1, 2: scalar}, to=node.outputs[0])


HIGHEST_POWER = 16
"""The highest whole power that is multiplied out."""


def _power(low: Lowering, node: Node, source: Value, scalar: float) -> bool:
    """Powers that ncnn's exp(y·log(x)) gets wrong for x ≤ 0: x⁰ is 1, low whole powers are multiplied out."""
    output, dims = node.outputs[0], source.dims
    if scalar == 0:
        low.emit(node, "Clip", [source], dims, {0: 1.0, 1: 1.0}, to=output)
    elif scalar == 1:
        low.alias(output, source, node)
    elif scalar == 0.5:
        low.emit(node, "UnaryOp", [source], dims, {0: SQRT}, to=output)
    elif scalar == int(scalar) and abs(scalar) <= HIGHEST_POWER:
        _multiplied(low, node, source, int(abs(scalar)), inverse=scalar < 0)
    elif scalar > 0 and not is_positive(node.inputs[0]):
        _split_power(low, node, source, scalar)
    else:
        return False
    return True


TINY = 1e-30
"""What a logarithm is taken of in place of 0: with an exponent above −1 its power is still finite."""


def _split_power(low: Lowering, node: Node, source: Value, scalar: float) -> None:
    """x^p = x · max(x, tiny)^(p−1), which is 0 at 0; of |x| for whole powers, odd ones with x in front."""
    dims, size = source.dims, source
    if scalar == int(scalar):
        size = low.emit(node, "UnaryOp", [source], dims, {0: UNARY["Abs"]}, suffix="/abs")
    bounded = low.emit(node, "Clip", [size], dims, {0: TINY, 1: FLT_MAX}, suffix="/bounded")
    rest = low.emit(node, "BinaryOp", [bounded], dims, {0: POW, 1: 1, 2: scalar - 1}, suffix="/rest")
    first = source if scalar % 2 else size
    low.emit(node, "BinaryOp", [first, rest], dims, {0: MUL}, to=node.outputs[0])


def _multiplied(low: Lowering, node: Node, source: Value, power: int, *, inverse: bool) -> None:
    """x to a whole power by squaring; bits of the power from the highest down."""
    value, bits = source, bin(power)[3:]
    steps = [kind for bit in bits for kind in (["square", "times"] if bit == "1" else ["square"])]
    steps += ["inverse"] if inverse else []
    for index, kind in enumerate(steps):
        to = node.outputs[0] if index == len(steps) - 1 else None
        suffix = "" if to is not None else f"/{kind}{index or ''}"
        if kind == "times":
            value = low.emit(node, "BinaryOp", [value, source], source.dims, {0: MUL}, to=to, suffix=suffix)
        else:
            code = SQUARE if kind == "square" else UNARY["Reciprocal"]
            value = low.emit(node, "UnaryOp", [value], source.dims, {0: code}, to=to, suffix=suffix)


def power(low: Lowering, node: Node) -> None:
    """Pow; exponents that are all the same are one, and constant ones that differ must be safe for what they meet."""
    exponents, base = constant_of(node.inputs[1]), constant_of(node.inputs[0])
    several = exponents is not None and exponents.size > 1
    alike = exponents is not None and several and bool((exponents == exponents.flat[0]).all())
    if exponents is not None and alike and shape_of(node.outputs[0]) == shape_of(node.inputs[0]):
        _with_scalar(low, node, low.value(node.inputs[0]), POW, float(exponents.flat[0]))
        return
    if several and not is_positive(node.inputs[0]):
        raise unsupported(node, "its exponents differ, and what they are applied to may be zero or negative")
    if base is not None and not (base > 0).all():
        raise unsupported(node, "the power of a constant that is not positive")
    binary(POW)(low, node)


def cast(low: Lowering, node: Node) -> None:
    """Nothing where no value changes, whole numbers being floats in ncnn; else what is behind the point is cut off."""
    source, before = low.input(node, 0), np.dtype(node.inputs[0].dtype)
    kind = element_type(node.attrs.get("to")) if node.op == "Cast" else np.dtype(node.inputs[1].dtype)
    wide = kind in (np.dtype(np.int32), np.dtype(np.int64))
    if kind is not None and (kind.kind == "f" or (before.kind in "iub" and (wide or np.can_cast(before, kind)))):
        low.alias(node.outputs[0], source, node)
    elif wide and before.kind == "f":
        low.emit(node, "UnaryOp", [source], source.dims, {0: TRUNC}, to=node.outputs[0])
    else:
        raise unsupported(node, f"from {before} to {kind or 'a type that numpy lacks'}")


def _broadcast(a: Dims, b: Dims) -> Dims:
    if len(a) != len(b):
        return max(a, b, key=len)
    return tuple(max(x, y) for x, y in zip(a, b, strict=True))


def operands(low: Lowering, node: Node, left: Tensor, right: Tensor, out_shape: tuple[int, ...]) -> tuple[Value, Value]:
    """Both operands in blobs of one rank, with ones where numpy broadcasts (ncnn's implicit rule is the opposite).

    The one exception is a blob of channels only against a feature map, which ncnn broadcasts as meant.
    """
    rank = len(out_shape)
    shapes = [padded(shape_of(tensor, node), rank) for tensor in (left, right)]
    tensors = [left, right]
    order = [0, 1]
    if constant_of(left) is not None or (constant_of(right) is None and _prefers(low, right, left)):
        order = [1, 0]
    for lead in order:
        if shapes[lead] != out_shape or constant_of(tensors[lead]) is not None:
            continue
        value = low.value(tensors[lead])
        other = 1 - lead
        dims = broadcast_dims(out_shape, value.dims, shapes[other])
        if dims is not None:
            pair = {lead: value, other: _placed(low, tensors[other], shapes[other], dims)}
            return pair[0], pair[1]
    keys = [(a != 1, b != 1) for a, b in zip(*shapes, strict=True)]
    grouped = regrouped(out_shape, keys, ())
    if grouped is None:
        raise unsupported(node, f"broadcasting {shapes[0]} with {shapes[1]} needs more than 4 dimensions")
    pair = {}
    for index, tensor in enumerate(tensors):
        dims = broadcast_dims(out_shape, grouped[0], shapes[index])
        assert dims is not None
        pair[index] = _placed(low, tensor, shapes[index], dims)
    return pair[0], pair[1]


def _prefers(low: Lowering, a: Tensor, b: Tensor) -> bool:
    """Whether `a`'s blob shows more of its axes than `b`'s: the other one is then reshaped."""
    return len(low.value(a).dims) > len(low.value(b).dims)


def _placed(low: Lowering, tensor: Tensor, shape: tuple[int, ...], dims: Dims) -> Value:
    constant = constant_of(tensor)
    if constant is not None:
        return low.memory(low.tensor_name(tensor), constant, shape, dims)
    value = low.value(tensor)
    if len(dims) == 3 and dims[1:] == (1, 1) and value.dims == dims[:1] and dims[0] > 1:
        return value
    return low.view(value, dims)


def variadic(op: int, *, mean: bool = False) -> Lower:
    """Sum, Mean, Min and Max of any number of operands, as a chain."""

    def lower(low: Lowering, node: Node) -> None:
        count = len(node.inputs)
        if count == 2 and not mean:
            binary(op)(low, node)
            return
        out_shape = shape_of(node.outputs[0], node)
        if any(constant_of(tensor) is not None or shape_of(tensor) != out_shape for tensor in node.inputs):
            raise unsupported(node, "more than two operands of different shapes")
        total = low.value(node.inputs[0])
        for index, tensor in enumerate(node.inputs[1:], start=1):
            last = index == count - 1 and not mean
            other = low.view(low.value(tensor), total.dims)
            total = low.emit(
                node, "BinaryOp", [total, other], total.dims, {0: op},
                to=node.outputs[0] if last else None, suffix=f"/{index}",
            )  # fmt: skip
        if mean:
            _with_scalar(low, node, total, MUL, 1.0 / count)
        elif count == 1:
            low.alias(node.outputs[0], total, node)

    return lower


ELEMENTWISE_OPS: dict[str, Lower] = {
    "Clip": clip,
    "PRelu": prelu,
    "Add": binary(ADD),
    "Sub": binary(SUB),
    "Mul": binary(MUL),
    "Div": binary(DIV),
    "Pow": power,
    "Cast": cast,
    "CastLike": cast,
    "Max": variadic(MAX),
    "Min": variadic(MIN),
    "Sum": variadic(ADD),
    "Mean": variadic(ADD, mean=True),
}
