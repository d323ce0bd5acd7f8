"""What a choice of channels costs in multiply-accumulates, without slicing: for ranking per MAC and for budgets.

A layer's MACs are proportional to the product of how many of its output and of its input channels are kept; a
depthwise convolution's to its channels alone, and so a product's whose channels are its rows or the matrices (an
attention's heads). Where `conv-before-resize` will let a convolution read some channels on the small map, those count
for that share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.enlarged import Enlarged, enlarged_inputs
from onnxslim_yolo.ir.graph import Array, Node, is_constant
from onnxslim_yolo.ops.linear import groups_of, matrix_axes, multiplies_matrices


@dataclass(frozen=True)
class _Layer:
    """One layer: its two sides, and all its MACs."""

    macs: float
    out: _Side
    ins: _Side

    def left(self, keep: Array) -> float:
        """The MACs that are left."""
        return self.macs * self.out.left(keep) * self.ins.left(keep)


@dataclass(frozen=True)
class _Side:
    """A layer's outputs or inputs, as shares of what they are in sum.

    The class of each position that is a channel's with the share it has, and what all that are none's have together. A
    side without channels is one fixed position.
    """

    classes: Array
    shares: Array
    fixed: float

    @classmethod
    def of(cls, labels: Array | None, weights: Array | None = None) -> _Side:
        """Of a tensor's labels; `weights` is what each of its positions counts, one where not given."""
        if labels is None or labels.size == 1:
            return cls(np.zeros(0, dtype=np.int64), np.zeros(0), 1.0)
        flat = labels.reshape(-1)
        counts = np.ones(len(flat)) if weights is None else weights
        free, total = flat != NO_CHANNEL, float(counts.sum())
        return cls(flat[free], counts[free] / total, float(counts[~free].sum()) / total)

    def left(self, keep: Array) -> float:
        """The share that is left."""
        return float(self.fixed + self.shares[keep[self.classes]].sum())


@dataclass(frozen=True)
class PlanCost:
    """MACs as a function of the kept classes."""

    layers: tuple[_Layer, ...]
    constant: float

    @classmethod
    def of(cls, graph: gs.Graph, channels: Channels) -> PlanCost:
        """Of a graph and its analysis."""
        known = {layer.name: layer.macs for layer in cost_of(graph).layers}
        enlarged = enlarged_inputs(graph)
        layers = [
            _layer(node, float(known[node.name]), channels, enlarged.get(id(node), ()))
            for node in graph.nodes
            if known.get(node.name)
        ]
        found = tuple(layer for layer in layers if len(layer.out.classes) or len(layer.ins.classes))
        return cls(found, sum(layer.macs for layer in layers) - sum(layer.macs for layer in found))

    def macs(self, keep: Array) -> float:
        """MACs with these classes kept; shape (count,), bool."""
        return self.constant + sum(layer.left(keep) for layer in self.layers)

    def saved(self, keep: Array) -> Array:
        """Per class, the MACs that leaving it out saves, given what else is kept; shape (count,)."""
        total = np.zeros(len(keep))
        for layer in self.layers:
            np.add.at(total, layer.out.classes, layer.macs * layer.ins.left(keep) * layer.out.shares)
            np.add.at(total, layer.ins.classes, layer.macs * layer.out.left(keep) * layer.ins.shares)
        return total


def _layer(node: Node, macs: float, channels: Channels, enlarged: Sequence[Enlarged]) -> _Layer:
    labels = _summed(node, channels) if multiplies_matrices(node) else channels.labels_of(node.inputs[0])
    groups = groups_of(node)
    if groups > 1 and labels is not None and groups == labels.size:  # depthwise: one channel in, the same one out
        labels = None
    weights = None
    if enlarged and labels is not None and labels.size == node.inputs[1].shape[1]:
        weights = np.ones(labels.size)
        for part in enlarged:
            weights[part.start : part.stop] = part.share
        macs *= float(weights.mean())
    return _Layer(macs, _Side.of(channels.labels_of(node.outputs[0])), _Side.of(labels, weights))


def _summed(node: Node, channels: Channels) -> Array | None:
    """The channels that a product sums over; of several matrices one after another, those of the first.

    Rows and columns are left out, and which matrix: the result has those.
    """
    side = int(is_constant(node.inputs[0]))
    labels, axis = channels.labels_of(node.inputs[side]), matrix_axes(node, side)[0]
    if labels is None or labels.ndim < 2 or labels.shape[axis] == 1:
        return None
    return np.asarray(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])[0])
