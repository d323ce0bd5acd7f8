"""An ONNX file → Model: everything that cannot be compiled is refused here, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files.atomic import require_file, resolved, sha256_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.check import InvariantError, check_graph, check_widths
from onnxslim_yolo.ir.graph import initializers, input_constant, nodes_of, toposort
from onnxslim_yolo.ir.model import Model, Source
from onnxslim_yolo.ir.old_axes import settle_axes
from onnxslim_yolo.ir.shapes import infer_shapes
from onnxslim_yolo.load.conditions import fold_conditions
from onnxslim_yolo.load.cut_off import way_to_cut_off
from onnxslim_yolo.load.dequantise import RANGES_KEY, dequantised, ranges_from
from onnxslim_yolo.load.foreign import foreign
from onnxslim_yolo.load.plain_form import graphs_of, in_plain_form
from onnxslim_yolo.load.sequences import unresolved
from onnxslim_yolo.load.wellformed import bytes_of, check_functions, check_proto, check_sizes, check_text
from onnxslim_yolo.ops.registry import RANDOM

OLDEST_OPSET = 7
QUANTISED = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
        *("ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearConcat", "QLinearSigmoid"),
    )
)
SIZE_LIMIT = 2**31 - 1
READ = "what is read: .onnx, .pt and Darknet's .cfg"
"""The way out where a name ends otherwise."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file, external data included.

    Raises:
        InputError: the file is missing, no ONNX, truncated, or its external data is missing or lies outside its folder.
        UnsupportedError: an opset, operator or construct that cannot be compiled; the message names it.
    """
    return read_pair(path)[0]


def read_pair(path: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """An ONNX file as it can be compiled, and as it is: what results are compared with. Raises as `read_onnx`.

    Of an int8 network both are the float one that its whole numbers stand for.
    """
    proto = _parse(path)
    _load_external_data(proto, path)
    proto = _inlined(proto, path)
    in_plain_form(proto, path)
    proto = reference = dequantised(proto)
    if any(node.op_type == "If" for node in proto.graph.node) or _has_long_domains(proto):
        proto = onnx.ModelProto()
        proto.CopyFrom(reference)
        _shorten_domains(proto, path)
        if fold_conditions(proto):
            check_text(proto, path)
    refuse_unsupported(proto, path)
    return proto, reference


def read_as_it_is(path: Path) -> onnx.ModelProto:
    """An ONNX file with its external data and its functions inlined, whatever is in it.

    Raises:
        InputError: as `read_onnx`.
    """
    require_file(path)
    proto = _parse(path)
    _load_external_data(proto, path)
    proto = _inlined(proto, path)
    in_plain_form(proto, path)
    return proto


def _has_long_domains(proto: onnx.ModelProto) -> bool:
    return any(each.domain == "ai.onnx" for each in (*proto.opset_import, *proto.graph.node))


def _shorten_domains(proto: onnx.ModelProto, path: Path) -> None:
    """ "ai.onnx" and "" are two spellings of one domain: everything behind this knows the short one only."""
    versions = {opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx")}
    if len(versions) > 1:
        raise InputError(
            f"imports two versions of one operator set: {', '.join(map(str, sorted(versions)))}",
            file=path,
            hint="'' and 'ai.onnx' are the same domain; export it again with one opset_version",
        )
    others = [(o.domain, o.version) for o in proto.opset_import if o.domain not in ("", "ai.onnx")]
    own = [("", version) for version in versions]
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*each) for each in [*own, *others])
    _shorten(proto.graph)


def _shorten(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        for each in node.attribute:
            if each.type == onnx.AttributeProto.GRAPH:
                _shorten(each.g)


def _inlined(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    from onnx import inliner

    check_functions(proto, path)
    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:
        raise InputError(f"its local functions cannot be inlined: {error!s:.300}", file=path) from error


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
        _note_ranges(model)
        model.graph.nodes = toposort(model.graph)
        check_graph(model.graph, shapes=False)
        settle_axes(model.graph)
        types = infer_shapes(model.graph, strict=False)
        check_sizes(types, path)
        check_widths(model.graph, types)
        _check_weights(model)
        _refuse_training(model)
    except (InputError, UnsupportedError) as error:
        error.file = error.file or (None if path is None else str(path))
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
        told = foreign(data[:64])
        complete = None if told else "is it complete? compare its size with the original's"
        hint = complete if path.suffix.lower() == ".onnx" else READ
        raise InputError(told or "is no ONNX file, or a truncated one", file=path, hint=hint) from error
    _open_negative(proto.graph)
    check_text(proto, path)
    if not proto.graph.node or not proto.graph.output:
        raise InputError("holds no graph: it has no nodes or no outputs", file=path, hint="is it an ONNX model at all?")
    return proto


def _open_negative(graph: onnx.GraphProto) -> None:
    """A negative dimension is an open one, as other tools read it: inputs' get names, others are unknown."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        image = ("batch", "channels", "height", "width")
        names = image if len(dims) == 4 else tuple(f"axis_{k}" for k in range(len(dims)))
        for name, dim in zip(names, dims, strict=True):
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.Clear()
                if any(value is tensor for tensor in graph.input):
                    dim.dim_param = name


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, each once.

    Raises:
        InputError: the file is no ONNX, or its external data is missing or lies outside its folder.
    """
    return list(dict.fromkeys(_external_file(tensor, path) for tensor in _external(_parse(path))))


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor whose data lies elsewhere, in initializers and in attributes."""
    tensors = list(_tensors(proto.graph))
    return [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL or t.external_data]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs in its nodes' attributes."""
    for each in graphs_of(graph):
        yield from each.initializer
        yield from _parts(each.sparse_initializer)
        for given in (a for node in each.node for a in node.attribute):
            yield from (given.t, *given.tensors)
            yield from _parts((given.sparse_tensor, *given.sparse_tensors))


