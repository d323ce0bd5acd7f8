"""A float16 graph computed in float32: what its weights mean without the rounding of every step between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, copy_graph, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.registry import writes_codes

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def is_half(model: Model) -> bool:
    """Whether something of the graph is float16."""
    return any(is_half_tensor(tensor) for tensor in tensors(model.graph))


def in_float32(model: Model) -> Model:
    """A copy in which everything that is float16 is float32: weights keep their values, casts cast to float32."""
    graph = copy_graph(model.graph)
    half = [tensor for tensor in tensors(graph) if is_half_tensor(tensor)]
    for tensor in half:
        if isinstance(tensor, gs.Constant):
            tensor.values = np.asarray(tensor.values).astype(np.float32)
        else:
            tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        for name, value in node.attrs.items():
            if name in ("to", "dtype") and not writes_codes(node):
                node.attrs[name] = _single(value)
            elif isinstance(value, gs.Constant) and is_half_tensor(value):
                node.attrs[name] = gs.Constant(value.name, np.asarray(value.values).astype(np.float32))
    return Model(graph=graph, metadata=dict(model.metadata), source=model.source)


def feeds_in_float32(feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Inputs for `in_float32`: the same numbers."""
    return [{name: _wide(value) for name, value in feed.items()} for feed in feeds]


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def is_half_tensor(tensor: gs.Tensor) -> bool:
    """Whether a tensor is known to be float16."""
    try:
        return tensor.dtype is not None and bool(np.dtype(tensor.dtype) == np.float16)
    except TypeError:  # a type that numpy lacks
        return False


def _single(value: object) -> object:
    if isinstance(value, (int, np.integer)):
        return _FLOAT if int(value) == _HALF else value
    try:
        return np.float32 if np.dtype(value) == np.float16 else value  # type: ignore[call-overload]
    except TypeError:
        return value
