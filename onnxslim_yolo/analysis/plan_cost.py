"""What a choice of channels costs in multiply-accumulates, without slicing: for ranking per MAC and for budgets.

A layer's MACs are proportional to the product of how many of its output and of its input channels are kept; a
depthwise convolution's to its channels alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.graph import Array, Node


@dataclass(frozen=True)
class _Layer:
    """One layer: the class of each position of its output and input that is a channel's, and how many are none's.

    `macs` are all its MACs; a side without channels counts as one fixed position.
    """

    macs: float
    out: Array
    ins: Array
    fixed_out: int
    fixed_in: int

    def share(self, keep: Array) -> float:
        """The share of the MACs that is left."""
        return self.side(self.out, self.fixed_out, keep) * self.side(self.ins, self.fixed_in, keep)

    @staticmethod
    def side(classes: Array, fixed: int, keep: Array) -> float:
        """The share of one side's channels that is left."""
        return float((fixed + keep[classes].sum()) / (fixed + len(classes)))


@dataclass(frozen=True)
class PlanCost:
    """MACs as a function of the kept classes."""

    layers: tuple[_Layer, ...]
    constant: float

    @classmethod
    def of(cls, graph: gs.Graph, channels: Channels) -> PlanCost:
        """Of a graph and its analysis."""
        known = {layer.name: layer.macs for layer in cost_of(graph).layers}
        layers = [_layer(node, float(known[node.name]), channels) for node in graph.nodes if known.get(node.name)]
        found = tuple(layer for layer in layers if len(layer.out) or len(layer.ins))
        return cls(found, sum(layer.macs for layer in layers) - sum(layer.macs for layer in found))

    def macs(self, keep: Array) -> float:
        """MACs with these classes kept; shape (count,), bool."""
        return self.constant + sum(layer.macs * layer.share(keep) for layer in self.layers)

    def saved(self, keep: Array) -> Array:
        """Per class, the MACs that leaving it out saves, given what else is kept; shape (count,)."""
        total = np.zeros(len(keep))
        for layer in self.layers:
            out, ins = layer.side(layer.out, layer.fixed_out, keep), layer.side(layer.ins, layer.fixed_in, keep)
            np.add.at(total, layer.out, layer.macs * ins / (layer.fixed_out + len(layer.out)))
            np.add.at(total, layer.ins, layer.macs * out / (layer.fixed_in + len(layer.ins)))
        return total


def _layer(node: Node, macs: float, channels: Channels) -> _Layer:
    out, fixed_out = _classes(channels, node.outputs[0])
    ins, fixed_in = _classes(channels, node.inputs[0])
    groups = int(node.attrs.get("group", 1))
    if groups > 1 and groups == len(ins) + fixed_in:  # depthwise: one channel in, the same one out
        ins, fixed_in = ins[:0], 1
    return _Layer(macs, out, ins, fixed_out, fixed_in)


def _classes(channels: Channels, tensor: gs.Tensor) -> tuple[Array, int]:
    labels = channels.labels_of(tensor)
    if labels is None or labels.size == 1:
        return np.zeros(0, dtype=np.int64), 1
    classes = labels.reshape(-1)
    return classes[classes != NO_CHANNEL], int((classes == NO_CHANNEL).sum())
