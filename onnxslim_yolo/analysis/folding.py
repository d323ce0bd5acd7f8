"""Computing a node whose inputs are all constant.

The few operators that shape arithmetic and anchor grids are made of have a line of numpy; any other goes through onnx's
reference evaluator. Nothing that is random, has a subgraph or would grow beyond `SIZE_LIMIT` is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.graph import Array, Node, constant_of, is_empty, static_shape

SIZE_LIMIT = 1 << 24
"""Elements of a folded constant, at most: no YOLO's anchor grid comes near it, and a hostile file's must not pass."""

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Constant")
)
_GROWS = frozenset(
    ("Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike", "Gather")
)


def fold(node: Node, opset: int) -> list[Array] | None:
    """The node's outputs if all its inputs are constant and computing them is safe, else None."""
    if node.domain not in (None, "", "ai.onnx") or node.op in _RANDOM or not node.inputs:
        return None
    values = [None if is_empty(tensor) else constant_of(tensor) for tensor in node.inputs]
    if any(value is None and not is_empty(tensor) for value, tensor in zip(values, node.inputs, strict=True)):
        return None
    if any(isinstance(attribute, gs.Graph) for attribute in node.attrs.values()) or not _small(node, values):
        return None
    table = _NUMPY.get(node.op)
    if table is not None:
        result = table(node, values)
        if result is not None:
            return [np.asarray(result)]
    return _evaluate(node, values, opset)


def _small(node: Node, values: list[Array | None]) -> bool:
    if node.op == "Range":
        start, limit, delta = (float(np.asarray(v).reshape(-1)[0]) for v in values)
        return delta != 0 and abs((limit - start) / delta) <= SIZE_LIMIT
    shapes = [static_shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
    if any(shape is not None and np.prod(shape, dtype=np.float64) > SIZE_LIMIT for shape in shapes):
        return False
    return node.op not in _GROWS or node.op == "Gather" or all(shape is not None for shape in shapes)


def _evaluate(node: Node, values: list[Array | None], opset: int) -> list[Array] | None:
    from onnx.reference import ReferenceEvaluator  # a quarter of onnx's import time, and seldom needed

    inputs = [gs.Variable("" if value is None else f"i{k}") for k, value in enumerate(values)]
    outputs = [gs.Variable("" if is_empty(tensor) else f"o{k}") for k, tensor in enumerate(node.outputs)]
    graph = gs.Graph([gs.Node(node.op, "n", node.attrs, inputs, outputs)], opset=opset)
    proto = gs.export_onnx(graph, do_type_check=False).graph
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            list(proto.node),
            "fold",
            [_info(f"i{k}", value) for k, value in enumerate(values) if value is not None],
            [onnx.ValueInfoProto(name=tensor.name) for tensor in outputs if tensor.name],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    try:
        feeds = {f"i{k}": value for k, value in enumerate(values) if value is not None}
        results = iter(ReferenceEvaluator(model).run(None, feeds))
        return [np.asarray(next(results)) if tensor.name else np.zeros(0) for tensor in outputs]
    except Exception:
        return None  # not computed: the node simply stays, and whoever needs its value says so


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


NumpyRule = Callable[[Node, list[Array | None]], Array | None]


def _ints(value: Array | None) -> list[int]:
    return [] if value is None else [int(v) for v in np.asarray(value).reshape(-1)]


def _gather(node: Node, values: list[Array | None]) -> Array | None:
    data, indices = values[0], values[1]
    return (
        None if data is None or indices is None else data.take(indices.astype(np.int64), axis=node.attrs.get("axis", 0))
    )


def _unsqueeze(node: Node, values: list[Array | None]) -> Array | None:
    data = values[0]
    axes = _ints(values[1]) if len(values) > 1 else [int(a) for a in np.atleast_1d(node.attrs.get("axes", []))]
    if data is None or not axes:
        return None
    rank = data.ndim + len(axes)
    return np.expand_dims(data, tuple(axis % rank for axis in axes))


def _cast(node: Node, values: list[Array | None]) -> Array | None:
    try:
        dtype = node.attrs["to"]
        target = onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else np.dtype(dtype)
    except (KeyError, TypeError):
        return None
    return None if values[0] is None else values[0].astype(target)


def _divide(node: Node, values: list[Array | None]) -> Array | None:
    first, second = values
    if first is None or second is None:
        return None
    if first.dtype.kind not in "iu":
        return np.asarray(first / second)
    if not np.all(second):
        return None
    # ONNX divides integers towards zero, numpy towards minus infinity.
    return np.asarray(np.sign(first) * np.sign(second) * (np.abs(first) // np.abs(second)), dtype=first.dtype)


def _binary(function: Callable[[Array, Array], Array]) -> NumpyRule:
    def rule(node: Node, values: list[Array | None]) -> Array | None:
        return None if values[0] is None or values[1] is None else function(values[0], values[1])

    return rule


def _concat(node: Node, values: list[Array | None]) -> Array | None:
    return np.concatenate([value for value in values if value is not None], axis=node.attrs["axis"])


def _transpose(node: Node, values: list[Array | None]) -> Array | None:
    return None if values[0] is None else np.transpose(values[0], node.attrs.get("perm"))


_NUMPY: dict[str, NumpyRule] = {
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Cast": _cast,
    "Concat": _concat,
    "Transpose": _transpose,
    "Div": _divide,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Identity": lambda node, values: values[0],
}
