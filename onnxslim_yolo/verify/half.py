"""A float16 graph computed in float32: what its weights mean without the rounding of every step between them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, copy_graph, input_constant, nodes_of, replace_constant, revalue, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import PLAIN
from onnxslim_yolo.ops.registry import writes_codes
from onnxslim_yolo.verify.columns import Feeds

UNIT = 2.0**-11
"""Of float16: half the distance of 1 to the next number."""

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def is_half(model: Model) -> bool:
    """Whether something of the graph is float16."""
    return any(_half(tensor) for tensor in tensors(model.graph))


def in_float32(model: Model) -> Model:
    """A copy in which everything that is float16 is float32: weights keep their values, casts cast to float32."""
    graph = copy_graph(model.graph)
    half = [tensor for tensor in tensors(graph) if _half(tensor)]
    for tensor in half:
        if isinstance(tensor, gs.Constant):
            tensor.values = np.asarray(tensor.values).astype(np.float32)
        else:
            tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        for name, value in node.attrs.items():
            if name in ("to", "dtype") and not writes_codes(node):
                node.attrs[name] = _single(value)
            elif isinstance(value, gs.Constant) and _half(value):
                node.attrs[name] = gs.Constant(value.name, np.asarray(value.values).astype(np.float32))
    return Model(graph=graph, metadata=dict(model.metadata), source=model.source)


def rounded_again(model: Model, seed: int = 0) -> Model:
    """The same with every float16 weight of a linear layer moved by half its last place, up or down at random.

    So much any fold costs that scales weights (a BatchNorm, a division of the image): they are rounded once more.
    """
    moved = in_float32(model)
    rng = np.random.default_rng(seed)
    was_half = {tensor.name for tensor in tensors(model.graph) if _half(tensor)}
    for node in nodes_of(moved.graph, *PLAIN):
        for index in range(len(node.inputs)):
            value = input_constant(node, index)
            if value is not None and node.inputs[index].name in was_half:
                signs = rng.choice([-UNIT, UNIT], size=value.shape)
                revalue(node, index, (value * (1 + signs)).astype(np.float32))
    return moved


def moved_weights(model: Model, seed: int = 0) -> Model:
    """A copy with every weight of a linear layer and a normalisation moved by its last place, up or down at random."""
    moved = model.copy()
    rng = np.random.default_rng(seed)
    for node in nodes_of(moved.graph, *PLAIN, "BatchNormalization"):
        for index in range(len(node.inputs)):
            value = input_constant(node, index)
            if value is not None and value.dtype.kind == "f":
                towards = rng.choice([-np.inf, np.inf], size=value.shape).astype(value.dtype)
                replace_constant(node, index, np.nextafter(value, towards))
    return moved


def feeds_in_float32(feeds: list[Feeds]) -> list[Feeds]:
    """Inputs for `in_float32`: the same numbers."""
    return [{name: _wide(value) for name, value in feed.items()} for feed in feeds]


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _half(tensor: gs.Tensor) -> bool:
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
