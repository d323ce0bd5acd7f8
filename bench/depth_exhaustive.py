"""Blocks as choices of the knapsack over widths: does it find what trying every set finds?

    python bench/depth_exhaustive.py [--seeds 12]

Random networks of a stem, four residual blocks and a row of two layers, γ drawn block by block from [0.001, 1] on a
logarithmic scale. At each limit on multiply-accumulates every set of disjoint blocks, of the nine that lose least and
less than all widths do, is taken out, and the widths of what is left are chosen by the knapsack as ever: the least
importance lost in sum is what "gone" as one more width of a group could find at best. Beside it what `drop-blocks`
finds, and widths alone. Writes bench/results/depth_exhaustive.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, drop_blocks
from onnxslim_yolo.pruning.depth import Chosen, choose_blocks
from onnxslim_yolo.pruning.gone import Blocks, Removal
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.problem import Allocation
from onnxslim_yolo.rewrites.block_edits import take_out
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.passes.test_drop_dead import conv, layer

RESULTS = Path(__file__).with_name("results") / "depth_exhaustive.md"
WIDTH, BLOCKS, LIMITS = 16, 4, ("0.8x", "0.6x", "0.45x")
MOST_BLOCKS = 9
"""Of more candidates those that lose least."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    seeds = parser.parse_args().seeds
    lines = [
        f"# `python bench/depth_exhaustive.py --seeds {seeds}`: importance lost, of the least that any set loses",
        "",
        "| limit | networks | sets, median | `drop-blocks`: median | worst | equal to the best | widths alone |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for limit in LIMITS:
        rows = [row for seed in range(seeds) if (row := compared(seed, limit)) is not None]
        found = [row[0] / row[1] for row in rows]
        alone = [row[2] / row[1] for row in rows]
        equal = sum(ratio < 1 + 1e-6 for ratio in found)
        sizes = f"{len(rows)} | {median(row[3] for row in rows):.0f}"
        ratios = f"{median(found):.3f} | {max(found):.3f} | {equal} of {len(rows)} | {median(alone):.3f}"
        lines.append(f"| {limit} | {sizes} | {ratios} |")
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared(seed: int, limit: str) -> tuple[float, float, float, int] | None:
    """Lost: as chosen, at least, and by widths alone; and how many sets were tried. None where widths cannot do it."""
    seen: list[tuple[float, float, float, int]] = []
    model, step = network(seed), DropBlocks(target=limit, cost="macs", importance="gamma")

    def both(blocks: Blocks, candidates: Sequence[Sequence[int]], most: float, alone: Allocation) -> Chosen:
        chosen = choose_blocks(blocks, candidates, most, alone)
        if alone.latency <= most * (1 + 1e-9):
            # What is lost with a block alone is lost with every set that it is in.
            able = [
                r
                for r in sorted(
                    blocks.removals, key=lambda r: r.lost / blocks.saved(blocks.removals.index(r), list(alone.choice))
                )
                if r.lost < alone.lost
            ]
            tried = [(), *sets(able[:MOST_BLOCKS])]
            totals = [total(model, step, some, most, alone) for some in tried]
            mine = total(model, step, [blocks.removals[index] for index in sorted(chosen.gone)], most, alone)
            seen.append((mine, min(totals), alone.lost, len(tried)))
        return chosen

    drop_blocks.choose_blocks = both
    step.run(model)
    return seen[0] if seen else None


def total(model: Model, step: DropBlocks, removals: Sequence[Removal], limit: float, alone: Allocation) -> float:
    """What goes with these blocks, taken out of a copy, and by widths at the same limit."""
    if not removals:
        return alone.lost
    trial = model.copy()
    gone = take_out(trial, [removal.block for removal in removals])
    problem, _, _ = step.problem(trial, open_plan(trial), step.costs())
    found = step.solve(problem, limit)
    if found.latency > limit * (1 + 1e-9):
        return np.inf
    return found.lost + sum(removal.lost for removal in removals if removal.block in gone)


def sets(removals: Sequence[Removal]) -> list[tuple[Removal, ...]]:
    """Every set of blocks that share no node."""
    found = []
    for count in range(1, len(removals) + 1):
        for some in combinations(removals, count):
            names = [name for removal in some for name in removal.block.nodes]
            found += [some] if len(set(names)) == len(names) else []
    return found


def network(seed: int) -> Model:
    """A stem, residual blocks, two plain layers, a head."""
    rng = np.random.default_rng(seed)
    names = [f"{stem}{k}" for k in range(BLOCKS) for stem in "pq"] + ["a", "b"]
    weights = [conv("stem", 3, WIDTH), *(conv(name, WIDTH, WIDTH) for name in names), conv("h", WIDTH, 4)]
    text, here = [layer("stem", "x")], "stem"
    for k in range(BLOCKS):
        text += [layer(f"p{k}", here), layer(f"q{k}", f"p{k}"), f"r{k} = Add({here}, q{k})"]
        here = f"r{k}"
    text += [layer("a", here), layer("b", "a"), layer("h", "b", act=False), "y = Relu(h)"]
    values = {}
    for name in ("stem", *names, "h"):
        width = 4 if name == "h" else WIDTH
        values[f"{name}.gamma"] = 10 ** rng.uniform(-3, 0) * rng.uniform(0.2, 1.8, width)
    declared = onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", ", ".join(weights), " ".join(text), 17)
    return build(declared, values=values)


if __name__ == "__main__":
    main()
