"""Where to cut a network whose end ncnn cannot express.

End-to-end heads (YOLOv10, YOLO26, exported NMS) finish with TopK, GatherElements or NonMaxSuppression. What lies behind
the first such operator is a post-processing *tail* as long as no learned convolution or matrix follows; the values that
flow into it become the network's outputs. The cut then moves up through data movement as long as that does not add
outputs: rather one (1, 84, 8400) than its boxes, its scores and their maximum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from onnxslim_yolo.heads.decode_region import takes_expectation
from onnxslim_yolo.ir.graph import Node, Tensor, is_constant, is_empty, is_graph_output, producer, sweep
from onnxslim_yolo.ops.linear import LINEAR, is_matmul
from onnxslim_yolo.ops.movement import ARRANGES, SAME
from onnxslim_yolo.ops.reductions import takes_greatest


def tail_of(graph: gs.Graph, failed: Sequence[Node]) -> list[Node]:
    """The failed nodes and everything computed from them, in graph order."""
    tainted: set[int] = set()
    tail: list[Node] = []
    start = {id(node) for node in failed}
    for node in graph.nodes:
        if id(node) in start or any(id(tensor) in tainted for tensor in node.inputs):
            tail.append(node)
            tainted.update(id(tensor) for tensor in node.outputs)
    return tail


def learned_node(tail: Sequence[Node]) -> Node | None:
    """A node of the tail that shows it is more than post-processing."""
    for node in tail:
        weighs = node.op in LINEAR and (not is_matmul(node) or any(is_constant(tensor) for tensor in node.inputs))
        if weighs and not takes_expectation(node):
            return node
    return None


def cut(graph: gs.Graph, tail: Sequence[Node]) -> list[Tensor]:
    """Make the values that flow into the tail the graph's outputs. Returns these values."""
    original = list(graph.outputs)
    inside = {id(node) for node in tail}
    wider = _absorbed(graph, inside)
    if len(_frontier(graph, wider)) <= len(_frontier(graph, inside)):
        inside = wider
    frontier = _frontier(graph, inside)
    kept = [tensor for tensor in original if not _made_inside(tensor, inside)]
    fresh = [tensor for tensor in frontier if not any(tensor is other for other in kept)]
    place = next((index for index, tensor in enumerate(original) if _made_inside(tensor, inside)), len(kept))
    graph.outputs = [*kept[:place], *fresh, *kept[place:]]
    for node in graph.nodes:
        if id(node) in inside:
            node.inputs = []
            node.outputs = []
    sweep(graph)
    return fresh


def _made_inside(tensor: Tensor, inside: Collection[int]) -> bool:
    node = producer(tensor)
    return node is not None and id(node) in inside


def _frontier(graph: gs.Graph, inside: Collection[int]) -> list[Tensor]:
    """What flows into the tail and the network computes: what the caller gives, the caller has."""
    given = {id(tensor) for tensor in graph.inputs}
    seen: dict[int, Tensor] = {}
    for node in graph.nodes:
        if id(node) not in inside:
            continue
        for tensor in node.inputs:
            if not (is_constant(tensor) or is_empty(tensor) or id(tensor) in given or _made_inside(tensor, inside)):
                seen[id(tensor)] = tensor
    return list(seen.values())


def _moves(node: Node) -> bool:
    return node.op in (*ARRANGES, *SAME) or takes_greatest(node)


def _absorbed(graph: gs.Graph, inside: Collection[int]) -> set[int]:
    """The tail with all data movement directly in front of it that nothing else needs."""
    wider = set(inside)
    for node in reversed(graph.nodes):
        if id(node) in wider or not _moves(node):
            continue
        readers = [reader for tensor in node.outputs for reader in tensor.outputs]
        if any(is_graph_output(graph, tensor) for tensor in node.outputs) or not readers:
            continue
        if all(id(reader) in wider for reader in readers):
            wider.add(id(node))
    return wider
