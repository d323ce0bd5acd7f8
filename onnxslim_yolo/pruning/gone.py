"""Blocks as choices of a width problem: "gone" is one more width, of all that goes with the block.

Where a block is gone,

1. the layers of its nodes cost nothing, nor does the sum of two that it is an operand of; a constant that is left and
   that no bias can take over is a layer more;
2. a *unit* whose channels only these layers know loses nothing: what is lost is the block's own loss;
3. of a part of a Concat, what reads the result reads so many channels less, and units known besides to the readers only
   lose nothing either;
4. of a chain, what reads its end reads its start: the two units are one, whose channels matter as the more important of
   each two.

That is the problem of the graph without the block, made of the layers and slots that are there: no graph is copied and
no channel labelled again. What is not modelled (a third layer that tells a part's channels apart, a chain over several
units) is left to cost what it did, or is no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block, end_of
from onnxslim_yolo.analysis.carriers import carriers
from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, producer, tensors
from onnxslim_yolo.latency.layers import Family, size_of
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.pruning.placed import Choice, Placed, Slot
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.problem import Allocation, Unit, WidthProblem, unit_of

NOTHING = Slot(0, ())


@dataclass(frozen=True)
class Removal:
    """What goes with a block.

    Attributes:
        block: which.
        lost: importance lost with it.
        nodes: the names of the nodes whose layers go.
        freed: the units that go with it.
        end: the `id` of a part's tensor, 0 of other blocks. whole: that of the Concat's result. part: its channels.
        added: layers that come in its place.
        bridged: of a chain, the classes of its end and of its start, channel by channel; shape (2, n).
    """

    block: Block
    lost: float
    nodes: frozenset[str]
    freed: tuple[int, ...]
    end: int = 0
    whole: int = 0
    part: Slot = NOTHING
    added: tuple[Placed, ...] = ()
    bridged: Array = field(default_factory=lambda: np.zeros((2, 0), dtype=np.int64), compare=False)


class Blocks:
    """A width problem and the blocks that may be gone in it.

    Attributes:
        problem: with all blocks there. removals: of each block that the problem can be without.
    """

    def __init__(
        self, graph: gs.Graph, plan: Plan, problem: WidthProblem, blocks: Sequence[Block], losses: Sequence[float]
    ) -> None:
        self.problem, self._plan = problem, plan
        self._without: dict[frozenset[int], WidthProblem] = {frozenset(): problem}
        self._unit_of = {int(cls): u for u, unit in enumerate(problem.units) for cls in unit.order}
        reader = _Reader(graph, plan, problem, self._unit_of)
        found = [reader.removal(b, lost) for b, lost in zip(blocks, losses, strict=True) if np.isfinite(lost)]
        self.removals = [removal for removal in found if removal is not None]
        layers = problem.placed
        self._layers = [[layer for layer in layers if layer.node in removal.nodes] for removal in self.removals]
        self._readers = [
            [layer for layer in layers if removal.whole and removal.whole in (*layer.read, *layer.made)]
            for removal in self.removals
        ]

    def saved(self, index: int, choice: Choice) -> float:
        """What a block costs where the widths are as chosen, those of other layers as they are."""
        costs, removal = self.problem.costs, self.removals[index]
        total = sum(layer.latency(choice, costs) for layer in self._layers[index])
        total -= sum(layer.latency(choice, costs) for layer in removal.added)
        for layer in self._readers[index]:
            less = _less(layer, [removal])
            total += layer.latency(choice, costs) - (0.0 if less is None else less.latency(choice, costs))
        return total

    def spared(self, index: int, choice: Choice) -> float:
        """What widths have lost within a block already."""
        return sum(self.problem.units[u].lost[choice[u]] for u in self.removals[index].freed)

    def gain(self, index: int, at: Allocation) -> float:
        """What a block costs more than it is worth, µs, at a price of importance."""
        lost = self.removals[index].lost - self.spared(index, list(at.choice))
        return self.saved(index, list(at.choice)) - at.price * lost

    def lost(self, gone: frozenset[int]) -> float:
        """Importance that goes with blocks."""
        return sum(self.removals[index].lost for index in sorted(gone))

    def apart(self, index: int, gone: frozenset[int]) -> bool:
        """Whether a block shares no node with any of these."""
        mine = self.removals[index].nodes
        return all(mine.isdisjoint(self.removals[other].nodes) for other in gone)

    def without(self, gone: frozenset[int]) -> WidthProblem:
        """The problem with these blocks gone; its units are the same, in the same order."""
        if gone not in self._without:
            self._without[gone] = self._reduced([self.removals[index] for index in sorted(gone)])
        return self._without[gone]

    def _reduced(self, removals: Sequence[Removal]) -> WidthProblem:
        nodes = frozenset().union(*(removal.nodes for removal in removals))
        units = list(self.problem.units)
        for unit in {u for removal in removals for u in removal.freed}:
            units[unit] = replace(units[unit], lost=(0.0,) * len(units[unit].lost))
        left = [_less(layer, removals) for layer in self.problem.placed if layer.node not in nodes]
        placed = [layer for layer in left if layer is not None] + [one for removal in removals for one in removal.added]
        pairs = [removal.bridged for removal in removals if removal.bridged.size]
        if pairs:
            units, placed = self._bridged(units, placed, pairs)
        return WidthProblem.over(units, placed, self.problem.costs, like=self.problem)

    def _bridged(
        self, units: list[Unit], placed: list[Placed], pairs: Sequence[Array]
    ) -> tuple[list[Unit], list[Placed]]:
        """Of chains: the unit of each end is that of its start."""
        importance, keep, removable = (np.array(getattr(self._plan, k)) for k in ("importance", "keep", "removable"))
        stands_for: dict[int, int] = {}

        def now(cls: int) -> int:
            while cls in stands_for:
                cls = stands_for[cls]
            return cls

        instead: dict[int, int] = {}
        for ends, starts in pairs:
            for end, start in zip(map(now, ends.tolist()), map(now, starts.tolist()), strict=True):
                if end == start:
                    continue  # around a shortcut, say
                stands_for[end] = start
                importance[start] = max(importance[start], importance[end])
                keep[start], removable[start] = keep[start] & keep[end], removable[start] & removable[end]
                instead[self._unit_of[end]] = self._unit_of[start]

        def unit_now(unit: int) -> int:
            while unit in instead:
                unit = instead[unit]
            return unit

        plan = replace(self._plan, importance=importance, keep=keep, removable=removable)
        for end_unit in instead:
            start_unit = unit_now(end_unit)
            units[start_unit] = unit_of(plan, np.sort(units[start_unit].order), saturating=True)
            units[end_unit] = replace(units[end_unit], lost=(0.0,) * len(units[end_unit].lost))

        def renamed(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
            return tuple(Slot(s.fixed, _summed([(unit_now(u), filled) for u, filled in s.parts])) for s in slots)

        return units, [
            replace(layer, ins=renamed(layer.ins), outs=renamed(layer.outs), size=renamed(layer.size))
            for layer in placed
        ]


def _summed(parts: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    found: dict[int, tuple[int, ...]] = {}
    for unit, filled in parts:
        before = found.get(unit)
        found[unit] = filled if before is None else tuple(a + b for a, b in zip(before, filled, strict=True))
    return tuple(sorted(found.items()))


def _less(layer: Placed, removals: Sequence[Removal]) -> Placed | None:
    """A layer with what it reads and makes of parts gone; None where nothing is left of it: a Concat of one."""
    for removal in removals:
        if not removal.whole or removal.whole not in (*layer.read, *layer.made):
            continue
        kept = [k for k, tensor in enumerate(layer.read) if tensor != removal.end]
        ins, read = [layer.ins[k] for k in kept], [layer.read[k] for k in kept]
        if len(ins) < len(layer.ins) and len(ins) < 2:
            return None
        now = [
            tuple(
                _minus(slot, removal.part) if tensor == removal.whole else slot
                for slot, tensor in zip(slots, ids, strict=True)
            )
            for slots, ids in ((ins, read), (layer.outs, layer.made))
        ]
        layer = replace(layer, ins=now[0], outs=now[1], read=tuple(read))
    return layer


def _minus(slot: Slot, part: Slot) -> Slot:
    less = dict(part.parts)
    parts = []
    for unit, filled in slot.parts:
        left = tuple(a - b for a, b in zip(filled, less.get(unit, (0,) * len(filled)), strict=True))
        if any(left):
            parts.append((unit, left))
    return Slot(slot.fixed - part.fixed, tuple(parts))


class _Reader:
    """Reads of a graph what goes with a block."""

    def __init__(self, graph: gs.Graph, plan: Plan, problem: WidthProblem, unit_of_class: dict[int, int]) -> None:
        self._graph, self._plan, self._unit_of, self._problem = graph, plan, unit_of_class, problem
        self._nodes = {node.name: node for node in graph.nodes}
        self._tensors = {tensor.name: tensor for tensor in tensors(graph)}
        self._returned = {id(tensor) for tensor in graph.outputs}
        self._homes: list[set[str]] = [set() for _ in problem.units]
        for use in plan.channels.uses:
            for cls in np.unique(use.labels).tolist():
                if cls in unit_of_class:
                    self._homes[unit_of_class[cls]].add(use.node.name)
        self._linear = [True] * len(problem.units)
        slots = {id(slot): slot for layer in problem.placed for slot in (*layer.ins, *layer.outs)}
        for unit, filled in (part for slot in slots.values() for part in slot.parts):
            # The n-th channel fills as many positions as the first.
            self._linear[unit] &= filled == tuple(range(0, filled[1] * len(filled), filled[1] or 1))

    def removal(self, block: Block, lost: float) -> Removal | None:
        """What goes with a block; None of one that the problem cannot be without."""
        node = self._nodes.get(block.node)
        if node is None:
            return None
        gone = {*block.nodes}
        end = node.outputs[0]
        added = bool(block.mean) and isinstance(carriers(self._graph, end, np.asarray(block.mean)), str)
        summed = block.kind == "branch" and len(node.inputs) == 2
        if summed:
            gone.add(node.name)
        if block.kind == "part":
            return self._part(block, lost, node, gone)
        bridged = self._chain(block, node) if block.kind == "chain" else np.zeros((2, 0), dtype=np.int64)
        if bridged is None:
            return None
        within = gone | {block.node}
        freed = tuple(u for u, homes in enumerate(self._homes) if homes and homes <= within)
        more = self._sum_of(node) if added and (summed or block.kind == "chain") else ()
        return Removal(block, lost, frozenset(gone), freed, bridged=bridged, added=more)

    def _sum_of(self, last: Node) -> tuple[Placed, ...]:
        """The addition of a constant to what a node yields."""
        size = self._plan.channels.shapes.get(id(last.outputs[0])) or (1, 1, 1, 1)
        slot = self._slot_made(last.outputs[0])
        family = Family("unary", "scale", size=size_of(size))
        return (Placed(family, (slot,), (slot,), (0,), (0,), f"{last.name}_bridge"),)

    def _part(self, block: Block, lost: float, concat: Node, gone: set[str]) -> Removal:
        whole, end = concat.outputs[0], concat.inputs[block.index]
        part = self._slot_read(concat, end)
        readers = {reader.name for reader in consumers(whole)}
        both = dict(self._slot_made(whole).parts)
        alone = {u for u, filled in part.parts if both.get(u) == filled}  # no other part has channels of it
        freed = tuple(
            u
            for u, homes in enumerate(self._homes)
            if homes and (homes <= gone or (u in alone and homes <= gone | readers))
        )
        return Removal(block, lost, frozenset(gone), freed, id(end), id(whole), part)

    def _slot_read(self, node: Node, tensor: Tensor) -> Slot:
        for layer in self._problem.placed:
            if layer.node == node.name and id(tensor) in layer.read:
                return layer.ins[layer.read.index(id(tensor))]
        return NOTHING

    def _slot_made(self, tensor: Tensor) -> Slot:
        for layer in self._problem.placed:
            if id(tensor) in layer.made:
                return layer.outs[layer.made.index(id(tensor))]
        norm = producer(tensor)  # is no layer of its own
        return self._slot_made(norm.inputs[0]) if norm is not None and is_batch_norm(norm) else NOTHING

    def _chain(self, block: Block, last: Node) -> Array | None:
        """The classes of a chain's end and start; no channels where they are the same already; None where the units are
        not as simple as that."""
        labels = []
        for tensor in (end_of(block, last), self._tensors.get(block.start)):
            found = None if tensor is None else self._plan.channels.labels_of(tensor)
            if found is None or found.ndim < 2 or found.shape[1] != found.size:
                return None
            labels.append(found.reshape(-1))
        if labels[0].shape != labels[1].shape or (np.stack(labels) == NO_CHANNEL).any():
            return None
        pairs = np.stack(labels)
        if np.array_equal(pairs[0], pairs[1]):
            return np.zeros((2, 0), dtype=np.int64)
        units = [{self._unit_of.get(int(cls), -1) for cls in side} for side in pairs]
        if any(len(side) != 1 or -1 in side for side in units):
            return None
        (end,), (start,) = units
        simple = all(
            self._linear[u] and self._problem.units[u].width == pairs.shape[1] and self._problem.units[u].step == 1
            for u in (end, start)
        )
        return pairs if simple and end != start else None
