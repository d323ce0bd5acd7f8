"""What sparsity training leaves, by depth and width: the bundled networks, and published sizes with structured γ.

    python bench/depth_sparse.py bundled --old TREE [--rounds 11]
    python bench/depth_sparse.py structured [--size 320] [--rounds 11]

bundled: each of the bundled networks compiled with `--prune dead` by this tree and by TREE, a checkout of a commit
before layers went whole, and `--target-latency 0.7x` by both and by this one with `--depth none`: layers that multiply,
mAP50 of the ONNX file on images held out, and latency in both runtimes.
structured: YOLOv5n, YOLOv8n and YOLO11n with random weights; of a random third of the residual branches the last γ are
a fiftieth, and half of all other channels have a twentieth. At `--target-latency 0.6x` by γ: what share of Σ|γ| is
kept (of a branch that went its last γ are lost, which alone say what it is worth), and the latency in ncnn, `--depth
none` against `--depth auto`.

Latency is of one thread, by its CPU time, all files of a network in turn: medians of ratios to the first within a
round. Writes bench/results/depth_sparse-{bundled,structured}.json and .md; networks that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from models_for_bench import onnx_of

from onnxslim_yolo.analysis.blocks import end_of, find_blocks, node_named
from onnxslim_yolo.ir.graph import initializers, producer
from onnxslim_yolo.load import load
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.models.demo.train_digits import write_digits
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BCCD = HERE.parents[1] / "shared" / "material" / "data" / "bccd" / "data.yaml"
DIGITS = Path(tempfile.gettempdir()) / "onnxslim-yolo-digits" / "data.yaml"
BUNDLED = {
    "bccd-sparse": BCCD,
    "digits-sparse": DIGITS,
    "bccd-dense": BCCD,
    "digits-dense": DIGITS,
    "digits-rep": DIGITS,
}
STRUCTURED = ("yolov5n", "yolov8n", "yolo11n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("bundled", "structured"))
    parser.add_argument("--old", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    path = RESULTS / f"depth_sparse-{args.part}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in BUNDLED if args.part == "bundled" else STRUCTURED:
        if name in rows:
            continue
        with tempfile.TemporaryDirectory() as folder:
            made = bundled if args.part == "bundled" else structured
            rows[name] = made(name, Path(folder), args)
        print(name, json.dumps(rows[name]["rows"]), flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(args.part, rows), encoding="utf-8")


def bundled(name: str, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Every way of compiling one bundled network."""
    if BUNDLED[name] == DIGITS and not DIGITS.is_file():
        write_digits(DIGITS.parent)
    source = HERE.parent / "models" / f"{name}.onnx"
    ways = {
        "dead, before": (args.old, ["--prune", "dead"]),
        "dead": (HERE.parent, ["--prune", "dead"]),
        "0.7x, before": (args.old, ["--target-latency", "0.7x"]),
        "0.7x, depth none": (HERE.parent, ["--target-latency", "0.7x", "--depth", "none"]),
        "0.7x": (HERE.parent, ["--target-latency", "0.7x"]),
    }
    found = {way: command(source, folder / way, *line) for way, line in ways.items()}
    data = read_dataset(BUNDLED[name], ("val",))
    for way, row in found.items():
        if "refused" in row:
            continue
        network = open_network(folder / way / f"{name}.onnx", threads=1)
        row["map50"] = round(evaluate(Detector(network, nc=len(data.names)), data).map50, 4)
    return timed(name, folder, found, args.rounds, ("ncnn", "onnxruntime"))


