"""Every latency table, one after another: run it on an idle machine.

    python bench/latency_tables.py --peers PEERS_VENV/bin/python [--pnnx PNNX] [--ncnnoptimize NCNNOPTIMIZE]
                                   [--threads 1 2] [--rounds 21] [--only table_b,masks] [--out DIR]

Tools that are not given are left out of table C; without --peers, tables B and C are. One thread is timed by CPU time
on one pinned core (the highest-numbered one allowed: choose it with taskset), more threads by wall time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="interpreter of an environment with the other tools")
    parser.add_argument("--pnnx", type=Path)
    parser.add_argument("--ncnnoptimize", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="scripts by name, with commas between")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    only, failed = [name for name in options.only.split(",") if name], []
    for line in commands(options):
        name = Path(line[1]).stem
        if only and name not in only:
            continue
        start = time.perf_counter()
        code = subprocess.run(line, stdout=subprocess.DEVNULL).returncode
        print(f"{name}: {'failed' if code else 'done'}, {time.perf_counter() - start:.0f} s")
        failed += [name] if code else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def commands(options: argparse.Namespace) -> list[list[str]]:
    """One line for each script."""
    threads = ["--threads", *map(str, options.threads)]
    common = [*threads, "--rounds", str(options.rounds), "--out", str(options.out.resolve())]
    tools = [
        word
        for name in ("peers", "pnnx", "ncnnoptimize")
        if (path := getattr(options, name)) is not None
        # Not resolved: an environment's interpreter is a link, and what it links to knows nothing of the environment.
        for word in (f"--{name}", str(path.absolute()))
    ]
    lines = [["table_a.py", *common], ["masks.py", *common]]
    if options.peers is not None:
        lines += [["table_b.py", "--peers", str(options.peers.absolute()), *common], ["table_c.py", *tools, *common]]
    # 51 networks in one process: half of the rounds say as much.
    fewer = [*threads, "--rounds", str(max(3, options.rounds // 2)), "--out", str(options.out.resolve())]
    lines += [["predicted_vs_measured.py", "--runtime", runtime, *fewer] for runtime in ("ncnn", "onnxruntime")]
    return [[sys.executable, str(HERE / script), *rest] for script, *rest in lines]


if __name__ == "__main__":
    main()
