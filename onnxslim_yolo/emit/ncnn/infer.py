"""Shapes and constants in one pass over the nodes.

onnx infers the shapes of a whole model at once, but only as far as shapes do not depend on computed values. Exports
with dynamic sizes compute most of their shapes (Shape, Gather, Concat, Reshape, block after block), so folding and
inferring would have to alternate once per block. Node by node both are done on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnxslim_yolo.analysis.folding import one_node, run_constants
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, is_empty, is_graph_output, static_shape
from onnxslim_yolo.ir.shapes import skeleton, stand_in
from onnxslim_yolo.ops.movement import tells_shape
from onnxslim_yolo.ops.registry import RANDOM

MAX_FOLDED_ELEMENTS = 1 << 24
DATA_ELEMENTS = 4096
"""Constants up to this size are shown to onnx's inference: shapes, axes, split sizes."""


def annotate(graph: gs.Graph) -> None:
    """Set every tensor's shape and type, and let nodes read constants where values depend on no input.

    The graph must be in topological order. Shapes that depend on data stay None.
    """
    protos = skeleton(graph).graph.node
    opsets = [helper.make_opsetid("", graph.opset)]
    known: dict[int, Tensor] = {}
    for node, proto in zip(list(graph.nodes), protos, strict=True):
        node.inputs = [known.get(id(tensor), tensor) for tensor in node.inputs]
        _infer(node, proto, opsets)
        values = _folded(graph, node, proto, opsets)
        for tensor, value in zip(node.outputs, values, strict=False):
            if not is_graph_output(graph, tensor):
                known[id(tensor)] = gs.Constant(tensor.name, value)


def _infer(node: Node, proto: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
    for tensor in node.outputs:
        tensor.shape = None
    proto = stand_in(proto)
    if not onnx.defs.has(proto.op_type, opsets[0].version, proto.domain):
        return
    schema = onnx.defs.get_schema(proto.op_type, opsets[0].version, proto.domain)
    read = set(proto.input)
    given = {t.name: t for t in node.inputs if not is_empty(t) and t.name in read}.items()
    try:
        types = {name: _type(tensor) for name, tensor in given}
        values = {name: constant_of(tensor) for name, tensor in given}
        data = {
            name: numpy_helper.from_array(value, name)
            for name, value in values.items()
            if value is not None and value.size <= DATA_ELEMENTS
        }
        results = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=list(opsets))
    except (onnx.shape_inference.InferenceError, KeyError, ValueError, RuntimeError):
        results = {}
    for name, tensor in zip(proto.output, node.outputs, strict=False):
        _set(tensor, results.get(name))


def _type(tensor: Tensor) -> onnx.TypeProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    shape = None if tensor.shape is None else [int(n) if isinstance(n, (int, np.integer)) else n for n in tensor.shape]
    return helper.make_tensor_type_proto(kind, shape)


def _set(tensor: Tensor, kind: onnx.TypeProto | None) -> None:
    if kind is None or not kind.HasField("tensor_type"):
        return
    if kind.tensor_type.elem_type:
        tensor.dtype = helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
    if kind.tensor_type.HasField("shape"):
        dims = kind.tensor_type.shape.dim
        tensor.shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def _folded(
    graph: gs.Graph, node: Node, proto: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto]
) -> Sequence[Array]:
    """The node's outputs if they depend on no input of the graph, else nothing."""
    if tells_shape(node) and (shape := static_shape(node.inputs[0])) is not None:
        return [np.asarray(shape[attribute(node, "start") : attribute(node, "end")], dtype=np.int64)]
    given = [constant_of(tensor) for tensor in node.inputs if not is_empty(tensor)]
    constants = [value for value in given if value is not None]
    if node.op in RANDOM or len(constants) < len(given):
        return []
    sizes = [static_shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
    if any(size is not None and np.prod(size, dtype=np.int64) > MAX_FOLDED_ELEMENTS for size in sizes):
        return []
    names = [name for name in proto.input if name]
    return _evaluated(node, proto, opsets, dict(zip(names, constants, strict=True)))


def _evaluated(
    node: Node, proto: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto], feeds: Mapping[str, Array]
) -> Sequence[Array]:
    """The outputs of one node on constants, computed by onnxruntime."""
    try:
        return run_constants(one_node(proto, feeds, opsets), feeds)
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise UnsupportedError(
            f"this {node.op} of constants cannot be computed: {error}",
            node=node.name,
            hint="simplify the model before converting it",
        ) from error
