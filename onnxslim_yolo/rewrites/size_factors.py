"""Axes of tensors as products of factors, each with its extent before and after a change of the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxslim_yolo.ir.graph import Node, constant_of, is_empty
from onnxslim_yolo.ir.shapes import elem_type_of, stand_in

MOST_VALUES = 4096
"""Of so many numbers at most the values are looked at: more are no shape, and no scales."""


class OneSizeError(Exception):
    """What stands in the way of another size; `node`: where."""

    def __init__(self, reason: str, node: str = "") -> None:
        super().__init__(reason)
        self.node = node


@dataclass(frozen=True)
class Factor:
    """An extent before and now; of what is no position the two are the same."""

    old: int
    new: int

    @property
    def changed(self) -> bool:
        """Whether it is of positions."""
        return self.old != self.new


Axis = tuple[Factor, ...]
"""A product of factors, the outer ones first."""


def old_of(axis: Axis) -> int:
    """The extent before."""
    return prod(factor.old for factor in axis)


def new_of(axis: Axis) -> int:
    """The extent now."""
    return prod(factor.new for factor in axis)


def plain(extent: int) -> Axis:
    """An extent that stays as it is."""
    return (Factor(extent, extent),)


def grouped(factors: Sequence[Factor], extents: Sequence[int]) -> list[Axis] | None:
    """Factors in their order, grouped to axes that had these extents; None where one of positions would be parted."""
    left = [factor for factor in factors if factor != Factor(1, 1)]
    axes: list[Axis] = []
    for extent in extents:
        axis: list[Factor] = []
        missing = extent
        while missing > 1:
            if not left:
                return None
            first = left.pop(0)
            if missing % first.old == 0:
                axis.append(first)
                missing //= first.old
            elif first.old % missing == 0 and not first.changed:
                axis.append(Factor(missing, missing))
                left.insert(0, Factor(first.old // missing, first.old // missing))
                missing = 1
            else:
                return None
        axes.append(tuple(axis) or plain(1))
    return axes if not left else None


def moves(axis: Axis) -> bool:
    """Whether it is of positions, were it as long as before all in all."""
    return any(factor.changed for factor in axis)


def axis_of(read: Sequence[Sequence[Axis]], place: int, side: Factor) -> Axis | None:
    """The axis of an output: an operand's own at that place from the end, if it is like that; else one of any place.

    Where several are alike and made of other factors, it is a new one; None where that could not tell that it moves.
    """
    same = [axes[place] for axes in read if -place <= len(axes)]
    alike = [axis for axis in same if (old_of(axis), new_of(axis)) == (side.old, side.new)]
    if not alike and (side.changed or len({len(axes) for axes in read}) > 1):
        alike = [axis for axes in read for axis in axes if (old_of(axis), new_of(axis)) == (side.old, side.new)]
    found = {tuple(factor for factor in axis if factor != Factor(1, 1)): axis for axis in alike if moves(axis)}
    if not found:
        return (side,)
    if len(found) > 1:
        return (side,) if side.changed else None
    return next(iter(found.values()))


def inferred(node: Node, read: Sequence[Sequence[Axis] | None], graph: gs.Graph) -> list[list[int]]:
    """The shapes that a node makes of inputs of the new size. Raises OneSizeError where they do not fit."""
    proto = stand_in(OnnxExporter.export_node(node))
    types, values = {}, {}
    for tensor, axes in zip(node.inputs, read, strict=True):
        if axes is None:
            continue
        kind = elem_type_of(tensor.dtype)
        types[tensor.name] = onnx.helper.make_tensor_type_proto(kind, [new_of(axis) for axis in axes])
        value = constant_of(tensor)
        if value is not None and value.size < MOST_VALUES:
            values[tensor.name] = onnx.numpy_helper.from_array(value, tensor.name)
    try:
        schema = onnx.defs.get_schema(proto.op_type, graph.opset, proto.domain)
        opsets = [onnx.helper.make_opsetid("", graph.opset)]
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, values, opset_imports=opsets)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise OneSizeError(f"what it reads does not fit at the new size ({_short(error)})", node.name) from error
    shapes: list[list[int]] = []
    for tensor in node.outputs:
        dims = found[tensor.name].tensor_type.shape.dim if tensor.name in found else []
        if is_empty(tensor):
            shapes.append([])
        elif tensor.name not in found or any(not dim.HasField("dim_value") for dim in dims):
            raise OneSizeError("nothing tells what shape its output has", node.name)
        else:
            shapes.append([dim.dim_value for dim in dims])
    return shapes


def _short(error: Exception) -> str:
    return " ".join(str(error).split()).removeprefix("[ShapeInferenceError] ")[:200]
