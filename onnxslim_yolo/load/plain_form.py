"""What a file may say in two ways is said in the one that everything behind this knows. Exact.

1. A sparse tensor, an initializer's or a Constant's, becomes the dense one that it stands for: its values at its
   indices, which count either every axis or the flattened tensor, and zeros elsewhere (ONNX IR, SparseTensorProto).
2. A graph output that is an initializer itself comes from an Identity of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.wellformed import HINT, File, bytes_of, check_tensor, printable

_SPARE_BYTES = 64 << 20
_GROWTH = 256
"""A tensor in which one value of a thousand is kept, its index beside it, takes 85 times as much when dense."""


def in_plain_form(proto: onnx.ModelProto, file: File) -> None:
    """Edit a file as read, its external data and functions in place.

    Raises:
        InputError: a sparse tensor contradicts itself, or they would together be out of all proportion to the file.
    """
    left = _SPARE_BYTES
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                    left = _charge(attribute.sparse_tensor, left, file)
                    dense = _dense(attribute.sparse_tensor, file)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
        for tensor in graph.sparse_initializer:
            left = _charge(tensor, left, file)
            graph.initializer.append(_dense(tensor, file))
        del graph.sparse_initializer[:]
    _compute_outputs(proto.graph)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in its nodes' attributes, at any depth."""
    waiting = [graph]
    while waiting:
        each = waiting.pop()
        yield each
        for attribute in (a for node in each.node for a in node.attribute):
            waiting += [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _charge(tensor: onnx.SparseTensorProto, left: int, file: File) -> int:
    """What may still be reserved once this tensor is dense. Raises InputError where that is less than nothing."""
    shape = TensorProto(name=tensor.values.name, data_type=tensor.values.data_type, dims=tensor.dims)
    dense = bytes_of(shape, file)
    stored = [bytes_of(part, file) for part in (tensor.values, tensor.indices)]
    if dense is None or None in stored:
        raise InputError(f"the sparse tensor '{printable(shape.name)}' holds no numbers", file=file, hint=HINT)
    left += _GROWTH * sum(size for size in stored if size is not None) - dense
    if left < 0:
        raise InputError(
            f"the sparse tensor '{printable(shape.name)}' of shape {tuple(tensor.dims)} would take {dense} bytes, out "
            f"of proportion to the {len(tensor.values.dims) and tensor.values.dims[0]} values that it holds",
            file=file,
            hint="export dense weights",
        )
    return left


def _dense(tensor: onnx.SparseTensorProto, file: File) -> TensorProto:
    """The tensor itself. Raises InputError where its indices are not places in it."""
    for part in (tensor.values, tensor.indices):
        check_tensor(part, file)
    name, shape = tensor.values.name, tuple(tensor.dims)
    values = numpy_helper.to_array(tensor.values).reshape(-1)
    indices = numpy_helper.to_array(tensor.indices)
    fits = indices.dtype == np.int64 and indices.shape in ((values.size,), (values.size, len(shape)))
    bounds = np.asarray(shape) if fits and indices.ndim == 2 else prod(shape)
    if not fits or (indices < 0).any() or (indices >= bounds).any():
        raise InputError(
            f"the sparse tensor '{printable(name)}' of shape {shape} has {values.size} values, and indices of shape "
            f"{indices.shape} that are not places in it",
            file=file,
            hint=HINT,
        )
    dense = np.zeros(shape, values.dtype)
    dense[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, shape)] = values
    return numpy_helper.from_array(dense, name)


def _compute_outputs(graph: onnx.GraphProto) -> None:
    """Put an Identity in front of every output that is an initializer."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    wanted = [value.name for value in graph.output if value.name in constants and value.name not in inputs]
    if not wanted:
        return
    nodes = [node for each in graphs_of(graph) for node in each.node]
    used = {name for node in nodes for name in (*node.input, *node.output, node.name)} | constants.keys() | inputs
    for name in dict.fromkeys(wanted):
        fresh = _unused(f"{name}/value", used)
        copy = graph.initializer.add()
        copy.CopyFrom(constants[name])
        copy.name = fresh
        for node in nodes:
            node.input[:] = [fresh if read == name else read for read in node.input]
        graph.node.add().CopyFrom(onnx.helper.make_node("Identity", [fresh], [name], name=_unused(fresh, used)))
    kept = [tensor for tensor in graph.initializer if tensor.name not in wanted]
    copies = [TensorProto() for _ in kept]
    for mine, each in zip(copies, kept, strict=True):
        mine.CopyFrom(each)
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _unused(name: str, used: set[str]) -> str:
    """The name, with a number where it is taken; it is taken from now on."""
    count, candidate = 0, name
    while candidate in used:
        count, candidate = count + 1, f"{name}_{count + 1}"
    used.add(candidate)
    return candidate
