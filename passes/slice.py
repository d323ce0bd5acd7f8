"""slice: carry the channel plan out.

Let K be the kept classes. Every initializer axis whose positions are labelled c(0) … c(n−1) becomes the positions with
c(i) ∈ K, in their order; so does, by itself, the same axis of every computed tensor, since each operator either works
channel by channel or moves channels, and keeps their order when some are left out. What depends on *numbers* of
channels is recomputed: Split sizes, Slice bounds, Gather indices, Reshape and Expand targets, Resize sizes, `group` of
depthwise convolutions.

The result computes what the model computes with a mask of zeros at every place where removed channels are summed over
(the input of each convolution or matrix product), exactly up to float rounding: terms x·0 are left out.

Channels may also be added: `extra` zero channels behind a kept one, with zero weights in whoever makes them and whoever
reads them. Nothing depends on their value, so that is exact, too (`snap` adds none where no weight reads them).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from onnxslim_yolo.analysis.constraints import violations
from onnxslim_yolo.ir.graph import toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.source_terms import SourceTerms, source_terms
from onnxslim_yolo.rewrites.channel_counts import UPDATES
from onnxslim_yolo.rewrites.cutter import Cutter


@dataclass(frozen=True)
class SliceChannels:
    """Remove (and add) the channels that the plan says."""

    name: ClassVar[str] = "slice"
    effect: ClassVar[Effect] = "slice"

    def run(self, model: Model) -> int:
        """Carry out the model's plan; return the number of initializers cut."""
        if model.plan is None:
            return 0
        plan = open_plan(model)
        if plan.keep.all() and not plan.extra.any():
            _carried_out(model, plan)
            return 0
        broken = violations(plan.channels, plan.keep)
        if broken:
            raise ValueError("; ".join(broken[:5]))
        cutter = Cutter(model, plan)
        for node in list(model.graph.nodes):
            update = UPDATES.get(node.op)
            if update is not None:
                update(cutter, node)
        cut = cutter.cut_initializers()
        _carried_out(model, plan)
        model.graph.nodes = toposort(model.graph)
        reinfer(model.graph)
        stale = cutter.stale()
        if stale:
            raise ValueError(f"a width was left behind: {stale}")
        return cut


def _carried_out(model: Model, plan: Plan) -> None:
    """Nothing waits any more: note on the model what is left of the source, and what that cannot tell."""
    before = model.carried
    found = source_terms(model.graph, SourceTerms(dict(before.kept), dict(before.shapes)))
    lossless = before.lossless and plan.lossless
    model.carried = replace(before, kept=found.kept, shapes=found.shapes, lossless=lossless, plan=plan)
    model.plan = None
    for note in found.notes():
        model.note(note)
