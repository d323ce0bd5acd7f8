"""Data movement that is cheaper said otherwise, rewritten in the emitter's private copy of the graph.

Focus     a space-to-depth in front of a convolution: the pass `focus-to-conv`.
Shuffles  several Gathers whose indices together are a channel shuffle = one Gather of all of them, then a Split.
Sandwich  Transpose(f(Transpose(x))) with inverse permutations and f a Softmax or element-wise = f on the moved axis.
Stems     see `ncnn_stem`.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.gather import shuffle_groups
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.emit.ncnn.stem import split_stems
from onnxslim_yolo.ir.attributes import attribute, permutation, softmax_axes
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    become,
    detach,
    input_constant,
    sole_consumer,
    sole_producer,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.movement import is_gather, is_transpose
from onnxslim_yolo.ops.norms import is_softmax
from onnxslim_yolo.passes.focus import FocusToConv


def rewrite_movement(graph: gs.Graph) -> int:
    """Apply them all. Returns how many rewrites were made."""
    return FocusToConv().run(Model(graph)) + _shuffles(graph) + _sandwiches(graph) + split_stems(graph)


def _shuffles(graph: gs.Graph) -> int:
    groups: defaultdict[tuple[int, int], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        indices = input_constant(node, 1) if is_gather(node) else None
        if indices is not None and indices.ndim == 1:
            axis = int(attribute(node, "axis")) % len(shape_of(node.inputs[0]))
            groups[id(node.inputs[0]), axis].append(node)
    count = 0
    for (_, axis), gathers in groups.items():
        picks = [_picks(node, axis) for node in gathers]
        order = sorted(range(len(gathers)), key=lambda index: int(picks[index][0]))
        together = np.concatenate([picks[index] for index in order])
        size = shape_of(gathers[0].inputs[0])[axis]
        if len(gathers) > 1 and shuffle_groups(together, size) is not None:
            _merge(graph, [gathers[index] for index in order], axis, together)
            count += 1
    return count


def _picks(node: Node, axis: int) -> Array:
    indices = input_constant(node, 1)
    assert indices is not None
    size = shape_of(node.inputs[0])[axis]
    return np.where(indices < 0, indices + size, indices)


def _merge(graph: gs.Graph, gathers: list[Node], axis: int, indices: Array) -> None:
    namer = Namer(graph)
    source, first = gathers[0].inputs[0], gathers[0]
    shuffled = gs.Variable(namer(f"{first.outputs[0].name}__shuffled"), source.dtype, list(shape_of(source)))
    sizes = [int(shape_of(node.outputs[0])[axis]) for node in gathers]
    outputs = [node.outputs[0] for node in gathers]
    picks = gs.Constant(namer(f"{first.name}__order"), indices.astype(np.int64))
    parts = gs.Constant(namer(f"{first.name}__sizes"), np.asarray(sizes, np.int64))
    for node in gathers:
        detach(node)
    gather = gs.Node("Gather", first.name, {"axis": axis}, [source, picks], [shuffled])
    split = gs.Node("Split", namer(f"{first.name}__split"), {"axis": axis}, [shuffled, parts], outputs)
    place = next(index for index, node in enumerate(graph.nodes) if node is first)
    graph.nodes[place : place + 1] = [gather, split]


def _sandwiches(graph: gs.Graph) -> int:
    count = 0
    for node in [each for each in graph.nodes if each.op in FUNCTIONS or is_softmax(each)]:
        before = sole_producer(graph, node.inputs[0], "Transpose")
        after = sole_consumer(graph, node.outputs[0])
        if before is None or not is_transpose(after):
            continue
        first, second = (permutation(each, len(shape_of(each.outputs[0]))) for each in (before, after))
        if not first or [first[axis] for axis in second] != list(range(len(first))):
            continue
        if is_softmax(node):
            axis = _softmax_axis(graph, node, len(first))
            if axis is None:
                continue
            become(node, "SoftmaxAxis", {"axis": first[axis]})
        source, output = before.inputs[0], after.outputs[0]
        detach(after)
        node.inputs, node.outputs = [source], [output]
        count += 1
    return count


def _softmax_axis(graph: gs.Graph, node: Node, rank: int) -> int | None:
    """The axis of a softmax over one axis; before opset 13 it is over all axes from there on."""
    axis, *more = softmax_axes(node, rank, graph.opset)
    return None if more else axis
