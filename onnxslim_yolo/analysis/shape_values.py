"""What computed shapes say where sizes are open: every number as a multiple of an open size.

`view(b * g, c // g, h, w)` reads b off a Shape, multiplies, and joins. Followed symbolically, an element is a number,
or a number times one open size (the batch, as a rule), or not known. That is enough to write a target down without the
arithmetic, however an exporter spells it: with casts, squeezes, `Where(shape == -1, …)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxslim_yolo.analysis.movement import CannotMoveError, slice_ranges
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, has_input, input_constant, producer
from onnxslim_yolo.ops.movement import tells_sizes


@dataclass(frozen=True)
class Size:
    """`factor`, times the open size called `of` if that is not empty."""

    factor: int
    of: str = ""


Sizes = list[Size | None]
"""The elements of an integer tensor, flat; None where not known."""

DEPTH = 40
"""How many nodes deep a shape is followed."""

_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)

LONGEST = 64
"""No tensor with more elements is a shape."""


def sizes_of(tensor: Tensor, depth: int = DEPTH) -> Sizes | None:
    """What an integer tensor says; None if it is no shape arithmetic at all."""
    value = constant_of(tensor)
    if value is not None:
        if value.dtype.kind not in "iub" and not (value.dtype.kind == "f" and (value == np.round(value)).all()):
            return None
        return [Size(int(v)) for v in value.reshape(-1)] if value.size <= LONGEST else None
    node = producer(tensor)
    if node is None or depth == 0 or node.domain not in (None, "", "ai.onnx"):
        return None
    rule = _RULES.get(node.op)
    return None if rule is None else rule(node, depth - 1)


def known_sizes(
    tensor: Tensor, types: Mapping[str, onnx.TypeProto], named: Mapping[str, int] | None = None
) -> list[int] | None:
    """The numbers of a computed vector of sizes; None where one is not known.

    Open sizes are as inferred elsewhere, or what `named` says that they are taken as (the batch).
    """
    found = sizes_of(tensor)
    numbers = [None if size is None else _number(size, types, named or {}) for size in found or [None]]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(size: Size, types: Mapping[str, onnx.TypeProto], named: Mapping[str, int]) -> int | None:
    if not size.of:
        return size.factor
    if size.of in named:
        return size.factor * named[size.of]
    name, _, axis = size.of.rpartition(":")
    kind = types.get(name)
    if kind is None or not kind.tensor_type.HasField("shape") or not axis.isdigit():
        return None
    dim = kind.tensor_type.shape.dim[int(axis)]
    return size.factor * dim.dim_value if dim.HasField("dim_value") else None


def dims_of(tensor: Tensor) -> Sizes | None:
    """A tensor's shape; sizes that inference could not name are known by the tensor they are of."""
    if tensor.shape is None:
        return None
    found: Sizes = []
    for axis, dim in enumerate(tensor.shape):
        if isinstance(dim, (int, np.integer)):
            found.append(Size(int(dim)) if dim >= 0 else Size(1, f"{tensor.name}:{axis}"))
        else:
            found.append(Size(1, f"{tensor.name}:{axis}" if str(dim).startswith("unk_") else str(dim)))
    return found


Rule = Callable[[Node, int], Sizes | None]


def _shape(node: Node, depth: int) -> Sizes | None:
    dims = dims_of(node.inputs[0])
    if dims is None:
        return None
    return dims[slice(attribute(node, "start"), attribute(node, "end"))]


def _same(node: Node, depth: int) -> Sizes | None:
    return sizes_of(node.inputs[0], depth)


def _concat(node: Node, depth: int) -> Sizes | None:
    parts = [sizes_of(part, depth) for part in node.inputs]
    lengths = [part.shape[0] if part.shape is not None and len(part.shape) == 1 else None for part in node.inputs]
    joined: Sizes = []
    for part, length in zip(parts, lengths, strict=True):
        if part is not None:
            joined += part
        elif isinstance(length, (int, np.integer)):
            joined += [None] * int(length)
        else:
            return None
    return joined if len(joined) <= LONGEST else None


def _gather(node: Node, depth: int) -> Sizes | None:
    data, indices = sizes_of(node.inputs[0], depth), input_constant(node, 1)
    if data is None or indices is None or np.any((indices >= len(data)) | (indices < -len(data))):
        return None
    return [data[int(i)] for i in indices.reshape(-1)]


