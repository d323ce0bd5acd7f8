"""What a model's own code takes for granted about widths, and its graph does not: parts that are equally wide.

A graph says how wide each part of a Split is, so they may differ once it is pruned. The code it was traced from often
does not: `chunk(2)` halves whatever comes, and an attention gives back as many channels as it was given, since it
reshapes to its input's shape. For a plan that the code is to carry out as it stands, two rules of the graph say so:

1. the outputs of a Split that are equally wide stay equally wide;
2. where the values of a product of two computed matrices become a feature map of as many channels as the layers have
   read that the product was made from, the two stay equally wide.

Both only ever demand too much: a plan that respects them is a plan without them, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.labelling import Balance
from onnxslim_yolo.analysis.movement import MOVERS, varying_axes
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, is_constant, is_empty, producer
from onnxslim_yolo.ops.linear import LINEAR, is_matmul
from onnxslim_yolo.ops.movement import is_split


def module_balances(graph: gs.Graph, channels: Channels, told: Set[str] = frozenset()) -> list[Balance]:
    """The parts that have to stay equally wide for the model's own code, in the graph's order.

    Args:
        told: names of nodes of attentions that keep how wide their values are, so that rule 2 is none of theirs.
    """
    found: dict[bytes, Balance] = {}
    for node in graph.nodes:
        if is_split(node):
            parts = _equal_parts(node, channels)
        else:
            parts = None if node.name in told else _given_and_returned(node, channels)
        if parts is not None and (parts != NO_CHANNEL).any() and not _alike(parts):
            found.setdefault(parts.tobytes(), Balance(parts, node.name))
    return list(found.values())


def _alike(parts: Array) -> bool:
    """Whether the parts hold the same classes: they stay equal anyway."""
    return all(np.array_equal(np.sort(part), np.sort(parts[0])) for part in parts[1:])


def _equal_parts(node: Node, channels: Channels) -> Array | None:
    labels = [_line(channels, tensor) for tensor in node.outputs]
    widths = {None if line is None else len(line) for line in labels}
    if len(labels) < 2 or len(widths) != 1 or None in widths:
        return None
    return np.stack([line for line in labels if line is not None])


def _line(channels: Channels, tensor: Tensor) -> Array | None:
    """A tensor's classes along the one axis where they vary; None where they do not."""
    labels = channels.labels_of(tensor)
    if labels is None or len(varying_axes(labels)) != 1:
        return None
    return np.asarray(labels.reshape(-1))


def _given_and_returned(node: Node, channels: Channels) -> Array | None:
    if not is_matmul(node) or any(is_constant(tensor) or is_empty(tensor) for tensor in node.inputs):
        return None
    returned = next((line for line in _maps_behind(node.outputs[0], channels)), None)
    given = {id(tensor): tensor for operand in node.inputs for tensor in _read_before(operand)}
    if returned is None or len(given) != 1:
        return None
    line = _line(channels, next(iter(given.values())))
    if line is None or len(line) != len(returned):
        return None
    return np.stack([line, returned])


def _maps_behind(tensor: Tensor, channels: Channels) -> Iterator[Array]:
    """The classes of the first feature map that a tensor's values are laid out as."""
    for _ in range(16):
        readers = [node for node in consumers(tensor) if node.op in MOVERS]
        if not readers:
            return
        tensor = readers[0].outputs[0]
        labels = channels.labels_of(tensor)
        shape = channels.shapes.get(id(tensor))
        if labels is not None and shape is not None and len(shape) == 4 and varying_axes(labels) == [1]:
            yield labels.reshape(-1)


def _read_before(tensor: Tensor) -> list[Tensor]:
    """What the layers with weights read of which a tensor is computed."""
    found: list[Tensor] = []
    seen: set[int] = set()
    stack = [tensor]
    while stack:
        node = producer(stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        inputs = [t for t in node.inputs if not is_constant(t) and not is_empty(t)]
        if node.op in LINEAR and len(inputs) == 1:
            found += inputs
        else:
            stack += inputs
    return found
