"""An Expand that its readers do themselves goes. Used by the pass `canonicalise`.

Elementwise operators broadcast: f(Expand(x), z) = f(x, z), exactly, if z alone already has every extent to which
Expand repeats x. PyTorch's `normalize` writes x / Expand(‖x‖), in which the repeated norm would look like channels that
belong to nobody, and tie down those of x.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import Shape
from onnxslim_yolo.graph import Node, Tensor, bypass, consumers, is_graph_output, static_shape

_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where")


def drop_expands(graph: gs.Graph) -> int:
    """Bypass every Expand whose readers broadcast anyway; return how many."""
    dropped = 0
    for node in [node for node in graph.nodes if node.op == "Expand" and node.outputs]:  # not folded just now
        result = node.outputs[0]
        readers = consumers(result)
        if is_graph_output(graph, result) or not readers:
            continue
        if all(_repeats_anyway(reader, node.inputs[0], result) for reader in readers):
            bypass(graph, node)
            dropped += 1
    return dropped


def _repeats_anyway(reader: Node, source: Tensor, result: Tensor) -> bool:
    """Whether the reader's other operands have all extents in which `result` is larger than `source`."""
    before, after = static_shape(source), static_shape(result)
    if reader.op not in _BROADCASTING or before is None or after is None:
        return False
    before = (1,) * (len(after) - len(before)) + before
    grown = [axis - len(after) for axis in range(len(after)) if before[axis] != after[axis]]
    others = [static_shape(tensor) for tensor in reader.inputs if tensor is not result]
    return all(any(_extent(shape, axis) == after[axis] for shape in others) for axis in grown)


def _extent(shape: Shape | None, axis: int) -> int:
    """The extent of an axis counted from the end; 1 if there is none."""
    return 1 if shape is None or -axis > len(shape) else shape[axis]
