"""What a graph's first layers tell about the pixels that it expects.

Between the input and the first convolution, constants that are subtracted, divided or multiplied by make an affine map
y = a·x + b per channel, Cast, Identity and Transpose aside. A small a is a division by 255 or by a deviation of
pixels; a zero −b/a far above 1 is a mean of pixels; other maps normalise an input that lies in [0, 1] already. An
input of integers is pixels.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.affine import batch_norm
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, producer
from onnxslim_yolo.ir.input_format import BYTES, UNIT, InputFormat
from onnxslim_yolo.ops.arithmetic import line
from onnxslim_yolo.ops.movement import SAME, is_transpose, tells_sizes
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.ops.registry import is_literal

SMALL_SLOPE = 1 / 16
"""Deviations of pixels, from 0 to 255, are above 16; of values from 0 to 1 they are below 1."""

LARGE_ZERO = 8.0
"""Means of pixels exceed this; of values in [0, 1] they do not."""


def format_of_first_layers(graph: gs.Graph) -> tuple[InputFormat, str] | None:
    """The format that the first layers show, and what shows it; None where nothing does."""
    if len(graph.inputs) != 1:
        return None
    image = graph.inputs[0]
    if isinstance(image.dtype, (np.dtype, type)) and np.dtype(image.dtype).kind in "iu":  # not an unknown type's number
        return BYTES, f"its type is {np.dtype(image.dtype)}"
    slope, offset, seen = np.ones(1), np.zeros(1), ""
    tensor: Tensor = image
    while (node := _only_reader(tensor)) is not None:
        step = _affine(node, tensor)
        if step is None:
            break
        if not _keeps_values(node):
            seen = seen or f"{node.op} '{node.name}'"
        slope, offset = slope * step[0], offset * step[0] + step[1]
        tensor = node.outputs[0]
    if not seen or not (np.isfinite(slope).all() and np.isfinite(offset).all()) or not slope.all():
        return None
    zero = np.abs(offset / slope).max()
    if np.abs(slope).max() <= SMALL_SLOPE or zero >= LARGE_ZERO:
        return BYTES, f"the graph normalises pixels ({seen})"
    if np.abs(slope).max() > 1:
        return UNIT, f"the graph normalises values in [0, 1] ({seen})"
    return None


def _keeps_values(node: Node) -> bool:
    return node.op in SAME or is_transpose(node)


def _only_reader(tensor: Tensor) -> Node | None:
    readers = [node for node in tensor.outputs if not tells_sizes(node)]
    return readers[0] if len(readers) == 1 and readers[0].outputs else None


def _affine(node: Node, tensor: Tensor) -> tuple[Array, Array] | None:
    """(slope, offset) per channel of what a node does to its input; None for anything else."""
    if _keeps_values(node):
        return np.ones(1), np.zeros(1)
    if is_batch_norm(node) and node.inputs[0] is tensor:
        norm = batch_norm(node)
        return None if norm is None else (norm.scale, norm.shift)
    if len(node.inputs) != 2:
        return None
    first = node.inputs[0] is tensor
    other = node.inputs[1 if first else 0]
    constant = _value(other)
    if constant is None or constant.size not in (1, 3):
        return None
    value = constant.astype(np.float64).reshape(-1)
    return line(node.op, value, 0 if first else 1)


def _value(tensor: Tensor) -> Array | None:
    """A constant, be it an initializer or a node of its own."""
    maker = producer(tensor)
    if not is_literal(maker):
        return constant_of(tensor)
    for key in ("value", "value_float", "value_floats"):
        if key in maker.attrs:
            return np.asarray(getattr(maker.attrs[key], "values", maker.attrs[key]))
    return None
