"""What running a graph takes, from its shapes alone: memory for all tensors that live at once, and work.

Memory is that of the tensors between their first and last use, in the graph's order, at no less than four bytes an
element (runtimes compute in float32), with constants all the time and outputs to the end. A checked output is held
several times over: `OUTPUT_COPIES`. Work is counted in multiply-adds; what runs slower by the element than a
convolution counts more, by about as much as it takes longer on one core (`POOL_TAP`, `ELEMENT`, `QUICK_ELEMENT`).
A tensor whose size depends on what is in the image counts as much as it can have (`most_shapes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.most_shapes import most_shapes
from onnxslim_yolo.analysis.window import explicit_pads
from onnxslim_yolo.ir.attributes import attribute, per_axis
from onnxslim_yolo.ir.graph import Node, Tensor, input_constant, is_constant, is_empty
from onnxslim_yolo.ops.linear import (
    LINEAR,
    PLAIN,
    Layout,
    is_conv,
    is_transposed_conv,
    multiplies_matrices,
    product_macs,
)
from onnxslim_yolo.ops.movement import VIEWS
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.ops.registry import RECURRENT
from onnxslim_yolo.ops.spatial import POOLS, RESIZES

POOL_TAP, ELEMENT, CUBIC = 60, 120, 2000
QUICK_ELEMENT = 60
QUICK = {
    *("BatchNormalization", "Sigmoid", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Mul", "Add", "Sub"),
    *(*VIEWS, "Concat", "Split", "Slice", "Transpose", "Identity"),
}
"""What runtimes vectorise or only move: detectors have one of them behind each convolution, or several."""
NODE, NODE_WITH_WEIGHTS = 2_000_000, 6_000_000
"""What a node takes at least, however small its tensors: passes look at each, and weights are ranked and compared."""
OUTPUT_COPIES = 8
LARGE_KERNEL = 225
"""Elements of a window above which runtimes write out all windows before they multiply, twice."""

Shape = tuple[int, ...] | None


@dataclass(frozen=True)
class Effort:
    """Bytes at the worst moment and multiply-adds in sum, each with the node that has the greatest part."""

    memory: int
    memory_node: str
    work: int
    work_node: str


def effort_of(graph: gs.Graph) -> Effort:
    """Estimate a graph whose shapes are inferred. One pass over its edges."""
    shapes = most_shapes(graph)
    uses = Counter(id(tensor) for node in graph.nodes for tensor in node.inputs)
    kept = {id(tensor) for tensor in graph.outputs}
    live = sum(_bytes(tensor, shapes) for tensor in graph.inputs) + _constants(graph)
    outputs = {id(tensor): _bytes(tensor, shapes) for tensor in graph.outputs}
    live += sum(outputs.values())
    memory, memory_node, work, most, work_node = 0, "", 0, -1, ""
    for node in graph.nodes:
        made = sum(_bytes(tensor, shapes) for tensor in node.outputs if not is_empty(tensor) and id(tensor) not in kept)
        live += made
        now = max(
            live + _windows(node, shapes) + _frame(node, shapes),
            OUTPUT_COPIES * sum(outputs.get(id(t), 0) for t in node.outputs),
        )
        if now > memory or not memory_node:
            memory, memory_node = now, name_of(node)
        for tensor in node.inputs:
            uses[id(tensor)] -= 1
            if uses[id(tensor)] == 0 and id(tensor) not in kept and not is_constant(tensor):
                live -= _bytes(tensor, shapes)
        live -= sum(
            _bytes(t, shapes) for t in node.outputs if id(t) not in kept and not is_empty(t) and not uses[id(t)]
        )
        one = max(work_of(node, shapes), NODE_WITH_WEIGHTS if node.op in PLAIN or is_batch_norm(node) else NODE)
        work += one
        if one > most:
            most, work_node = one, name_of(node)
    return Effort(max(memory, OUTPUT_COPIES * sum(outputs.values())), memory_node, work, work_node)


def name_of(node: Node) -> str:
    """What to call a node in a message."""
    return f"{node.name or (node.outputs[0].name if node.outputs else '')} ({node.op})"


def work_of(node: Node, shapes: Mapping[int, Shape]) -> int:
    """Multiply-adds of one node, or what takes as long."""
    inputs = [None if is_empty(tensor) else shapes.get(id(tensor)) for tensor in node.inputs]
    outputs = [shapes.get(id(tensor)) for tensor in node.outputs if not is_empty(tensor)]
    read = sum(prod(shape) for shape in inputs if shape is not None)
    made = sum(prod(shape) for shape in outputs if shape is not None)
    plain = (QUICK_ELEMENT if node.op in QUICK else ELEMENT) * (max(read, made) if len(inputs) <= 2 else read + made)
    return max(plain, _special(node, inputs, outputs, made))


def _special(node: Node, inputs: list[Shape], outputs: list[Shape], made: int) -> int:
    first = inputs[0] if inputs else None
    second = inputs[1] if len(inputs) > 1 else None
    if multiplies_matrices(node):
        return product_macs(node, first, made) if first else 0
    if node.op in LINEAR and second is not None and len(second) > 1:
        known = first is not None or not is_transposed_conv(node)
        return Layout.of_shape(node, second).macs(first or (), (made,)) if known else 0
    if node.op in POOLS and not POOLS[node.op].whole:
        return POOL_TAP * made * _taps(node, first)
    if node.op == "Einsum":
        return _einsum(node, inputs)
    if node.op in RESIZES:
        return made * (CUBIC if attribute(node, "mode") == "cubic" else 2 * ELEMENT)
    if node.op == "RoiAlign":
        return ELEMENT * made * max(1, int(attribute(node, "sampling_ratio") or 2)) ** 2
    if node.op == "LRN":
        return made * int(attribute(node, "size"))
    if node.op in RECURRENT and first:
        weights = sum(prod(shape) for shape in inputs[1:3] if shape is not None)
        return weights * int(prod(first[:2]))
    return 0


def _windows(node: Node, shapes: Mapping[int, Shape]) -> int:
    """Bytes of a convolution's windows where it is computed from them all at once."""
    weight = shapes.get(id(node.inputs[1])) if is_conv(node) else None
    out = shapes.get(id(node.outputs[0])) if node.outputs else None
    if weight is None or out is None or prod(weight[2:]) <= LARGE_KERNEL:
        return 0
    layout = Layout.of_shape(node, weight)
    return 2 * 4 * layout.inputs // layout.groups * layout.taps * prod(out[2:])


