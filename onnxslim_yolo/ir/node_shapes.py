"""Shapes node by node: what onnx infers for one node from the shapes and the constants that it reads.

A whole model at once (`shapes`) is inferred only as far as shapes do not depend on computed values. Whoever computes
values on the way asks node by node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxslim_yolo.ir.graph import Node, Tensor, constant_of, is_empty
from onnxslim_yolo.ir.shapes import KEEP_VALUES_BELOW, stand_in


def infer_node(node: Node, proto: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
    """Set the shapes and types of a node's outputs; None where onnx does not know them.

    Args:
        node: the node, whose inputs' shapes are known.
        proto: the same node, as it is exported.
        opsets: of the graph, the default domain's first.
    """
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
            if value is not None and value.size <= KEEP_VALUES_BELOW
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
