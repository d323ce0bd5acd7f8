"""Predicted against measured latency over random width assignments of YOLOv5n.

    python bench/predicted_vs_measured.py [--count 50] [--rounds 11] [--runtime ncnn] [--size 640] [--table FILE]
                                           [--threads 1 2]

The assignments take turns in widths of any kind and in multiples of 4, 8 and 16. Writes
bench/results/predicted-MODEL-RUNTIME-SIZE.json and .md, and with "-N-threads" for more than one thread. Where the table
is of one thread, the absolute errors of more mean nothing, ranks and ratios do. Where no table was measured the formula
predicts, and results end in "-formula".

    --avx2 LAUNCHER     in the Python that bench/avx2_only.py leaves, by AVX2's table; results end in "-avx2"
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from models_for_bench import model_of
from random_widths import fused, prepared, with_random_widths

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.methods import ANALYTIC
from onnxslim_yolo.measure.benchmark import benchmark

STEPS = (1, 4, 8, 16)
RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--runtime", default="ncnn", choices=("ncnn", "onnxruntime"))
    parser.add_argument("--seed", type=int, default=100, help="of the first assignment, a multiple of 4")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="more than one: an idle machine only")
    parser.add_argument("--avx2", help="launcher of a Python whose runtimes are kept from AVX-512")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    base = prepared(model_of(options.model, options.size))
    networks = [fused(base.copy())]
    networks += [with_random_widths(base, options.seed + i, STEPS[i % len(STEPS)]) for i in range(options.count)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(network, Path(folder) / f"m{i}", options.runtime) for i, network in enumerate(networks)]
        for threads in options.threads:
            table = table_for(options.runtime, "avx2" if options.avx2 else "host", options.table, threads)
            predicted = np.array([table.predict_graph(network.graph) / 1000 for network in networks])
            keep(compared(predicted, paths, table.name, threads, options), options.out)


def compared(predicted: np.ndarray, paths: list[Path], table: str, threads: int, options: argparse.Namespace) -> dict:
    """Time the networks, and set that against what was predicted for them."""
    result = benchmark(paths, rounds=options.rounds, threads=threads, run_on=options.avx2)
    measured = np.array([model.ms for model in result.models])
    fastest = np.array([model.ms_best for model in result.models])
    rows = [
        {"step": 0 if i == 0 else STEPS[(i - 1) % len(STEPS)], "predicted_ms": float(p), "measured_ms": float(m),
         "fastest_ms": float(f)}
        for i, (p, m, f) in enumerate(zip(predicted, measured, fastest, strict=True))
    ]  # fmt: skip
    return summary(predicted, measured) | {
        "against_fastest_round": summary(predicted, fastest),
        "runtime": options.runtime, "size": options.size, "model": options.model, "assignments": options.count,
        "seed": options.seed, "threads": threads, "table": table, "rounds": options.rounds, "clock": result.clock,
        "kept_from_avx512": bool(options.avx2),
        "machine": result.machine, "control": [result.control, *result.control_quartiles], "rows": rows,
    }  # fmt: skip


def keep(facts: dict, out: Path) -> None:
    """Write one number of threads' results, and print them."""
    out.mkdir(parents=True, exist_ok=True)
    suffix = "" if facts["threads"] == 1 else f"-{facts['threads']}-threads"
    suffix += "-avx2" if facts["kept_from_avx512"] else ""
    suffix += "-formula" if ANALYTIC in facts["table"] else ""
    stem = f"predicted-{facts['model']}-{facts['runtime']}-{facts['size']}{suffix}"
    (out / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / f"{stem}.md").write_text(markdown(facts))
    print(markdown(facts))


def write(model: Model, stem: Path, runtime: str) -> Path:
    """The network as the runtime reads it."""
    if runtime == "onnxruntime":
        return model.save(stem.with_suffix(".onnx"))
    return write_ncnn(emit_ncnn(model), stem, model.metadata)


def summary(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Rank correlation (Spearman) and relative errors, over the assignments; the unpruned network is row 0."""
    errors = predicted[1:] / measured[1:] - 1
    relative = (predicted[1:] / predicted[0]) / (measured[1:] / measured[0]) - 1
    return {
        "rank_correlation": spearman(predicted[1:], measured[1:]),
        "median_error": float(np.median(np.abs(errors))),
        "p90_error": float(np.percentile(np.abs(errors), 90)),
        "bias": float(np.median(errors)),
        "median_error_of_ratio_to_base": float(np.median(np.abs(relative))),
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of ranks (no ties among measured times)."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def markdown(facts: dict) -> str:
    lines = [
        f"# Predicted against measured: {facts['model']}, {facts['runtime']}, {facts['size']} px, "
        f"{facts['threads']} thread(s)",
        "",
        f"Table: {facts['table']}. {facts['assignments']} random width assignments, {facts['rounds']} rounds, "
        f"{facts['clock']} time; A/A control {facts['control'][0]:.3f} "
        f"({facts['control'][1]:.3f} to {facts['control'][2]:.3f}).",
        "",
        "| measured | rank correlation | median error | 90th percentile | bias | median error of ratio to base |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {row['rank_correlation']:.3f} | {row['median_error']:.1%} | {row['p90_error']:.1%} "
            f"| {row['bias']:+.1%} | {row['median_error_of_ratio_to_base']:.1%} |"
            for name, row in (("median round", facts), ("fastest round", facts["against_fastest_round"]))
        ),
        "",
        "| widths | n | rank correlation | median error |",
        "|---|---|---|---|",
    ]
    for step in STEPS:
        rows = [row for row in facts["rows"] if row["step"] == step]
        if len(rows) < 3:
            continue
        p, m = (np.array([row[key] for row in rows]) for key in ("predicted_ms", "measured_ms"))
        name = "any" if step == 1 else f"multiples of {step}"
        lines.append(f"| {name} | {len(rows)} | {spearman(p, m):.3f} | {np.median(np.abs(p / m - 1)):.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
