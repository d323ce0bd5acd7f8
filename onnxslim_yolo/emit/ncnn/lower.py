"""The state of a lowering: which ncnn blob holds which ONNX tensor, and the layers emitted so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.format import Layer, Names, Param, Weight
from onnxslim_yolo.emit.ncnn.layout import MAX_DIMS, Dims, Shape, canonical_dims, dim_of_axis, dims_showing
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, has_input, is_empty, tensors


@dataclass(frozen=True)
class Value:
    """An ONNX tensor as it lies in an ncnn blob.

    Attributes:
        name: the ONNX tensor's name, free of spaces. The blob has the same elements in the same order.
        shape: the ONNX shape at batch 1.
        dims: the blob's extents, outermost first; same product as the shape.
        blob: the blob's name. Differs from `name` where the tensor is a mere reshape of another.
    """

    name: str
    shape: Shape
    dims: Dims
    blob: str


@dataclass
class Lowering:
    """Collects layers. Operators' functions read values, emit layers and bind the node's outputs."""

    graph: gs.Graph
    layers: list[Layer] = field(default_factory=list)
    dims: dict[str, Dims] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._views: dict[tuple[str, Dims], Value] = {}
        self._made: dict[str, Layer] = {}
        self._layer_names = Names()
        ends = (("in", self.graph.inputs), ("out", self.graph.outputs))
        self._blob_names = Names([f"{stem}{index}" for stem, given in ends for index in range(len(given))])
        self._tensor_names = {id(tensor): self._blob_names(tensor.name) for tensor in tensors(self.graph)}

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor is computed already."""
        return id(tensor) in self._values

    def value(self, tensor: Tensor) -> Value:
        """The tensor's value; constants become MemoryData."""
        if id(tensor) in self._values:
            return self._values[id(tensor)]
        constant = constant_of(tensor)
        if constant is None:
            raise UnsupportedError(f"'{tensor.name}' is read before it is computed")
        shape = tuple(constant.shape)
        name = self._tensor_names[id(tensor)]
        self._values[id(tensor)] = self.memory(name, constant, shape, canonical_dims(shape))
        return self._values[id(tensor)]

    def is_used(self, tensor: Tensor) -> bool:
        """Whether a node or the graph itself reads the tensor."""
        return bool(tensor.outputs) or any(tensor is output for output in self.graph.outputs)

    def tensor_name(self, tensor: Tensor) -> str:
        """The tensor's ONNX name as ncnn may spell it."""
        return self._tensor_names[id(tensor)]

    def input(self, node: Node, index: int) -> Value:
        """A required input of a node."""
        if not has_input(node, index):
            raise unsupported(node, f"input {index} is missing")
        return self.value(node.inputs[index])

    def add_input(self, tensor: Tensor) -> None:
        """The layer of a graph input."""
        shape = shape_of(tensor)
        dims, name = canonical_dims(shape), self._tensor_names[id(tensor)]
        keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
        params: dict[int, Param] = dict(zip(keys, dims, strict=True))
        self._append(Layer("Input", self._layer_names(name), [], [name], params), dims)
        self._values[id(tensor)] = Value(name, shape, dims, name)

    def memory(self, name: str, constant: Array, shape: Shape, dims: Dims) -> Value:
        """A constant as a blob of these dims."""
        if constant.dtype == np.bool_ or constant.size == 0:
            raise UnsupportedError(
                f"the constant '{name}' of type {constant.dtype}, shape {shape} has no place in ncnn"
            )
        blob = name if name not in self._made else self._blob_names(f"{name}/const")
        keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
        params: dict[int, Param] = dict(zip(keys, dims, strict=True))
        weight = Weight(np.asarray(constant, dtype=np.float32).reshape(dims))
        self._append(Layer("MemoryData", self._layer_names(blob), [], [blob], params, [weight]), dims)
        return Value(name, shape, dims, blob)

    def emit(
        self,
        node: Node,
        kind: str,
        inputs: Sequence[Value],
        dims: Dims,
        params: Mapping[int, Param] | None = None,
        weights: Sequence[Weight] = (),
        *,
        to: Tensor | None = None,
        suffix: str = "",
        shape: Shape | None = None,
    ) -> Value:
        """Emit a one-output layer. With `to` its blob *is* that tensor, else it is an intermediate of `shape`."""
        stem = f"{node.name}{suffix}"
        if to is not None:
            blob = self._tensor_names[id(to)]
            value = Value(blob, shape_of(to, node), dims, blob)
            if prod(dims) != prod(value.shape):
                raise unsupported(node, f"internal: dims {dims} do not hold the shape {value.shape}")
            self._values[id(to)] = value
        else:
            blob = self._blob_names(f"{node.outputs[0].name}{suffix or '/part'}")
            value = Value(blob, dims if shape is None else shape, dims, blob)
        names = [given.blob for given in inputs]
        self._append(Layer(kind, self._layer_names(stem), names, [blob], dict(params or {}), list(weights)), dims)
        return value

    def emit_many(
        self,
        node: Node,
        kind: str,
        source: Value,
        dims: Sequence[Dims],
        params: Mapping[int, Param],
        to: Sequence[Tensor],
    ) -> None:
        """Emit a layer with one output per tensor of `to` (omitted ones get a blob that nobody reads)."""
        blobs: list[str] = []
        for tensor, extents in zip(to, dims, strict=True):
            if is_empty(tensor):
                blobs.append(self._blob_names(f"{node.name}/unused"))
                continue
            name = self._tensor_names[id(tensor)]
            self._values[id(tensor)] = Value(name, shape_of(tensor, node), extents, name)
            blobs.append(name)
        self._append(Layer(kind, self._layer_names(node.name), [source.blob], blobs, dict(params)), *dims)

    def alias(self, tensor: Tensor, value: Value, node: Node) -> None:
        """Bind a tensor to the elements of another value: a reshape, which costs nothing yet."""
        shape = shape_of(tensor, node)
        if prod(shape) != prod(value.dims):
            raise unsupported(node, f"'{tensor.name}' of shape {shape} cannot hold {prod(value.dims)} elements")
        self._values[id(tensor)] = replace(value, name=self._tensor_names[id(tensor)], shape=shape)

    def view(self, value: Value, dims: Dims) -> Value:
        """The value in a blob of exactly these dims, through a Reshape if need be."""
        if value.dims == dims:
            return value
        if len(dims) > MAX_DIMS:
            raise UnsupportedError(f"'{value.name}' would need {len(dims)} dimensions, ncnn has 4", node=value.name)
        known = self._views.get((value.blob, dims))
        if known is None:
            name = value.name if value.name not in self._made else self._blob_names(f"{value.name}/view")
            keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
            params: dict[int, Param] = dict(zip(keys, dims, strict=True))
            self._append(Layer("Reshape", self._layer_names(f"{name}/reshape"), [value.blob], [name], params), dims)
            known = Value(name, dims, dims, name)
            self._views[(value.blob, dims)] = known
        return replace(value, dims=dims, blob=known.blob)

    def showing(self, node: Node, value: Value, axes: Collection[int]) -> tuple[Value, dict[int, int]]:
        """The value in a blob where each of these ONNX axes is a dim of its own, and the dim of each axis."""
        found = {axis: dim_of_axis(value.shape, value.dims, axis) for axis in axes}
        present = {axis: dim for axis, dim in found.items() if dim is not None}
        if len(present) == len(found):
            return value, present
        wanted = dims_showing(value.shape, axes)
        if wanted is None:
            raise unsupported(node, f"axes {sorted(axes)} of a tensor of shape {value.shape} do not fit 4 dimensions")
        return self.view(value, wanted[0]), wanted[1]

    def onnx_names(self) -> dict[str, str]:
        """Per ncnn name of an ONNX tensor, its ONNX name."""
        return {self._tensor_names[id(tensor)]: tensor.name for tensor in tensors(self.graph)}

    def producer(self, value: Value) -> Layer:
        """The layer that computes the value's blob."""
        return self._made[value.blob]

    def named(self, blob: str, dims: Dims) -> Value:
        """An existing blob as a value."""
        return Value(blob, dims, dims, blob)

    def _append(self, layer: Layer, *dims: Dims) -> None:
        self.layers.append(layer)
        self.dims.update(zip(layer.outputs, dims, strict=True))
        self._made.update(dict.fromkeys(layer.outputs, layer))


Lower: TypeAlias = Callable[[Lowering, Node], None]


def unsupported(node: Node, reason: str, hint: str = "") -> UnsupportedError:
    """The refusal of one node."""
    return UnsupportedError(
        f"ncnn cannot express this {node.op}: {reason}",
        node=node.name,
        hint=hint or "rewrite this part of the model, cut it off (--head raw), or write ONNX only (--emit onnx)",
    )


def normal_axis(node: Node, axis: int, rank: int) -> int:
    """A non-negative axis."""
    if not -rank <= axis < max(rank, 1):
        raise unsupported(node, f"axis {axis} is outside a tensor with {rank} dimensions")
    return axis % max(rank, 1)


def int_list(values: object) -> list[int]:
    """Plain integers from an attribute or a constant."""
    return [int(value) for value in np.asarray(values).reshape(-1)]
