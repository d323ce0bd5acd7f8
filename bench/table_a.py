"""Table A: the published case. YOLOv5n pruned by 30, 60 and 70 % of its BatchNorm γ, the last one snapped.

    python bench/table_a.py [--rounds 21] [--sizes 640,320] [--runtimes ncnn,onnxruntime] [--threads 1 2]
    python bench/table_a.py --avx2 LAUNCHER      in the Python that bench/avx2_only.py leaves, by AVX2's tables

The published channel counts at 70 % come from ../shared/seed-table.json. Latency does not depend on weights, so the
network has random ones, with γ drawn such that ranking at 70 % gives these counts (checked: but for two channels, by
rounding): what the table keeps lies in [0.5, 1], what it removes in [0, 0.5]. "importance" is the share of the sum of γ
that is kept.
"sparse": what the table removes has γ of a thousandth, and so has the single channel that it keeps of some layers;
"gone": those layers go, and what only they made of use.
Predictions are the table's, of one thread. Writes bench/results/table-a.json and .md, with --avx2 table-a-avx2.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from models_for_bench import model_of
from predicted_vs_measured import spearman, write
from random_widths import fused, prepared

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.graph import initializers
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.passes import DropBlocks, PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pruning.plan import Plan

RESULTS = Path(__file__).with_name("results")
SEED = Path(__file__).resolve().parents[2] / "shared" / "seed-table.json"
PUBLISHED = {"base": "base", "0.3": "0.3", "0.6": "0.6", "0.7": "0.7", "0.7 pow2": "0.7 snapped"}
ROWS: dict[str, tuple[float, str | int]] = {
    "base": (0.0, "none"),
    "0.3": (0.3, "none"),
    "0.6": (0.6, "none"),
    "0.7": (0.7, "none"),
    "0.7 pow2": (0.7, "pow2"),
    "0.7 auto": (0.7, "auto"),
    "0.7 auto, sparse": (0.7, "auto"),
    "0.7 auto, gone": (0.7, "auto"),
    "0.7 x4": (0.7, 4),
    "0.7 x8": (0.7, 8),
    "0.7 x16": (0.7, 16),
}
"""Name → (ratio, snap). `pow2` is the published snapping."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--sizes", default="640,320")
    parser.add_argument("--runtimes", default="ncnn,onnxruntime")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="more than one: an idle machine only")
    parser.add_argument("--avx2", help="launcher of a Python whose runtimes are kept from AVX-512")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    seed = json.loads(SEED.read_text())
    blocks = [
        found
        for size in map(int, options.sizes.split(","))
        for runtime in options.runtimes.split(",")
        for found in measure(runtime, size, options, seed)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"published": seed["published"], "blocks": blocks}
    stem = "table-a-avx2" if options.avx2 else "table-a"
    (options.out / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (options.out / f"{stem}.md").write_text(markdown(blocks, seed["published"]))
    print(markdown(blocks, seed["published"]))


def measure(runtime: str, size: int, options: argparse.Namespace, seed: dict) -> list[dict]:
    """One runtime at one image size: every row's facts, for each number of threads."""
    base = with_published_gammas(prepared(model_of("yolov5n", size)), seed["channels"])
    isa = "avx2" if options.avx2 else "host"
    table = table_for(runtime, isa)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index, (name, (ratio, snap)) in enumerate(ROWS.items()):
            network, importance, widths = compiled(base, ratio, snap, runtime, isa, name.partition(", ")[2])
            stem = Path(folder) / f"{index}"
            paths.append(write(network, stem, runtime))
            cost = cost_of(network.graph)
            rows.append(
                {
                    "name": name, "importance": importance, "macs": cost.macs, "parameters": cost.parameters,
                    "bytes": sum(f.stat().st_size for f in [paths[-1], *paths[-1].glob("*")] if f.is_file()),
                    "predicted_ms": table.predict_graph(network.graph) / 1000, "widths": widths,
                }
            )  # fmt: skip
        facts = {"runtime": runtime, "size": size, "table": table.name}
        return [facts | timed(rows, paths, options, number) for number in options.threads]


def timed(rows: list[dict], paths: list[Path], options: argparse.Namespace, threads: int) -> dict:
    """The rows with their latency."""
    names = list(ROWS)
    result = benchmark(paths, names=names, rounds=options.rounds, threads=threads, run_on=options.avx2)
    measured = [
        row | {"ms": model.ms, "ms_best": model.ms_best, "ratio": model.ratio, "quartiles": model.ratio_quartiles}
        for row, model in zip(rows, result.models, strict=True)
    ]
    return {
        "threads": threads, "rounds": options.rounds, "clock": result.clock,
        "control": [result.control, *result.control_quartiles], "resolution": result.resolution,
        "machine": result.machine, "rows": measured,
    }  # fmt: skip


def with_published_gammas(model: Model, counts: dict[str, list[int]]) -> Model:
    """Draw γ (see the module)."""
    random = np.random.default_rng(0)
    by_name = {tensor.name: tensor for tensor in initializers(model.graph)}
    for name, (width, kept) in counts.items():
        gamma = np.concatenate([random.uniform(0.5, 1.0, kept), random.uniform(0.0, 0.5, width - kept)])
        tensor = by_name[f"{name}.weight"]
        assert tensor.values.shape == (width,), name
        tensor.values = random.permutation(gamma).astype(np.float32)
    return model


def compiled(
    base: Model, ratio: float, snap: str | int, runtime: str, isa: str, kind: str = ""
) -> tuple[Model, float, list[int]]:
    """The pruned, snapped and fused network, the share of importance it keeps, and the groups' widths.

    Args:
        kind: "sparse": what the table removes has γ next to nothing, all of a layer of which it keeps one channel;
            "gone": and such layers go, where the graph stays whole.
    """
    model = base.copy()
    if not ratio:
        return fused(model), 1.0, []
    if kind:
        with_nothing_left(model)
    if kind == "gone":
        DropBlocks(ratio=ratio, scope="no-residual").run(model)
        print(model.notes[-1])
    PruneChannels(ratio=ratio, scope="no-residual", importance="gamma").run(model)
    SnapWidths(to=snap, runtime=runtime, isa=isa).run(model)
    plan = model.plan
    assert plan is not None
    if (ratio, snap) == (0.7, "none"):
        check_counts(plan)
    kept = float(plan.importance[plan.keep].sum() / plan.importance.sum())
    widths = [group.kept for group in plan.group_plans() if not group.frozen]
    SliceChannels().run(model)
    return fused(model), kept, widths


def with_nothing_left(model: Model) -> None:
    """What the table removes has γ of a thousandth, as training with an L1 penalty leaves them."""
    for name in json.loads(SEED.read_text())["channels"]:
        for tensor in initializers(model.graph):
            if tensor.name == f"{name}.weight":
                small = tensor.values < 0.5
                if small.sum() == small.size - 1:
                    small[:] = True  # the one that is left is there because none may be
                tensor.values = np.where(small, 1e-3 * tensor.values, tensor.values).astype(np.float32)


def check_counts(plan: Plan) -> None:
    """Refuse to time anything else than the published widths."""
    counts = json.loads(SEED.read_text())["channels"]
    norms = {
        use.constant.name.removesuffix(".weight"): int(plan.keep[use.labels].sum())
        for use in plan.channels.uses
        if use.node.op == "BatchNormalization" and use.index == 1
    }
    off = sum(abs(norms[name] - kept) for name, (_, kept) in counts.items())
    assert off <= 2, f"{off} channels off the published counts"


def markdown(blocks: list[dict], published: dict) -> str:
    seconds = published["ncnn_seconds"]
    lines = ["# Table A: YOLOv5n, ratios to the unpruned network", ""]
    for block in blocks:
        base = block["rows"][0]
        lines += [
            f"## {block['runtime']}, {block['size']} px, {block['threads']} thread(s)",
            "",
            f"{block['rounds']} rounds, {block['clock']} time; A/A control {block['control'][0]:.3f} "
            f"({block['control'][1]:.3f} to {block['control'][2]:.3f}); table: {block['table']}.",
            f"{held(block['rows'])}",
            "",
            "| | latency | quartiles | predicted | MACs | importance | file | published latency |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in block["rows"]:
            old = PUBLISHED.get(row["name"])
            other = "" if old is None else f"{seconds[old] / seconds['base']:.2f}"
            lines.append(
                f"| {row['name']} | {row['ratio']:.3f} | {row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f} "
                f"| {row['predicted_ms'] / base['predicted_ms']:.3f} | {row['macs'] / base['macs']:.3f} "
                f"| {row['importance']:.3f} | {row['bytes'] / base['bytes']:.2f} | {other} |"
            )
        lines.append("")
    return "\n".join(lines)


def held(rows: list[dict]) -> str:
    """Predictions beside what was measured, as ratios to the first row: those are paired within a round."""
    predicted = np.array([row["predicted_ms"] / rows[0]["predicted_ms"] for row in rows])
    measured = np.array([row["ratio"] for row in rows])
    off = np.abs(predicted / measured - 1)[1:]
    return (
        f"Predicted against measured: rank correlation {spearman(predicted, measured):.3f}, "
        f"ratios off by {np.median(off):.1%} (median), {off.max():.1%} (most)."
    )


if __name__ == "__main__":
    main()
