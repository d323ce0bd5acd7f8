"""Shapes of every tensor, inferred by onnx on a skeleton of the graph without its weights.

Weights make shape inference slow and memory-hungry, yet it only needs their shapes; integer constants (shapes, axes,
split sizes) keep their values. A YOLO takes about 10 ms this way. For a few operators onnx infers nothing (found by
running it over its own node tests): in the skeleton another operator stands in for them, whose output has that shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Tensor, is_constant, tensors

KEEP_VALUES_BELOW = 4096
"""Integer and tiny constants keep their values in the skeleton, for `Reshape` and the like."""

MOST_PROPAGATED = 1 << 20
"""Elements of a vector of sizes, at most: inference writes such vectors out, and a few Concats of them double a few
bytes to gigabytes. A shape has some ten elements, an anchor grid's Range some hundreds."""

KEEPS_SHAPE = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""Operators whose output has their first input's shape and type, and for which onnx infers nothing."""


def stand_in(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node whose outputs have the shapes of this one's, by operators that onnx infers shapes of."""
    if node.domain not in ("", "ai.onnx"):
        return node
    if node.op_type in KEEPS_SHAPE:
        return helper.make_node("Identity", node.input[:1], node.output[:1], node.name)
    if node.op_type == "MaxUnpool" and len(node.input) > 2 and node.input[2]:
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        return helper.make_node("ConstantOfShape", node.input[2:], node.output, node.name, value=zero)
    return node


def skeleton(graph: gs.Graph, *, keep_shapes: bool = False) -> onnx.ModelProto:
    """The graph as a ModelProto in which weights are inputs of the same shape and type.

    Args:
        keep_shapes: keep the shapes noted on inner tensors and outputs, so that strict inference compares them with
            what it infers. Otherwise only the graph's inputs have shapes.
    """
    initializers: list[onnx.TensorProto] = []
    inputs = [_value_info(tensor) for tensor in graph.inputs]
    inner: list[onnx.ValueInfoProto] = []
    special = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    for tensor in tensors(graph):
        if isinstance(tensor, gs.Constant):
            if _keeps_value(tensor):
                initializers.append(onnx.numpy_helper.from_array(np.asarray(tensor.values), tensor.name))
            else:
                inputs.append(_value_info(tensor))
        elif keep_shapes and id(tensor) not in special and tensor.dtype is not None and tensor.shape is not None:
            inner.append(_value_info(tensor))
    # Outputs of unknown shape: inference fills them in. An input that is an output as well would lose its own.
    given = {id(tensor) for tensor in graph.inputs}
    outputs = [_value_info(tensor, with_shape=keep_shapes or id(tensor) in given) for tensor in graph.outputs]
    nodes = [OnnxExporter.export_node(node) for node in graph.nodes]
    proto = helper.make_graph(nodes, graph.name or "graph", inputs, outputs, initializers, value_info=inner)
    opsets = [helper.make_opsetid("", graph.opset)]
    opsets += [o for o in graph.import_domains or [] if o.domain not in ("", "ai.onnx")]
    model = helper.make_model(proto, opset_imports=opsets, functions=[])
    model.ir_version = max(graph.ir_version or 8, 4)
    return model


def infer_shapes(
    graph: gs.Graph,
    *,
    strict: bool = True,
    keep_shapes: bool = False,
    given: Mapping[str, Sequence[int]] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, onnx.TypeProto]:
    """Types and shapes of every tensor that onnx can infer, by tensor name.

    `given`: shapes of tensors, by name, that are taken as said; what else their nodes make is left out then.
    `sizes`: values of computed vectors of sizes, by name, that are taken as said.

    Raises:
        InputError: strict inference found a contradiction; the message is onnx's.
    """
    require_short(graph)
    model = skeleton(graph, keep_shapes=keep_shapes)
    for node in model.graph.node:
        other = stand_in(node)
        if other is not node:
            node.CopyFrom(other)
    for node in model.graph.node if sizes else ():
        node.input[:] = [_known(name, sizes) for name in node.input]
    for name, value in (sizes or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), _known(name, sizes)))
    if given:
        _give(model.graph, given, {t.name: t.dtype for t in tensors(graph) if t.name in given})
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
        ValueError,
    ) as error:
        op, name, reason = _first_of(" ".join(str(error).split()))
        raise InputError(
            f"shape inference failed{f' at {op}' if op else ''}: {reason}",
            node=name or None,
            hint="the graph's shapes contradict each other",
        ) from error
    infos = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {info.name: info.type for info in infos}


_ERROR = re.compile(r"\(op_type:(\S+?)(?:, node name: (.*?))?\): ((?:(?! \(op_type:).)*)")
_KIND = re.compile(r"^(\[\w+\]|Inference error\(s\):|\s)+")


def _first_of(text: str) -> tuple[str, str, str]:
    """Operator, node and reason of the first of onnx's complaints: the others follow from it."""
    found = _ERROR.search(text)
    op, name, reason = found.groups() if found is not None else ("", "", text)
    return op, name or "", _KIND.sub("", reason)[:300]


