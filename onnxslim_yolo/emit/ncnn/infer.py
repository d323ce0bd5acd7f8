"""Shapes and constants in one pass over the nodes.

Exports with dynamic sizes compute most of their shapes (Shape, Gather, Concat, Reshape, block after block), so folding
and inferring would have to alternate once per block. Node by node both are done on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from onnxslim_yolo.analysis.folding import fold
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, is_graph_output, static_shape
from onnxslim_yolo.ir.node_shapes import infer_node
from onnxslim_yolo.ir.shapes import skeleton
from onnxslim_yolo.ops.movement import tells_shape


def annotate(graph: gs.Graph) -> None:
    """Set every tensor's shape and type, and let nodes read constants where values depend on no input.

    The graph must be in topological order. Shapes that depend on data stay None.
    """
    protos = skeleton(graph).graph.node
    opsets = [helper.make_opsetid("", graph.opset)]
    known: dict[int, Tensor] = {}
    for node, proto in zip(list(graph.nodes), protos, strict=True):
        node.inputs = [known.get(id(tensor), tensor) for tensor in node.inputs]
        infer_node(node, proto, opsets)
        for tensor, value in zip(node.outputs, _values(node, graph.opset), strict=False):
            if not is_graph_output(graph, tensor):
                known[id(tensor)] = gs.Constant(tensor.name, value)


def _values(node: Node, opset: int) -> Sequence[Array]:
    """What a node makes of constants, or of a shape that is known; nothing where it is neither."""
    if tells_shape(node) and (shape := static_shape(node.inputs[0])) is not None:
        return [np.asarray(shape[attribute(node, "start") : attribute(node, "end")], dtype=np.int64)]
    return fold(node, opset) or ()
