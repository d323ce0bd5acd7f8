"""Operands that contribute nothing, or the same at every position, and rows that nobody needs. Used by `drop-dead`.

1. x + 0 is x, x − 0 too: the operand goes, and with it everything that nobody else reads.
2. An operand that is exactly a constant per channel, at every position and for every input, becomes that constant, in
   sums, differences, products and quotients. Where zero padding makes borders differ it is no such constant.
3. A row of a linear layer that nobody needs becomes zero, so that what it alone reads is read by nobody.

Conditions of 1 and 2: the other operand has the result's shape, so that nothing is broadcast by what goes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.analysis.needed import NeededChannels
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    bypass,
    input_constant,
    is_constant,
    nodes_of,
    producer,
    revalue,
    set_input,
)
from onnxslim_yolo.ir.origins import ADDED, set_origin
from onnxslim_yolo.ops.arithmetic import ARITHMETIC, is_difference, is_product, is_quotient, is_sum
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer
from onnxslim_yolo.ops.norms import NORMS

MayGo = Callable[[Tensor], bool]
"""Whether what computes a tensor may be left out."""


def drop_operands(graph: gs.Graph, moments: MomentAnalysis, may_go: MayGo) -> int:
    """Cases 1 and 2. What nobody reads any more stays until `sweep`. Returns the number of operands."""
    name = Namer(graph)
    return sum(_drop_one(graph, node, moments, may_go, name) for node in nodes_of(graph, *ARITHMETIC))


def _drop_one(graph: gs.Graph, node: Node, moments: MomentAnalysis, may_go: MayGo, name: Namer) -> int:
    if constant_value(moments, node.outputs[0]) is not None:
        return 0  # what reads the result has it whole
    values = [constant_value(moments, tensor) for tensor in node.inputs]
    gone = [k for k, value in enumerate(values) if value is not None and may_go(node.inputs[k])]
    left = [tensor for k, tensor in enumerate(node.inputs) if k not in gone]
    if not gone or not any(_same_shape(tensor, node.outputs[0]) for tensor in left):
        return 0
    zeros = [k for k in gone if not np.any(values[k]) and (is_sum(node) or (is_difference(node) and k == 1))]
    for k in gone:
        value = values[k]
        if k not in zeros and value is not None:
            set_input(node, k, _constant(node, k, value, name))
    if not zeros:
        return len(gone)
    node.inputs = [tensor for k, tensor in enumerate(node.inputs) if k not in zeros]
    if len(node.inputs) == 1:
        bypass(graph, node)
    return len(gone)


def constant_value(moments: MomentAnalysis, tensor: Tensor) -> Array | None:
    """What a computed tensor is at every position and for every input; None where it varies or is not known."""
    if is_constant(tensor) or producer(tensor) is None or tensor.dtype is None or tensor.shape is None:
        return None
    if not np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return None
    found = moments.of(tensor)
    known = found.exact.all() and np.isfinite(found.mean).all() and found.mean.ndim == len(tensor.shape)
    value = found.mean.astype(tensor.dtype) if known else None
    return value if value is not None and np.isfinite(value).all() else None


def _constant(node: Node, index: int, value: Array, name: Namer) -> gs.Constant:
    constant = gs.Constant(name(f"{node.inputs[index].name}_constant"), value)
    set_origin(constant, ADDED)
    return constant


def _same_shape(tensor: Tensor, result: Tensor) -> bool:
    """Whether a tensor has the result's shape, whatever a symbolic batch is called."""
    if tensor.shape is None or result.shape is None or len(tensor.shape) != len(result.shape):
        return False
    pairs = list(zip(tensor.shape, result.shape, strict=True))
    numbers = [isinstance(a, (int, np.integer)) for a, _ in pairs]
    return numbers.count(False) <= 1 and all(
        a == b or (not number and not isinstance(b, (int, np.integer)))
        for (a, b), number in zip(pairs, numbers, strict=True)
    )


def clear_rows(graph: gs.Graph, needs: NeededChannels) -> int:
    """Case 3. Returns the number of layers that lost rows."""
    cleared = 0
    for node in nodes_of(graph, *LINEAR):
        layer, needed = LinearLayer.of(node), needs.of(node.outputs[0])
        shape = needs.shape(node.outputs[0])
        if layer is None or not layer.samples_in_place or shape is None or len(node.inputs[1].outputs) != 1:
            continue
        if layer.channel_axis % len(shape) != 1 or needed.size != layer.outputs or needed.all():
            continue
        blocks = layer.stored_blocks
        rows = ~needed.reshape(layer.groups, -1)
        if not blocks[rows].any():
            continue
        revalue(node, 1, layer.stored(np.where(rows[:, :, None, None], 0, blocks).astype(blocks.dtype)))
        cleared += 1
    return cleared


def has_zeros(graph: gs.Graph) -> bool:
    """Whether any weight could make a constant or read nothing: else there is nothing to look for."""
    for node in graph.nodes:
        if is_product(node) or is_quotient(node) or node.op in NORMS:
            values = [input_constant(node, k) for k in range(min(len(node.inputs), 2))]
            if any(v is not None and v.dtype.kind == "f" and v.size and (v == 0).any() for v in values):
                return True
        elif node.op in LINEAR:
            layer = LinearLayer.of(node)
            if layer is not None and _has_zero_line(layer.stored_blocks):
                return True
    return False


def _has_zero_line(blocks: Array) -> bool:
    reads = np.asarray(blocks.any(axis=3))
    return not (reads.any(axis=1).all() and reads.any(axis=2).all())
