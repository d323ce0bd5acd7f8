"""Every architecture with a third of its removable blocks killed: are all of them gone, exactly, in both files?

    python bench/dead_blocks.py [--only NAME,NAME]

Residual branches, and parts of a Concat, that end in a BatchNormalization: γ = β = 0, and γ = 0 with any β. Each is
compiled with the default options, which runs both files and compares them with the source. Writes
bench/results/dead_blocks.md, a row an architecture; rows that are there already are kept (delete the file to measure
anew).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxslim_yolo as oy
from tests import zoo
from tests.dead_blocks import blocks_left, with_dead_blocks

RESULTS = Path(__file__).with_name("results") / "dead_blocks.md"
ONNX_ONLY = ("rtdetr",)
"""Networks that the ncnn emitter refuses, with dead blocks and without."""

TITLE = "# Dead blocks: `python bench/dead_blocks.py`, width 0.5 of nano, 64 px, both files run and compared"
HEAD = (
    "| architecture | β | blocks killed | layers gone | blocks left | MACs | predicted latency | worst, of the spread |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(zoo.NAMES))
    names = parser.parse_args().only.split(",")
    rows = _known()
    for name in names:
        for beta in (False, True):
            if (name, beta) in rows:
                continue
            rows[name, beta] = row(name, beta)
            print(rows[name, beta], flush=True)
            lines = [TITLE, "", HEAD, "|---|---|---:|---:|---:|---:|---:|---:|", *_in_order(rows)]
            RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _in_order(rows: dict[tuple[str, bool], str]) -> list[str]:
    return [rows[name, beta] for name in zoo.NAMES for beta in (False, True) if (name, beta) in rows]


def _known() -> dict[tuple[str, bool], str]:
    """The rows of earlier runs, but for those that failed."""
    if not RESULTS.exists():
        return {}
    lines = [line for line in RESULTS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {(c[0], c[1] == "any"): line for c, line in zip(cells, lines, strict=True) if "failed" not in line}


def row(name: str, beta: bool) -> str:
    proto, killed = with_dead_blocks(name, beta=beta)
    first = f"| {name} | {'any' if beta else '0'} | {len(killed)} |"
    if not killed:
        return f"{first} no branch or part ends in a BatchNormalization | | | | |"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{name}.onnx"
        onnx.save(proto, source)
        try:
            emit = ("onnx",) if name in ONNX_ONLY else ("onnx", "ncnn")
            report = oy.compile(source, out=Path(folder) / "out", emit=emit).report
        except oy.OnnxSlimError as error:
            return f"{first} failed: {error.message} | | | | |"
        gone = json.loads((Path(folder) / "out" / f"{name}.plan.json").read_text())["removed"]
    before, after = report["before"], report["after"]
    worst = max(check["worst"] or 0 for check in report["verification"]["checks"] if check["tolerance"])
    macs, latency = (after[key] / before[key] for key in ("macs", "latency_us"))
    left = len(blocks_left(killed, gone))
    return f"{first} {len(gone)} | {left} | {macs:.2f}x | {latency:.2f}x | {worst:.1e} |"


if __name__ == "__main__":
    main()
