"""What an operator's adjoint is written with: nodes added to a graph, and what a rule is given and gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.attributes import set_operand, since
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, is_constant, is_empty, static_shape
from onnxslim_yolo.ops.arithmetic import COMPARISONS, LOGIC

_TRUTHS = (*COMPARISONS, *LOGIC)
_SLICES_BY_INPUTS, _EQUAL_FLOATS, _BROADCASTS_EXTREMES, _GEMM_OF_TWO = 10, 11, 8, 11
"""The opsets from which on a Slice reads its bounds, Equal takes floats, Max broadcasts, and a Gemm may add nothing."""


class Adjoint:
    """Adds the adjoints of a graph's nodes to it, one by one; the graph is edited.

    Cotangents are float32 throughout: what they are multiplied with and is of another precision is read as float32.

    Args:
        graph: a graph of the caller's own, whose outputs it may add to.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._namer, self._count = Namer(graph), 0
        self._singles: dict[str, gs.Variable] = {}

    def add(self, op: str, inputs: Sequence[Any], **attrs: Any) -> gs.Variable:
        """A new node's output. Arrays among the inputs become constants."""
        if self.graph.opset < since(op):
            raise UnsupportedError(f"no gradient is known: it takes {op}, which opset {self.graph.opset} has not")
        tensors = [self._single(value) for value in inputs]
        output = gs.Variable(self._name("adjoint"), np.bool_ if op in _TRUTHS else np.float32)
        self.graph.nodes.append(gs.Node(op, self._name(f"adjoint_{op}"), attrs, tensors, [output]))
        return output

    def _single(self, value: Any) -> Tensor:
        """An operand, as float32 where it is a float of another precision."""
        if isinstance(value, np.ndarray):
            return self.constant(value)
        tensor: Tensor = value
        kind = None if is_empty(tensor) or tensor.dtype is None else np.dtype(tensor.dtype)
        if kind is None or kind.kind != "f" or kind == np.float32:
            return tensor
        if isinstance(tensor, gs.Constant):
            return self.constant(tensor.values)
        if tensor.name not in self._singles:
            single = gs.Variable(self._name("adjoint"), np.float32, tensor.shape)
            self.graph.nodes.append(gs.Node("Cast", self._name("adjoint_Cast"), {"to": 1}, [tensor], [single]))
            self._singles[tensor.name] = single
        return self._singles[tensor.name]

    def _name(self, stem: str) -> str:
        self._count += 1  # a number of its own each: trying them in turn would be quadratic
        return self._namer(f"{stem}_{self._count}")

    def constant(self, value: Array) -> gs.Constant:
        """An initializer."""
        kept = value.astype(np.float32) if value.dtype.kind == "f" else value.astype(np.int64)
        return gs.Constant(self._name("adjoint_constant"), np.ascontiguousarray(kept))

    def reshape(self, value: Any, shape: Sequence[int]) -> gs.Variable:
        """The value in another shape."""
        return self.add("Reshape", [value, np.asarray(shape, dtype=np.int64)])

    def in_rows(self, value: Any, shape: Sequence[int], axis: int, rows: Sequence[int]) -> gs.Variable:
        """The value, of this shape, as (*rows, positions): `rows` is how its axis is told, positions are all others."""
        axis, rest = axis % len(shape), [k for k in range(len(shape)) if k != axis % len(shape)]
        first = value if math.prod(shape[:axis]) == 1 else self.add("Transpose", [value], perm=[axis, *rest])
        return self.reshape(first, (*rows, -1))

    def sum_over(self, value: Any, axes: Sequence[int]) -> gs.Variable:
        """The sum over axes, which stay with size 1."""
        total = self.add("ReduceSum", [value], keepdims=1)
        numbers = np.asarray(axes, dtype=np.int64)
        set_operand(total.inputs[0], "axes", numbers, self.graph.opset, lambda: self._name("adjoint_constant"))
        return total

    def sliced(self, value: Any, axis: int, start: int, end: int) -> gs.Variable:
        """Positions from `start` up to `end` of an axis."""
        bounds = {"starts": start, "ends": end, "axes": axis}
        if self.graph.opset < _SLICES_BY_INPUTS:
            return self.add("Slice", [value], **{name: [number] for name, number in bounds.items()})
        return self.add("Slice", [value, *(np.array([number]) for number in bounds.values())])

    def hits(self, value: Any, other: Any) -> gs.Variable:
        """1 where two are equal, else 0."""
        if self.graph.opset >= _EQUAL_FLOATS:
            return self.add("Cast", [self.add("Equal", [value, other])], to=1)
        unlike = self.add("Or", [self.add("Less", [value, other]), self.add("Greater", [value, other])])
        return self.add("Cast", [self.add("Not", [unlike])], to=1)

    def gemm(self, value: Any, matrix: Any, **attrs: Any) -> gs.Variable:
        """The product of two matrices, to which nothing is added."""
        nothing = [np.zeros(1)] if self.graph.opset < _GEMM_OF_TWO else []
        return self.add("Gemm", [value, matrix, *nothing], **attrs)

    def at_least(self, value: Any, least: float) -> gs.Variable:
        """What is smaller is `least`."""
        low = np.asarray(least)
        if self.graph.opset >= _BROADCASTS_EXTREMES:
            return self.add("Max", [value, low])
        return self.add("Add", [self.add("Relu", [self.add("Sub", [value, low])]), low])

    def to_shape_of(self, value: Any, shape: Sequence[int], wide: Sequence[int]) -> Any:
        """The adjoint of broadcasting `shape` to `wide`: sums."""
        if tuple(shape) == tuple(wide):
            return value
        padded = (1,) * (len(wide) - len(shape)) + tuple(shape)
        axes = [k for k, (a, b) in enumerate(zip(padded, wide, strict=True)) if a != b]
        return self.reshape(self.sum_over(value, axes) if axes else value, shape)

    def twin(self, node: Node, data: Any) -> gs.Variable:
        """The same operator on other data in its first place."""
        return self.add(node.op, [data, *node.inputs[1:]], **dict(node.attrs))


Cotangents = list[gs.Variable | None]
"""Of a node's outputs; None for zero."""

Found = dict[int, Any]
"""Cotangents of a node's inputs, by index."""

Rule = Callable[[Adjoint, Node, Cotangents], Found]
"""Given the cotangents of a node's outputs: those of its inputs."""


def given(values: Cotangents) -> gs.Variable:
    """The first output's cotangent."""
    if values[0] is None:
        raise UnsupportedError("the first output is not used, others are")
    return values[0]


def refusal(node: Node, why: str) -> UnsupportedError:
    """The error that says that a node's gradient is not known."""
    return UnsupportedError(f"no gradient is known for {node.op}: {why}", node=node.name)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """A tensor's shape. Raises UnsupportedError where it is not static."""
    shape = tuple(tensor.shape) if is_constant(tensor) else static_shape(tensor)
    if shape is None:
        raise UnsupportedError(f"the shape of '{tensor.name}' is not known", hint="fix the size with --imgsz")
    return shape
