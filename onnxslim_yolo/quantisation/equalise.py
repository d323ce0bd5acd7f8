"""Channels of one map made equally large, so that one step serves them all: weights of adjacent layers are rescaled.

    W₂·f(W₁·x + b₁)  =  (W₂·S)·f(S⁻¹·W₁·x + S⁻¹·b₁)        f(λ·x) = λ·f(x) for λ > 0, S diagonal and positive

(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.) All that
lies between is such a function, channel by channel: ReLU and the like, pools, resizing. Every reader of the map is a
layer with weights, or none is scaled. S holds powers of two, which float arithmetic multiplies by exactly: the float
network computes the very same numbers as before, and fp16 holds its weights as well as before.

With a step per output channel the rows that S⁻¹ shrinks cost nothing. What a channel of the map costs is its range, a,
against the columns that S stretches, w (each relative to its row's largest; 1 in depthwise layers, which have a step
per channel):

    even       s = a
    balanced   s = √(a / w), and a where all readers are depthwise        (as Xiao et al. 2023, "SmoothQuant", α = ½)

Which of them, if any, is chosen by the detector's error (see `quantisation.choose`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, input_constant, is_graph_output, revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.arithmetic import is_prelu
from onnxslim_yolo.ops.functions import is_homogeneous
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer, bias_place
from onnxslim_yolo.ops.movement import is_dropout, is_identity
from onnxslim_yolo.ops.spatial import POOLS, RESIZES
from onnxslim_yolo.quantisation.plan import Link

MOST = 6
"""Of doublings and halvings, against the median channel."""


def _even(largest: Array, columns: Array, depthwise: bool) -> Array:
    return largest


def _balanced(largest: Array, columns: Array, depthwise: bool) -> Array:
    return largest if depthwise else np.sqrt(largest / columns)


WAYS: Mapping[str, Callable[[Array, Array, bool], Array]] = {"balanced": _balanced, "even": _even}
"""Of a map's channels: their ranges, what they weigh in the readers, and whether these are all depthwise → s."""


def links_of(model: Model, largest: Mapping[str, Array], way: str) -> tuple[Link, ...]:
    """What can be scaled, and by how much.

    Args:
        largest: per tensor that layers read, the largest size of each channel on images.
        way: of `WAYS`.
    """
    found = []
    for node in model.graph.nodes:
        layer = LinearLayer.of(node) if node.op in LINEAR else None
        if layer is None or not layer.samples_in_place or layer.has_computed_bias:
            continue
        ends = _readers(model.graph, node.outputs[0], layer.channel_axis)
        if ends is None or any(tensor.name not in largest or tensor.name in model.ranges for _, tensor in ends):
            continue
        if any(layer.channel_axis % len(tensor.shape) != 1 for _, tensor in ends):
            continue  # what is known of channels is of axis 1
        readers = [LinearLayer.of(reader) for reader, _ in ends]
        if any(each is None or not _fits(each, layer) for each in readers):
            continue
        known = [each for each in readers if each is not None]
        scale = _scale(known, [largest[tensor.name] for _, tensor in ends], way)
        if scale is not None:
            names = tuple(reader.name for reader, _ in ends)
            found.append(Link(node.name, names, tuple(tensor.name for _, tensor in ends), scale))
    return tuple(found)


def equalise(model: Model, links: tuple[Link, ...]) -> None:
    """Scale the weights, in place."""
    nodes = {node.name: node for node in model.graph.nodes}
    for link in links:
        node = nodes[link.writer]
        layer = LinearLayer.of(node)
        assert layer is not None  # `links_of` has found it
        revalue(node, 1, layer.stored(layer.stored_blocks / layer.per_output(link.scale).astype(np.float32)))
        place = bias_place(node)
        if layer.bias is not None:
            scaled = np.broadcast_to(layer.bias, (*layer.bias.shape[:-1], layer.outputs)) / link.scale
            revalue(node, place, scaled.astype(np.float32))
        for name in dict.fromkeys(link.readers):
            reader = LinearLayer.of(nodes[name])
            assert reader is not None
            blocks = reader.stored_blocks * reader.per_input(link.scale).astype(np.float32)
            revalue(nodes[name], 1, reader.stored(blocks))


def _fits(reader: LinearLayer, layer: LinearLayer) -> bool:
    same = reader.channel_axis == layer.channel_axis and reader.inputs == layer.outputs
    return same and reader.samples_in_place and reader.weight.dtype == layer.weight.dtype == np.float32


def _readers(graph: gs.Graph, tensor: Tensor, axis: int) -> list[tuple[Node, Tensor]] | None:
    """The layers that read a map through homogeneous functions, each with what it reads; None where others do too."""
    found: list[tuple[Node, Tensor]] = []
    stack = [tensor]
    while stack:
        here = stack.pop()
        readers = consumers(here)
        if is_graph_output(graph, here) or not readers:
            return None
        for node in readers:
            if node.op in LINEAR and node.inputs[0] is here and not any(each is here for each in node.inputs[1:]):
                found.append((node, here))
            elif _hands_on(node, here, axis):
                stack.append(node.outputs[0])
            else:
                return None
    return found


def _hands_on(node: Node, tensor: Tensor, axis: int) -> bool:
    """Whether it is a homogeneous function of each channel by itself."""
    if node.inputs[0] is not tensor or len([each for each in node.outputs if each.name]) != 1:
        return False
    if is_prelu(node):
        return input_constant(node, 1) is not None
    if is_identity(node) or is_dropout(node):
        return True
    if axis == 1 and node.op in POOLS:
        return POOLS[node.op].steady
    if axis == 1 and node.op in RESIZES:
        return bool(attribute(node, "coordinate_transformation_mode") != "tf_crop_and_resize")
    return is_homogeneous(node)


def _scale(readers: list[LinearLayer], largest: list[Array], way: str) -> Array | None:
    """Powers of two around 1; None where nothing is to be scaled."""
    ranges = np.maximum.reduce(largest)
    columns = np.maximum.reduce([_columns(each) for each in readers])
    live = (ranges > 0) & (columns > 0)
    if not live.any():
        return None
    wanted = np.ones(len(ranges))
    wanted[live] = WAYS[way](ranges[live], columns[live], all(each.is_depthwise for each in readers))
    wanted[live] /= np.median(wanted[live])
    doublings = np.clip(np.rint(np.log2(wanted)), -MOST, MOST)
    return np.asarray(2.0**doublings) if doublings.any() else None


def _columns(layer: LinearLayer) -> Array:
    """Of each channel that a layer reads, its largest weight, relative to the largest of that output."""
    sizes = np.abs(layer.blocks).max(axis=3)
    rows = sizes.max(axis=2, keepdims=True)
    return np.asarray((sizes / np.where(rows > 0, rows, 1.0)).max(axis=1).reshape(-1))
