"""What looking for blocks costs a compilation: CPU seconds of whole commands, `--depth none`, `auto`, an older tree.

    python bench/depth_time.py --old TREE [--runs 3] [--size 320]

YOLOv5n and YOLOv8n (random weights), `--prune 0.5` and `--target-latency 0.7x`, one thread, without verification, all
ways in turn; medians, the interpreter's start included. Writes bench/results/depth_time.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from models_for_bench import onnx_of

HERE = Path(__file__).resolve().parent
ASKED = {"--prune 0.5": ("--prune", "0.5"), "--target-latency 0.7x": ("--target-latency", "0.7x")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=320)
    args = parser.parse_args()
    lines = [
        f"# `python bench/depth_time.py --runs {args.runs} --size {args.size}`: CPU seconds of a compilation",
        "",
        "| network | | older tree | `--depth none` | `--depth auto` | auto / none | auto / older |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    ways = {"old": (args.old, []), "none": (HERE.parent, ["--depth", "none"]), "auto": (HERE.parent, [])}
    for name in ("yolov5n", "yolov8n"):
        source = onnx_of(name, args.size)
        for text, asked in ASKED.items():
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(args.runs):
                for way, (tree, more) in ways.items():
                    taken[way].append(seconds(source, tree, [*asked, *more]))
            old, none, auto = (median(taken[way]) for way in ways)
            cells = f"{old:.2f} | {none:.2f} | {auto:.2f} | {auto / none:.2f} | {auto / old:.2f}"
            lines.append(f"| {name} | `{text}` | {cells} |")
            print(lines[-1], flush=True)
    (HERE / "results" / "depth_time.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def seconds(source: Path, tree: Path, line: list[str]) -> float:
    """CPU seconds of one command with one tree's code."""
    with tempfile.TemporaryDirectory() as folder:
        base = [sys.executable, "-m", "onnxslim_yolo", "compile", str(source), "--emit", "onnx", "--no-verify", "-q"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        subprocess.run([*base, *line, "--will-train", "-o", "out"], check=True, cwd=folder, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
