"""Where a constant per channel that a tensor lacks can be given back, exactly: in the layers that read it.

A tensor that becomes x where it was x + c loses c at every place it reaches. With W·c what a layer without padding
makes of c,

1. a layer that reads it gives it back by W·c in its outputs: in its bias, or the mean of the norm behind it;
2. a sum, an identity and a maximum over a window pass c on; a Concat passes it on beside zeros, a Split in parts.

At any other place (a layer that pads, an activation, an output) it is not exact, and nothing of it is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, is_graph_output
from onnxslim_yolo.ops.arithmetic import is_sum
from onnxslim_yolo.ops.linear import LinearLayer, is_steady, matrix_of
from onnxslim_yolo.ops.movement import is_identity, is_join, is_split
from onnxslim_yolo.ops.spatial import is_max_pool

Shifts = list[tuple[Node, Array]]
"""Layers, and what each has to yield more per output channel, before a Gemm's α."""


def carriers(graph: gs.Graph, tensor: Tensor, constant: Array) -> Shifts | str:
    """The layers that can give a constant back, in the graph's order; or where that cannot be done.

    Args:
        tensor: (n, channels, …), what lacks the constant. constant: (channels,).
    """
    lacking: dict[int, Array] = {id(tensor): np.asarray(constant, np.float64)}
    found: Shifts = []
    if is_graph_output(graph, tensor):
        return f"'{tensor.name}' is returned"
    for node in graph.nodes:
        if not any(id(t) in lacking for t in node.inputs):
            continue
        shift = _shift(node, lacking)
        if shift is not None:
            found.append((node, shift))
            continue
        passed = _passed(node, lacking)
        if passed is None:
            return f"'{node.name}' ({node.op}) does more with it than multiply"
        if any(is_graph_output(graph, output) for output in node.outputs):
            return f"'{node.outputs[0].name}' is returned"
        lacking |= {id(output): value for output, value in zip(node.outputs, passed, strict=True)}
    return found if consumers(tensor) else f"nothing reads '{tensor.name}'"


def _shift(node: Node, lacking: dict[int, Array]) -> Array | None:
    """What a layer has to yield more; None where it is no layer, or one that pads."""
    layer = LinearLayer.of(node)
    only = [k for k, tensor in enumerate(node.inputs) if id(tensor) in lacking] == [0]
    if layer is None or not only or not is_steady(node) or layer.channel_axis != 1 or layer.has_computed_bias:
        return None
    return np.asarray(matrix_of(layer) @ lacking[id(node.inputs[0])])


def _passed(node: Node, lacking: dict[int, Array]) -> list[Array] | None:
    """What each output of a node lacks; None where that is no constant per channel."""
    values = [lacking.get(id(tensor)) for tensor in node.inputs]
    if is_sum(node):
        own = [value for value in values if value is not None]
        same = all(t.shape == node.outputs[0].shape for t, v in zip(node.inputs, values, strict=True) if v is not None)
        return [np.sum(own, axis=0)] if same else None
    if is_identity(node) or (is_max_pool(node) and len(node.outputs) == 1):
        return [value for value in values if value is not None]
    if is_join(node) and attribute(node, "axis") in (1, 1 - len(node.outputs[0].shape or ())):
        sizes = _widths(node.inputs)
        if sizes is None:
            return None
        parts = [np.zeros(size) if value is None else value for size, value in zip(sizes, values, strict=True)]
        return [np.concatenate(parts)]
    if is_split(node) and attribute(node, "axis") in (1, 1 - len(node.inputs[0].shape or ())):
        sizes, whole = _widths(node.outputs), values[0]
        if whole is None or sizes is None or sum(sizes) != len(whole):
            return None
        return np.split(whole, np.cumsum(sizes)[:-1])
    return None


def _widths(tensors: Sequence[Tensor]) -> list[int] | None:
    """How many channels each has; None where that is not said."""
    found = [tensor.shape[1] if tensor.shape else None for tensor in tensors]
    known = [int(size) for size in found if isinstance(size, int)]
    return known if len(known) == len(found) else None
