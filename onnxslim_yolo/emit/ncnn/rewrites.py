"""Data movement that is cheaper said otherwise, rewritten in the emitter's private copy of the graph.

Focus     Conv(Concat of the four phases x[.., i::2, j::2]) = Conv of x with a kernel twice as large at twice the
          stride: W'[o, c, 2u + i, 2v + j] = W[o, phase(i, j)·C + c, u, v], pads doubled. The same products are summed.
Shuffles  several Gathers whose indices together are a channel shuffle = one Gather of all of them, then a Split.
Sandwich  Transpose(f(Transpose(x))) with inverse permutations and f a Softmax or element-wise = f on the moved axis.
Pads      see `ncnn_pads`. Stems: `ncnn_stem`.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.gather import shuffle_groups
from onnxslim_yolo.emit.ncnn.pads import restore_pads
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.emit.ncnn.stem import split_stems
from onnxslim_yolo.ir.attributes import attribute, per_axis, permutation, softmax_axes
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    constant_of,
    detach,
    input_constant,
    producer,
    sole_consumer,
    sole_producer,
)
from onnxslim_yolo.ops.linear import groups_of

ELEMENTWISE = frozenset({"Sigmoid", "Relu", "LeakyRelu", "Tanh", "Exp", "HardSigmoid", "HardSwish"})


def rewrite_movement(graph: gs.Graph) -> int:
    """Apply them all. Returns how many rewrites were made."""
    return _focus(graph) + _shuffles(graph) + _sandwiches(graph) + restore_pads(graph) + split_stems(graph)


def _focus(graph: gs.Graph) -> int:
    count = 0
    for concat in [node for node in graph.nodes if node.op == "Concat"]:
        conv = sole_consumer(graph, concat.outputs[0])
        weight = input_constant(conv, 1) if conv is not None else None
        phases = _phases(concat)
        if conv is None or conv.op != "Conv" or weight is None or phases is None or not _plain(conv):
            continue
        source, order = phases
        channels, kernel = weight.shape[1] // 4, weight.shape[2:]
        wide = np.zeros((weight.shape[0], channels, 2 * kernel[0], 2 * kernel[1]), weight.dtype)
        for index, (down, right) in enumerate(order):
            wide[:, :, down::2, right::2] = weight[:, index * channels : (index + 1) * channels]
        strides = [2 * step for step in per_axis(conv, "strides", 2)]
        pads = [2 * pad for pad in per_axis(conv, "pads", 2)]
        conv.attrs = {**conv.attrs, "kernel_shape": list(wide.shape[2:]), "strides": strides, "pads": pads}
        conv.inputs = [source, gs.Constant(f"{conv.inputs[1].name}__focus", wide), *conv.inputs[2:]]
        count += 1
    return count


def _plain(conv: Node) -> bool:
    auto = attribute(conv, "auto_pad")
    dilations = per_axis(conv, "dilations", 2)
    return auto == "NOTSET" and dilations == [1, 1] and groups_of(conv) == 1


def _phases(concat: Node) -> tuple[Tensor, list[tuple[int, int]]] | None:
    """The image that the four operands are the phases of, and the (down, right) offset of each."""
    if len(concat.inputs) != 4 or int(attribute(concat, "axis")) % 4 != 1:
        return None
    found = [_phase(tensor) for tensor in concat.inputs]
    sources = {id(each[0]) for each in found if each is not None}
    offsets = [each[1] for each in found if each is not None]
    if len(sources) != 1 or sorted(offsets) != [(0, 0), (0, 1), (1, 0), (1, 1)] or found[0] is None:
        return None
    shape = shape_of(found[0][0])
    return (found[0][0], offsets) if shape[2] % 2 == 0 and shape[3] % 2 == 0 else None


def _phase(tensor: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """Follow Slices with step 2 along the last two of four axes, one axis a node or both at once."""
    offsets: dict[int, int] = {}
    while (node := producer(tensor)) is not None and node.op == "Slice" and len(node.inputs) == 5:
        bounds = [constant_of(given) for given in node.inputs[1:]]
        starts, ends, axes, steps = ([] if given is None else given.reshape(-1).tolist() for given in bounds)
        shape = shape_of(node.inputs[0])
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=False):
            axis %= len(shape)
            if len(shape) != 4 or axis in offsets or axis < 2 or step != 2 or start not in (0, 1) or end < shape[axis]:
                return None
            offsets[axis] = start
        if not starts:
            return None
        tensor = node.inputs[0]
    return (tensor, (offsets[2], offsets[3])) if set(offsets) == {2, 3} else None


def _shuffles(graph: gs.Graph) -> int:
    groups: defaultdict[tuple[int, int], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        indices = input_constant(node, 1) if node.op == "Gather" else None
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
    for node in [each for each in graph.nodes if each.op in ELEMENTWISE | {"Softmax"}]:
        before = sole_producer(graph, node.inputs[0], "Transpose")
        after = sole_consumer(graph, node.outputs[0])
        if before is None or after is None or after.op != "Transpose":
            continue
        first, second = (permutation(each, len(shape_of(each.outputs[0]))) for each in (before, after))
        if not first or [first[axis] for axis in second] != list(range(len(first))):
            continue
        if node.op == "Softmax":
            axis = _softmax_axis(graph, node, len(first))
            if axis is None:
                continue
            node.op, node.attrs = "SoftmaxAxis", {"axis": first[axis]}
        source, output = before.inputs[0], after.outputs[0]
        detach(after)
        node.inputs, node.outputs = [source], [output]
        count += 1
    return count


def _softmax_axis(graph: gs.Graph, node: Node, rank: int) -> int | None:
    """The axis of a softmax over one axis; before opset 13 it is over all axes from there on."""
    axis, *more = softmax_axes(node, rank, graph.opset)
    return None if more else axis
