"""The reference for pruning: the same graph with the removed channels masked.

Before every contraction a Mul with a mask of ones and zeros is put on the input, so that exactly the terms are left out
that slicing leaves out. Nothing else of the graph changes, and nothing of the slicing code is used.

Of a masked block (see `analysis.blocks`) the contribution is zero, or its mean: an operand or a part is multiplied by
0, and the mean added; the end of a chain gets added what its start is away from it, and the mean. The nodes stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block, end_of, node_named, stand_in
from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.ir.graph import Namer, Node, Tensor, copy_graph, replace_uses, set_input, tensors, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.plan import Plan


def masked(model: Model, plan: Plan) -> Model:
    """A copy of the model in which the channels that the plan removes are zero wherever they are summed over.

    Args:
        model: the model the plan speaks about, not sliced yet.
        plan: a plan that is not applied.
    """
    graph = copy_graph(model.graph)
    by_name = {node.name: node for node in graph.nodes}  # the plan may speak about the model this is a copy of
    name = Namer(graph)
    for node, index in plan.channels.contractions:
        classes = plan.channels.labels_of(node.inputs[index])
        if classes is None:
            continue
        keep = np.where(classes == NO_CHANNEL, True, plan.keep[np.maximum(classes, 0)])
        if keep.all():
            continue
        copy = by_name[node.name]
        source = copy.inputs[index]
        dtype = np.float32 if source.dtype is None else source.dtype
        mask = gs.Constant(name(f"{node.name}_mask"), keep.astype(dtype))
        output = gs.Variable(name(f"{source.name}_masked"), source.dtype, source.shape)
        graph.nodes.append(gs.Node("Mul", name(f"{node.name}_masking"), {}, [source, mask], [output]))
        inputs = list(copy.inputs)
        inputs[index] = output
        copy.inputs = inputs
    graph.nodes = toposort(graph)
    return Model(graph=graph, metadata=dict(model.metadata), source=model.source)


def mask_blocks(model: Model, blocks: Sequence[Block]) -> Model:
    """A copy of the model in which these blocks contribute nothing. Nothing of the code that takes them out is used."""
    masked = Model(graph=copy_graph(model.graph), metadata=dict(model.metadata), source=model.source)
    name, instead = Namer(masked.graph), dict[str, Tensor]()
    for block in blocks:
        node = node_named(masked.graph, block.node)
        if node is not None:
            _mask(masked.graph, node, block, name, instead)
    masked.graph.nodes = toposort(masked.graph)
    return masked


def _mask(graph: gs.Graph, node: Node, block: Block, name: Namer, instead: dict[str, Tensor]) -> None:
    """Mask one block; `instead`: what took the place of ends masked before."""
    end = end_of(block, node)
    result = gs.Variable(name(f"{end.name}_masked"), end.dtype, end.shape)
    if block.kind != "chain":
        if block.index >= 0:
            set_input(node, block.index, result)
        else:
            replace_uses(graph, end, result)
        zero = gs.Constant(name("nothing"), np.zeros((), dtype=end.dtype or np.float32))
        inner = gs.Variable(name(f"{end.name}_nothing"), end.dtype, end.shape) if block.mean else result
        graph.nodes.append(gs.Node("Mul", name(f"{node.name}_masking"), {}, [end, zero], [inner]))
        if block.mean:
            mean = stand_in(block, end, name(f"{node.name}_mean"))
            graph.nodes.append(gs.Node("Add", name(f"{node.name}_mean"), {}, [inner, mean], [result]))
        return
    start = instead.get(block.start) or next(t for t in tensors(graph) if t.name == block.start)
    away = gs.Variable(name(f"{end.name}_away"), end.dtype, end.shape)
    replace_uses(graph, end, result)
    instead[end.name] = result
    graph.nodes.append(gs.Node("Sub", name(f"{node.name}_away"), {}, [start, end], [away]))
    inner = gs.Variable(name(f"{end.name}_bridged"), end.dtype, end.shape) if block.mean else result
    graph.nodes.append(gs.Node("Add", name(f"{node.name}_masking"), {}, [end, away], [inner]))
    if block.mean:
        mean = stand_in(block, end, name(f"{node.name}_mean"))
        graph.nodes.append(gs.Node("Add", name(f"{node.name}_mean"), {}, [inner, mean], [result]))