def _frame(node: Node, shapes: Mapping[int, Shape]) -> int:
    """Bytes of a map with all its padding, or of a ConvTranspose's output before it is cut to size, beyond the map's
    own: runtimes write them out."""
    transposed = is_transposed_conv(node)
    if not (transposed or is_conv(node) or (node.op in POOLS and not POOLS[node.op].whole)) or not node.outputs:
        return 0
    weight = None if node.op in POOLS else shapes.get(id(node.inputs[1]))
    said = attribute(node, "kernel_shape") if weight is None else Layout.of_shape(node, weight).kernel
    if said is None:
        return 0
    kernel = [int(k) for k in np.atleast_1d(said)]
    inner, outer = shapes.get(id(node.inputs[0])), shapes.get(id(node.outputs[0]))
    framed = outer if transposed else inner
    if inner is None or framed is None or any(len(shape) != len(kernel) + 2 for shape in (inner, framed)):
        return 0
    strides, dilations = per_axis(node, "strides", len(kernel)), per_axis(node, "dilations", len(kernel))
    if transposed:
        sides = [
            (side - 1) * s + d * (k - 1) + 1
            for side, s, d, k in zip(inner[2:], strides, dilations, kernel, strict=True)
        ]
    else:
        pads = explicit_pads(node, kernel, strides, dilations) or [0] * 2 * len(kernel)
        sides = [side + pads[axis] + pads[axis + len(kernel)] for axis, side in enumerate(inner[2:])]
    return max(0, 4 * prod(framed[:2]) * (prod(sides) - prod(framed[2:])))


def _taps(node: Node, first: Shape) -> int:
    """Elements under a window, at most what the map has: windows are cut off at its edges."""
    kernel = [int(k) for k in np.atleast_1d(attribute(node, "kernel_shape"))]
    if first is None or len(first) != len(kernel) + 2:
        return prod(max(k, 1) for k in kernel)
    return prod(max(1, min(k, side)) for k, side in zip(kernel, first[2:], strict=True))


def _einsum(node: Node, inputs: list[Shape]) -> int:
    terms = str(attribute(node, "equation")).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if shape is not None and len(term) == len(shape):
            sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values()) if sizes else 0


def _constants(graph: gs.Graph) -> int:
    seen: dict[int, int] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if is_constant(tensor) and id(tensor) not in seen:
                value = input_constant(node, index)
                seen[id(tensor)] = 0 if value is None else int(value.nbytes)
    return sum(seen.values())


def _bytes(tensor: Tensor, shapes: Mapping[int, Shape]) -> int:
    shape = shapes.get(id(tensor))
    if shape is None:
        return 0
    try:
        width = max(4, np.dtype(tensor.dtype).itemsize)
    except TypeError:
        width = 4
    return int(width * prod(shape))