def _parts(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _external_file(tensor: onnx.TensorProto, path: Path) -> Path:
    """Where a tensor's data lies: beside the model or below, and reached without a link that leads elsewhere."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    base = resolved(path).parent
    try:
        target = base / location
        inside = bool(location) and not Path(location).is_absolute() and target.resolve().is_relative_to(base)
        there = inside and not target.is_symlink() and target.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name that no file system takes, a loop of links
        raise InputError(
            f"the external data of '{tensor.name}' has no file name: '{location[:80]}'", file=path
        ) from error
    if not inside:
        raise InputError(
            f"the external data of '{tensor.name}' lies outside the model's folder: '{location[:200]}'",
            file=path,
            hint="external data must lie beside the model",
        )
    if not there:
        raise InputError(
            f"the external data '{location[:200]}' of '{tensor.name}' is missing",
            file=path,
            hint="copy it beside the model, or save the model in one file",
        )
    return target


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    total = 0
    for tensor in _external(proto):
        info = {entry.key: entry.value for entry in tensor.external_data}
        target = _external_file(tensor, path)
        wanted, size = bytes_of(tensor, path), target.stat().st_size
        total += wanted or 0
        if total > SIZE_LIMIT:
            raise InputError("its external data comes to more than 2 GiB, which protobuf cannot hold", file=path)
        try:
            offset, length = int(info.get("offset", 0)), int(info.get("length", wanted or 0))
        except ValueError as error:
            raise InputError(f"the external data of '{tensor.name}' has no offset or length", file=path) from error
        if length != wanted or not 0 <= offset <= size - length:
            raise InputError(
                f"'{tensor.name}' of shape {tuple(tensor.dims)} needs {wanted} bytes, but its external data "
                f"'{target.name}' has {size}, of which {length} at {offset} are named",
                file=path,
                hint="is the data complete? copy it again",
            )
        with target.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


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
        _refuse_own(proto.graph, node, path)
    for node in unresolved(proto.graph):
        raise UnsupportedError(
            f"{node.op_type}: sequences of tensors cannot be compiled",
            file=path,
            node=node.name or (node.output[0] if node.output else node.op_type),
            hint="export with Split and Concat, or by tracing, so that lists are resolved",
        )
    check_proto(proto, path)


def _refuse_node(node: onnx.NodeProto, path: Path | str | None) -> None:
    name = node.name or (node.output[0] if node.output else node.op_type)
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        raise UnsupportedError(
            f"{node.op_type} has a subgraph; control flow cannot be compiled"
            + (", and its condition is not constant" if node.op_type == "If" else ""),
            file=path,
            node=name,
            hint="export by tracing with a fixed input, so that branches and loops are resolved",
        )
    if node.op_type in QUANTISED:
        raise UnsupportedError(
            f"{node.op_type}: the model is int8-quantised already",
            file=path,
            node=name,
            hint="of int8 only pairs of QuantizeLinear and DequantizeLinear of one scale and products of dynamic codes "
            "are read as floats; compile the float model, and quantise the result",
        )
    if node.op_type in RANDOM:
        raise UnsupportedError(
            f"{node.op_type}: the result is random, so nothing can be compared with it",
            file=path,
            node=name,
            hint="export the model in evaluation mode",
        )


def _refuse_own(graph: onnx.GraphProto, node: onnx.NodeProto, path: Path | str | None) -> None:
    """Operators that the standard does not have: a runtime's own, or somebody's."""
    own = node.domain not in ("", "ai.onnx")
    if not own and onnx.defs.has(node.op_type, ""):
        return
    raise UnsupportedError(
        f"operator {node.domain}.{node.op_type} is outside the ONNX standard" if own else
        f"unknown operator {node.op_type}: the ONNX standard has none of that name",
        file=path,
        node=node.name or (node.output[0] if node.output else node.op_type),
        hint=way_to_cut_off(graph, node, path)
        or "export without custom or runtime-specific operators (and without a runtime's own optimisations)",
    )  # fmt: skip


READ_AS_FLOATS = "the file is int8"
"""A note that begins so says that the network is not the file's own."""


def _note_ranges(model: Model) -> None:
    """What an int8 file says of its tensors' ranges goes from the metadata onto the model."""
    known = model.metadata.pop(RANGES_KEY, None)
    if known is not None:
        model.ranges = ranges_from(known)
        model.note(
            f"{READ_AS_FLOATS}: read as the float network that its whole numbers stand for, and all is compared with "
            f"that; the ranges of {len(model.ranges)} tensors are kept for --quantize"
        )


def _check_weights(model: Model) -> None:
    for constant in initializers(model.graph):
        values = constant.values
        if values.dtype.kind == "f" and not np.isfinite(values).all() and values.size > 1:
            model.note(f"initializer '{constant.name}' holds NaN or infinite weights")


def _refuse_training(model: Model) -> None:
    for node in nodes_of(model.graph, "Dropout", "BatchNormalization"):
        flag = input_constant(node, 2) if node.op == "Dropout" else attribute(node, "training_mode")
        before_flags = node.op == "BatchNormalization" and model.graph.opset < 14 and len(node.outputs) > 1
        if before_flags or (flag is not None and np.any(flag)):
            raise UnsupportedError(
                f"{node.op} is in training mode",
                file=model.source.file,
                node=node.name,
                hint="export the model in evaluation mode",
            )
