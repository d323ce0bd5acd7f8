"""drop-blocks: take whole blocks out where that loses less than narrowing layers would.

A block is a residual branch, a part of a Concat, or a chain between two tensors of one shape (see `analysis.blocks`);
what it matters is measured as it is for channels (see `pruning.block_loss`). With a limit on a cost, "gone" is one more
choice of the knapsack over widths (see `pruning.depth`): `prune-to`, which has to follow with the same limit, chooses
the widths of what is left. With `depth=only` blocks go until the limit is met, those that save most per importance
first, and no width has to change. With calibration images, what the detector loses without a few sets of blocks, each
time at the limit, is measured, and those go without which it is least. With a ratio, branches and parts go that
training has left below the threshold at which `prune` of that ratio cuts: every |γ| of the BatchNormalization that they
end in. So do layers of which every |γ| is next to nothing, where the graph stays whole: a width of 0 instead of one
channel that is left for form's sake. Where the model's own code is to carry the plan out, only branches and chains go
that are a module of it (see `pruning.module_blocks`).

The result computes what the model with these blocks masked does: their contribution zero, or, of a branch or a chain,
its mean by the BatchNormalization's statistics, where there are no images to make up for it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import numpy as np

from onnxslim_yolo.analysis.blocks import Block, end_of, find_blocks, find_layers, node_named
from onnxslim_yolo.analysis.importance import measure
from onnxslim_yolo.analysis.residual import residual_channels
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array, copy_graph
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.drop_dead import DropDead
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.passes.prune import matches_layer
from onnxslim_yolo.passes.reconstruct import Reconstruct, moments_to_match, reconstruct
from onnxslim_yolo.passes.to_target import PruneToTarget
from onnxslim_yolo.pruning.block_loss import block_losses, block_means, last_gamma
from onnxslim_yolo.pruning.bridge import Bridge, bridges
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.depth import Offer, best_set, choose_blocks, offers
from onnxslim_yolo.pruning.gone import Blocks
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.mask import mask_blocks, masked
from onnxslim_yolo.pruning.match import Moments
from onnxslim_yolo.pruning.module_blocks import module_blocks
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.problem import Allocation
from onnxslim_yolo.pruning.ranking import SPARSE, Ranking
from onnxslim_yolo.pruning.recorded import layers_of, listed, record_removed
from onnxslim_yolo.rewrites.block_edits import carried, take_out

FITTED = 8
"""So many calibration images compensation is fitted on, and as many others are measured, before blocks go."""

SMALL = 1e-2
"""What a part or a chain may yield on average where no images tell how to make up for it."""

IMAGES = 16
"""On so many calibration images, evenly picked, what of blocks is linear is fitted; on half as many others what the
detector loses without each is measured."""

MEASURED = 8
"""The detector's loss is measured for so many blocks at most: those that promise most."""


