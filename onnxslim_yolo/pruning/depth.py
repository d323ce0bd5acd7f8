"""Which blocks to take out for a limit on a cost: the knapsack over widths, with "gone" as one more choice.

What a block is worth is the cost that it saves at the best widths alone, per importance that goes with it. The most
worthy is tried, then with it those that follow: what is lost in sum, by blocks and by widths at the same limit, has to
be less than by widths alone. So blocks go only where the widths that they save are worth more. On small networks that
finds what trying every set finds (`bench/depth_exhaustive.py`). With calibration images, what is lost is measured, set
by set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.ir.graph import Array, Tensor, consumers
from onnxslim_yolo.latency.costs import Costs
from onnxslim_yolo.latency.layers import Layer, describe
from onnxslim_yolo.pruning.allocate import Allocation
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.problem import WidthProblem

Solve = Callable[[Sequence[Block]], "tuple[list[Block], Allocation | None]"]
"""Take blocks out of a copy and choose its widths: the blocks that could go, and the widths; None where the limit
cannot be met."""


@dataclass(frozen=True)
class Offer:
    """A block, what is lost with it, and what it saves at the widths chosen: cost, and importance already lost."""

    block: Block
    lost: float
    saved: float
    spared: float

    @property
    def worth(self) -> float:
        """Cost saved per importance."""
        return self.saved / max(self.lost - self.spared, 1e-12)


def offers(
    graph: gs.Graph,
    plan: Plan,
    blocks: Sequence[Block],
    losses: Sequence[float],
    problem: WidthProblem,
    chosen: Allocation,
) -> list[Offer]:
    """What every block would save where the widths are as chosen, those that save most per importance first."""
    keep = problem.keep(plan, list(chosen.choice))
    layers = describe(graph, plan.channels.shapes)
    homes = _homes(plan, problem)
    spent = [unit.lost[n] for unit, n in zip(problem.units, chosen.choice, strict=True)]
    found = []
    for block, lost in zip(blocks, losses, strict=True):
        if np.isfinite(lost):
            saved = _saved(graph, plan, block, layers, problem.costs, keep)
            mine = {*block.nodes}
            # What the widths have lost within the block already goes with it.
            spared = sum(loss for loss, home in zip(spent, homes, strict=True) if home and home <= mine)
            found.append(Offer(block, lost, saved, spared))
    return sorted(found, key=lambda offer: (-offer.worth, offer.block.node, offer.block.index))


def choose_blocks(ranked: Sequence[Offer], alone: Allocation | None, solve: Solve) -> list[Block]:
    """The blocks without which least is lost in sum at the limit, of a few sets; none where that is not less than with
    all of them.

    Args:
        ranked: the best first. alone: widths without blocks gone; None where they cannot meet the limit.
    """
    by_widths = np.inf if alone is None else alone.lost
    lost_with = {id(offer.block): offer.lost for offer in ranked}

    def lost(blocks: Sequence[Block]) -> float:
        gone, found = solve(blocks)
        return np.inf if found is None else found.lost + sum(lost_with[id(one)] for one in blocks if one in gone)

    # What is lost with a block alone is lost with every set that it is in.
    return best_set([offer for offer in ranked if offer.lost < by_widths], by_widths, lost)[0]


SLACK = 1.1
"""What a block is foretold to lose may be so many times what widths lose, for it to be tried: widths come in steps."""


def promising(
    ranked: Sequence[Offer], alone: Allocation, needed: float, losses: Callable[[float], float]
) -> list[Offer]:
    """The blocks that might pay: what goes with one, and what the rest of the saving costs by widths, is less than all
    of it by widths.

    Args:
        needed: the cost that has to be saved. losses: the importance that widths alone lose for saving so much.
    """
    return [
        offer
        for offer in ranked
        if offer.lost - offer.spared + losses(max(needed - offer.saved, 0.0)) < SLACK * alone.lost
    ]


TRIES = 6
"""Sets of blocks that are tried at most."""


def best_set(
    ranked: Sequence[Offer], by_widths: float, error: Callable[[Sequence[Block]], float]
) -> tuple[list[Block], float]:
    """The blocks without which a loss is least, and the least loss of any set tried.

    None go where it is not less than by widths alone. One is tried, with it the next two, then four, as long as less is
    lost; where more is, one alone, and without it the next. Of those that share nodes one goes.

    Args:
        ranked: the best first. by_widths: the loss without blocks gone. error: that of a set of blocks. Either may be
            infinite: the limit asks for more.
    """
    left, best, chosen, least, size = list(ranked), by_widths, list[Offer](), np.inf, 1
    for _ in range(TRIES):
        more = _apart([*chosen, *left])[len(chosen) :][:size]
        if not more:
            break
        lost = error([offer.block for offer in [*chosen, *more]])
        least = min(least, lost)
        better = lost < best or not np.isfinite(best)
        if better:
            best, chosen = lost, [*chosen, *more]
        if better or len(more) == 1:
            left = [offer for offer in left if all(offer is not one for one in more)]
        size = 2 * size if better else 1
    return ([offer.block for offer in chosen] if np.isfinite(best) else []), least


def _apart(ranked: Sequence[Offer]) -> list[Offer]:
    """Those that share no node with a better one."""
    taken: set[str] = set()
    found = []
    for offer in ranked:
        if taken.isdisjoint(offer.block.nodes):
            taken.update(offer.block.nodes)
            found.append(offer)
    return found


def _saved(graph: gs.Graph, plan: Plan, block: Block, layers: Sequence[Layer], costs: Costs, keep: Array) -> float:
    """The cost of a block's layers at these widths, of its sum, and of what readers of a part read of it."""
    mine, total = {*block.nodes}, 0.0
    for layer in layers:
        if layer.node.name in mine or (layer.node.name == block.node and block.kind == "branch"):
            total += _cost(layer, plan, costs, keep)
    if block.kind != "part":
        return total
    end = next(n for n in graph.nodes if n.name == block.node)
    part = _width(plan, end.inputs[block.index], keep, 0)
    for layer in layers:
        if layer.node is end or any(layer.node is reader for reader in consumers(end.outputs[0])):
            whole = _cost(layer, plan, costs, keep)
            total += whole - _cost(layer, plan, costs, keep, less=part, of=end.outputs[0])
    return total


