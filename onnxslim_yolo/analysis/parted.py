"""Convolutions whose result is split by channels, with nothing but element-wise functions in between.

Every channel of a convolution comes from filters of its own, and an element-wise function keeps channels apart. So what
a Split makes of them can be computed part by part:

    Split(f(W·x + t))  =  f(W₁·x + t₁), f(W₂·x + t₂), …
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    constant_of,
    consumers,
    has_input,
    input_constant,
    is_constant,
    is_empty,
    is_graph_output,
    producer,
)
from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.linear import groups_of, is_conv
from onnxslim_yolo.ops.movement import is_split
from onnxslim_yolo.ops.norms import is_batch_norm


@dataclass(frozen=True)
class Parted:
    """A convolution, the nodes between it and the Split (in the graph's order), and the channels of each part."""

    convolution: Node
    between: tuple[Node, ...]
    split: Node
    widths: tuple[int, ...]


def parted_convolutions(graph: gs.Graph, *, folded: bool = True) -> list[Parted]:
    """Where a convolution could be computed part by part: nothing else reads what lies between it and its Split.

    Args:
        folded: BatchNormalizations behind convolutions have been folded into them; False: they are yet to be, and are
            among what lies between.
    """
    places = (_place(graph, node, folded) for node in graph.nodes if is_split(node))
    return [place for place in places if place is not None]


def _place(graph: gs.Graph, split: Node, folded: bool) -> Parted | None:
    widths = _widths(split)
    found = _between(graph, split, folded)
    if widths is None or found is None:
        return None
    convolution, between = found
    weight = input_constant(convolution, 1)
    if groups_of(convolution) != 1 or weight is None or sum(widths) != len(weight):
        return None
    if has_input(convolution, 2) and input_constant(convolution, 2) is None:
        return None
    nodes = tuple(node for node in graph.nodes if id(node) in between)
    if len({len(node.outputs[0].shape or ()) for node in (convolution, *nodes)}) > 1:
        return None  # a constant of more axes moves the channels to another one
    return Parted(convolution, nodes, split, widths)


def _widths(split: Node) -> tuple[int, ...] | None:
    """Channels of each part; None where something else is split, or how is not known."""
    shape = split.inputs[0].shape
    if shape is None or len(shape) < 3 or int(attribute(split, "axis")) % len(shape) != 1:
        return None
    sizes = [None if part.shape is None else part.shape[1] for part in split.outputs]
    if not all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes):
        return None
    return tuple(int(size) for size in sizes if size is not None)


def _between(graph: gs.Graph, split: Node, folded: bool) -> tuple[Node, set[int]] | None:
    """The one convolution that element-wise nodes lead from to a Split, and their `id`s; None where it is not so."""
    inside, sources = set[int](), list[Node]()
    inner: list[Tensor] = []
    due = [split.inputs[0]]
    while due:
        tensor = due.pop()
        if any(tensor is known for known in inner):
            continue
        inner.append(tensor)
        node = producer(tensor)
        if node is None or is_graph_output(graph, tensor):
            return None
        if is_conv(node):
            sources.append(node)
        elif _keeps_apart(node) or (not folded and _will_be_folded(node)):
            inside.add(id(node))
            due += [operand for operand in node.inputs if not is_constant(operand) and not is_empty(operand)]
        else:
            return None
    read_inside = all(reader is split or id(reader) in inside for tensor in inner for reader in consumers(tensor))
    return (sources[0], inside) if len(sources) == 1 and read_inside else None


def _keeps_apart(node: Node) -> bool:
    """Whether a node computes every element from those at its place, and from nothing that channels differ in."""
    if node.op not in FUNCTIONS and node.op not in ELEMENTWISE:
        return False
    constants = [constant_of(operand) for operand in node.inputs if is_constant(operand)]
    return len(node.outputs) == 1 and all(values is not None and values.size == 1 for values in constants)


def _will_be_folded(node: Node) -> bool:
    before = producer(node.inputs[0]) if is_batch_norm(node) else None
    return before is not None and is_conv(before)
