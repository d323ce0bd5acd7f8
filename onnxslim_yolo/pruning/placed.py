"""The layers of a graph with their widths as functions of the units' widths: see `problem`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.parted import parted_convolutions
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Family, Span, describe
from onnxslim_yolo.latency.moved import as_moved
from onnxslim_yolo.latency.parts import Parting, parting_of
from onnxslim_yolo.latency.table import Widths
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
        family: what it is apart from its widths; or what a pass will write otherwise where that is faster at the widths
            chosen, which stands beside the layers as they are and costs what it saves.
        ins, outs: a slot per input and output.
        read, made: the `id`s of the tensors whose axis 1 they are; 0 where they are of something else.
        node: the name of the node that it is.
        size: the family's height and width as slots, where channels lie along them; else ().
    """

    family: Family | Parting
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    read: tuple[int, ...]
    made: tuple[int, ...]
    node: str
    size: tuple[Slot, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All of them."""
        return (*self.ins, *self.outs, *self.size)

    def latency(self, choice: Choice, costs: Costs) -> float:
        """µs at these widths."""
        ins, outs, size = (tuple([slot.width(choice) for slot in slots]) for slots in (self.ins, self.outs, self.size))
        return price(self.family, ins, outs, size, costs)


def price(family: Family | Parting, ins: Widths, outs: Widths, size: Widths, costs: Costs) -> float:
    """What a layer costs at these widths, and at this height and width; () leaves these."""
    if isinstance(family, Parting):
        return family.price(ins, outs, costs)
    return costs.lookup(replace(family, size=(size[0], size[1])) if size else family, ins, outs)


def placed_layers(graph: gs.Graph, plan: Plan, orders: Sequence[Array]) -> list[Placed]:
    """The layers of a graph, with the widths of their inputs and outputs as slots.

    Args:
        orders: per unit its classes, in the order in which they are kept.
    """
    known: dict[tuple[int, tuple[int, ...]], Slot] = {}
    reader = _Slots.of(plan, orders)

    def slot_of(span: Span) -> Slot:
        key = (id(span.tensor), span.axes)
        if key not in known:
            known[key] = reader.slot(span)
        return known[key]

    def side(row: Sequence[tuple[Span, ...]]) -> tuple[Slot, ...]:
        return tuple(slot_of(spans[0]) if len(spans) == 1 else _together(list(map(slot_of, spans))) for spans in row)

    def ids(row: Sequence[tuple[Span, ...]]) -> tuple[int, ...]:
        return tuple(id(spans[0].tensor) if [span.axes for span in spans] == [(1,)] else 0 for spans in row)

    found = []
    layers = describe(graph, plan.channels.shapes)
    for layer in as_moved(graph, layers):
        size = tuple(slot_of(span) for span in layer.size)
        found.append(
            Placed(
                layer.key.family, side(layer.ins), side(layer.outs), ids(layer.ins), ids(layer.outs), layer.node.name,
                size if any(slot.parts for slot in size) else (),
            )
        )  # fmt: skip
    layer_of = {id(layer.node): layer for layer in layers}
    for place in parted_convolutions(graph, folded=False):
        parting = parting_of(place, layer_of)
        if parting is not None:
            ins, outs = layer_of[id(place.convolution)].ins, layer_of[id(place.split)].outs
            found.append(Placed(parting, side(ins), side(outs), ids(ins), ids(outs), place.split.name))
    return found


def _together(slots: Sequence[Slot]) -> Slot:
    """The width of several tensors in a row."""
    filled: dict[int, tuple[int, ...]] = {}
    for slot in slots:
        for unit, counts in slot.parts:
            before = filled.get(unit, (0,) * len(counts))
            filled[unit] = tuple(a + b for a, b in zip(before, counts, strict=True))
    return Slot(sum(slot.fixed for slot in slots), tuple(sorted(filled.items())))


@dataclass(frozen=True)
class _Slots:
    """Reads the slot of a span off a plan.

    Attributes:
        unit, rank: per class, its unit (-1: none) and the place that it has in the unit's order.
        widths: per unit, how many classes it has.
    """

    plan: Plan
    unit: Array
    rank: Array
    widths: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, orders: Sequence[Array]) -> _Slots:
        """Of units with these orders."""
        unit, rank = np.full(plan.channels.count, -1), np.zeros(plan.channels.count, dtype=np.int64)
        for number, order in enumerate(orders):
            unit[order], rank[order] = number, np.arange(len(order))
        return cls(plan, unit, rank, tuple(map(len, orders)))

    def slot(self, span: Span) -> Slot:
        """How many positions of a span are left."""
        channels = self.plan.channels
        shape, labels = channels.shapes[id(span.tensor)] or (), channels.labels_of(span.tensor)
        whole = prod(shape[axis] for axis in span.axes)
        along = [] if labels is None else [axis for axis in span.axes if labels.shape[axis] > 1]
        if labels is None or not along:
            return Slot(whole, ())
        rows = np.moveaxis(labels, along, range(len(along))).reshape(prod(labels.shape[axis] for axis in along), -1)
        classes = self._last_of(rows)
        times = whole // len(classes)
        named = classes[classes != NO_CHANNEL]
        units = self.unit[named]
        without_unit = named[units < 0]  # these stay, or have gone
        fixed = len(classes) - len(named) + int(self.plan.keep[without_unit].sum())
        parts = []
        for unit in np.unique(units[units >= 0]).tolist():
            counts = np.bincount(self.rank[named[units == unit]], minlength=self.widths[unit])
            parts.append((unit, (0, *(times * np.cumsum(counts)).tolist())))
        return Slot(times * fixed, tuple(parts))

    def _last_of(self, rows: Array) -> Array:
        """Per row of classes, the one that goes last: where channels lie along other axes, too, it goes by that."""
        if rows.shape[1] == 1:
            return rows[:, 0]
        named = np.maximum(rows, 0)
        last = len(self.unit)
        stays = (rows == NO_CHANNEL) | ((self.unit[named] < 0) & self.plan.keep[named])
        goes = np.where(stays, -1, np.where(self.unit[named] < 0, last, self.rank[named]))
        return np.asarray(np.take_along_axis(rows, goes.argmin(axis=1)[:, None], axis=1)[:, 0])
