"""Is an ONNX file what it says it is? Asked before anything computes with it, of files that strangers have written.

1. Every tensor has as much data as its shape and type declare, so that nothing allocates what a few bytes claim.
2. Names are text, and no two initializers share one.
3. Every node fits its operator's schema: how many inputs and outputs, which attributes of which type.
4. Inputs and, once shapes are inferred, all tensors are of a size that can be computed with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxslim_yolo.errors import InputError, UnsupportedError

MOST_ELEMENTS = 1 << 29
"""Of one tensor: 2 GiB of floats. The largest map of a YOLO at 1280 pixels has 2²⁵."""
MOST_NODES = 1 << 20
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Element types that share bytes."""
_FEEDS = frozenset(
    helper.np_dtype_to_tensor_dtype(np.dtype(name))
    for name in ("f2", "f4", "f8", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
)
"""Element types of graph inputs that numpy knows, and that onnxruntime therefore takes."""
HINT = "run onnx.checker.check_model on it, and export it again"

File: TypeAlias = "Path | str | None"
Key: TypeAlias = tuple[str, str]
"""Domain and name of a function."""


def check_proto(proto: onnx.ModelProto, file: File) -> None:
    """Refuse a file that contradicts itself. Linear in its size.

    Raises:
        InputError: the message names the tensor or node, what was expected and what was found.
    """
    graph = proto.graph
    if len(graph.node) > MOST_NODES:
        raise InputError(f"has {len(graph.node)} nodes, more than {MOST_NODES}", file=file)
    seen: set[str] = set()
    for tensor in graph.initializer:
        if tensor.name in seen:
            raise InputError(f"two initializers are called '{printable(tensor.name)}'", file=file, hint=HINT)
        seen.add(tensor.name)
        check_tensor(tensor, file)
    for value in graph.input:
        if value.name not in seen:
            check_input(value, file)
    names = [value.name for value in graph.input]
    if len(set(names)) < len(names):
        raise InputError(f"two inputs are called '{printable(_repeated(names))}'", file=file, hint=HINT)
    for node in graph.node:
        for tensor in _tensors_of(node):
            check_tensor(tensor, file)
    _check_nodes(proto, file)


def _repeated(names: list[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])


def check_text(proto: onnx.ModelProto, file: File) -> None:
    """Raises InputError where a name is no UTF-8: protobuf hands it out as bytes then, or raises."""
    try:
        wrong = next((text for text in _texts(proto) if not isinstance(text, str)), None)
    except UnicodeDecodeError as error:
        raise InputError(f"a name in it is no UTF-8: {error.object[:40]!r}", file=file, hint=HINT) from error
    if wrong is not None:
        raise InputError(f"a name in it is no UTF-8: {wrong[:40]!r}", file=file, hint=HINT)


def _texts(proto: onnx.ModelProto) -> Iterator[Any]:
    graph = proto.graph
    yield from (graph.name, graph.doc_string, proto.producer_name, proto.producer_version, proto.domain)
    yield from (opset.domain for opset in proto.opset_import)
    for pair in proto.metadata_props:
        yield from (pair.key, pair.value)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        for pair in node.metadata_props:
            yield from (pair.key, pair.value)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string, attribute.t.name)
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        yield from (tensor.name, tensor.doc_string)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from (value.name, value.doc_string, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))


def _tensors_of(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors


def bytes_of(tensor: TensorProto, file: File) -> int | None:
    """How many bytes of raw data a tensor's shape and type come to; None for text.

    Raises:
        InputError: the type is unknown, a dimension is negative, or there are more elements than anything can hold.
    """
    name = printable(tensor.name)
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise InputError(f"tensor '{name}' has no known element type: {tensor.data_type}", file=file, hint=HINT)
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"tensor '{name}' has a negative dimension: {_shape(tensor.dims)}", file=file, hint=HINT)
    count: int = prod(tensor.dims)
    if count > MOST_ELEMENTS or len(tensor.dims) > 64:
        raise InputError(f"tensor '{name}' declares the shape {_shape(tensor.dims)}, too large to hold", file=file)
    if tensor.data_type == TensorProto.STRING:
        return None
    bits = _BITS.get(TensorProto.DataType.Name(tensor.data_type))
    if bits is not None:
        return -(-count * bits // 8)
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def check_tensor(tensor: TensorProto, file: File) -> None:
    """Raises InputError where a tensor's data is shorter or longer than its shape and type say."""
    wanted = bytes_of(tensor, file)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise InputError(f"the external data of '{printable(tensor.name)}' was not read", file=file)
    if tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
    else:
        found, unit = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))), "values"
        wanted = _values_of(tensor)
    if found != wanted:
        raise InputError(
            f"tensor '{printable(tensor.name)}' of shape {_shape(tensor.dims)} has {found} {unit}, expected {wanted}",
            file=file,
            hint="is the file complete? compare it with the original",
        )


