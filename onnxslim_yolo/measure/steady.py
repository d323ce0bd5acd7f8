"""Whether a table's layers come out alike when they are measured once more, and what is done where they do not.

Other work on a machine makes a layer slower, at one time more than at another. So some of the layers, spread evenly
over the table, are measured a second time: their *noise* is the median of |ln(second ÷ first)|. Where it is more than
`NOISY`, every layer is measured again, and of its times the smallest is kept, since noise only ever adds.

`NOISY` is two to three times what 360 layers came to in one thread's CPU time beside ten other processes on two cores
(0.034 to 0.055), which a table bears; what is timed by the clock beside others is far above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.table import NOISY, Grid, Widths, cell_widths

AGAIN = 2
"""So often a whole table is measured again at most."""

CHECKED = 64
"""Layers that are measured a second time."""

BESIDE = 8
"""So many of them are neighbours: a layer is measured beside others like it, and beside larger ones it finds less of
what it reads in the caches."""

BATCH = 24
BATCH_WEIGHTS = 4_000_000
"""Layers, and weights in sum, that one request to the measuring process holds."""

Measure = Callable[[Sequence[LayerKey]], list[float | None]]
"""µs per layer; None where the runtime refuses it."""

Grids = dict[Family, Grid]
Cell = tuple[Family, Widths]


def steadied(grids: Grids, measure: Measure) -> tuple[Grids, float | None]:
    """Grids measured again where they have to be, and their noise; None where there is nothing to tell it by."""
    noise = noise_of(grids, measure)
    for _ in range(AGAIN):
        if noise is None or noise <= NOISY:
            break
        cells = _cells(grids)
        grids = _least(grids, dict(zip(cells, measured(cells, measure), strict=True)))
        noise = noise_of(grids, measure)
    return grids, noise


def noise_of(grids: Grids, measure: Measure) -> float | None:
    """See the module."""
    every = _cells(grids)
    starts = np.linspace(0, max(0, len(every) - BESIDE), CHECKED // BESIDE).round().astype(int)
    cells = [every[i] for i in sorted({i for start in starts for i in range(start, min(start + BESIDE, len(every)))})]
    pairs = zip(cells, measured(cells, measure), strict=True)
    times = [(grids[family].us[cell], us) for (family, cell), us in pairs if us is not None]
    ratios = [abs(float(np.log(second / first))) for first, second in times if first > 0 and second > 0]
    return float(np.median(ratios)) if ratios else None


def _cells(grids: Grids) -> list[Cell]:
    return [(family, cell) for family, grid in grids.items() for cell in grid.us]


def measured(cells: Sequence[Cell], measure: Measure) -> list[float | None]:
    """µs of cells of a table."""
    keys = [LayerKey(family, *cell_widths(family, widths)) for family, widths in cells]
    found: list[float | None] = [None] * len(keys)
    for batch in batches(keys):
        for i, us in zip(batch, measure([keys[i] for i in batch]), strict=True):
            found[i] = us
    return found


def _least(grids: Grids, again: dict[Cell, float | None]) -> Grids:
    def least(family: Family, cell: Widths, us: float) -> float:
        second = again[family, cell]
        return us if second is None else min(us, second)

    return {
        family: replace(grid, us={cell: least(family, cell, us) for cell, us in grid.us.items()})
        for family, grid in grids.items()
    }


def batches(keys: Sequence[LayerKey]) -> Iterable[list[int]]:
    """Indices of layers that are asked for together."""
    batch: list[int] = []
    weights = 0
    for index, key in enumerate(keys):
        size = prod(key.family.kernel) * key.ins[0] * key.outs[0] + key.family.area * sum((*key.ins, *key.outs))
        if batch and (len(batch) == BATCH or weights + size > BATCH_WEIGHTS):
            yield batch
            batch, weights = [], 0
        batch.append(index)
        weights += size
    if batch:
        yield batch
