"""Shortcuts: which channels a residual Add ties together, and which its branch makes.

The published pruning scripts leave these alone (they cannot cut two convolutions at once); `--scope no-residual`
reproduces that.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.ir.graph import Array, Node, Tensor, is_constant, producer
from onnxslim_yolo.ops.arithmetic import SUMS


def residual_channels(graph: gs.Graph, channels: Channels) -> Array:
    """Per class, whether a shortcut ties it or the branch that a shortcut bridges makes it; shape (count,), bool."""
    found = np.zeros(channels.count, dtype=bool)
    for node in graph.nodes:
        if node.op not in SUMS:
            continue
        operands = [tensor for tensor in node.inputs if not is_constant(tensor)]
        labels = [channels.labels_of(tensor) for tensor in operands]
        if len(operands) < 2 or any(array is None or array.size < 2 for array in labels):
            continue
        _mark(found, channels, node.outputs[0])
        above = [_ancestors(tensor) for tensor in operands]
        shared = set.intersection(*(set(nodes) for nodes in above))
        branch = {key: n for nodes in above for key, n in nodes.items() if key not in shared}
        # A skip over the whole network is no shortcut: its "branch" is everything that is not shared.
        for inner in branch.values():
            for tensor in inner.outputs:
                _mark(found, channels, tensor)
    return found


def _mark(found: Array, channels: Channels, tensor: Tensor) -> None:
    labels = channels.labels_of(tensor)
    if labels is not None and labels.size > 1:
        classes = labels.reshape(-1)
        found[classes[classes != NO_CHANNEL]] = True


def _ancestors(tensor: Tensor) -> dict[int, Node]:
    seen: dict[int, Node] = {}
    stack = [producer(tensor)]
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen[id(node)] = node
        stack += [producer(item) for item in node.inputs]
    return seen
