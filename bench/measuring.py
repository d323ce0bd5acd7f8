"""What disturbs a measurement in ncnn: how OpenMP's threads wait, and where memory comes from.

    python bench/measuring.py [--rounds 21] [--sizes 320,640]

The same network, YOLOv5n, under several environments, one process each, which takes turns with the others. Needs an
idle machine with two cores. Writes bench/results/measuring.json and .md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from models_for_bench import model_of
from predicted_vs_measured import write
from random_widths import fused, prepared

from onnxslim_yolo.measure import benchmark as protocol

RESULTS = Path(__file__).with_name("results")
TURNS = 3
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
CASES: tuple[tuple[str, int, dict[str, str]], ...] = (
    ("two threads, which wait as by default", 2, {}),
    ("two threads, OMP_WAIT_POLICY=active", 2, {"OMP_WAIT_POLICY": "active"}),
    ("two threads, OMP_WAIT_POLICY=passive", 2, {"OMP_WAIT_POLICY": "passive"}),
    ("one thread, freed memory is kept", 1, {}),
    ("one thread, freed memory above 128 KiB is given back", 1, GIVEN_BACK),
)
"""What it is called, threads, and what is set besides `bench`'s own environment."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--sizes", default="320,640")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [row for size in map(int, options.sizes.split(",")) for row in measured(size, options.rounds)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "measuring.json").write_text(
        json.dumps({"machine": protocol.machine(), "rows": rows}, indent=1) + "\n"
    )
    (options.out / "measuring.md").write_text(markdown(rows))
    print(markdown(rows))


def measured(size: int, rounds: int) -> list[dict]:
    """Every case at one image size."""
    seconds: dict[str, list[float]] = {name: [] for name, *_ in CASES}
    with tempfile.TemporaryDirectory() as folder:
        path = write(fused(prepared(model_of("yolov5n", size))), Path(folder) / "v5n", "ncnn")
        for _ in range(TURNS):
            for name, threads, extra in CASES:
                environment = protocol.environment_of(threads) | extra
                with patch.object(protocol, "environment_of", lambda _, given=environment: given):
                    found = protocol.benchmark([path], threads=threads, rounds=max(3, rounds // TURNS))
                seconds[name] += [row[0] for row in found.seconds]
    rows = []
    for name, threads, _ in CASES:
        low, middle, high = np.percentile(seconds[name], [25, 50, 75]) * 1000
        rows.append({"size": size, "case": name, "threads": threads, "ms": middle, "quartiles": [low, high]})
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "# What disturbs a measurement in ncnn",
        "",
        "YOLOv5n, milliseconds a call: the median over all rounds, and the quartiles. Two threads by wall time, one by "
        "its own CPU time.",
        "",
        "| size | | ms | quartiles |",
        "|---|---|---|---|",
        *("| {size} | {case} | {ms:.2f} | {quartiles[0]:.2f} to {quartiles[1]:.2f} |".format_map(row) for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
