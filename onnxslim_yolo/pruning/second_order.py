"""Importance `output`: what removing a channel costs the detector after the best linear compensation.

A contraction with weight W (a column per input channel), input covariance Σ and output curvature G (what an error of
its outputs costs the detector, see `_curvature`) loses, when channel c goes and its part is folded into the others
(Hassibi & Stork 1993, "Optimal Brain Surgeon"; with Σ ⊗ G for the Hessian, as Wang et al. 2019, "EigenDamage"),

    Δ(c) = (Wᵀ G W)_cc / (Σ⁻¹)_cc    W ← W − W_c (Σ⁻¹)_c / (Σ⁻¹)_cc    Σ⁻¹ ← Σ⁻¹ − (Σ⁻¹)_c (Σ⁻¹)_cᵀ / (Σ⁻¹)_cc

summed over the kernel's positions and over all readers of c. Channels are taken out greedily, a few at a time, the
cheapest per MAC saved first; the order of removal is the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.analysis.contraction import Contraction
from onnxslim_yolo.analysis.plan_cost import PlanCost
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array, input_constant, revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LinearLayer
from onnxslim_yolo.pruning.calibration import Images, Statistics
from onnxslim_yolo.pruning.coherence import Residuals, with_coherence
from onnxslim_yolo.pruning.curvature import curvatures
from onnxslim_yolo.pruning.fold_removed import matrices, weight_of
from onnxslim_yolo.pruning.head_error import HeadError

NOISE = 0.05
"""The relative error that sensitivities are measured with: of the output's variance."""

SENSITIVITY_IMAGES = 8
"""So many images, evenly picked, are run for each layer disturbed by noise."""

WIDE = 1024
"""Outputs from which on no root of their curvature is taken where there are fewer inputs."""

STEPS = 200
"""The greedy takes this many steps; each removes the cheapest 1/STEPS of the channels."""


@dataclass
class _Block:
    """One group of one contraction: its columns' classes, G^½·W (rows, n), and Σ⁻¹ (n, n)."""

    classes: Array
    weight: Array
    inverse: Array

    def costs(self, columns: slice = slice(None)) -> Array:
        """Δ of each of the columns."""
        diagonal = np.diagonal(self.inverse)[columns]
        energy = (self.weight[:, columns] ** 2).sum(axis=0)
        return np.asarray(energy / np.maximum(diagonal, 1e-30)) * (diagonal > 0)

    def copy(self) -> _Block:
        """One that can be changed."""
        return _Block(self.classes, self.weight.copy(), self.inverse.copy())

    def remove(self, column: int) -> None:
        """Take a column out, folding it into the rest."""
        row = self.inverse[column] / self.inverse[column, column]
        self.weight -= np.outer(self.weight[:, column], row)
        self.inverse -= np.outer(self.inverse[column], row)
        self.weight[:, column] = 0
        self.inverse[column] = 0
        self.inverse[:, column] = 0


@dataclass(frozen=True)
class SecondOrder:
    """What removing channels is predicted to cost: every contraction's block, not yet touched."""

    blocks: tuple[_Block, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        places: Sequence[Contraction],
        statistics: Sequence[Statistics],
        head: HeadError | None,
        images: Images | None = None,
    ) -> SecondOrder:
        """Weigh every contraction.

        Args:
            places, statistics: the contractions with a constant weight and what they read.
            head: measures what an error at a contraction does to the outputs; None counts all alike.
            images: what gradients are taken on; None for the head's own.
        """
        pairs = [(place, Residuals.of(place, known)) for place, known in zip(places, statistics, strict=True)]
        read = [(place, residuals) for place, residuals in pairs if residuals is not None]
        apart = {place.node.name: residuals for place, residuals in read}
        curvature = _curvature(model, places, statistics, apart, head, images)
        return cls(tuple(b for place, mine in read for b in _blocks(place.classes, mine, curvature[place.node.name])))

    def importance(self, channels: Channels, eligible: Array, cost: PlanCost | None) -> Array:
        """Per class, the largest cost per MAC met up to its removal, in removal order; shape (count,).

        Args:
            eligible: per class, whether it may be removed. The others get infinity.
            cost: MACs saved to divide by; None divides by nothing.
        """
        return _greedy(channels, eligible, [block.copy() for block in self.blocks], cost)

    def errors(self, order: Sequence[int], counts: Sequence[int]) -> list[float]:
        """What is lost when the first n classes of an order go alone, for each n of `counts`, which ascend."""
        touched: dict[int, _Block] = {}
        found: list[float] = []
        lost, start = 0.0, 0
        for count in counts:
            for b, column in (place for cls in order[start:count] for place in self._positions.get(int(cls), ())):
                if b not in touched:
                    touched[b] = self.blocks[b].copy()
                lost += float(touched[b].costs(slice(column, column + 1))[0])
                touched[b].remove(column)
            start = count
            found.append(lost)
        return found

    @cached_property
    def _positions(self) -> dict[int, list[tuple[int, int]]]:
        return _positions(self.blocks)