def _values_of(tensor: TensorProto) -> int:
    """How many entries of the typed field a tensor's shape comes to."""
    count: int = prod(tensor.dims)
    bits = _BITS.get(TensorProto.DataType.Name(tensor.data_type))
    if bits is not None:
        return -(-count * bits // 8)
    return 2 * count if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else count


def check_input(value: onnx.ValueInfoProto, file: File) -> None:
    """Raises InputError where a graph input is no tensor, or of a negative or absurd size."""
    name = printable(value.name)
    if value.type.WhichOneof("value") not in ("tensor_type", None):
        raise InputError(f"input '{name}' is no tensor", file=file, hint="export the network alone")
    kind = value.type.tensor_type
    if kind.elem_type == TensorProto.UNDEFINED or kind.elem_type not in TensorProto.DataType.values():
        raise InputError(f"input '{name}' has no known element type: {kind.elem_type}", file=file, hint=HINT)
    if kind.elem_type not in _FEEDS:
        found = TensorProto.DataType.Name(kind.elem_type).lower()
        hint = "export it with an input of floats or bytes, and cast inside"
        raise UnsupportedError(f"input '{name}' is {found}; no check can feed that", file=file, hint=hint)
    dims = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
    if any(dim < 0 for dim in dims):
        raise InputError(
            f"input '{name}' has a negative dimension: {_shape(dims)}", file=file, hint="leave it open, or give --imgsz"
        )
    if not kind.HasField("shape"):
        raise InputError(f"input '{name}' has no shape", file=file, hint="export it with one, its size may stay open")
    if 0 in dims:
        raise InputError(f"input '{name}' is empty: its shape is {_shape(dims)}", file=file, hint=HINT)
    if prod(max(dim, 1) for dim in dims) > MOST_ELEMENTS:
        raise InputError(f"input '{name}' of shape {_shape(dims)} is too large to compute with", file=file)


def check_sizes(types: Mapping[str, onnx.TypeProto], file: File) -> None:
    """Raises InputError where an inferred shape is negative or larger than anything can compute with."""
    for name, kind in types.items():
        dims = [dim.dim_value for dim in kind.tensor_type.shape.dim if dim.HasField("dim_value")]
        if any(dim < 0 for dim in dims) or prod(max(dim, 1) for dim in dims) > MOST_ELEMENTS:
            raise InputError(
                f"'{printable(name)}' would have the shape {_shape(dims)}, which cannot be computed with", file=file
            )


def check_functions(proto: onnx.ModelProto, file: File) -> None:
    """Raises InputError where local functions call themselves, or would grow into too many nodes once inlined."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    for key in _callees_first(functions, file):
        sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in functions[key].node)
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in proto.graph.node)
    if total > MOST_NODES:
        raise InputError(f"its functions come to {total:.3g} nodes, more than {MOST_NODES}", file=file)


def _callees_first(functions: Mapping[Key, onnx.FunctionProto], file: File) -> Iterator[Key]:
    done: set[Key] = set()
    for root in functions:
        path: list[tuple[Key, Iterator[Key]]] = [(root, iter(_calls(functions, root)))]
        while path:
            key, rest = path[-1]
            callee = next((k for k in rest if k not in done), None)
            if callee is None:
                path.pop()
                if key not in done:
                    done.add(key)
                    yield key
            elif any(callee == above for above, _ in path):
                raise InputError(f"function '{printable(callee[1])}' calls itself", file=file)
            else:
                path.append((callee, iter(_calls(functions, callee))))


def _calls(functions: Mapping[Key, onnx.FunctionProto], key: Key) -> list[Key]:
    return list({(n.domain, n.op_type): None for n in functions[key].node if (n.domain, n.op_type) in functions})


def _check_nodes(proto: onnx.ModelProto, file: File) -> None:
    """Every node against its operator's schema, as onnx's own checker reads it."""
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = max(proto.ir_version, 4)
    context.opset_imports = {o.domain.removeprefix("ai.onnx"): o.version for o in proto.opset_import}
    for index, node in enumerate(proto.graph.node):
        name = printable(node.name or (node.output[0] if node.output else f"number {index}"))
        if node.op_type == "Split":
            _check_split(node, name, file)
        if _is_deprecated_from_the_start(node, context.opset_imports.get("", 0)):
            continue
        try:
            onnx.checker.check_node(node, context)
        except Exception as error:
            raise InputError(f"{printable(node.op_type)}: {_first(error)}", file=file, node=name, hint=HINT) from error


def _is_deprecated_from_the_start(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an operator's first definition was withdrawn: GroupNormalization of opset 18, which runtimes run and
    exporters write, but onnx's checker refuses."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    return bool(schema.deprecated) and not onnx.defs.has(node.op_type, schema.since_version - 1, "")


def _check_split(node: onnx.NodeProto, name: str, file: File) -> None:
    """Raises InputError where a Split's sizes are for other outputs: onnx's shape inference aborts on that."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    parts = attributes["num_outputs"].i if "num_outputs" in attributes else len(node.output)
    if "split" in attributes:
        parts = len(attributes["split"].ints)
    if parts != len(node.output):
        raise InputError(f"Split: {len(node.output)} outputs, expected {parts}", file=file, node=name, hint=HINT)


def _first(error: Exception) -> str:
    """The part of onnx's message that says what is wrong, without the node it repeats."""
    text = printable(" ".join(str(error).split()))
    for end in ("==> Context", "In Node,", "Bad node spec"):
        text = text.split(end)[0].strip() or text
    return text[:300]


def _shape(dims: Iterable[int]) -> str:
    listed = [str(dim) for dim in dims]
    return f"({', '.join(listed[:8])}{', …' if len(listed) > 8 else ''})"


def printable(name: str | bytes) -> str:
    """A name from a file, in characters that are safe to print, and no longer than a line."""
    text = name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:120])
    return shown + ("…" if len(text) > 120 else "")
