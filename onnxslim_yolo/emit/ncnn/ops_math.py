"""Operators that combine elements along axes: Softmax, reductions and matrix products."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Param
from onnxslim_yolo.emit.ncnn.layout import Dims, dim_of_axis, permute_order, regrouped
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, Value, int_list, normal_axis, unsupported
from onnxslim_yolo.emit.ncnn.ops_elementwise import SQUARE, UNARY
from onnxslim_yolo.emit.ncnn.ops_nn import emit_global_pool, linear
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import attribute, is_computed, operand
from onnxslim_yolo.ir.graph import Node, input_constant
from onnxslim_yolo.ops.reductions import REDUCTIONS


def softmax(low: Lowering, node: Node) -> None:
    """Softmax over one axis; before opset 13 over all axes from `axis` on (but not our own SoftmaxAxis)."""
    source = low.input(node, 0)
    old = low.graph.opset < 13 and node.op != "SoftmaxAxis"
    axis = normal_axis(node, int(attribute(node, "axis")), len(source.shape))
    if old and any(extent != 1 for extent in source.shape[axis + 1 :]):
        size = int(np.prod(source.shape[axis:], dtype=np.int64))
        rows = int(np.prod(source.shape[:axis], dtype=np.int64))
        source, dim = low.view(source, (rows, size)), 1
    else:
        source, where = low.showing(node, source, [axis])
        dim = where[axis]
    log = node.op == "LogSoftmax"
    to = None if log else node.outputs[0]
    result = low.emit(node, "Softmax", [source], source.dims, {0: dim, 1: 1}, to=to, suffix="/softmax" if log else "")
    if log:
        low.emit(node, "UnaryOp", [result], result.dims, {0: 8}, to=node.outputs[0])


def reduce(operation: int, single: int | None = None) -> Lower:
    """Reduction. `single`: the UnaryOp that one element undergoes, if any. Means over all pixels are a pooling."""

    def lower(low: Lowering, node: Node) -> None:
        source, output = low.input(node, 0), node.outputs[0]
        rank = len(source.shape)
        axes = _axes(node, rank)
        real = [axis for axis in axes if source.shape[axis] != 1]
        if not real:
            if single is None:
                low.alias(output, source, node)
            else:
                low.emit(node, "UnaryOp", [source], source.dims, {0: single}, to=output)
            return
        pooled = {4: 0, 3: 1}.get(operation)
        if pooled is not None and rank >= 3 and source.shape[0] == 1 and set(axes) | {0} == {0, *range(2, rank)}:
            emit_global_pool(low, node, source, pooled)
            return
        found = {axis: dim_of_axis(source.shape, source.dims, axis) for axis in real}
        dims = sorted(dim for dim in found.values() if dim is not None)
        if len(dims) < len(real):
            keys = [axis in real for axis in range(rank)]
            grouped = regrouped(source.shape, keys, ())
            if grouped is None:
                raise unsupported(node, f"reducing axes {axes} of a tensor of shape {source.shape}")
            source = low.view(source, grouped[0])
            dims = sorted({grouped[1][axis] for axis in real})
        reduced = tuple(1 if dim in dims else extent for dim, extent in enumerate(source.dims))
        params: dict[int, Param] = {0: operation, 1: 0, 3: dims, 4: 1, 5: 1}
        low.emit(node, "Reduction", [source], reduced, params, to=output)

    return lower


def _axes(node: Node, rank: int) -> list[int]:
    if is_computed(node, "axes"):
        raise unsupported(node, "its axes are computed")
    given = operand(node, "axes")
    axes = [] if given is None else int_list(given)
    if not axes:
        if attribute(node, "noop_with_empty_axes"):
            raise unsupported(node, "no axes")
        return list(range(rank))
    return sorted(normal_axis(node, axis, rank) for axis in axes)


def matmul(low: Lowering, node: Node) -> None:
    """MatMul; a constant right matrix makes it an InnerProduct. All leading axes are one batch dim."""
    right = input_constant(node, 1)
    out_shape = shape_of(node.outputs[0], node)
    if right is not None and right.ndim == 2:
        linear(low, node, low.input(node, 0), np.ascontiguousarray(right.T), None)
        return
    a, b = low.input(node, 0), low.input(node, 1)
    if min(len(a.shape), len(b.shape)) < 2:
        raise unsupported(node, f"operands of shapes {a.shape} and {b.shape}")
    batch = int(np.prod(out_shape[:-2], dtype=np.int64))
    lead = _batch_dims(a, b, batch)
    views = [_matrix(low, node, value, lead) for value in (a, b)]
    params: dict[int, Param] = {}
    swapped = _transposed_source(low, views[1])
    if swapped is not None:
        views[1], params = swapped, {0: 1}
    low.emit(node, "MatMul", views, (*lead, *out_shape[-2:]), params, to=node.outputs[0])


def _batch_dims(a: Value, b: Value, batch: int) -> Dims:
    """The batch dims that spare most reshapes: those of an operand whose last two dims are its matrix, else one."""
    for value in (a, b):
        if len(value.dims) > 3 and value.dims[-2:] == value.shape[-2:] and int(np.prod(value.dims[:-2])) == batch:
            return value.dims[:-2]
    return () if batch == 1 else (batch,)


def _matrix(low: Lowering, node: Node, value: Value, lead: Dims) -> Value:
    """The operand as matrices in these batch dims; a batch of one is broadcast."""
    count, batch = int(np.prod(value.shape[:-2], dtype=np.int64)), int(np.prod(lead, dtype=np.int64))
    if count not in (1, batch):
        raise unsupported(node, f"broadcasting the batch of {value.shape}")
    return low.view(value, (*(lead if count == batch else (1,) * len(lead)), *value.shape[-2:]))


def _transposed_source(low: Lowering, value: Value) -> Value | None:
    """What the value is the transpose of, if a Permute swaps just its last two dims."""
    layer = low.producer(value)
    rank = len(value.dims)
    if layer.type != "Permute" or rank < 2:
        return None
    swap = permute_order((*range(rank - 2), rank - 1, rank - 2))
    if layer.params[0] != swap:
        return None
    return low.named(layer.inputs[0], (*value.dims[:-2], value.dims[-1], value.dims[-2]))


ONE = {**UNARY, "Square": SQUARE}
"""What a single element undergoes."""

MATH_OPS: dict[str, Lower] = {
    "Softmax": softmax,
    "SoftmaxAxis": softmax,
    "LogSoftmax": softmax,
    **{op: reduce(row.ncnn, ONE.get(row.one or "")) for op, row in REDUCTIONS.items()},
    "MatMul": matmul,
}
