"""The layers of a graph with their widths as functions of the units' widths: see `problem`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.ir.graph import Array, Tensor
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Family, describe
from onnxslim_yolo.latency.moved import as_moved
from onnxslim_yolo.pruning.plan import Plan

Choice = list[int]
"""One width per unit."""


@dataclass(frozen=True)
class Slot:
    """The width of one tensor: `fixed`, plus per unit how many positions its first n channels fill."""

    fixed: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]

    def width(self, choice: Choice) -> int:
        """Channels at these widths of the units."""
        total = self.fixed
        for unit, filled in self.parts:
            total += filled[choice[unit]]
        return total


@dataclass(frozen=True)
class Placed:
    """A layer of the graph, its widths as slots.

    Attributes:
        family: what it is apart from its widths.
        ins, outs: a slot per input and output.
        read, made: the `id`s of the tensors that they are the widths of; 0 where they are of none or several.
        node: the name of the node that it is.
    """

    family: Family
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    read: tuple[int, ...]
    made: tuple[int, ...]
    node: str

    def latency(self, choice: Choice, costs: Costs) -> float:
        """µs at these widths."""
        return costs.lookup(
            self.family, tuple([s.width(choice) for s in self.ins]), tuple([s.width(choice) for s in self.outs])
        )


def placed_layers(graph: gs.Graph, plan: Plan, orders: Sequence[Array]) -> list[Placed]:
    """The layers of a graph, with the widths of their inputs and outputs as slots.

    Args:
        orders: per unit its classes, in the order in which they are kept.
    """
    known: dict[tuple[int, int], Slot] = {}
    unit_of, rank = np.full(plan.channels.count, -1), np.zeros(plan.channels.count, dtype=np.int64)
    for unit, order in enumerate(orders):
        unit_of[order], rank[order] = unit, np.arange(len(order))

    def slot_of_one(tensor: Tensor, width: int) -> Slot:
        key = (id(tensor), width)
        if key not in known:
            known[key] = _slot(plan, tensor, width, unit_of, rank, [len(order) for order in orders])
        return known[key]

    def slot_of_side(tensors: Sequence[Tensor | tuple[Tensor, ...]], widths: Sequence[int]) -> tuple[Slot, ...]:
        if not tensors:
            return tuple(Slot(width, ()) for width in widths)
        return tuple(
            _together([slot_of_one(part, int(part.shape[1])) for part in tensor])
            if isinstance(tensor, tuple)
            else slot_of_one(tensor, width)
            for tensor, width in zip(tensors, widths, strict=True)
        )

    def ids(tensors: Sequence[Tensor | tuple[Tensor, ...]], widths: Sequence[int]) -> tuple[int, ...]:
        return tuple(0 if isinstance(t, tuple) else id(t) for t in tensors) or (0,) * len(widths)

    found = []
    for layer in as_moved(graph, describe(graph, plan.channels.shapes)):
        key = layer.key
        ins, outs = slot_of_side(layer.ins, key.ins), slot_of_side(layer.outs, key.outs)
        read, made = ids(layer.ins, key.ins), ids(layer.outs, key.outs)
        found.append(Placed(key.family, ins, outs, read, made, layer.node.name))
    return found


def _together(slots: Sequence[Slot]) -> Slot:
    """The width of several tensors in a row."""
    filled: dict[int, tuple[int, ...]] = {}
    for slot in slots:
        for unit, counts in slot.parts:
            before = filled.get(unit, (0,) * len(counts))
            filled[unit] = tuple(a + b for a, b in zip(before, counts, strict=True))
    return Slot(sum(slot.fixed for slot in slots), tuple(sorted(filled.items())))


def _slot(plan: Plan, tensor: Tensor, width: int, unit_of: Array, rank: Array, widths: Sequence[int]) -> Slot:
    labels = plan.channels.labels_of(tensor)
    classes = np.zeros(0, dtype=np.int64)
    if labels is not None and labels.ndim > 1 and labels.shape[1] == width > 1:
        classes = labels.reshape(-1)
    named = classes[classes != NO_CHANNEL]
    units = unit_of[named]
    fixed = width - len(named) + int(plan.keep[named[units < 0]].sum())  # what has no unit stays or has gone
    parts = []
    for unit in np.unique(units[units >= 0]).tolist():
        counts = np.bincount(rank[named[units == unit]], minlength=widths[unit])
        parts.append((unit, (0, *np.cumsum(counts).tolist())))
    return Slot(fixed, tuple(parts))
