"""Computing a node whose inputs are all constant.

The few operators that shape arithmetic and anchor grids are made of have a line of numpy; any other is run by
onnxruntime, so that what is folded is what would have been computed. Nothing that is random, has a subgraph or would
grow beyond `SIZE_LIMIT` is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.effort import work_of
from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import Array, Node, constant_of, is_empty, static_shape
from onnxslim_yolo.ops.registry import RANDOM

SIZE_LIMIT = 1 << 24
"""Elements of a folded constant, at most: no YOLO's anchor grid comes near it, and a hostile file's must not pass."""

_NOT_COMPUTED = frozenset((*RANDOM, "Constant"))
_GROWS = frozenset(("Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike"))


_HANDED_OUT = frozenset(
    f"tensor({name})"
    for name in (
        *("float16", "float", "double", "bool", "string"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)
"""Types that onnxruntime hands out as what they are."""
MOST_WORK = 1 << 30
"""Multiply-adds that folding one node takes at most."""


def fold(node: Node, opset: int, room: int = SIZE_LIMIT) -> list[Array] | None:
    """The node's outputs if all its inputs are constant and computing them is safe, else None.

    Args:
        node: what is computed.
        opset: of the graph.
        room: elements that the outputs may have in sum.
    """
    if node.domain not in (None, "", "ai.onnx") or node.op in _NOT_COMPUTED or not node.inputs:
        return None
    values = [None if is_empty(tensor) else constant_of(tensor) for tensor in node.inputs]
    if any(value is None and not is_empty(tensor) for value, tensor in zip(values, node.inputs, strict=True)):
        return None
    if any(isinstance(attribute, gs.Graph) for attribute in node.attrs.values()) or not _small(
        node, values, min(room, SIZE_LIMIT)
    ):
        return None
    table = _NUMPY.get(node.op)
    given = [value for value in values if value is not None]
    result = None if table is None or len(given) < len(values) else table(node, given)
    return _evaluate(node, values, opset) if result is None else [np.asarray(result)]


def _small(node: Node, values: list[Array | None], room: int) -> bool:
    if node.op == "Range":
        start, limit, delta = (float(np.asarray(v).reshape(-1)[0]) for v in values)
        return delta != 0 and abs((limit - start) / delta) <= room
    shapes = [static_shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
    if sum(np.prod(shape, dtype=np.float64) for shape in shapes if shape is not None) > room:
        return False
    known = {id(tensor): static_shape(tensor) for tensor in (*node.inputs, *node.outputs) if not is_empty(tensor)}
    if work_of(node, known) > MOST_WORK:
        return False
    return node.op not in _GROWS or all(shape is not None for shape in shapes)


def _evaluate(node: Node, values: list[Array | None], opset: int) -> list[Array] | None:
    inputs = [gs.Variable("" if value is None else f"i{k}") for k, value in enumerate(values)]
    outputs = [gs.Variable("" if is_empty(tensor) else f"o{k}") for k, tensor in enumerate(node.outputs)]
    graph = gs.Graph([gs.Node(node.op, "n", node.attrs, inputs, outputs)], opset=opset)
    proto = gs.export_onnx(graph, do_type_check=False).graph
    feeds = {f"i{k}": value for k, value in enumerate(values) if value is not None}
    try:
        model = one_node(proto.node[0], feeds, [onnx.helper.make_opsetid("", opset)])
        results = iter(evaluate(model, feeds))
        return [np.asarray(next(results)) if tensor.name else np.zeros(0) for tensor in outputs]
    except Exception:
        return None  # not computed: the node simply stays, and whoever needs its value says so


def one_node(
    node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Sequence[onnx.OperatorSetIdProto]
) -> onnx.ModelProto:
    """A model of one node, with these values as its inputs."""
    inputs = [_info(name, value) for name, value in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "constant", inputs, outputs), opset_imports=list(opsets)
    )
    model.ir_version = 8
    return model


def run_constants(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """A small model's outputs by onnxruntime.

    Raises:
        TypeError: an output is of a type that numpy lacks: onnxruntime hands out its bits, as whole numbers.
        What onnxruntime raises.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    foreign = [output.type for output in session.get_outputs() if output.type not in _HANDED_OUT]
    if foreign:
        raise TypeError(f"numpy has no {foreign[0]}")
    return [np.asarray(value) for value in session.run(None, dict(feeds))]


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """By onnxruntime; by onnx's own evaluator where it has no kernel for these types."""
    try:
        return run_constants(model, feeds)
    except Exception:
        from onnx.reference import ReferenceEvaluator  # a quarter of onnx's import time, and seldom needed

        return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(feeds))]


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


NumpyRule = Callable[[Node, list[Array]], Array | None]
"""None: onnxruntime has to say."""


def _gather(node: Node, values: list[Array]) -> Array:
    data, indices = values
    return data.take(indices.astype(np.int64), axis=attribute(node, "axis"))


def _unsqueeze(node: Node, values: list[Array]) -> Array | None:
    data, axes = values[0], operand(node, "axes")
    if axes is None:
        return None
    rank = data.ndim + axes.size
    return np.expand_dims(data, tuple(int(axis) % rank for axis in axes.flat))


def element_type(attribute: object) -> np.dtype[Any] | None:
    """The type that a Cast's `to` names, as numpy knows it; None for those that numpy lacks, and for text."""
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(attribute) if isinstance(attribute, int) else np.dtype(attribute)  # type: ignore[call-overload]
    except (KeyError, TypeError):
        return None
    return kind if kind.kind in "fiub" else None


def cast(values: Array, kind: np.dtype[Any]) -> Array:
    """Values cast as runtimes do, as float64; NaN where they do not agree: whole types cut off what is behind the
    point, and nobody says what becomes of what lies beyond their range."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        if kind.kind == "f":
            return values.astype(kind).astype(np.float64)
        if kind.kind == "b":
            return np.where(np.isnan(values), np.nan, (values != 0).astype(np.float64))
        limits, whole = np.iinfo(kind), np.trunc(values)
        return np.where((whole >= float(limits.min)) & (whole <= float(limits.max)), whole, np.nan)


def _cast(node: Node, values: list[Array]) -> Array | None:
    kind, given = element_type(node.attrs.get("to")), values[0]
    if kind is None or given.dtype.kind not in "fiub":
        return None
    if given.dtype.kind in "iub" or kind.kind == "f":
        return given.astype(kind)  # whole numbers wrap around, as in C
    known = cast(given, kind)
    return None if np.isnan(known).any() else known.astype(kind)


def _divide(node: Node, values: list[Array]) -> Array | None:
    first, second = values
    if first.dtype.kind not in "iu":
        return np.asarray(first / second)
    if not np.all(second):
        return None
    # ONNX divides integers towards zero, numpy towards minus infinity.
    return np.asarray(np.sign(first) * np.sign(second) * (np.abs(first) // np.abs(second)), dtype=first.dtype)


def _concat(node: Node, values: list[Array]) -> Array:
    return np.concatenate(values, axis=attribute(node, "axis"))


_NUMPY: dict[str, NumpyRule] = {
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Cast": _cast,
    "Concat": _concat,
    "Transpose": lambda node, values: np.transpose(values[0], node.attrs.get("perm")),
    "Div": _divide,
    "Add": lambda node, values: np.add(*values),
    "Sub": lambda node, values: np.subtract(*values),
    "Mul": lambda node, values: np.multiply(*values),
    "Identity": lambda node, values: values[0],
}