def _known(name: str, sizes: Mapping[str, Sequence[int]] | None) -> str:
    """What a tensor of sizes is called where its value is known."""
    return f"{name}__known" if sizes and name in sizes else name


def _give(graph: onnx.GraphProto, given: Mapping[str, Sequence[int]], kinds: Mapping[str, Any]) -> None:
    """Put tensors of these shapes in the places of the nodes that make them."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        made = [name for name in node.output if name in given]
        nodes += [] if made else [node]
        for name in made:
            sizes = f"{name}__sizes"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(given[name], np.int64), sizes))
            zero = onnx.numpy_helper.from_array(np.zeros(1, kinds.get(name) or np.int64), "zero")
            nodes.append(helper.make_node("ConstantOfShape", [sizes], [name], value=zero))
    del graph.node[:]
    graph.node.extend(nodes)


def require_short(graph: gs.Graph) -> None:
    """Refuse vectors of sizes that inference would write out at great length: joined again and again, or counted up.

    Raises:
        InputError: one is longer than `MOST_PROPAGATED`.
    """
    lengths: dict[int, float] = {}
    for node in graph.nodes:
        parts = [lengths.get(id(tensor)) or _listed(tensor) for tensor in node.inputs]
        length = _counted(node) if node.op == "Range" else sum(parts) if node.op == "Concat" else max(parts, default=1)
        if length > MOST_PROPAGATED:
            raise InputError(
                f"{node.op} makes a vector of {length:.0f} sizes, more than {MOST_PROPAGATED}", node=node.name
            )
        if node.op in _PROPAGATES and length > 1:
            lengths.update((id(tensor), length) for tensor in node.outputs)


_PROPAGATES = frozenset(
    ("Concat", "Range", "Identity", "Cast", "Add", "Sub", "Mul", "Div", "Squeeze", "Unsqueeze", "Slice", "Gather")
)
"""What may hand on a long vector of sizes as inference writes it out. Behind anything else counting begins anew."""


def _listed(tensor: Tensor) -> int:
    """How many numbers inference reads of a constant; of anything else one."""
    listed = isinstance(tensor, gs.Constant) and len(tensor.shape) == 1 and _keeps_value(tensor)
    return max(math.prod(tensor.shape), 1) if listed else 1


def _counted(node: gs.Node) -> float:
    """How many elements a Range of whole constants makes; 1 where that is not known."""
    ends = [np.asarray(t.values).reshape(-1) if isinstance(t, gs.Constant) else np.zeros(0) for t in node.inputs]
    if len(ends) != 3 or any(len(end) != 1 or end.dtype.kind not in "iu" for end in ends) or not ends[2][0]:
        return 1
    start, limit, delta = (float(end[0]) for end in ends)
    return max((limit - start) / delta, 0)


def reinfer(graph: gs.Graph) -> None:
    """Clear every inner and output shape and infer it anew from the inputs'.

    Raises:
        InputError: the graph's shapes contradict each other.
    """
    types = infer_shapes(graph)
    inputs = {id(tensor) for tensor in graph.inputs}
    for tensor in tensors(graph):
        if is_constant(tensor) or id(tensor) in inputs:
            continue
        kind = types.get(tensor.name)
        if kind is None or not kind.HasField("tensor_type"):
            tensor.shape = None
            continue
        tensor.dtype = _dtype(kind.tensor_type.elem_type) if kind.tensor_type.elem_type else tensor.dtype
        tensor.shape = _dims(kind.tensor_type) if kind.tensor_type.HasField("shape") else None


def _dims(kind: onnx.TypeProto.Tensor) -> list[int | str]:
    dims: list[int | str] = []
    for axis, dim in enumerate(kind.shape.dim):
        dims.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"unk_{axis}")
    return dims


def _dtype(elem_type: int) -> object:
    try:
        return helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        return elem_type


def elem_type_of(dtype: object) -> int:
    """ONNX's number of a tensor's type; of none, 0."""
    if dtype is None:
        return TensorProto.UNDEFINED
    if isinstance(dtype, int):
        return dtype
    return _known_type(dtype)


@lru_cache(maxsize=256)
def _known_type(dtype: object) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]


def _value_info(tensor: Tensor, *, with_shape: bool = True) -> onnx.ValueInfoProto:
    """What `onnx.helper.make_tensor_value_info` makes, which takes several times as long: thousands are made."""
    info = onnx.ValueInfoProto(name=tensor.name)
    kind = info.type.tensor_type
    kind.elem_type = elem_type_of(tensor.dtype)
    shape = tensor.shape if with_shape else None
    if shape is not None:
        kind.shape.SetInParent()  # a scalar has a shape, too
        for dim in shape:
            if isinstance(dim, (int, np.integer)):
                kind.shape.dim.add(dim_value=int(dim))
            else:
                kind.shape.dim.add(dim_param=str(dim))
    return info


def _keeps_value(tensor: gs.Constant) -> bool:
    size = math.prod(tensor.shape)
    if size > KEEP_VALUES_BELOW:
        return False
    try:
        return bool(np.dtype(tensor.dtype).kind in "iub") or size <= 8
    except TypeError:
        return False
