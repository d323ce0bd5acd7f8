"""drop-dead: what contributes nothing goes whole: layers, branches, blocks.

`prune` takes channels away and leaves every layer at least one. Here layers go, to a fixpoint:

1. an operand of a sum that is exactly zero goes, and with it everything upstream that nobody else reads; one that is a
   constant per channel becomes that constant, as does a constant gate (see `rewrites.dead_operands`);
2. a part of a Concat that is unread or constant leaves it (see `rewrites.concat_parts`);
3. rows that nobody needs at their place become zero, so that what they alone read dies as any other channel.

Zero and constant are what holds for every input (see `analysis.moments`), and no running statistics are believed. A
channel is needed or not at each place where it is used (see `analysis.needed`), whatever its coupled class.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import analyse_channels, concrete_shapes
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.needed import NeededChannels
from onnxslim_yolo.ir.graph import TRANSPOSED, Tensor, consumers, copy_graph, is_graph_output, producer, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.passes.prune import matches_layer
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.removed import as_modules
from onnxslim_yolo.pruning.source_terms import leaf_names
from onnxslim_yolo.rewrites.concat_parts import drop_part
from onnxslim_yolo.rewrites.dead_operands import MayGo, clear_rows, drop_operands, has_zeros
from onnxslim_yolo.rewrites.noop_nodes import drop_noops


@dataclass(frozen=True)
class DropDead:
    """Take out the layers that contribute nothing.

    Args:
        keep: patterns of layers not to touch (as of `prune`).
    """

    name: ClassVar[str] = "drop-dead"

    keep: tuple[str, ...] = ()

    def run(self, model: Model) -> int:
        """Edit in place; return the number of rewrites. What went is noted in the model's plan."""
        if not has_zeros(model.graph):
            return 0
        came, before, rewrites = copy_graph(model.graph), _layers(model.graph), 0
        while changed := self._once(model):
            rewrites += changed
        left = set[str]().union(*_layers(model.graph).values()) if rewrites else set().union(*before.values())
        removed = [layer for layer, names in before.items() if names.isdisjoint(left)]
        if removed:
            _record(model, came, removed, tuple(before))
        return rewrites

    def _once(self, model: Model) -> int:
        graph = model.graph
        shapes = concrete_shapes(graph)
        moments = moments_of(graph, shapes)
        changed = drop_operands(graph, moments, self._may_go(graph))
        if not changed:
            needs = NeededChannels(graph, shapes, moments)
            changed = int(drop_part(model, needs, moments, self._may_go(graph))) or clear_rows(graph, needs)
        if changed:
            graph = model.graph  # a part may have left a copy
            sweep(graph)
            graph.nodes = toposort(graph)
            reinfer(graph)
            drop_noops(graph)
            sweep(graph)
        return changed

    def _may_go(self, graph: gs.Graph) -> MayGo:
        """Whether a tensor's computation may be left out: no layer that is to be kept goes with it."""
        kept = {id(node) for node in graph.nodes if any(matches_layer(pattern, node) for pattern in self.keep)}
        return lambda tensor: not kept or kept.isdisjoint(_alone_for(graph, tensor))


def _alone_for(graph: gs.Graph, tensor: Tensor) -> set[int]:
    """The nodes, by `id`, that compute a tensor and nothing else that is read."""
    first = producer(tensor)
    found: set[int] = set() if first is None else {id(first)}
    for node in reversed(graph.nodes):
        read = any(is_graph_output(graph, output) for output in node.outputs)
        readers = [reader for output in node.outputs for reader in consumers(output)]
        if readers and not read and all(id(reader) in found for reader in readers):
            found.add(id(node))
    return found


def _layers(graph: gs.Graph) -> dict[str, set[str]]:
    """The source's initializers by the layer they belong to, in the graph's order."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        for tensor in node.inputs:
            for name in leaf_names(tensor) if isinstance(tensor, gs.Constant) else ():
                stem, dot, _ = name.removesuffix(TRANSPOSED).rpartition(".")
                found[stem if dot else node.name if node.op in LINEAR else name].add(name)
    return found


def _record(model: Model, came: gs.Graph, removed: list[str], layers: tuple[str, ...]) -> None:
    plan = open_plan(model)
    plan.removed_nodes += tuple(name for name in removed if name not in plan.removed_nodes)
    plan.layers = plan.layers or layers
    if plan.came is None:
        plan.came, channels = came, analyse_channels(came)
        plan.gone = max(0, int(channels.prunable.sum()) - int(plan.channels.prunable.sum()))
    gone = as_modules(removed, plan.layers)
    shown = ", ".join(f"'{name}'" for name in gone[:4]) + (f" and {len(gone) - 4} more" if gone[4:] else "")
    model.note(f"gone whole, as without effect on the output: {shown}")
