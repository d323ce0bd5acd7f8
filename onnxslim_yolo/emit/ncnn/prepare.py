"""A private copy of the graph, made ready for lowering: batch 1, every shape known, constants folded, no-ops gone."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.infer import annotate
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Node, Tensor, bypass, copy_graph, is_graph_output, static_shape, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import SAME, is_cast

NO_OPS = frozenset({*SAME, "CheckpointBreak"})


def prepare(model: Model) -> gs.Graph:
    """A copy of the model's graph with static shapes at batch 1, folded constants and without no-ops.

    Raises:
        UnsupportedError: an input's size is unknown, apart from the batch.
    """
    graph = copy_graph(model.graph)
    graph.nodes = toposort(graph)
    sweep(graph)
    _fix_inputs(graph)
    annotate(graph)
    sweep(graph)
    for node in list(graph.nodes):
        if node.op in NO_OPS and _is_no_op(graph, node):
            bypass(graph, node)
    sweep(graph)
    graph.nodes = toposort(graph)
    return graph


def shape_of(tensor: Tensor, node: Node | None = None) -> tuple[int, ...]:
    """The static shape, constants included.

    Raises:
        UnsupportedError: the shape depends on the input's values.
    """
    shape = tuple(tensor.values.shape) if isinstance(tensor, gs.Constant) else static_shape(tensor)
    if shape is None:
        raise UnsupportedError(
            f"the shape of '{tensor.name}' depends on the input's data; ncnn needs static shapes",
            node=node.name if node is not None else None,
            hint="export the model with fixed sizes, or write ONNX only (--emit onnx)",
        )
    return shape


def _fix_inputs(graph: gs.Graph) -> None:
    for tensor in graph.inputs:
        shape = list(tensor.shape) if tensor.shape is not None else None
        if shape and not isinstance(shape[0], (int, np.integer)):
            shape[0] = 1
        if shape is None or any(not isinstance(dim, (int, np.integer)) or dim <= 0 for dim in shape):
            raise UnsupportedError(
                f"input '{tensor.name}' has the shape {shape}; ncnn needs every size but the batch",
                hint="give the size with --imgsz, or export the model with fixed sizes",
            )
        if shape[:1] != [1] and len(shape) != 4:
            raise UnsupportedError(
                f"input '{tensor.name}' has the shape {tuple(shape)}; ncnn takes what stands behind a batch axis of 1",
                hint="export the model with a batch of 1 in front, as (1, c, h, w)",
            )
        if shape[0] != 1:
            raise UnsupportedError(
                f"input '{tensor.name}' has batch {shape[0]}; ncnn has no batch dimension",
                hint="export the model with batch 1 or a dynamic batch",
            )
        tensor.shape = [int(dim) for dim in shape]


def _is_no_op(graph: gs.Graph, node: Node) -> bool:
    if is_cast(node):
        return _is_float(node.inputs[0].dtype) and _is_float(node.outputs[0].dtype)
    return not any(tensor.outputs or is_graph_output(graph, tensor) for tensor in node.outputs[1:])


def _is_float(dtype: object) -> bool:
    try:
        return bool(np.issubdtype(np.dtype(dtype), np.floating))  # type: ignore[call-overload]
    except TypeError:
        return False
