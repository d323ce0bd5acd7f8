"""The most that a tensor can have whose size depends on what is in the image.

NonZero finds as many places as there are, NonMaxSuppression keeps every box, a Slice everything. With these sizes in
their nodes' places, onnx infers what follows from them. What is unknown then is made to a size that the image's values
say: an Expand, a Range, a Pad of as much as they please. That can be told of no file beforehand (`of_any_size`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, input_constant, is_empty

ROUNDS = 8
"""How often sizes found are used to find others."""
SIZED = frozenset(
    (
        *("Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Pad", "OneHot", "Reshape"),
        *("CenterCropPad", "MaxUnpool", "Col2Im", "AffineGrid", "DFT", "STFT", "MelWeightMatrix", "Loop", "Scan"),
        *("HannWindow", "HammingWindow", "BlackmanWindow"),
    )
)
"""Operators that make a tensor as large as another says."""

Shape = tuple[int, ...] | None


def most_shapes(graph: gs.Graph) -> dict[int, Shape]:
    """Every tensor's shape at the most, by its `id`; None where that cannot be said. Raises as `concrete_shapes`."""
    shapes = concrete_shapes(graph)
    given: dict[str, tuple[int, ...]] = {}
    for _ in range(ROUNDS):
        found = {}
        for node in graph.nodes:
            unknown = [t for t in node.outputs if not is_empty(t) and shapes.get(id(t)) is None]
            most = _most(node, shapes) if unknown and all(t.name not in given for t in unknown) else None
            if most is not None:
                found.update(dict.fromkeys((t.name for t in unknown), most))
        if not found:
            break
        given |= found
        shapes = concrete_shapes(graph, given=given)
    return shapes


def of_any_size(graph: gs.Graph) -> Node | None:
    """The first node that makes a tensor as large as the image's values say."""
    shapes = most_shapes(graph)
    unknown = (t for node in graph.nodes if node.op in SIZED for t in node.outputs if not is_empty(t))
    return next((tensor.inputs[0] for tensor in unknown if shapes.get(id(tensor)) is None), None)


def _most(node: Node, shapes: Mapping[int, Shape]) -> tuple[int, ...] | None:
    first = shapes.get(id(node.inputs[0])) if node.inputs else None
    if first is None:
        return None
    if node.op == "NonZero":
        return (len(first), prod(first))
    if node.op in ("Compress", "Unique"):
        return (prod(first),) if attribute(node, "axis") is None else first
    if node.op in ("Slice", "TopK"):
        return first
    if node.op == "NonMaxSuppression" and len(node.inputs) > 1:
        scores = shapes.get(id(node.inputs[1]))
        return None if scores is None or len(scores) != 3 else (prod(scores[:2]) * _kept(node, scores[2]), 3)
    return None


def _kept(node: Node, boxes: int) -> int:
    """Boxes that a NonMaxSuppression keeps of each class at most."""
    most = input_constant(node, 2)
    return boxes if most is None or not most.size else max(0, min(boxes, int(np.asarray(most).reshape(-1)[0])))
