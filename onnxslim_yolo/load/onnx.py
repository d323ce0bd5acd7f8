"""An ONNX file → Model: everything that cannot be compiled is refused here, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxslim_yolo.check import InvariantError, check_graph, check_widths
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files import sha256_of
from onnxslim_yolo.graph import Model, Source, initializers, toposort
from onnxslim_yolo.shapes import infer_shapes

OLDEST_OPSET = 7
QUANTISED = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
        *("ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearConcat", "QLinearSigmoid"),
    )
)
SIZE_LIMIT = 2**31 - 1


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file, external data included.

    Raises:
        InputError: the file is missing, no ONNX, truncated, or its external data is missing or lies outside its folder.
        UnsupportedError: an opset, operator or construct that cannot be compiled; the message names it.
    """
    proto = _parse(path)
    _load_external_data(proto, path)
    if proto.functions:
        from onnx import inliner

        proto = inliner.inline_local_functions(proto)
    refuse_unsupported(proto, path)
    return proto


def load_onnx(path: Path) -> Model:
    """Read an ONNX file into a Model. Raises like `read_onnx`."""
    proto = read_onnx(path)
    return model_of(proto, Source(path.name, sha256_of(path), path.stat().st_size), path)


def model_of(proto: onnx.ModelProto, source: Source, path: Path | str | None = None) -> Model:
    """Wrap a checked ModelProto.

    Raises:
        InputError: the graph is malformed: a cycle, two producers of one value, a value nobody computes, weights that
            do not fit what they are applied to.
    """
    try:
        model = Model.from_onnx(proto, source)
        model.graph.nodes = toposort(model.graph)
        check_graph(model.graph, shapes=False)
        check_widths(model.graph, infer_shapes(model.graph, strict=False))
        _check_weights(model)
    except InputError:
        raise
    except Exception as error:
        known = isinstance(error, (InvariantError, ValueError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        raise InputError(f"the graph is malformed: {reason[:300]}", file=path, hint="run onnx.checker on it") from error
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError("is a folder, expected an ONNX file", file=path)
        if size > SIZE_LIMIT:
            raise InputError(f"is {size / 2**30:.1f} GiB; protobuf holds at most 2", file=path)
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    if not data:
        raise InputError("is empty, expected an ONNX file", file=path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        hint = "is it complete? compare its size with the original's"
        raise InputError("is no ONNX file, or a truncated one", file=path, hint=hint) from error
    if not proto.graph.node or not proto.graph.output:
        raise InputError("holds no graph: it has no nodes or no outputs", file=path, hint="is it an ONNX model at all?")
    return proto


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    external = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    base = path.resolve().parent
    for tensor in external:
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = info.get("location", "")
        target = base / location
        if not location or Path(location).is_absolute() or not target.resolve().is_relative_to(base):
            raise InputError(
                f"the external data of '{tensor.name}' lies outside the model's folder: '{location}'",
                file=path,
                hint="external data must lie beside the model",
            )
        if target.is_symlink() or not target.is_file():
            raise InputError(
                f"the external data '{location}' of '{tensor.name}' is missing",
                file=path,
                hint="copy it beside the model, or save the model in one file",
            )
    if not external:
        return
    try:
        onnx.load_external_data_for_model(proto, str(base))
    except Exception as error:
        raise InputError(f"its external data cannot be read: {error}", file=path) from error


def refuse_unsupported(proto: onnx.ModelProto, path: Path | str | None) -> None:
    """Refuse what the compiler has no semantics for.

    Raises:
        UnsupportedError: see `read_onnx`.
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is None or not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedError(
            f"opset {opset} is not supported (supported: {OLDEST_OPSET} to {newest})",
            file=path,
            hint="convert it with onnx.version_converter, or export it with opset_version=17",
        )
    for node in proto.graph.node:
        _refuse_node(node, path)
    if proto.graph.sparse_initializer:
        raise UnsupportedError("sparse initializers are not supported", file=path, hint="export dense weights")


def _refuse_node(node: onnx.NodeProto, path: Path | str | None) -> None:
    name = node.name or (node.output[0] if node.output else node.op_type)
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        raise UnsupportedError(
            f"{node.op_type} has a subgraph; control flow cannot be compiled",
            file=path,
            node=name,
            hint="export by tracing with a fixed input, so that branches and loops are resolved",
        )
    if node.op_type in QUANTISED:
        raise UnsupportedError(
            f"{node.op_type}: the model is int8-quantised already",
            file=path,
            node=name,
            hint="compile the float model first, and quantise the result",
        )
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedError(
            f"operator {node.domain}.{node.op_type} is outside the ONNX standard",
            file=path,
            node=name,
            hint="export without custom or runtime-specific operators (and without a runtime's own optimisations)",
        )
    if not onnx.defs.has(node.op_type, ""):
        raise UnsupportedError(f"unknown operator {node.op_type}", file=path, node=name)


def _check_weights(model: Model) -> None:
    for constant in initializers(model.graph):
        if any(dim < 0 for dim in constant.shape):
            raise InputError(f"initializer '{constant.name}' has a negative dimension: {tuple(constant.shape)}")
        values = constant.values
        if values.dtype.kind == "f" and not np.isfinite(values).all() and values.ndim > 1:
            model.note(f"initializer '{constant.name}' holds NaN or infinite weights")