@dataclass(frozen=True)
class DropBlocks(PruneToTarget):
    """Take blocks out for a limit on latency, multiply-accumulates or parameters, or by a ratio.

    Args:
        depth: "auto", widths change as well; or "only".
        ratio: instead of a target: the share of channels of which `prune` asks.
        zero: with a ratio, layers may go of which nothing is left: what `snap` does with a width of 0.
        means: what a branch yields on average stays behind, as a constant.
    """

    name: ClassVar[str] = "drop-blocks"
    effect: ClassVar[Effect] = "blocks"

    depth: Literal["auto", "only"] = "auto"
    ratio: float | None = None
    means: bool = True
    zero: bool = True

    def run(self, model: Model) -> int:
        """Edit in place; return the number of blocks taken out. What went is noted on the model.

        Raises:
            UsageError: with `depth=only`, the limit cannot be met by blocks.
        """
        if model.carried.blocks:
            return 0
        blocks = self._allowed(model)
        if self.ratio is not None:
            chosen = self._below_threshold(model, blocks)
        else:
            blocks = self._with_means(model, blocks)
            if not blocks and self.depth == "auto":
                return 0
            chosen = self._for_target(model, blocks)
        if not chosen and self.depth == "only":
            model.note(
                f"WARNING: no block goes: none of {len(blocks)} is as small as what is asked for, and widths stay"
            )
        return self._take_out(model, chosen) if chosen else 0

    def _allowed(self, model: Model) -> list[Block]:
        """The blocks that may go: none with a layer that is to be kept, or out of scope, or that is returned."""
        found = find_blocks(model.graph)
        found = module_blocks(model.graph, found) if model.equal_parts else found
        return self._free(model, found)

    def _free(self, model: Model, blocks: list[Block]) -> list[Block]:
        channels = open_plan(model).channels
        nodes = {node.name: node for node in model.graph.nodes}
        kept = {name for name, n in nodes.items() if any(matches_layer(pattern, n) for pattern in self.keep)}
        found = [block for block in blocks if kept.isdisjoint(block.nodes)]
        fixed = ~channels.prunable
        if self.scope == "no-residual":
            fixed |= residual_channels(model.graph, channels)

        def free(block: Block) -> bool:
            labels = channels.labels_of(end_of(block, nodes[block.node]))
            return labels is not None and labels.size > 1 and not fixed[labels[labels >= 0]].any()

        return [block for block in found if free(block)]

    def _with_means(self, model: Model, blocks: list[Block]) -> list[Block]:
        """Without images to make up by, only blocks whose mean is known and can stay, or is near 0."""
        if self.calib is not None:
            return blocks
        means = block_means(model, open_plan(model), blocks) if blocks else []
        found = []
        for block, mean in zip(blocks, means, strict=True):
            if mean is None:
                continue
            left = replace(block, mean=tuple(mean.tolist())) if self.means and mean.any() else block
            stays = block.kind != "part" and (not model.equal_parts or self._is_carried(model, left))
            if stays or np.abs(mean).max() <= SMALL:
                found.append(left if stays else block)
        return found

    def _is_carried(self, model: Model, block: Block) -> bool:
        """Whether a constant can go into biases, so that the model's own code need not add it; said where not."""
        node = node_named(model.graph, block.node)
        where = carried(model.graph, node, block) if node is not None and block.mean else []
        small = isinstance(where, str) and max(map(abs, block.mean)) > SMALL and _all_below(model, block, SPARSE)
        if small:
            model.note(f"'{block.layers[-1]}' yields a constant, and stays: no bias can take it over exactly: {where}")
        return not isinstance(where, str)

    def _below_threshold(self, model: Model, blocks: Sequence[Block]) -> list[Block]:
        plan = open_plan(model)
        found = measure(plan.channels, "gamma", self.aggregate)
        values = np.sort(found.values[plan.channels.prunable & found.has_gamma])
        if self.importance not in ("auto", "gamma") or not self.ratio or not values.size:
            return []
        threshold = min(float(values[min(int(self.ratio * len(values)), len(values) - 1)]), SPARSE)
        whole = self.zero and not model.equal_parts  # the model's own code calls every layer
        small = [block for block in blocks if _all_below(model, block, threshold)]
        if whole:
            dead = min(threshold, SMALL)
            layers = self._free(model, find_layers(model.graph, lambda gamma: bool((np.abs(gamma) <= dead).all())))
            small += [block for block in layers if _all_below(model, block, dead)]
        return self._with_means(model, small)

    def _for_target(self, model: Model, blocks: Sequence[Block]) -> list[Block]:
        self.prune().run(model)
        plan = open_plan(model)
        problem, source, limit = self.problem(model, plan, self.costs())
        whole = Allocation(tuple(problem.planned), problem.latency(problem.planned), problem.lost(problem.planned))
        if whole.latency <= limit:
            return []
        images = self._images(model)
        fits = bridges(model, blocks, images[::2]) if images else [None] * len(blocks)
        if self.depth == "only":
            losses = self._losses(model, plan, blocks, fits, images)
            there = Blocks(model.graph, plan, problem, blocks, losses)
            return self._until(model, offers(there, whole), limit, source)
        widths = self.solve(problem, limit)
        there = Blocks(model.graph, plan, problem, blocks, block_losses(model, plan, blocks, fits=fits))
        if self.calib is None:
            found = choose_blocks(there, self.candidates(problem), limit, widths)
            return [there.removals[index].block for index in sorted(found.gone)]
        roughly = offers(there, widths)[:MEASURED]
        few = [k for k, block in enumerate(blocks) if any(block is offer.block for offer in roughly)]
        chosen, those = [blocks[k] for k in few], [fits[k] for k in few]
        losses = self._losses(model, plan, chosen, those, images)
        return self._as_measured(model, Blocks(model.graph, plan, problem, chosen, losses), widths)

    def _as_measured(self, model: Model, there: Blocks, widths: Allocation) -> list[Block]:
        """The blocks without which the detector loses least at the limit, as measured: a sum of losses foretells the
        order of networks that differ so much only roughly."""
        probe = _Probe.of(self, model) if there.removals else None
        if probe is None:
            return []
        # Blocks were measured one by one, widths ranked: what these lose in sum is measured, too, and tells their unit.
        unit = probe.by_widths / max(widths.lost, 1e-12) if np.isfinite(probe.by_widths) else 0.0
        ranked = offers(there, widths, unit)
        chosen, least = best_set(ranked, probe.by_widths, lambda blocks: probe.error(self, model, blocks))
        if not chosen and np.isfinite(least):
            model.note(
                f"no block goes: on calibration images the detector loses {least:.3f} without the best of "
                f"{len(ranked)}, {probe.by_widths:.3f} by widths alone"
            )
        return chosen

    def planned(self, model: Model, blocks: Sequence[Block]) -> Model:
        """A copy without these blocks, its widths planned for the limit."""
        trial = model.copy()
        if blocks:
            self._take_out(trial, blocks, open_plan(model))
        PruneToTarget(**{f.name: getattr(self, f.name) for f in fields(PruneToTarget)}).run(trial)
        return trial

    def _images(self, model: Model) -> list[Array]:
        """Every other one to fit by, the rest to measure on."""
        return [] if self.calib is None else list(CalibrationImages(self.calib, model, 2 * IMAGES, "fit"))

    def _losses(
        self,
        model: Model,
        plan: Plan,
        blocks: Sequence[Block],
        fits: Sequence[Bridge | None],
        images: Sequence[Array],
    ) -> list[float]:
        """What is lost with each block; `fits`: what compensation will keep of it, None where there are no images."""
        head = HeadError.of(model, images[1::4] or images) if images else None
        # Compensation will restore means at least: measured with those that are known.
        means = [None] * len(blocks) if head is None else block_means(model, plan, blocks)
        shown = [
            block if mean is None or block.kind == "part" else replace(block, mean=tuple(mean.tolist()))
            for block, mean in zip(blocks, means, strict=True)
        ]
        return block_losses(model, plan, shown, head, fits)

    def _until(self, model: Model, ranked: Sequence[Offer], limit: float, source: float) -> list[Block]:
        """The first blocks without which the limit is met."""
        trial, gone, cost = model.copy(), list[Block](), source
        for offer in ranked:
            gone += [block for block in take_out(trial, [offer.block]) if block not in gone]
            problem, _, _ = self.problem(trial, open_plan(trial), self.costs())
            cost = problem.latency(problem.planned)
            if cost <= limit:
                return gone
        raise UsageError(
            f"{self.cost} cannot come down to {self._words(limit)} by whole blocks: without all {len(gone)} that can "
            f"go it is {self._words(cost)} of {self._words(source)}",
            file=model.source.file,
            hint="--depth auto narrows layers as well",
        )

    def _take_out(self, model: Model, chosen: Sequence[Block], planned: Plan | None = None) -> int:
        """`planned`: the plan of a model that this is a copy of."""
        came, before, planned = copy_graph(model.graph), layers_of(model.graph), planned or open_plan(model)
        ranked = planned.ranking
        gone = take_out(model, [block for block in chosen if block.kind != "layer"])
        gone += [block for block in chosen if block.kind == "layer" and _leaves(model, block, self.keep)]
        if not gone:
            return 0
        removed = record_removed(model, came, before, planned.channels)
        plan = open_plan(model)
        bridged = layers_of(came, {name for block in gone if block.kind == "chain" for name in block.nodes})
        model.carried = replace(
            model.carried,
            blocks=(*model.carried.blocks, *gone),
            bridged=(*model.carried.bridged, *bridged),
            lossless=False,
        )
        if isinstance(ranked, Ranking):
            known = replace(ranked, values=plan.importance, curves=(), order=np.zeros(0, dtype=np.int64))
            model.plan = replace(plan, ranking=known)
        model.note(f"{len(gone)} block{'s' if len(gone) > 1 else ''} taken out: {listed(removed)}")
        return len(gone)


