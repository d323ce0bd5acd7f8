"""Which widths of a family to measure: few, and more of them where latency bends.

The widths 1 … W are sampled per class of packs, geometrically: each class has its own curve. Every other sampled width
is measured first, along the diagonal (equal widths in and out); where interpolating between two measured widths misses
one that lies between them by more than `TOLERANCE`, that one joins the grid. Convolutions are then measured at all
pairs of the grid. In the end, what is slower than its wider neighbour of the same class, or much slower than both
neighbours suggest, is measured once more, and the better of the two times counts: something else may have used the
machine.
"""

from __future__ import annotations

from onnxslim_yolo.latency.layers import Family
from onnxslim_yolo.latency.packing import Runtime, pack_of, packs_of
from onnxslim_yolo.latency.table import SQUARE, Grid, Widths

TOLERANCE = 0.12
DOUBT = 1.15
SAMPLES: dict[int, Widths] = {
    16: (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
    8: (8, 24, 40, 56, 88, 120, 184, 248, 376, 504, 760, 1016),
    4: (4, 12, 28, 44, 60, 92, 124, 188, 252, 380, 508, 764, 1020),
    1: (1, 3, 5, 7, 9, 13, 15, 18, 21, 27, 35, 46, 57, 74, 93, 117, 151, 186, 213, 255, 326, 381, 509, 765, 1021),
}
"""Widths to choose from, by class. The unpacked ones have remainders of every kind: each set bit is a tail loop."""


class Sampler:
    """What of one family has been measured, and what should be next."""

    def __init__(self, family: Family, most: tuple[int, int], runtime: Runtime, lanes: int) -> None:
        self.family = family
        self.runtime, self.lanes = runtime, lanes
        self.square = family.kind in SQUARE
        self.us: dict[Widths, float | None] = {}
        self.sides = [self._candidates(width) for width in (most if self.square else most[:1])]
        self.chosen: set[int] = set()
        self.finished = False
        self.doubted = False
        self.untried = self._coarse()

    def _candidates(self, most: int) -> list[int]:
        limit = -(-most // 16) * 16
        if most <= 4:  # an image's channels are what they are
            return [most]
        packs = packs_of(self.runtime, self.lanes)
        samples = {c for widths in SAMPLES.values() for c in widths if c <= limit and c % self.family.groups == 0}
        samples |= {self.family.groups * c for c in (1, 2, 3, 4, 8, 16) if self.family.groups > 1}
        return sorted(c for c in samples if c <= limit and pack_of(self.runtime, self.lanes, c) in packs) or [most]

    def _widths(self) -> list[int]:
        return sorted({c for side in self.sides for c in side})

    def _coarse(self) -> set[int]:
        """Per class: the ends, and every other width between them."""
        chosen: set[int] = set()
        for same in self._classes():
            chosen.update(same[::2], same[-1:])
        return chosen

    def _classes(self) -> list[list[int]]:
        packs: dict[int, list[int]] = {}
        for c in self._widths():
            packs.setdefault(pack_of(self.runtime, self.lanes, c), []).append(c)
        return list(packs.values())

    def _diagonal(self, c: int) -> Widths:
        if not self.square:
            return (c,)
        return (self._near(0, c), self._near(1, c))

    def _near(self, side: int, c: int) -> int:
        """The width itself where the side goes that far, else the side's largest of its class."""
        if c in self.sides[side]:
            return c
        pack = pack_of(self.runtime, self.lanes, c)
        same = [x for x in self.sides[side] if pack_of(self.runtime, self.lanes, x) == pack]
        return max(same or self.sides[side])

    def wanted(self) -> list[Widths]:
        """The cells to measure next; none when done."""
        if not self.finished:
            self._judge()
        fresh = {self._diagonal(c) for c in self.untried} | {self._diagonal(c) for c in self._between()}
        fresh -= self.us.keys()
        if fresh:
            return sorted(fresh)
        if self.square and not self.finished:
            self.finished = True
            rest = {(a, b) for a in self._grid_side(0) for b in self._grid_side(1)} - self.us.keys()
            if rest:
                return sorted(rest)
        if self.doubted:
            return []
        self.doubted = True
        return sorted(cell for cell in self.us if self._doubtful(cell))

    def _doubtful(self, cell: Widths) -> bool:
        """Whether a wider layer of the same class is faster, or the layer is far above the line between neighbours."""
        here = self.us[cell]
        if here is None:
            return False
        for side in range(len(cell)):
            pack = pack_of(self.runtime, self.lanes, cell[side])
            line = sorted(
                other[side]
                for other, us in self.us.items()
                if us is not None
                and other[:side] + other[side + 1 :] == cell[:side] + cell[side + 1 :]
                and pack_of(self.runtime, self.lanes, other[side]) == pack
            )
            place = line.index(cell[side])
            low, high = line[max(place - 1, 0)], line[min(place + 1, len(line) - 1)]
            ends = [tuple(c if place == side else w for place, w in enumerate(cell)) for c in (low, high)]
            left, right = (self.us[end] or here for end in ends)
            share = (cell[side] - low) / (high - low) if high > low else 0.0
            if right < here or (low < cell[side] < high and here > DOUBT * (left * (1 - share) + right * share)):
                return True
        return False

    def later(self) -> int:
        """About how many more cells there will be."""
        return 0 if not self.square or self.finished else len(self.untried | self.chosen) ** 2 // 2

    def _judge(self) -> None:
        """The coarse widths are kept; one between them is when interpolation misses it."""
        if self.untried and all(self._diagonal(c) in self.us for c in self.untried):
            self.chosen |= self.untried
            self.untried = set()
        for same in self._classes():
            for low, c, high in zip(same, same[1:], same[2:], strict=False):
                here, left, right = (self.us.get(self._diagonal(x)) for x in (c, low, high))
                if c in self.chosen or not here or not left or not right or not {low, high} <= self.chosen:
                    continue
                share = (c - low) / (high - low)
                power = 2 if self.square else 1  # along the diagonal a convolution's work grows with the square
                guess = (left ** (1 / power) * (1 - share) + right ** (1 / power) * share) ** power
                if abs(guess / here - 1) > TOLERANCE:
                    self.chosen.add(c)

    def _between(self) -> set[int]:
        if self.untried:
            return set()
        return {c for same in self._classes() for c in same[1:-1] if c not in self.chosen}

    def _grid_side(self, side: int) -> list[int]:
        return sorted({self._near(side, c) for c in self.chosen})

    def note(self, cell: Widths, us: float | None) -> None:
        """Keep a measured time; of two, the smaller."""
        before = self.us.get(cell)
        self.us[cell] = us if before is None or us is None else min(before, us)

    def grid(self) -> Grid | None:
        """All that was measured."""
        measured = {cell: us for cell, us in self.us.items() if us is not None}
        if not measured:
            return None
        if not self.square:
            return Grid(tuple(sorted(c for (c,) in measured)), (), measured)
        ins, outs = self._grid_side(0), self._grid_side(1)
        inside: dict[Widths, float] = {(a, b): us for (a, b), us in measured.items() if a in ins and b in outs}
        return Grid(tuple(ins), tuple(outs), inside) if inside else None
