"""Which blocks to take out for a limit on a cost: the knapsack over widths, with "gone" as one more choice.

Blocks and widths are chosen by one price of importance λ (Everett 1963, see `pruning.allocate`). At the price at which
widths alone meet the limit, a block *gains* what it costs less λ times what is lost with it. For every
set, what is lost at the limit is at least (cost + λ · lost − limit) / λ at the best widths for λ. So a block that loses
more than widths alone leave between that bound and what they lose, in their steps, is no use; the few others are looked
at from both ends: added one by one, the one that gains most first, as long as less is lost; and all gone,
put back one by one, the one that gains least first. From the better of the two single blocks are taken out, put back
or swapped, where that bound leaves room. On small networks that finds what trying every set finds
(`bench/depth_exhaustive.py`).

With calibration images, what is lost is measured, set by set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.pruning.allocate import descend, most_important, reckon, within
from onnxslim_yolo.pruning.gone import Blocks
from onnxslim_yolo.pruning.problem import Allocation


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


def offers(blocks: Blocks, chosen: Allocation, unit: float = 1.0) -> list[Offer]:
    """What every block would save where the widths are as chosen, those that save most per importance first.

    Args:
        unit: of the widths' importance, in that of the blocks' losses.
    """
    choice = list(chosen.choice)
    found = [
        Offer(removal.block, removal.lost, blocks.saved(index, choice), unit * blocks.spared(index, choice))
        for index, removal in enumerate(blocks.removals)
    ]
    return sorted(found, key=lambda offer: (-offer.worth, offer.block.node, offer.block.index))


MOST = 12
"""So many blocks are looked at, those that gain most."""

ABOVE, STEPS = 64.0, 7
"""With blocks gone the price is higher, up to so many times, and found in so many steps."""


@dataclass(frozen=True)
class Chosen:
    """Blocks that are gone, the widths of the rest, and what is lost in sum; infinite where the limit is not met."""

    gone: frozenset[int]
    widths: Allocation
    lost: float


def choose_blocks(blocks: Blocks, candidates: Sequence[Sequence[int]], limit: float, alone: Allocation) -> Chosen:
    """The blocks without which least is lost in sum at the limit; none where that is not less than with all of them.

    Args:
        candidates: per unit, the widths to choose among. alone: widths without blocks gone, which may not suffice.
    """
    return _Search(blocks, candidates, limit, alone).best()


class _Search:
    def __init__(self, blocks: Blocks, candidates: Sequence[Sequence[int]], limit: float, alone: Allocation) -> None:
        self._blocks, self._candidates, self._limit = blocks, candidates, limit
        self._seen: dict[frozenset[int], Chosen] = {}
        self._start = Chosen(frozenset(), alone, alone.lost if self._met(alone) else np.inf)
        self._seen[frozenset()] = self._start

    def best(self) -> Chosen:
        start = self._start
        gains = [self._blocks.gain(index, start.widths) for index in range(len(self._blocks.removals))]
        less, room = [removal.lost < start.lost for removal in self._blocks.removals], self._room()
        able = sorted((k for k, gain in enumerate(gains) if gain > -room and less[k]), key=lambda k: (-gains[k], k))
        able = able[:MOST] if np.isfinite(start.lost) else able
        if not able:
            return start
        gaining = [index for index in able if gains[index] > 0] or able[:1]
        found = min(self._added(able), self._put_back(gaining), key=lambda one: one.lost)
        return self._changed(found, able)

    def _room(self) -> float:
        """What the price does not tell, µs: how far the best choice at that price is below what meets the limit."""
        if not np.isfinite(self._start.lost):
            return 0.0
        return self._start.widths.price * (self._start.lost - self._bound(frozenset(), self._start))

    def _added(self, able: Sequence[int]) -> Chosen:
        here, left = self._start, list(able)
        while left:
            left = [index for index in left if self._blocks.apart(index, here.gone)]
            gains = {index: self._blocks.gain(index, here.widths) for index in left}
            index = max(left, key=gains.__getitem__, default=-1)
            if index < 0 or gains[index] <= 0:
                break
            left.remove(index)
            more = self._at(here.gone | {index}, here)
            if more.lost < here.lost or not np.isfinite(here.lost):
                here = more
        return here

    def _put_back(self, able: Sequence[int]) -> Chosen:
        gone = frozenset[int]()
        for index in able:
            gone = gone | {index} if self._blocks.apart(index, gone) else gone
        here = best = self._at(gone, self._start)
        while len(here.gone) > 1:
            gains = {index: self._blocks.gain(index, here.widths) for index in sorted(here.gone)}
            least = min(gains, key=gains.__getitem__)
            if gains[least] > 0 and here is not best:
                break
            here = self._at(here.gone - {least}, here)
            if not np.isfinite(here.lost):
                break
            best = min(best, here, key=lambda one: one.lost)
        return best

    def _changed(self, best: Chosen, able: Sequence[int]) -> Chosen:
        """Single blocks taken out, put back or swapped, as long as less is lost."""
        better = True
        while better and np.isfinite(best.lost):
            better = False
            for gone in self._beside(best.gone, able):
                if gone in self._seen or self._bound(gone, best) >= best.lost:
                    continue
                found = self._at(gone, best)
                if found.lost < best.lost:
                    best, better = found, True
                    break
        return best

    def _beside(self, gone: frozenset[int], able: Sequence[int]) -> list[frozenset[int]]:
        """The sets that differ in one block, and by what is in its way, or in one for another."""
        rest = [index for index in able if index not in gone]
        less = [gone - {index} for index in sorted(gone)]
        more = [
            frozenset(k for k in few if self._blocks.apart(k, frozenset({index}))) | {index}
            for index in rest
            for few in (gone, *less)
        ]
        return list(dict.fromkeys([*less, *more]))

    def _bound(self, gone: frozenset[int], near: Chosen) -> float:
        """What is lost at least with these blocks gone, by the price of another choice."""
        problem, price = self._blocks.without(gone), near.widths.price
        found = reckon(problem, descend(problem, self._candidates, price, list(near.widths.choice)))
        return found.lost + self._blocks.lost(gone) + (found.latency - self._limit) / max(price, 1e-12)

    def _at(self, gone: frozenset[int], near: Chosen) -> Chosen:
        """These blocks gone, and the widths that lose least at the limit; looked for near those of another choice."""
        if gone not in self._seen:
            problem, found = self._blocks.without(gone), near.widths
            if np.isfinite(near.lost):
                prices = (found.price / 2, found.price * ABOVE)
                found = within(problem, self._candidates, self._limit, list(found.choice), prices, STEPS)
            if not np.isfinite(near.lost) or not self._met(found):
                found = most_important(problem, self._candidates, self._limit, list(problem.planned))
            lost = found.lost + self._blocks.lost(gone) if self._met(found) else np.inf
            self._seen[gone] = Chosen(gone, found, lost)
        return self._seen[gone]

    def _met(self, widths: Allocation) -> bool:
        return widths.latency <= self._limit * (1 + 1e-9)


TRIES = 4
"""Sets of blocks that are measured at most."""

PATIENCE = 3
"""Where so many single blocks lose no less, no more is tried: those that promise most are tried first."""


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
    for tried in range(TRIES):
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
        if not chosen and tried + 1 == PATIENCE:
            break
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
