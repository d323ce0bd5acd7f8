"""Which tensors are provably non-negative, or even positive."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, is_constant, producer
from onnxslim_yolo.ops.arithmetic import ARITHMETIC, is_clip, is_greatest, is_sum
from onnxslim_yolo.ops.functions import FUNCTIONS, is_root
from onnxslim_yolo.ops.movement import OF_ONE, is_cast, is_expand, is_join, is_pad, is_view
from onnxslim_yolo.ops.norms import NORMS
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.spatial import POOLS, is_resize

_FLOORS = {op: row.floor for rows in (FUNCTIONS, NORMS, REDUCTIONS) for op, row in rows.items()}
POSITIVE_OPS = frozenset(op for op, floor in _FLOORS.items() if floor is not None and floor >= 0)
"""No negative output, whatever the input."""

_OF_ALL = frozenset(op for op, row in ARITHMETIC.items() if row.keeps_sign)
_OF_FIRST = frozenset(
    (*POOLS, *(op for op, row in REDUCTIONS.items() if row.keeps_sign), *OF_ONE),
)
"""No negative output if no operand is negative, or not their first."""


def is_nonnegative(tensor: Tensor, depth: int = 32) -> bool:
    """Whether no element can be negative. False means not known. `depth` bounds how many nodes are looked through."""
    if is_constant(tensor):
        values = constant_of(tensor)
        return values is not None and bool((values >= 0).all())
    node = producer(tensor)
    if node is None or depth <= 0:
        return False
    if node.op in POSITIVE_OPS:
        return True
    if is_greatest(node) and any(is_nonnegative(tensor, 1) for tensor in node.inputs):
        return True
    if is_clip(node):
        low = _minimum(node)
        return (low is not None and low >= 0) or is_nonnegative(node.inputs[0], depth - 1)
    if is_pad(node) or is_resize(node):
        return _keeps(node) and is_nonnegative(node.inputs[0], depth - 1)
    if is_cast(node) or not (node.op in _OF_ALL | _OF_FIRST or is_join(node)):
        return False  # a cast may wrap around
    inputs = node.inputs[:1] if node.op in _OF_FIRST else node.inputs
    return all(is_nonnegative(data, depth - 1) for data in inputs)


def is_positive(tensor: Tensor) -> bool:
    """Whether every element is above zero: a positive constant, a floor of one, or one added to what is not negative.

    Exp and the like are not counted: they underflow to zero.
    """
    if is_constant(tensor):
        values = constant_of(tensor)
        return values is not None and values.size > 0 and bool((values > 0).all())
    node = producer(tensor)
    if node is None:
        return False
    if is_sum(node):
        return any(is_positive(t) for t in node.inputs if is_constant(t)) and all(map(is_nonnegative, node.inputs))
    if is_greatest(node):
        return any(is_positive(t) for t in node.inputs if is_constant(t))
    if is_root(node) or is_view(node) or is_expand(node):
        return is_positive(node.inputs[0])
    row = FUNCTIONS.get(node.op)
    low = _minimum(node) if is_clip(node) else None if row is None else row.floor
    return low is not None and low > 0


def _minimum(node: Node) -> float | None:
    """A Clip's lower bound, if it is known."""
    low = operand(node, "min")
    return None if low is None or np.size(low) != 1 else float(np.reshape(low, ()))


def _keeps(node: Node) -> bool:
    """Whether a Pad or Resize invents nothing negative: cubic interpolation overshoots, and a Pad may hold anything."""
    if is_pad(node):
        value = operand(node, "constant_value")
        return value is not None and bool((value >= 0).all())
    return attribute(node, "mode") in ("nearest", "linear")
