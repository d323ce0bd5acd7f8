"""Axes counted from the end before opset 11, which ONNX had not yet and onnxruntime runs: counted from the front.

And in order, where bounds stand beside them (Slice before opset 10): onnx infers no shape where they are in another.

Exporters write them all the same (`torch.cat(…, -1)` at opset 9 and 10). onnx infers no shape of such a Concat or
Flatten, and a wrong one of such a Squeeze, Unsqueeze or Slice, so that the file was refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import AXES_OF_THE_RESULT, UNFOLLOWED_AXES
from onnxslim_yolo.ir.graph import Node, Tensor, is_constant
from onnxslim_yolo.ir.shapes import infer_shapes

FROM_THE_END = 11
"""The opset from which on axes may be counted from the end."""

BOUNDS = ("starts", "ends")

ROUNDS = 64
"""So many nodes behind one another at the most: each round infers all shapes."""


def settle_axes(graph: gs.Graph) -> int:
    """Count the axes of such nodes from the front, as far as ranks are known; return how many.

    `graph` is in topological order. What is behind a node that was settled just now is looked at in the next round, as
    its shape was not the one inferred.
    """
    settled = 0 if graph.opset >= FROM_THE_END else sum(map(_order, graph.nodes))
    for _ in range(ROUNDS):
        if graph.opset >= FROM_THE_END or not any(map(_is_negative, graph.nodes)):
            break
        types = infer_shapes(graph, strict=False)
        before, unsure = settled, set[int]()
        for node in graph.nodes:
            if any(id(tensor) in unsure for tensor in node.inputs):
                unsure |= {id(tensor) for tensor in node.outputs}
            elif _is_negative(node):
                unsure |= {id(tensor) for tensor in node.outputs}
                settled += _settle(node, types)
        if settled == before:
            break
    return settled


def _axes(node: Node) -> list[int]:
    if node.op not in UNFOLLOWED_AXES or UNFOLLOWED_AXES[node.op] not in node.attrs:
        return []
    given = node.attrs[UNFOLLOWED_AXES[node.op]]
    return [int(axis) for axis in (given if isinstance(given, (list, tuple)) else [given])]


def _is_negative(node: Node) -> bool:
    return any(axis < 0 for axis in _axes(node))


def _settle(node: Node, types: Mapping[str, onnx.TypeProto]) -> bool:
    rank = next((rank for rank in (_rank(tensor, types) for tensor in node.inputs) if rank is not None), None)
    if rank is None:
        return False
    axes, name = _axes(node), UNFOLLOWED_AXES[node.op]
    rank += len(axes) if node.op in AXES_OF_THE_RESULT else 0
    if min(axes) < -rank:
        return False
    front = [axis % rank if axis < 0 else axis for axis in axes]
    node.attrs[name] = front[0] if name == "axis" else front
    _order(node)
    return True


def _order(node: Node) -> bool:
    """Put axes that have bounds beside them in order, with these; whether that changed anything."""
    axes = _axes(node)
    whole = all(name in node.attrs and len(node.attrs[name]) == len(axes) for name in BOUNDS)
    if not whole or not axes or min(axes) < 0:
        return False
    order = sorted(range(len(axes)), key=axes.__getitem__)
    for name in (UNFOLLOWED_AXES[node.op], *BOUNDS):
        node.attrs[name] = [int(node.attrs[name][k]) for k in order]
    return order != list(range(len(axes)))


def _rank(tensor: Tensor, types: Mapping[str, onnx.TypeProto]) -> int | None:
    if is_constant(tensor):
        return len(tensor.shape)
    kind = types.get(tensor.name)
    known = kind is not None and kind.tensor_type.HasField("shape")
    return len(kind.tensor_type.shape.dim) if kind is not None and known else None
