"""An Expand that its readers do themselves goes. Used by the pass `canonicalise`.

Elementwise operators broadcast: f(Expand(x), z) = f(x, z), exactly, if z alone already has every extent to which
Expand repeats x. PyTorch's `normalize` writes x / Expand(‖x‖), in which the repeated norm would look like channels that
belong to nobody, and tie down those of x. The same holds of a Tile of extents that were 1, and of a ConstantOfShape,
which repeats one number. So a parameter that is expanded to a map in front of an addition stays a parameter. Where the
reader's other operands are constants, too small to repeat x, the reader goes first: f(Expand(x), c) = Expand(f(x, c)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Namer,
    Node,
    Tensor,
    bypass,
    consumers,
    detach,
    is_constant,
    is_graph_output,
    nodes_of,
    replace_input,
    replace_uses,
    sole_consumer,
)
from onnxslim_yolo.ir.origins import ADDED, set_origin
from onnxslim_yolo.ops.arithmetic import BROADCASTING
from onnxslim_yolo.ops.movement import is_filled, is_tile

Dim = int | str
Dims = Sequence[Dim]


def drop_expands(graph: gs.Graph) -> int:
    """Bypass every Expand, Tile and ConstantOfShape whose readers broadcast anyway; return how many."""
    dropped, name = 0, Namer(graph)
    for node in nodes_of(graph, "Expand", "Tile", "ConstantOfShape"):
        if not node.outputs:
            continue  # folded just now
        result = node.outputs[0]
        readers = consumers(result)
        if is_graph_output(graph, result) or not readers or result.shape is None:
            continue
        number = is_filled(node)
        before: Dims | None = [1] * len(result.shape) if number else node.inputs[0].shape
        if before is None:
            continue
        if not all(_repeats_anyway(reader, before, result) for reader in readers):
            dropped += _sink(graph, node, name)
            continue
        if number:
            _replace_by_number(graph, node, name)
        else:
            bypass(graph, node)
        dropped += 1
    return dropped


def _replace_by_number(graph: gs.Graph, node: Node, name: Namer) -> None:
    result, number = node.outputs[0], _number(node, name)
    detach(node)
    replace_uses(graph, result, number)


def _number(node: Node, name: Namer) -> gs.Constant:
    """What a ConstantOfShape repeats."""
    result, value = node.outputs[0], node.attrs.get("value")
    values = np.zeros(1, np.float32) if value is None else np.asarray(getattr(value, "values", value))
    constant = gs.Constant(name(f"{result.name}_number"), values.reshape([1] * len(result.shape)))
    set_origin(constant, ADDED)
    return constant


def _sink(graph: gs.Graph, node: Node, name: Namer) -> int:
    """Put an Expand of a constant behind its one reader, of constants alone; 1, or 0 if it has to stay."""
    result = node.outputs[0]
    reader = sole_consumer(graph, result)
    if is_tile(node) or reader is None or reader.op not in BROADCASTING:
        return 0
    others = [tensor for tensor in reader.inputs if tensor is not result]
    number = is_filled(node)
    constant = number or is_constant(node.inputs[0])
    if not constant or not all(map(is_constant, others)) or reader.outputs[0].shape != result.shape:
        return 0
    source, target = (_number(node, name), node.inputs[0]) if number else (node.inputs[0], node.inputs[1])
    output = reader.outputs[0]
    fresh = gs.Variable(name(f"{output.name}_small"), output.dtype)
    replace_input(reader, result, source)
    reader.outputs = [fresh]
    detach(node)
    graph.nodes.append(gs.Node("Expand", name(f"{node.name}_behind"), {}, [fresh, target], [output]))
    return 1


def _repeats_anyway(reader: Node, before: Dims, result: Tensor) -> bool:
    """Whether the reader's other operands have all extents in which `result` is larger than what is repeated."""
    after: Dims = result.shape
    if reader.op not in BROADCASTING or len(before) > len(after):
        return False
    before = [1] * (len(after) - len(before)) + list(before)
    grown = [axis - len(after) for axis in range(len(after)) if before[axis] != after[axis]]
    if any(before[axis] != 1 or not _is_told(after[axis]) for axis in grown):
        return False
    others = [tensor.shape for tensor in reader.inputs if tensor is not result]
    return all(any(_extent(shape, axis) == after[axis] for shape in others) for axis in grown)


def _is_told(dim: Dim) -> bool:
    """Whether equal extents are the same: a number, or a symbol of the file's own."""
    return isinstance(dim, (int, np.integer)) or not dim.startswith("unk_")


def _extent(shape: Dims | None, axis: int) -> Dim:
    """The extent of an axis counted from the end; 1 if there is none."""
    return 1 if shape is None or -axis > len(shape) else shape[axis]
