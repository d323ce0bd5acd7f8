"""Adjoints of operators that move, pick or repeat elements: the table `MOVEMENTS`, one row an operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, Cotangents, Found, Rule, given, refusal, shape_of
from onnxslim_yolo.analysis.movement import CannotMoveError, pad_widths, slice_ranges
from onnxslim_yolo.ir.attributes import attribute, permutation
from onnxslim_yolo.ir.graph import Array, Node, input_constant, is_constant


def _same(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    return {0: given(values)}


def _reshape(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    return {0: adjoint.reshape(given(values), shape_of(node.inputs[0]))}


def _transpose(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    rank = len(shape_of(node.inputs[0]))
    perm = permutation(node, rank)
    return {0: adjoint.add("Transpose", [given(values)], perm=[perm.index(k) for k in range(rank)])}


def _concat(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    axis = int(attribute(node, "axis")) % len(shape_of(node.outputs[0]))
    ends = np.cumsum([shape_of(tensor)[axis] for tensor in node.inputs]).tolist()
    starts = [0, *ends[:-1]]
    return {k: adjoint.sliced(given(values), axis, a, b) for k, (a, b) in enumerate(zip(starts, ends, strict=True))}


def _split(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    axis = int(attribute(node, "axis")) % len(shape_of(node.inputs[0]))
    parts = [
        np.zeros(shape_of(tensor), dtype=np.float32) if value is None else value
        for tensor, value in zip(node.outputs, values, strict=True)
    ]
    return {0: adjoint.add("Concat", parts, axis=axis)}


def _slice(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape, value = shape_of(node.inputs[0]), given(values)
    try:
        ranges = slice_ranges(node, shape)
    except CannotMoveError as error:
        raise refusal(node, "its bounds are not constant") from error
    for axis, taken in ranges.items():
        value = _put_back(adjoint, value, axis, np.asarray(taken), shape[axis])
    return {0: value}


def _gather(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    indices = input_constant(node, 1)
    shape = shape_of(node.inputs[0])
    axis = int(attribute(node, "axis")) % len(shape)
    if indices is None:
        raise refusal(node, "its indices are not constant")
    value = given(values)
    if indices.ndim != 1:
        value = adjoint.reshape(value, (*shape[:axis], indices.size, *shape[axis + 1 :]))
    return {0: _put_back(adjoint, value, axis, indices.reshape(-1) % shape[axis], shape[axis])}


def _put_back(adjoint: Adjoint, value: Any, axis: int, picked: Array, size: int) -> Any:
    """The adjoint of picking along an axis: every position gets the sum of what was picked from it."""
    if np.array_equal(picked, np.arange(size)):
        return value
    rounds: list[Any] = []
    left = np.arange(len(picked))
    zero = adjoint.add("Mul", [adjoint.sliced(value, axis, 0, 1), np.asarray(0.0)])
    padded = adjoint.add("Concat", [value, zero], axis=axis)
    while len(left):
        _, first = np.unique(picked[left], return_index=True)
        where = np.full(size, len(picked))
        where[picked[left[first]]] = left[first]
        rounds.append(adjoint.add("Gather", [padded, where], axis=axis))
        left = np.delete(left, first)
    return rounds[0] if len(rounds) == 1 else adjoint.add("Sum", rounds)


def _expand(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    return {0: adjoint.to_shape_of(given(values), shape_of(node.inputs[0]), shape_of(node.outputs[0]))}


def _tile(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Each axis is `repeats` times its positions: the sum over the repeats."""
    shape, repeats = shape_of(node.inputs[0]), input_constant(node, 1)
    if repeats is None or repeats.size != len(shape):
        raise refusal(node, "its repeats are not constant")
    apart = [number for pair in zip(repeats.tolist(), shape, strict=True) for number in pair]
    summed = adjoint.sum_over(adjoint.reshape(given(values), apart), list(range(0, len(apart), 2)))
    return {0: adjoint.reshape(summed, shape)}


def _depth_to_space(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """(n, c·b², h, w) → (n, c, h·b, w·b): in DCR the block's positions come before the channels, in CRD behind them."""
    (n, channels, height, width), block = shape_of(node.inputs[0]), int(attribute(node, "blocksize"))
    apart = adjoint.reshape(given(values), (n, channels // block**2, height, block, width, block))
    order = [0, 3, 5, 1, 2, 4] if attribute(node, "mode") == "DCR" else [0, 1, 3, 5, 2, 4]
    return {0: adjoint.reshape(adjoint.add("Transpose", [apart], perm=order), (n, channels, height, width))}


def _space_to_depth(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    return {0: adjoint.add("DepthToSpace", [given(values)], blocksize=int(attribute(node, "blocksize")))}


def _where(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    wide, zero, value = shape_of(node.outputs[0]), np.asarray(0.0), given(values)
    sides = {1: [node.inputs[0], value, zero], 2: [node.inputs[0], zero, value]}
    return {
        index: adjoint.to_shape_of(adjoint.add("Where", operands), shape_of(node.inputs[index]), wide)
        for index, operands in sides.items()
        if not is_constant(node.inputs[index])
    }


def _cast(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    kinds = [None if tensor.dtype is None else np.dtype(tensor.dtype) for tensor in (*node.inputs, *node.outputs)]
    if any(kind is None or kind.kind != "f" for kind in kinds):
        raise refusal(node, "only from one floating-point type to another there is a slope")
    return {0: given(values)}


def _pad(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape = shape_of(node.inputs[0])
    try:
        widths = pad_widths(node, len(shape))
    except CannotMoveError as error:
        raise refusal(node, "its pads are not constant") from error
    if attribute(node, "mode") != "constant" or min(map(min, widths)) < 0:
        raise refusal(node, "only constant padding outwards is known")
    value = given(values)
    for axis, (before, _) in enumerate(widths):
        value = adjoint.sliced(value, axis, before, before + shape[axis])
    return {0: value}


def _gather_elements(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Positions that are computed (the best queries): what was picked goes back to where it was, summed."""
    if adjoint.graph.opset < 16:
        raise refusal(node, "before opset 16 nothing is summed where it came from")
    zeros, axis = np.zeros(shape_of(node.inputs[0]), dtype=np.float32), int(attribute(node, "axis"))
    return {0: adjoint.add("ScatterElements", [zeros, node.inputs[1], given(values)], axis=axis, reduction="add")}


MOVEMENTS: dict[str, Rule] = {
    "Identity": _same,
    "Dropout": _same,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Where": _where,
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Pad": _pad,
}
