"""Where channels are summed over: what a contraction multiplies each of its input's channels by.

A convolution's output is Σ_c W[:, c] ∗ x[c]: removing channel c leaves out one term. These are the places where a mask
has its effect, where a channel turns out to be read by nobody, and where a removed constant is absorbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.ir.graph import Array, Node, input_constant
from onnxslim_yolo.ops.linear import LinearLayer, is_steady, matrix_axes, matrix_of, multiplies_matrices


@dataclass(frozen=True)
class Contraction:
    """One input of one node that sums over channels.

    Attributes:
        node: the node, and `index` the input.
        classes: the class of each position along the contracted axis, shape (n,).
        axis: that axis of the input.
        weighted: whether the other operand is a constant weight.
        reads: whether any weight reads the position, shape (n,).
        steady: whether a constant input gives a constant output everywhere (no zero padding).
    """

    node: Node
    index: int
    classes: Array
    axis: int
    weighted: bool
    reads: Array
    steady: bool

    @cached_property
    def taps(self) -> Array | None:
        """The weight's sum over kernel positions for every (output, input position), shape (outputs, n); None where
        there is no constant weight. Read off when it is first asked for."""
        layer = LinearLayer.of(self.node) if self.weighted else None
        return None if layer is None else matrix_of(layer)


def contractions(channels: Channels) -> list[Contraction]:
    """Every contraction over labelled channels, in the graph's order."""
    found = []
    for node, index in channels.contractions:
        labels = channels.labels_of(node.inputs[index])
        if labels is None or labels.size == 1:
            continue
        axis = int(np.argmax(np.asarray(labels.shape) > 1))
        layer = LinearLayer.of(node) if index == 0 else None
        weighted = layer is not None and layer.samples_in_place
        reads = _reads(node, index, labels.size)
        found.append(Contraction(node, index, labels.reshape(-1), axis, weighted, reads, is_steady(node)))
    return found


def _reads(node: Node, index: int, size: int) -> Array:
    """Whether any weight reads the position; True where there is no constant weight."""
    if multiplies_matrices(node):
        weight = input_constant(node, 1 - index)
        if weight is None or weight.ndim < 2:
            return np.ones(size, dtype=bool)
        inner = weight.ndim + matrix_axes(node, 1 - index)[0]
        return np.asarray((weight != 0).any(axis=tuple(k for k in range(weight.ndim) if k != inner)))
    layer = LinearLayer.of(node)
    return np.ones(size, dtype=bool) if layer is None else layer.reads