def structured(name: str, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Width alone, and depth and width, at one predicted latency."""
    source = folder / f"{name}.onnx"
    gammas, ends = with_structure(onnx_of(name, args.size), source)
    total = float(sum(values.sum() for values in gammas.values()))
    found = {"source": command(source, folder / "source", HERE.parent, ["--depth", "none"]) | {"kept": 1.0}}
    for depth in ("none", "auto"):
        line = ["--target-latency", "0.6x", "--importance", "gamma", "--depth", depth]
        found[depth] = command(source, folder / depth, HERE.parent, line)
        plan = json.loads((folder / depth / f"{name}.plan.json").read_text(encoding="utf-8"))
        gone = [key for key in gammas for layer in plan["removed"] if key.startswith(f"{layer}.")]
        kept = {key: plan["keep"].get(key, {}).get("0", ...) for key in gammas} | dict.fromkeys(gone, ...)
        kept |= {key: [] for key in gone if key in ends}
        found[depth]["kept"] = round(float(sum(gammas[key][one].sum() for key, one in kept.items()) / total), 4)
    return timed(name, folder, found, args.rounds, ("ncnn",))


def with_structure(path: Path, out: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """Write the network with such γ; returns each BatchNorm's sizes, and which of them residual branches end in."""
    rng = np.random.default_rng(0)
    model = load(path)
    branches = [block for block in find_blocks(model.graph) if block.kind == "branch"]
    dead = rng.permutation(len(branches))[: max(1, round(len(branches) / 3))]
    last = {norm_behind(model.graph, branches[k]) for k in dead}
    gammas = {n.inputs[1].name for n in model.graph.nodes if n.op == "BatchNormalization"}
    found = {}
    for tensor in initializers(model.graph):
        if tensor.name in gammas:
            small = (
                np.full(len(tensor.values), 0.02)
                if tensor.name in last
                else rng.permuted(np.arange(len(tensor.values)) % 2)
            )
            values = np.where(small == 0, 0.05, small) * rng.uniform(0.5, 1.5, len(tensor.values))
            tensor.values = values.astype(np.float32)
            found[tensor.name] = np.abs(tensor.values)
    onnx.save(model.to_onnx(), out)
    return found, {norm_behind(model.graph, block) for block in branches}


def norm_behind(graph: gs.Graph, block: object) -> str:
    """The γ of the BatchNormalization that a branch ends in, or an activation of it."""
    node = node_named(graph, block.node)
    here = producer(end_of(block, node))
    while here.op != "BatchNormalization":
        here = producer(here.inputs[0])
    return here.inputs[1].name


def command(source: Path, out: Path, tree: Path, line: list[str]) -> dict[str, object]:
    """Compile with one tree's code; what its report says, or that it does not come down so far."""
    base = [sys.executable, "-m", "onnxslim_yolo", "compile", str(source), "--emit", "onnx,ncnn", "--no-verify", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    call = [*base, *line, "--will-train", "-o", str(out)]
    done = subprocess.run(call, check=False, env=environment, cwd=out.parent, capture_output=True, text=True)
    if done.returncode:
        return {"refused": done.stderr.partition("\n")[0]}
    report = json.loads((out / f"{source.stem}.report.json").read_text(encoding="utf-8"))
    before, after = report["before"], report["after"]
    return {
        "layers": len(after["layers"]), "of": len(before["layers"]),
        "predicted": round(after["latency_us"] / before["latency_us"], 3),
        "macs": round(after["macs"] / before["macs"], 3),
        "gone": (report["pruning"] or {}).get("gone", []),
    }  # fmt: skip


def timed(name: str, folder: Path, found: dict, rounds: int, runtimes: tuple[str, ...]) -> dict[str, object]:
    """The rows with latency in each runtime, ratios to the first row."""
    controls = {}
    for runtime in runtimes:
        file = f"{name}_ncnn_model" if runtime == "ncnn" else f"{name}.onnx"
        there = [way for way, row in found.items() if "refused" not in row]
        result = benchmark([folder / way / file for way in there], names=there, rounds=rounds)
        controls[runtime] = result.control
        for way, one in zip(there, result.models, strict=True):
            found[way][runtime] = {
                "ms": round(one.ms, 3),
                "ratio": round(one.ratio, 3),
                "quartiles": one.ratio_quartiles,
            }
    return {"rows": found, "control": controls, "rounds": rounds, "machine": result.machine}


def markdown(part: str, rows: dict[str, dict]) -> str:
    """One table."""
    runtimes = ("ncnn", "onnxruntime") if part == "bundled" else ("ncnn",)
    asked = "mAP50" if part == "bundled" else "Σ|γ| kept"
    head = ["network", "", "layers", *(f"{r}, ms" for r in runtimes), *(f"{r}, ratio" for r in runtimes), "MACs", asked]
    lines = [f"# `python bench/depth_sparse.py {part}`", "", f"| {' | '.join(head)} | gone |"]
    lines.append("|---|---|" + "---:|" * (len(head) - 2) + "---|")
    for name, block in rows.items():
        for way, row in block["rows"].items():
            if "refused" in row:
                lines.append(f"| {name} | {way} | {row['refused']} |" + " |" * (len(head) - 2))
                continue
            times = [f"{row[r]['ms']:.3f}" for r in runtimes]
            ratios = ["{:.3f} ({:.3f} to {:.3f})".format(row[r]["ratio"], *row[r]["quartiles"]) for r in runtimes]
            figure = row["map50"] if part == "bundled" else row["kept"]
            shown = ", ".join(row["gone"][:6]) + (f" and {len(row['gone']) - 6} more" if len(row["gone"]) > 6 else "")
            cells = [
                name,
                way,
                f"{row['layers']} of {row['of']}",
                *times,
                *ratios,
                f"{row['macs']:.3f}",
                f"{figure:.4f}",
            ]
            lines.append(f"| {' | '.join(cells)} | {shown} |")
    machines = sorted({f"{block['machine']}, {block['rounds']} rounds, one thread" for block in rows.values()})
    return "\n".join([*lines, "", *machines]) + "\n"


if __name__ == "__main__":
    main()
