"""A private copy of the graph, made ready for lowering: batch 1, every shape known, constants folded, no-ops gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.graph import (
    Model,
    Node,
    Tensor,
    bypass,
    copy_graph,
    is_constant,
    is_empty,
    is_graph_output,
    static_shape,
    sweep,
    tensors,
    toposort,
)

MAX_ROUNDS = 16
MAX_FOLDED_ELEMENTS = 1 << 24
SKELETON_ELEMENTS = 1024
NO_OPS = frozenset({"Identity", "Dropout", "Cast", "CastLike", "CheckpointBreak"})
SAME_SHAPE = frozenset({"GroupNormalization"})
RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})


def prepare(model: Model) -> gs.Graph:
    """A copy of the model's graph with static shapes at batch 1, folded constants and without no-ops.

    Raises:
        UnsupportedError: an input's size is unknown, apart from the batch.
    """
    graph = copy_graph(model.graph)
    graph.nodes = toposort(graph)
    sweep(graph)
    _fix_inputs(graph)
    for _ in range(MAX_ROUNDS):
        _infer_shapes(model, graph)
        if not _fold(graph):
            break
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
            hint="export the model with fixed sizes, or cut the post-processing off (--head raw)",
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
        if shape[0] != 1:
            raise UnsupportedError(
                f"input '{tensor.name}' has batch {shape[0]}; ncnn has no batch dimension",
                hint="export the model with batch 1 or a dynamic batch",
            )
        tensor.shape = [int(dim) for dim in shape]


def _infer_shapes(model: Model, graph: gs.Graph) -> None:
    """Set every variable's shape from ONNX's inference, run on a copy whose big initializers are mere inputs."""
    for tensor in tensors(graph):
        if not is_constant(tensor) and not any(tensor is given for given in graph.inputs):
            tensor.shape = None
    _set_shapes(model, graph)
    while _same_shapes(graph):
        _set_shapes(model, graph)


def _set_shapes(model: Model, graph: gs.Graph) -> None:
    proto = Model(graph=_skeleton(graph)).to_onnx()
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise InputError(
            f"shape inference failed: {error}", file=model.source.file, hint="check the model with onnx.checker"
        ) from error
    kinds = {
        info.name: info.type.tensor_type
        for info in (*inferred.graph.value_info, *inferred.graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    for tensor in tensors(graph):
        kind = kinds.get(tensor.name)
        if not is_constant(tensor) and kind is not None and static_shape(tensor) is None:
            tensor.shape = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim
            ]
            tensor.dtype = tensor.dtype or _numpy_type(kind.elem_type)


def _numpy_type(elem_type: int) -> object:
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        return None


def _same_shapes(graph: gs.Graph) -> bool:
    """Fill in what inference leaves out: operators that keep their first input's shape. Returns whether it could."""
    found = False
    for node in graph.nodes:
        if node.op in SAME_SHAPE and static_shape(node.outputs[0]) is None:
            shape = static_shape(node.inputs[0])
            if shape is not None:
                node.outputs[0].shape, node.outputs[0].dtype = list(shape), node.inputs[0].dtype
                found = True
    return found


def _skeleton(graph: gs.Graph) -> gs.Graph:
    skeleton = copy_graph(graph)
    stubs: dict[int, Tensor] = {}
    for node in skeleton.nodes:
        node.inputs = [_stub(tensor, stubs) for tensor in node.inputs]
    skeleton.inputs = [*skeleton.inputs, *stubs.values()]
    return skeleton


def _stub(tensor: Tensor, stubs: dict[int, Tensor]) -> Tensor:
    if not isinstance(tensor, gs.Constant) or np.prod(tensor.shape) <= SKELETON_ELEMENTS:
        return tensor
    if id(tensor) not in stubs:
        stubs[id(tensor)] = gs.Variable(f"{tensor.name}__stub", tensor.dtype, list(tensor.shape))
    return stubs[id(tensor)]


def _fold(graph: gs.Graph) -> bool:
    """Replace what depends on no input by constants. Returns whether there was anything."""
    folded = _fold_shapes(graph)
    known: set[int] = set()
    indices: list[int] = []
    for index, node in enumerate(graph.nodes):
        if _foldable(node, known):
            indices.append(index)
            known.update(id(tensor) for tensor in node.outputs)
    if indices:
        folded |= _replace(graph, _evaluate(graph, indices, known))
    sweep(graph)
    return folded


def _fold_shapes(graph: gs.Graph) -> bool:
    constants: dict[int, Tensor] = {}
    for node in graph.nodes:
        if node.op == "Shape" and (shape := static_shape(node.inputs[0])) is not None:
            start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
            value = np.asarray(shape[start:end], dtype=np.int64)
            constants[id(node.outputs[0])] = gs.Constant(node.outputs[0].name, value)
    return _replace(graph, constants)


def _foldable(node: Node, known: Collection[int]) -> bool:
    given = [tensor for tensor in node.inputs if not is_empty(tensor)]
    if node.op in RANDOM or not all(is_constant(tensor) or id(tensor) in known for tensor in given):
        return False
    sizes = [static_shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
    return all(size is None or np.prod(size, dtype=np.int64) <= MAX_FOLDED_ELEMENTS for size in sizes)


def _evaluate(graph: gs.Graph, indices: Sequence[int], known: Collection[int]) -> dict[int, Tensor]:
    """The values, computed by onnxruntime, of what these nodes yield to the rest of the graph; by tensor id."""
    import onnxruntime

    inside = {id(graph.nodes[index]) for index in indices}
    wanted: list[int] = []
    part = copy_graph(graph)
    part.inputs, part.outputs = [], []
    for index in indices:
        for twin, tensor in zip(part.nodes[index].outputs, graph.nodes[index].outputs, strict=True):
            if any(id(reader) not in inside for reader in tensor.outputs):
                twin.shape = None
                part.outputs.append(twin)
                wanted.append(id(tensor))
    part.nodes = [part.nodes[index] for index in indices]
    if not wanted:
        return {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        proto = Model(graph=part).to_onnx()
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(None, {})
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise UnsupportedError(
            f"the model's constant part cannot be computed: {error}", hint="simplify the model before converting it"
        ) from error
    return {
        key: gs.Constant(twin.name, np.asarray(value))
        for key, twin, value in zip(wanted, part.outputs, results, strict=True)
    }


def _replace(graph: gs.Graph, constants: Mapping[int, Tensor]) -> bool:
    """Let every node read these constants instead. Returns whether any node did read one."""
    used = False
    for node in graph.nodes:
        if any(id(tensor) in constants for tensor in node.inputs):
            node.inputs = [constants.get(id(tensor), tensor) for tensor in node.inputs]
            used = True
    return used


def _is_no_op(graph: gs.Graph, node: Node) -> bool:
    if node.op in ("Cast", "CastLike"):
        return _is_float(node.inputs[0].dtype) and _is_float(node.outputs[0].dtype)
    return not any(tensor.outputs or is_graph_output(graph, tensor) for tensor in node.outputs[1:])


def _is_float(dtype: object) -> bool:
    try:
        return bool(np.issubdtype(np.dtype(dtype), np.floating))  # type: ignore[call-overload]
    except TypeError:
        return False
