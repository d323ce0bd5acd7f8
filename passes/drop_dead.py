"""drop-dead: what contributes nothing goes whole: layers, branches, blocks.

`prune` takes channels away and leaves every layer at least one. Here layers go, to a fixpoint:

1. an operand of a sum that is exactly zero goes, and with it everything upstream that nobody else reads; one that is a
   constant per channel becomes that constant, as does a constant gate (see `rewrites.dead_operands`);
2. a part of a Concat that is unread or constant leaves it, or stays as a constant (see `rewrites.concat_parts`);
3. rows that nobody needs at their place become zero, so that what they alone read dies as any other channel.

Zero and constant are what holds for every input (see `analysis.moments`), and no running statistics are believed. A
channel is needed or not at each place where it is used (see `analysis.needed`), whatever its coupled class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import alone_for
from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.needed import NeededChannels
from onnxslim_yolo.ir.graph import copy_graph, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.passes.prune import matches_layer
from onnxslim_yolo.pruning.recorded import layers_of, listed, record_removed
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
        """Edit in place; return the number of rewrites. What went is noted on the model."""
        if not has_zeros(model.graph):
            return 0
        came, before, rewrites = copy_graph(model.graph), layers_of(model.graph), 0
        while changed := self._once(model):
            rewrites += changed
        removed = record_removed(model, came, before) if rewrites else []
        if removed:
            model.note(f"gone whole, as without effect on the output: {listed(removed)}")
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
        return lambda tensor: not kept or kept.isdisjoint(map(id, alone_for(graph, tensor)))