def _slice(node: Node, depth: int) -> Sizes | None:
    data = sizes_of(node.inputs[0], depth)
    if data is None:
        return None
    try:
        return [data[i] for i in slice_ranges(node, (len(data),)).get(0, range(len(data)))]
    except (CannotMoveError, ValueError):
        return None


def _binary(function: Callable[[Size, Size], Size | None]) -> Rule:
    def rule(node: Node, depth: int) -> Sizes | None:
        first, second = (sizes_of(tensor, depth) for tensor in node.inputs[:2])
        if first is None or second is None or (1 not in (len(first), len(second)) and len(first) != len(second)):
            return None
        count = max(len(first), len(second)) if first and second else 0
        if not count:
            return []
        pairs = zip(first * (count // len(first)), second * (count // len(second)), strict=True)
        return [None if a is None or b is None else function(a, b) for a, b in pairs]

    return rule


def _multiply(a: Size, b: Size) -> Size | None:
    return None if a.of and b.of else Size(a.factor * b.factor, a.of or b.of)


def _divide(a: Size, b: Size) -> Size | None:
    if b.factor == 0 or a.factor % b.factor or (b.of and b.of != a.of):
        return None
    return Size(a.factor // b.factor, "" if b.of else a.of)


def _divide_whole(a: Size, b: Size) -> Size | None:
    """Whole numbers are cut off, as `chunk` counts on: (channels + 1) / 2."""
    if b.factor == 0 or a.of or b.of:
        return _divide(a, b)
    return Size(int(a.factor / b.factor))


def _quotient(node: Node, depth: int) -> Sizes | None:
    return _binary(_divide_whole if _are_whole(node.inputs[0], depth) else _divide)(node, depth)


def _are_whole(tensor: Tensor, depth: int) -> bool:
    """Whether a tensor is known to hold whole numbers by its type; False where nothing says it."""
    if tensor.dtype is not None:
        return np.dtype(tensor.dtype).kind in "iu"
    node = producer(tensor)
    if node is None or depth == 0 or node.op == "Cast":
        return node is not None and node.op == "Cast" and attribute(node, "to") in _WHOLE
    return tells_sizes(node) or (node.op in _RULES and _are_whole(node.inputs[0], depth - 1))


def _add(a: Size, b: Size) -> Size | None:
    return Size(a.factor + b.factor, a.of) if a.of == b.of else None


def _subtract(a: Size, b: Size) -> Size | None:
    return _add(a, Size(-b.factor, b.of))


def _equal(a: Size, b: Size) -> Size | None:
    if a.of == b.of:
        return Size(int(a.factor == b.factor))
    known, open_ = (a, b) if not a.of else (b, a)
    # An open size is at least one.
    return Size(0) if not known.of and known.factor < 0 < open_.factor else None


def _where(node: Node, depth: int) -> Sizes | None:
    condition, first, second = (sizes_of(tensor, depth) for tensor in node.inputs[:3])
    if condition is None or first is None or second is None:
        return None
    count = max(len(condition), len(first), len(second))
    if any(len(part) not in (1, count) for part in (condition, first, second)):
        return None
    wide = [part * (count // len(part)) for part in (condition, first, second)]
    return [None if c is None else (a if c.factor else b) for c, a, b in zip(*wide, strict=True)]


def _constant_of_shape(node: Node, depth: int) -> Sizes | None:
    shape = sizes_of(node.inputs[0], depth)
    if shape is None or any(size is None or size.of for size in shape):
        return None
    count = int(np.prod([size.factor for size in shape if size is not None]))
    value = node.attrs.get("value")
    filled = 0 if value is None else np.asarray(getattr(value, "values", value)).reshape(-1)[0]
    return [Size(int(filled))] * count if count <= LONGEST and filled == int(filled) else None


def _product(node: Node, depth: int) -> Sizes | None:
    data = sizes_of(node.inputs[0], depth)
    total: Size | None = Size(1)
    for size in data or [None]:
        total = None if total is None or size is None else _multiply(total, size)
    return None if has_input(node, 1) and constant_of(node.inputs[1]) is None else [total]


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    **dict.fromkeys(("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Floor", "Ceil"), _same),
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Mul": _binary(_multiply),
    "Div": _quotient,
    "Add": _binary(_add),
    "Sub": _binary(_subtract),
    "Equal": _binary(_equal),
    "Where": _where,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _product,
}
