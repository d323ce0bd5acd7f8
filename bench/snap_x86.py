"""What --snap and conv-before-split are worth on x86: networks as `compile --prune` gives them on every grid of widths.

    python bench/snap_x86.py [--prune 0.35] [--rounds 15] [--runtimes onnxruntime,ncnn] [--networks yolov8n@640 …]
    python bench/snap_x86.py --avx2 LAUNCHER     in the Python that bench/avx2_only.py leaves, by AVX2's tables

Networks of models/zoo with random weights: importance is even, as of a network that was not trained for sparsity.
"no parts": without the pass conv-before-split. "any width": `auto` may choose every width as far from the ranking's as
it likes; by how much it is faster is what the nearness of `auto` costs. Ratios are to the network as ranked ("none").
Writes bench/results/snap_x86.json and .md, with --avx2 snap_x86-avx2; what was not asked for stays as it was measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from models_for_bench import model_of
from predicted_vs_measured import write

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import ConvBeforeSplit
from onnxslim_yolo.pipeline import preparation, remainder
from onnxslim_yolo.pruning import auto_widths

RESULTS = Path(__file__).with_name("results")
ROWS = {
    "none": "none", "none, no parts": "none", "pow2": "pow2", "4": 4, "8": 8, "16": 16, "auto": "auto",
    "auto, no parts": "auto", "auto, any width": "auto", "unpruned": "none", "unpruned, no parts": "none",
}  # fmt: skip
"""Name → snap."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prune", type=float, default=0.35)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runtimes", default="onnxruntime,ncnn")
    parser.add_argument("--networks", nargs="+", default=["yolov8n@640", "yolo11n@640", "yolov5n@640"])
    parser.add_argument("--avx2", help="launcher of a Python whose runtimes are kept from AVX-512")
    options = parser.parse_args()
    blocks = [measure(name, runtime, options) for runtime in options.runtimes.split(",") for name in options.networks]
    stem = "snap_x86-avx2" if options.avx2 else "snap_x86"
    blocks = merged(RESULTS / f"{stem}.json", blocks)
    (RESULTS / f"{stem}.json").write_text(json.dumps(blocks, indent=1) + "\n")
    (RESULTS / f"{stem}.md").write_text(markdown(blocks))
    print(markdown(blocks))


def merged(file: Path, blocks: list[dict]) -> list[dict]:
    """The blocks of a file, those in their place that were measured anew."""
    known = json.loads(file.read_text()) if file.is_file() else []
    fresh = {(block["network"], block["runtime"], block["prune"]): block for block in blocks}
    kept = [fresh.pop((block["network"], block["runtime"], block["prune"]), block) for block in known]
    return [*kept, *fresh.values()]


def measure(network: str, runtime: str, options: argparse.Namespace) -> dict:
    """Every row of one network in one runtime."""
    name, _, size = network.partition("@")
    device = "x86-avx2" if options.avx2 else "host"
    table = table_for(runtime, device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, row in enumerate(ROWS):
            model, kept = compiled(model_of(name, int(size)), row, options.prune, runtime, device)
            paths.append(write(model, Path(folder) / f"m{index}", runtime))
            us = table.predict_graph(model.graph)
            rows.append({"name": row, "importance": kept, "macs": cost_of(model.graph).macs, "predicted_us": us})
        found = benchmark(paths, names=list(ROWS), rounds=options.rounds, run_on=options.avx2)
    for row, timed in zip(rows, found.models, strict=True):
        row |= {"ms": timed.ms, "ratio": timed.ratio, "quartiles": timed.ratio_quartiles}
    return {
        "network": network, "runtime": runtime, "prune": options.prune, "rounds": options.rounds, "table": table.name,
        "control": [found.control, *found.control_quartiles], "machine": found.machine, "rows": rows,
    }  # fmt: skip


def compiled(model: Model, row: str, prune: float, runtime: str, device: str) -> tuple[Model, float]:
    """A network as a row names it, and the share of importance that it keeps."""
    chosen = CompileOptions(
        prune=0.0 if row.startswith("unpruned") else prune, snap=ROWS[row], target=runtime, device=device, depth="none"
    )
    kept = 1.0
    with ExitStack() as stack:
        if row.endswith("no parts"):
            stack.enter_context(mock.patch.object(ConvBeforeSplit, "run", lambda *_: 0))
        if row.endswith("any width"):
            stack.enter_context(mock.patch.object(auto_widths, "REACH", 1000))
        for step in [*preparation(chosen), *remainder(chosen, model)]:
            step.run(model)
            if step.name == "snap" and model.plan is not None:
                losses = model.plan.importance if model.plan.losses is None else model.plan.losses
                kept = float(losses[model.plan.keep].sum() / losses.sum())
    return model, kept


def markdown(blocks: list[dict]) -> str:
    lines = ["# Widths and parts on x86", "", "`python bench/snap_x86.py`; ratios are to widths as ranked.", ""]
    for block in blocks:
        base = block["rows"][0]
        low, high = block["control"][1:]
        lines += [f"## {block['network']}, {block['runtime']}, `--prune {block['prune']}`", ""]
        lines += [f"{block['rounds']} rounds, one thread's CPU time; A/A control {block['control'][0]:.3f} "]
        lines[-1] += f"({low:.3f} to {high:.3f}); table: {block['table']}."
        lines += [
            "",
            "| | ms | measured | quartiles | predicted | MACs | importance |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in block["rows"]:
            predicted, macs = (row[key] / base[key] for key in ("predicted_us", "macs"))
            lines.append(
                f"| {row['name']} | {row['ms']:.2f} | {row['ratio']:.3f} | {row['quartiles'][0]:.3f} to "
                f"{row['quartiles'][1]:.3f} | {predicted:.3f} | {macs:.3f} | {row['importance']:.3f} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
