"""Per-channel affine maps y = scale·x + shift: which nodes compute one, and how they compose.

BatchNormalization (inference), and Mul, Add, Sub and Div with a constant that varies along one axis only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor, constant_of, input_constant, sole_consumer
from onnxslim_yolo.ops.arithmetic import AFFINE, line
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.ops.question import one_of

is_affine = one_of("BatchNormalization", *AFFINE)
"""A candidate: affine per channel, if what else it reads is constant."""


@dataclass(frozen=True)
class Affine:
    """y = scale·x + shift. Both are float64 of shape (C,), or (1,) when the same for all channels."""

    scale: Array
    shift: Array

    def then(self, other: Affine) -> Affine:
        """First this, then the other."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def widened(self, channels: int) -> Affine:
        """The same with both arrays of shape (channels,)."""
        return Affine(np.broadcast_to(self.scale, (channels,)), np.broadcast_to(self.shift, (channels,)))

    @property
    def is_uniform(self) -> bool:
        """Whether all channels are treated alike, so that it does not matter which axis they are on."""
        return self.scale.size == 1 and self.shift.size == 1

    @property
    def scales(self) -> bool:
        """Whether any scale differs from one."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether any shift differs from zero."""
        return bool((self.shift != 0).any())


UNIT = Affine(np.ones(1), np.zeros(1))


def data_index(node: Node) -> int | None:
    """Which input of an affine node is the data; None if the node is no candidate."""
    if not is_affine(node) or len(node.inputs) < 2:
        return None
    if is_batch_norm(node):
        return 0
    constant = [constant_of(tensor) is not None for tensor in node.inputs]
    if constant[0] == constant[1]:
        return None
    return 0 if constant[1] else 1


def affine_of(node: Node, axis: int = 1) -> Affine | None:
    """The affine map a node applies along `axis` of its data input, or None if it applies none.

    None as well where the data's rank or number of channels is not known, where the constant would broadcast the data
    to more elements, and for a BatchNormalization in training mode.
    """
    index = data_index(node)
    if index is None or node.inputs[index].shape is None:
        return None
    if is_batch_norm(node):
        return batch_norm(node) if axis == 1 else None
    value = channel_constant(node.inputs[1 - index], node.inputs[index], axis)
    if value is None:
        return None
    found = line(node.op, value, index)
    return None if found is None else Affine(*map(np.atleast_1d, found))


def batch_norm(node: Node) -> Affine | None:
    """BN(x) = γ·(x - μ)/√(σ² + ε) + β as an affine map, or None if a tensor is no constant or it is being trained."""
    if attribute(node, "training_mode") or not attribute(node, "spatial") or len(node.outputs) != 1:
        return None
    values = [input_constant(node, index) for index in range(1, 5)]
    if any(value is None or not np.issubdtype(value.dtype, np.floating) for value in values):
        return None
    gamma, beta, mean, var = (np.asarray(value, np.float64) for value in values)
    deviation = np.sqrt(var + float(attribute(node, "epsilon")))
    if not (deviation > 0).all():
        return None
    scale = gamma / deviation
    return Affine(scale, beta - mean * scale)


def channel_constant(constant: Tensor, data: Tensor, axis: int) -> Array | None:
    """A constant that varies along `axis` of the data only, as (C,) or (1,) of float64; else None."""
    values = constant_of(constant)
    if values is None or data.shape is None or not np.issubdtype(values.dtype, np.floating):
        return None
    rank = len(data.shape)
    if values.ndim > rank or axis >= rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(size != 1 for other, size in enumerate(shape) if other != axis):
        return None
    if shape[axis] != 1 and shape[axis] != data.shape[axis]:
        return None
    return values.reshape(-1).astype(np.float64)


@dataclass(frozen=True)
class Chain:
    """Affine nodes in a row, each the only reader of the one before.

    Attributes:
        axis: the data's axis along which the constants vary.
    """

    nodes: tuple[Node, ...]
    affine: Affine
    axis: int

    @property
    def source(self) -> Tensor:
        """What the first node reads."""
        first = self.nodes[0]
        return first.inputs[data_index(first) or 0]

    @property
    def output(self) -> Tensor:
        """What the last node computes."""
        return self.nodes[-1].outputs[0]

    @property
    def has_batch_norm(self) -> bool:
        """Whether a BatchNormalization is among the nodes."""
        return any(is_batch_norm(node) for node in self.nodes)


def affine_chains(graph: gs.Graph) -> list[Chain]:
    """The longest chains of affine nodes, in the graph's order; every affine node is in exactly one."""
    chains: list[Chain] = []
    seen: set[int] = set()
    for node in graph.nodes:
        if not is_affine(node) or id(node) in seen:
            continue
        chain = _chain_from(graph, node)
        if chain is not None:
            seen.update(map(id, chain.nodes))
            chains.append(chain)
    return chains


def _chain_from(graph: gs.Graph, start: Node) -> Chain | None:
    # The channels of feature maps lie on axis 1, those of tokens (MatMul) on the last.
    for axis in (1, -1):
        chain = _chain_along(graph, start, axis)
        if chain is not None:
            return chain
    return None


def _chain_along(graph: gs.Graph, start: Node, axis: int) -> Chain | None:
    index = data_index(start)
    shape = None if index is None else start.inputs[index].shape
    if shape is None or not shape:
        return None
    axis %= len(shape)
    nodes: list[Node] = []
    total, node = UNIT, start
    while (affine := affine_of(node, axis)) is not None:
        nodes.append(node)
        total = total.then(affine)
        following = sole_consumer(graph, node.outputs[0])
        index = None if following is None else data_index(following)
        if following is None or index is None or following.inputs[index] is not node.outputs[0]:
            break
        node = following
    return Chain(tuple(nodes), total, axis) if nodes else None
