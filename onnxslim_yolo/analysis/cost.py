"""What a graph costs: multiply-accumulates and parameters, per layer and in sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.movement import Shape
from onnxslim_yolo.ir.graph import Node, input_constant, parameter_count
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer, multiplies_matrices, product_macs


@dataclass(frozen=True)
class LayerCost:
    """One layer's multiply-accumulates, and its parameters."""

    name: str
    op: str
    macs: int
    parameters: int


@dataclass(frozen=True)
class Cost:
    """A graph's cost: MACs, parameters (all floating-point constants), nodes, and layers that multiply.

    MACs are those of one run: of the file's batch where it is fixed, of one image where it is open.
    """

    macs: int
    parameters: int
    nodes: int
    layers: tuple[LayerCost, ...]


def cost_of(graph: gs.Graph) -> Cost:
    """Count a graph whose shapes are inferred. A layer of unknown shape counts zero MACs."""
    shapes = concrete_shapes(graph)
    layers: list[LayerCost] = []
    for node in graph.nodes:
        if node.op not in LINEAR:
            continue
        layer, weight = LinearLayer.of(node), input_constant(node, 1)
        size = 0 if weight is None else int(weight.size)
        out, before = shapes.get(id(node.outputs[0])), shapes.get(id(node.inputs[0]))
        macs = 0 if out is None or before is None else _macs(node, layer, out, before)
        layers.append(LayerCost(node.name, node.op, macs, size))
    return Cost(sum(layer.macs for layer in layers), parameter_count(graph), len(graph.nodes), tuple(layers))


def _macs(node: Node, layer: LinearLayer | None, out: Shape, before: Shape) -> int:
    if layer is None and multiplies_matrices(node):
        return product_macs(node, before, int(np.prod(out)))
    if layer is None:
        return 0
    return layer.macs(before, out)
