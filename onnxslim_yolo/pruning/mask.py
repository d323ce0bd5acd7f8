"""The reference for pruning: the same graph with the removed channels masked.

Before every contraction a Mul with a mask of ones and zeros is put on the input, so that exactly the terms are left out
that slicing leaves out. Nothing else of the graph changes, and nothing of the slicing code is used.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.ir.graph import Namer, copy_graph, toposort
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
