"""What a block matters, by the measure that channels are ranked by, so that both can be weighed against each other.

A block contributes to a result's channels; the readers of that result lose a share of what they read. With v(c) the
importance of channel c, d(c) the share of it that is due to readers behind the result, and s(c) the share of the
result's variance that is the block's own,

    I(block) = Σ_c  v(c)·d(c)·s(c)

s is Var(end) / (Var(end) + Var(rest)) for a branch, 1 for a part, and 2 for a chain, whose end is replaced by something
of the same size that has nothing to do with it. Variances are those of `analysis.moments`. By γ, a branch or a part
that ends in a BatchNormalization is worth the sum of its |γ|. With images, of a block counts what is not linear in what
stays (see `pruning.bridge`): of s that share, and what the detector loses with the linear part in the block's place is
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block, end_of
from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import MomentAnalysis
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, input_constant, producer, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.arithmetic import BOUNDED, is_product
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.pruning.bridge import Bridge, bridged
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.importance_variance import average, position_shares
from onnxslim_yolo.pruning.mask import mask_blocks
from onnxslim_yolo.pruning.plan import Plan

CHAIN = 2.0
"""Var(end − start) in units of Var(end)."""

CAUTION = 2.0
"""Shares of variance add up what is lost to readers one by one; what a block that is missing does to all that follows,
they do not know. Where nothing is measured, it counts as much again."""

UNKNOWN = 0.5
"""The share of a branch whose variance is not known."""


def block_losses(
    model: Model,
    plan: Plan,
    blocks: Sequence[Block],
    head: HeadError | None = None,
    fits: Sequence[Bridge | None] = (),
) -> list[float]:
    """What is lost with each block, in the unit of the plan's importance; infinite where that is not known.

    Args:
        plan: ranked, its importance by itself and not per MAC.
        head: measures what the detector loses; None: without images.
        fits: of each block what of it stays, where that has been fitted.
    """
    nodes = {node.name: node for node in model.graph.nodes}
    shares: _Shares | None = None
    found = []
    for block, fit in zip(blocks, fits or [None] * len(blocks), strict=True):
        node = nodes.get(block.node)
        if node is None:
            raise ValueError(f"there is no node '{block.node}'")
        gamma = last_gamma(end_of(block, node)) if plan.importance_kind == "gamma" and block.kind != "chain" else None
        if gamma is not None:
            found.append(float(np.abs(gamma).sum()))
            continue
        shares = shares or _Shares(model.graph, plan, moments_of(model.graph, plan.channels.shapes))
        loss, variance = shares.of(block, node, fit)
        if head is not None:
            error = head.error(mask_blocks(model, [block]) if fit is None else bridged(model, block, fit))
            alike = float(average(np.array([error]), np.array([variance]))[0]) if np.isfinite(variance) else np.inf
            found.append(alike)
        else:
            found.append(CAUTION * loss if fit is None else loss)
    return found


def block_means(model: Model, plan: Plan, blocks: Sequence[Block]) -> list[Array | None]:
    """What each block contributes on average, per channel, without data; None where that is not known.

    Of a chain that is what its end is more than its start.
    """
    moments = moments_of(model.graph, plan.channels.shapes)
    nodes = {node.name: node for node in model.graph.nodes}
    named = {tensor.name: tensor for tensor in tensors(model.graph)}
    found: list[Array | None] = []
    for block in blocks:
        node = nodes.get(block.node)
        shape = None if node is None else plan.channels.shapes.get(id(end_of(block, node)))
        if node is None or shape is None:
            found.append(None)
            continue
        mean = _channel_means(moments, end_of(block, node), shape[1])
        if block.kind == "chain" and mean is not None:
            start = named.get(block.start)
            before = None if start is None else _channel_means(moments, start, shape[1])
            mean = None if before is None else mean - before
        found.append(mean)
    return found


def _channel_means(moments: MomentAnalysis, tensor: Tensor, width: int) -> Array | None:
    mean = moments.of(tensor).mean
    known = np.isfinite(mean).all() and all(size == 1 for k, size in enumerate(mean.shape) if k != 1)
    return np.broadcast_to(mean.reshape(-1), (width,)) if known and mean.size in (1, width) else None


class _Shares:
    """The contractions' shares of variance by place, shared by all blocks."""

    def __init__(self, graph: gs.Graph, plan: Plan, moments: MomentAnalysis) -> None:
        self._plan, self._moments = plan, moments
        self._following = _following(graph)
        self._places = []
        self._total = np.zeros(plan.channels.count)
        for place in contractions(plan.channels):
            variance = along(moments.of(place.node.inputs[place.index]).variance, place.axis, len(place.classes))
            shares = position_shares(place, variance)
            if shares is not None:
                own = place.classes != NO_CHANNEL
                self._places.append((id(place.node), place.classes[own], shares[own]))
                np.add.at(self._total, place.classes[own], shares[own])

    def of(self, block: Block, node: Node, fit: Bridge | None = None) -> tuple[float, float]:
        """(importance, share of variance) that a block makes up, but for what its `fit` keeps of it."""
        plan, end = self._plan, end_of(block, node)
        labels = plan.channels.labels_of(end)
        if labels is None or labels.size == 1 or (labels == NO_CHANNEL).any():
            return np.inf, np.inf
        classes, behind = labels.reshape(-1), np.zeros(plan.channels.count)
        number, following = self._following
        for key, own, shares in self._places:
            if following[number[id(node)]] >> number[key] & 1:
                np.add.at(behind, own, shares)
        due = (behind / np.maximum(self._total, 1e-30))[classes]
        values, mine = plan.importance[classes], self._own(block, node, end, len(classes), fit)
        if not np.isfinite(values).all():
            return np.inf, np.inf
        # A class that stands at several places of the end counts once.
        first = np.unique(classes, return_index=True)[1]
        weight = (due * mine)[first]
        return float((values[first] * weight).sum()), float((self._total[classes][first] * weight).sum())

    def _own(self, block: Block, node: Node, end: Tensor, width: int, fit: Bridge | None) -> Array:
        """The block's share of the result's variance, per channel."""
        if block.kind != "branch":
            return np.full(width, fit.left if fit is not None else CHAIN if block.kind == "chain" else 1.0)
        own = self._variance(end, width)
        rest = sum((self._variance(t, width) for k, t in enumerate(node.inputs) if k != block.index), np.zeros(width))
        share = own / np.maximum(own + rest, 1e-30)
        return np.where(np.isfinite(share), share, UNKNOWN) * (1.0 if fit is None else fit.left)

    def _variance(self, tensor: Tensor, width: int) -> Array:
        variance = self._moments.of(tensor).variance
        if variance.size not in (1, width):
            return np.full(width, np.nan)
        return np.broadcast_to(variance.reshape(-1), (width,))


def _following(graph: gs.Graph) -> tuple[dict[int, int], list[int]]:
    """The nodes' numbers by `id`, and by number the nodes that a node's result reaches, a bit each.

    `graph` is in topological order.
    """
    number = {id(node): index for index, node in enumerate(graph.nodes)}
    found = [0] * len(number)
    for index in range(len(found) - 1, -1, -1):
        for reader in (r for output in graph.nodes[index].outputs for r in consumers(output)):
            found[index] |= found[number[id(reader)]] | 1 << number[id(reader)]
    return number, found


def last_gamma(end: Tensor) -> Array | None:
    """γ of the BatchNormalization that a tensor is, or is an activation of; None where it is of none or of several."""
    norms = {id(norm): norm for norm in _norms_above(end, 4)}
    (only,) = norms.values() if len(norms) == 1 else (None,)
    return None if only is None else input_constant(only, 1)


def _norms_above(end: Tensor, steps: int) -> Iterable[Node]:
    node = producer(end)
    if node is None or not steps:
        return []
    if is_batch_norm(node):
        return [node]
    if node.op not in (*FUNCTIONS, *BOUNDED) and not is_product(node):
        return []
    return [norm for tensor in node.inputs for norm in _norms_above(tensor, steps - 1)]