def _curvature(
    model: Model,
    places: Sequence[Contraction],
    statistics: Sequence[Statistics],
    apart: Mapping[str, Residuals],
    head: HeadError | None,
    images: Images | None,
) -> dict[str, Array]:
    """G per layer; from noise where gradients cannot be had, the inverse of the output's variance without a head."""
    if head is not None:
        try:
            seen = head.inputs if images is None else images
            curvature, summed = curvatures(model, [place.node.name for place in places], seen, head.head, apart)
            return with_coherence(curvature, apart, summed)
        except UnsupportedError as error:
            model.note(f"importance: by noise instead of gradients, for {error.message}")
    few = None if head is None else head.subset(SENSITIVITY_IMAGES)
    weights = [1.0] * len(places) if few is None else sensitivities(model, places, statistics, few)
    found: dict[str, Array] = {}
    for place, known, weight in zip(places, statistics, weights, strict=True):
        constant = input_constant(place.node, 1)
        if constant is None:
            continue
        parts, covariance = matrices(place.node, constant, 1), np.nan_to_num(known.by_channel().covariance)
        n = parts.shape[2]
        energy = sum(
            _energy(part, covariance[g * n : (g + 1) * n, g * n : (g + 1) * n]) for g, part in enumerate(parts)
        )
        found[place.node.name] = (
            np.eye(LinearLayer.with_weight(place.node, constant).outputs) * weight / max(energy, 1e-30)
        )
    return found


def sensitivities(
    model: Model, places: Sequence[Contraction], statistics: Sequence[Statistics], head: HeadError
) -> list[float]:
    """The outputs' error per relative error of each contraction's output, by disturbing its weight at random."""
    found: dict[str, float] = {}
    for place, known in zip(places, statistics, strict=True):
        if place.node.name not in found:
            found[place.node.name] = _sensitivity(model, place, known.by_channel(), head)
    return [found[place.node.name] for place in places]


def _sensitivity(model: Model, place: Contraction, known: Statistics, head: HeadError) -> float:
    disturbed = model.copy()
    node = next(n for n in disturbed.graph.nodes if n.name == place.node.name)
    weight = input_constant(node, 1)
    if weight is None:
        return 0.0
    rng = np.random.default_rng(len(place.classes))
    blocks = matrices(node, weight, 1)
    noise: Array = np.asarray(rng.standard_normal(blocks.shape))
    for g in range(len(blocks)):
        mine = slice(g * blocks.shape[2], (g + 1) * blocks.shape[2])
        covariance = known.covariance[mine, mine]
        noise[g] *= np.sqrt(NOISE * _energy(blocks[g], covariance) / max(_energy(noise[g], covariance), 1e-30))
    changed = weight_of(node, blocks + noise, weight.shape, 1)
    revalue(node, 1, changed.astype(weight.dtype))
    return head.error(disturbed) / NOISE


def _energy(weight: Array, covariance: Array) -> float:
    """tr(W Σ Wᵀ)."""
    return float(np.einsum("ri,ij,rj->", weight, covariance, weight, optimize=True))


def _blocks(classes: Array, read: Residuals, curvature: Array) -> list[_Block]:
    found = []
    outputs = len(curvature) // len(read.weight)
    for g, (block, inverse) in enumerate(zip(read.weight, read.inverse, strict=True)):
        mine = slice(g * block.shape[1], (g + 1) * block.shape[1])
        rows = slice(g * outputs, (g + 1) * outputs)
        found.append(_Block(classes[mine], _weighted(block, curvature[rows, rows]), inverse))
    return found


def _weighted(block: Array, curvature: Array) -> Array:
    """G^½·W, for rows that are outputs × kernel positions; of very many (Wᵀ·G·W)^½, whose columns cost the same.

    A root takes the cube of its size: six minutes for the 9,216 outputs of a layer that makes another one's weights.
    """
    taps = block.reshape(len(curvature), -1, block.shape[1])
    if len(curvature) > max(block.shape[1], WIDE):
        return _root(np.tensordot(taps, np.tensordot(curvature, taps, 1), ((0, 1), (0, 1))))
    root = _root(curvature)
    return np.asarray(np.einsum("po,otc->ptc", root, taps, optimize=True).reshape(block.shape))


def _root(matrix: Array) -> Array:
    """R with RᵀR the symmetric matrix, what is negative in it left out."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


def _positions(blocks: Sequence[_Block]) -> dict[int, list[tuple[int, int]]]:
    """Per class, the (block, column) that it is read in."""
    found: dict[int, list[tuple[int, int]]] = {}
    for b, block in enumerate(blocks):
        for column, cls in enumerate(block.classes.tolist()):
            if cls >= 0:
                found.setdefault(cls, []).append((b, column))
    return found


def _greedy(channels: Channels, eligible: Array, blocks: list[_Block], cost: PlanCost | None) -> Array:
    positions = _positions(blocks)
    importance = np.full(channels.count, np.inf)
    keep = np.ones(channels.count, dtype=bool)
    batch = max(int(eligible.sum()) // STEPS, 1)
    highest = 0.0
    costs = [block.costs() for block in blocks]
    while (keep & eligible).any():
        totals = np.zeros(channels.count)
        for block, values in zip(blocks, costs, strict=True):
            own = block.classes >= 0
            np.add.at(totals, block.classes[own], values[own])
        if cost is not None:
            totals = totals / np.maximum(cost.saved(keep), 1.0)
        left = np.flatnonzero(keep & eligible)
        chosen = left[np.argsort(totals[left], kind="stable")[:batch]]
        touched: set[int] = set()
        for cls in chosen.tolist():
            highest = max(highest * (1 + 1e-12), float(totals[cls]))
            importance[cls] = highest
            keep[cls] = False
            for b, column in positions.get(cls, ()):
                blocks[b].remove(column)
                touched.add(b)
        for b in touched:
            costs[b] = blocks[b].costs()
    finite = importance[np.isfinite(importance)]
    return np.where(np.isfinite(importance), importance, 2 * float(finite.max(initial=1.0)))
