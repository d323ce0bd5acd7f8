"""Sets of blocks beside the knapsack over widths: do they find what trying every set finds?

    python bench/depth_exhaustive.py [--seeds 12]

Random networks of a stem, four residual blocks and a row of two layers, γ drawn block by block from [0.001, 1] on a
logarithmic scale. At each limit on multiply-accumulates every set of disjoint blocks, of the nine most worthy that lose
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

from onnxslim_yolo.analysis.blocks import Block
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, drop_blocks
from onnxslim_yolo.pruning.allocate import Allocation
from onnxslim_yolo.pruning.depth import Offer, Solve, choose_blocks
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.passes.test_drop_dead import conv, layer

RESULTS = Path(__file__).with_name("results") / "depth_exhaustive.md"
WIDTH, BLOCKS, LIMITS = 16, 4, ("0.8x", "0.6x", "0.45x")
MOST_BLOCKS = 9
"""Of more candidates the most worthy."""


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

    def both(ranked: Sequence[Offer], alone: Allocation | None, solve: Solve) -> list[Block]:
        chosen = choose_blocks(ranked, alone, solve)
        if alone is not None:
            # What is lost with a block alone is lost with every set that it is in.
            tried = [(), *sets([offer for offer in ranked if offer.lost < alone.lost][:MOST_BLOCKS])]
            totals = [total(offers, alone, solve) for offers in tried]
            mine = total([offer for offer in ranked if any(offer.block is block for block in chosen)], alone, solve)
            seen.append((mine, min(totals), alone.lost, len(tried)))
        return chosen

    drop_blocks.choose_blocks = both
    DropBlocks(target=limit, cost="macs", importance="gamma").run(network(seed))
    return seen[0] if seen else None


def total(offers: Sequence[Offer], alone: Allocation, solve: Solve) -> float:
    """What goes with these blocks, and by widths at the same limit."""
    if not offers:
        return alone.lost
    gone, found = solve([offer.block for offer in offers])
    return np.inf if found is None else found.lost + sum(offer.lost for offer in offers if offer.block in gone)


def sets(offers: Sequence[Offer]) -> list[tuple[Offer, ...]]:
    """Every set of blocks that share no node."""
    found = []
    for count in range(1, len(offers) + 1):
        for some in combinations(offers, count):
            names = [name for offer in some for name in offer.block.nodes]
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
