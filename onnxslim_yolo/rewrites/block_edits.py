"""Taking blocks out of a graph (see `analysis.blocks`): the operand, the part or the chain is gone, and what was
computed for it alone. The result is the graph with the block masked (`pruning.mask`), exactly.

What a branch or a chain leaves behind is a constant. The layers that read it take it into their biases where that is
exact (see `analysis.carriers`); elsewhere it is added, or, where the model's own code adds nothing, the block stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block, node_named, stand_in
from onnxslim_yolo.analysis.carriers import Shifts, carriers
from onnxslim_yolo.ir.graph import (
    Namer,
    Node,
    Tensor,
    bypass,
    is_constant,
    replace_uses,
    set_input,
    sweep,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.pruning.shift import shift_outputs
from onnxslim_yolo.rewrites.emptied import without_part


def take_out(model: Model, blocks: Sequence[Block]) -> list[Block]:
    """Take blocks out, in place; returns those that went.

    One that lies within another is gone with it. One without which the graph would not stay whole stays, and of two
    that are the same layers the first goes.
    """
    gone = []
    for block in sorted(blocks, key=lambda block: (-len(block.nodes), block.node, block.index)):
        left = {node.name for node in model.graph.nodes}
        node = node_named(model.graph, block.node)
        if node is None and left.isdisjoint(block.nodes):
            gone.append(block)
        elif node is not None and not left.isdisjoint(block.nodes) and _take_one(model, node, block):
            gone.append(block)
            _tidy(model)
            if block.kind == "part":  # what reads the Concat is narrower; a sum and what it adds have one shape
                reinfer(model.graph)
    if gone:
        reinfer(model.graph)
    return gone


def _take_one(model: Model, node: Node, block: Block) -> bool:
    graph = model.graph
    shifts = carried(graph, node, block) if block.mean else ""
    if not isinstance(shifts, str):
        if not _take_one(model, node, replace(block, mean=())):
            return False
        name = Namer(graph)
        for layer, shift in shifts:
            shift_outputs(model, layer, shift, name)
        return True
    if block.mean and model.equal_parts:
        return False
    if block.kind == "chain":
        first = node_named(graph, block.nodes[0])
        start = next((t for t in first.inputs if not is_constant(t)), None) if first is not None else None
        if start is None:  # as it is now: a sum that it was may have gone
            return False
        replace_uses(graph, node.outputs[0], _shifted(model, block, start))
        return True
    index = _index(node, block)
    if index is None:
        return False
    if block.kind == "branch" and block.mean:
        end = node.inputs[index]
        set_input(node, index, stand_in(block, end, Namer(graph)(f"{end.name}_mean")))
        return True
    if block.kind == "branch":
        node.inputs = [tensor for k, tensor in enumerate(node.inputs) if k != index]
        if len(node.inputs) == 1:
            bypass(graph, node)
        return True
    found = without_part(model, node, index, dead=False)
    if found is not None:
        model.graph = found
    return found is not None


def carried(graph: gs.Graph, node: Node, block: Block) -> Shifts | str:
    """The layers that can take a block's mean into their biases; or where that would not be exact."""
    return carriers(graph, node.outputs[0], np.asarray(block.mean))


def _shifted(model: Model, block: Block, start: Tensor) -> Tensor:
    """What a chain begins with, and what is left of the chain: a constant."""
    if not block.mean:
        return start
    name = Namer(model.graph)
    mean = stand_in(block, start, name(f"{start.name}_mean"))
    bridged = gs.Variable(name(f"{start.name}_bridged"), start.dtype, start.shape)
    model.graph.nodes.append(gs.Node("Add", name(f"{block.node}_bridge"), {}, [start, mean], [bridged]))
    return bridged


def _index(node: Node, block: Block) -> int | None:
    """Where the block's end is read now: other operands may have gone."""
    for index, tensor in enumerate(node.inputs):
        if tensor.inputs and tensor.inputs[0].name == block.nodes[-1]:
            return index
    return None


def _tidy(model: Model) -> None:
    sweep(model.graph)
    model.graph.nodes = toposort(model.graph)
