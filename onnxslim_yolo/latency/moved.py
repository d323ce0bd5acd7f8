"""A graph's layers as the pass `conv-before-resize` will leave them, while widths are still to be chosen.

Where a 1×1 convolution reads an enlarged map, alone or in a Concat, it becomes one convolution a small map and one of
the rest, a Resize of each result, and sums; the Concat goes, or keeps what is not enlarged. An activation that runtimes
compute while a convolution writes stands alone behind a sum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.enlarged import Enlarged, beside, enlarged_inputs
from onnxslim_yolo.ir.graph import Node, Tensor, consumers
from onnxslim_yolo.latency.layers import UNARY, Family, Layer, LayerKey, Span, describe, size_of
from onnxslim_yolo.latency.table import LatencyTable


def as_moved(graph: gs.Graph, layers: Sequence[Layer], only: Collection[int] | None = None) -> list[Layer]:
    """The layers of a graph, those of moved convolutions replaced; `only`: the `id`s of those that are, None: all."""
    layer_of = {id(layer.node): layer for layer in layers}
    movable = enlarged_inputs(graph).items()
    parts_of = {key: parts for key, parts in movable if (only is None or key in only) and _are_known(parts, layer_of)}
    replaced = {id(part.resize) for parts in parts_of.values() for part in parts}
    found: list[Layer] = []
    done: set[int] = set()
    for layer in layers:
        node = layer.node
        if id(node) in parts_of:
            parts = parts_of[id(node)]
            rest = tuple(beside(node, parts))
            found += _split(layer, parts, rest, layer_of)
            concat = node.inputs[0].inputs[0]
            if len(rest) > 1 and id(concat) not in done:
                found.append(_narrowed(layer_of[id(concat)], rest))
            done.add(id(concat))
    return [layer for layer in layers if id(layer.node) not in replaced | done | parts_of.keys()] + found


def better_left(graph: gs.Graph, table: LatencyTable) -> set[int]:
    """The `id`s of the convolutions that are predicted to be slower in front of their Resize.

    Those that read one enlarged map go together: it is made as long as one of them reads it.
    """
    layers = describe(graph)
    as_it_is = table.predict_layers(layer.key for layer in layers)
    found: set[int] = set()
    for together in _sharing(enlarged_inputs(graph)):
        moved = as_moved(graph, layers, together)
        if table.predict_layers(layer.key for layer in moved) > as_it_is:
            found |= together
    return found


def _sharing(parts_of: Mapping[int, Sequence[Enlarged]]) -> list[set[int]]:
    """Convolutions by the maps that they share."""
    groups: list[tuple[set[int], set[int]]] = []
    for node, parts in parts_of.items():
        nodes, maps = {node}, {id(part.resize) for part in parts}
        apart = []
        for group in groups:
            if group[1] & maps:
                nodes, maps = nodes | group[0], maps | group[1]
            else:
                apart.append(group)
        groups = [*apart, (nodes, maps)]
    return [nodes for nodes, _ in groups]


def _are_known(parts: Sequence[Enlarged], layer_of: dict[int, Layer]) -> bool:
    """Whether the sizes of the maps are: else no layer can be described."""
    shapes = [part.resize.inputs[0].shape or () for part in parts]
    numbers = all(isinstance(size, (int, np.integer)) for shape in shapes for size in shape[1:])
    return numbers and all(id(part.resize) in layer_of for part in parts)


def _split(
    layer: Layer, parts: Sequence[Enlarged], rest: tuple[Tensor, ...], layer_of: dict[int, Layer]
) -> list[Layer]:
    node, family, outs, made = layer.node, layer.key.family, layer.key.outs, layer.outs
    found = []
    for part in parts:
        small = part.resize.inputs[0]
        batch = small.shape[0] if isinstance(small.shape[0], (int, np.integer)) else 1
        near = replace(family, size=size_of((int(batch), *small.shape[1:])))
        found.append(Layer(LayerKey(near, (part.stop - part.start,), outs), node, ((Span(small),),), made))
        enlarge = layer_of[id(part.resize)].key.family
        found.append(Layer(LayerKey(enlarge, outs, outs), part.resize, made, made))
    if rest:
        found.append(Layer(LayerKey(family, (_width(rest),), outs), node, (_row(rest),), made))
    add = LayerKey(Family("binary", "add", size=family.size), outs * 2, outs)
    found += [Layer(add, node, made * 2, made)] * (len(parts) + bool(rest) - 1)
    if layer.key.activation:
        op = next(reader.op for reader in _behind(node) if reader.op.lower() == layer.key.activation)
        found.append(Layer(LayerKey(Family("unary", UNARY[op], size=family.size), outs, outs), node, made, made))
    return found


def _behind(node: Node) -> list[Node]:
    """What reads a convolution, or the BatchNormalization that will be folded into it."""
    readers = consumers(node.outputs[0])
    return [*readers, *(other for reader in readers for other in consumers(reader.outputs[0]))]


def _narrowed(concat: Layer, rest: tuple[Tensor, ...]) -> Layer:
    widths = tuple(_width([tensor]) for tensor in rest)
    return Layer(
        LayerKey(concat.key.family, widths, (sum(widths),)),
        concat.node,
        tuple((Span(tensor),) for tensor in rest),
        (_row(rest),),
    )


def _row(tensors: Sequence[Tensor]) -> tuple[Span, ...]:
    return tuple(Span(tensor) for tensor in tensors)


def _width(tensors: Sequence[Tensor]) -> int:
    return sum(int(tensor.shape[1]) for tensor in tensors)