def _cost(layer: Layer, plan: Plan, costs: Costs, keep: Array, *, less: int = 0, of: Tensor | None = None) -> float:
    sides = []
    for described, widths in ((layer.ins, layer.key.ins), (layer.outs, layer.key.outs)):
        if not described:
            sides.append(tuple(widths))
            continue
        now = []
        for tensor, width in zip(described, widths, strict=True):
            one = tensor if not isinstance(tensor, tuple) else None
            left = width if one is None else _width(plan, one, keep, width)
            now.append(max(left - less, 1) if one is not None and one is of else left)
        sides.append(tuple(now))
    return costs.lookup(layer.key.family, *sides)


def _width(plan: Plan, tensor: Tensor, keep: Array, otherwise: int) -> int:
    labels = plan.channels.labels_of(tensor)
    if labels is None or labels.ndim < 2 or labels.shape[1] == 1:
        return otherwise or int(tensor.shape[1])
    classes = labels.reshape(-1)
    return max(int(np.where(classes < 0, True, keep[np.maximum(classes, 0)]).sum()), 1)


def _homes(plan: Plan, problem: WidthProblem) -> list[set[str]]:
    """Per unit, the names of the nodes that know its channels."""
    of_class: dict[int, set[str]] = {}
    for use in plan.channels.uses:
        for cls in np.unique(use.labels).tolist():
            of_class.setdefault(cls, set()).add(use.node.name)
    return [set().union(*(of_class.get(int(cls), set()) for cls in unit.order)) for unit in problem.units]