@dataclass(frozen=True)
class _Probe:
    """Measures plans: compensation is fitted on one half of some calibration images, the loss measured on the other.

    Attributes:
        source: the network as it is, and what its layers yield on the images.
        by_widths: what the detector loses by widths alone.
    """

    head: HeadError
    images: Sequence[Array]
    source: tuple[Model, Moments]
    by_widths: float

    @classmethod
    def of(cls, step: DropBlocks, model: Model) -> _Probe | None:
        if step.calib is None:
            return None
        images = list(CalibrationImages(step.calib, model, 2 * FITTED, "fit"))
        fitted = images[::2]
        probe = cls(HeadError.of(model, images[1::2] or images), fitted, (model, moments_to_match(model, fitted)), 0.0)
        return replace(probe, by_widths=probe.error(step, model, ()))

    def error(self, step: DropBlocks, model: Model, blocks: Sequence[Block]) -> float:
        """What is lost at the limit without these blocks; infinite where they do not suffice for it."""
        try:
            trial = step.planned(model, blocks)
        except UsageError:
            return np.inf
        reconstruct(trial, open_plan(trial), self.images, Reconstruct(step.calib), source=self.source)
        return self.head.error(masked(trial, open_plan(trial)))


def _leaves(model: Model, block: Block, keep: tuple[str, ...]) -> bool:
    """Take a layer out: masked, it is dead, and has to go with everything that only it made of use (`drop-dead`)."""
    names = {node.name for node in model.graph.nodes}
    if block.node not in names:
        return names.isdisjoint(block.nodes)
    trial = mask_blocks(model, [block])
    DropDead(keep).run(trial)
    left = {node.name for node in trial.graph.nodes}
    if not left <= names or not left.isdisjoint(block.layers):
        return False
    model.graph = trial.graph
    return True


def _all_below(model: Model, block: Block, threshold: float) -> bool:
    node = node_named(model.graph, block.node)
    gamma: Array | None = None if node is None or block.kind == "chain" else last_gamma(end_of(block, node))
    return gamma is not None and bool((np.abs(gamma) <= threshold).all())
