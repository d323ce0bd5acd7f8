"""Table B: other pruners, at equal parameters removed.

    python bench/table_b.py --peers PEERS_VENV/bin/python [--models yolov5n,yolov8n] [--left 0.6] [--threads 1 2]

Every tool prunes the same network (this package's own definition, random weights; see `peers_prune.py`) until the same
share of its convolutions' weights is left, ranked by |γ| over the whole network where the tool can. All results are
ONNX files. onnxruntime runs them as they are. For ncnn the others' files go through *our* emitter, as they are: those
tools write no ncnn, and so the column compares widths, not converters. The first row, to which ratios are, is the
unpruned network as exporters write it (BatchNorms folded); "fused only" says what of a ratio is not pruning's.

Writes bench/results/table_b.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from interleaved import Entry, Facts, arguments, attempt, block, keep, latency_cells, protocol, table, written
from interleaved import through_our_emitter as emitted

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.graph import input_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.load import load
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pipeline import _fusing

HERE = Path(__file__).resolve().parent
STEPS, RUNS = 10, 3
HEAD = ("", "ms", "ratio", "quartiles", "weights left", "MACs", "prune, s", "to ONNX, s", "remark")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="the interpreter of the other tools' environment")
    parser.add_argument("--models", default="yolov5n,yolov8n")
    parser.add_argument("--left", type=float, default=0.6, help="share of the convolutions' weights that is left")
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args()
    blocks = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            blocks += blocks_of(name, Path(folder), options)
    keep({"left": options.left, "blocks": blocks}, markdown(blocks, options.left), options.out, "table_b")


def blocks_of(name: str, folder: Path, options: argparse.Namespace) -> list[Facts]:
    """One network in every runtime and number of threads."""
    rivals = peers(name, folder, options)
    found = []
    for runtime in options.runtimes.split(","):
        place = folder / runtime
        place.mkdir()
        entries = [*own(folder, place, runtime, options.left), *others(rivals, place, runtime)]
        for threads in options.threads:
            facts = {"model": name, "size": options.size, "runtime": runtime, "left": options.left}
            found.append(block(entries, rounds=options.rounds, threads=threads, **facts))
    return found


def peers(name: str, folder: Path, options: argparse.Namespace) -> list[Facts]:
    """The rows of `peers_prune.py`, whose files are in the folder then."""
    script = str(HERE / "peers_prune.py")
    line = [str(options.peers), script, name, "--size", str(options.size), "--left", str(options.left)]
    done = subprocess.run([*line, "--out", str(folder)], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stderr[-2000:]}")
    rows: list[Facts] = json.loads(done.stdout)
    return rows


def others(rivals: list[Facts], place: Path, runtime: str) -> list[Entry]:
    """Entries for the rivals' files."""
    entries = []
    for index, row in enumerate(rivals):
        facts = {key: row[key] for key in ("seconds", "left", "remark")} | {"write_seconds": row.get("export_seconds")}
        if row["file"] is None:
            entries.append(Entry(row["name"], failed=row["remark"].removeprefix("fails: "), facts=facts))
            continue
        file = Path(row["file"])
        facts |= {"ratio_given": row["ratio"], "macs": cost_of(load(file).graph).macs}
        action = partial(emitted, file, place / f"rival{index}") if runtime == "ncnn" else partial(Path, file)
        entries.append(attempt(row["name"], action, **facts))
    return entries


def own(folder: Path, place: Path, runtime: Runtime, left: float) -> list[Entry]:
    """The unpruned network, and ours."""
    unpruned = folder / "unpruned.onnx"
    file = emitted(unpruned, place / "unpruned") if runtime == "ncnn" else unpruned
    entries = [Entry("unpruned", file, facts={"left": 1.0, "macs": cost_of(load(unpruned).graph).macs})]
    fused = load(folder / "source.onnx")
    fuse(fused)
    macs = cost_of(fused.graph).macs
    entries.append(Entry("fused only", written(fused, place / "fused", runtime), facts={"left": 1.0, "macs": macs}))
    for snap in ("none", "auto"):
        name = f"onnxslim-yolo, snap {snap}"
        widths = SnapWidths(to=snap, runtime=runtime)
        entries.append(own_entry(name, folder / "source.onnx", widths, place / snap, left))
    return entries


def own_entry(name: str, source: Path, snap: SnapWidths, stem: Path, left: float) -> Entry:
    """Ours at the ratio that leaves this share, found by bisection; timed like the others: the least of three runs."""
    whole = conv_weights(load(source))

    def run(ratio: float) -> Model:
        model = load(source)
        for step in (PruneChannels(ratio, importance="gamma"), snap, AbsorbConstants(), SliceChannels()):
            step.run(model)
        return model

    low, high = 0.0, 0.97
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if conv_weights(run(middle)) / whole <= left else (middle, high)
    pruned, writing = [], []
    for _ in range(RUNS):
        start = time.process_time()
        model = run(high)
        pruned.append(time.process_time() - start)
        start = time.process_time()
        fuse(model)
        model.save(stem.with_suffix(".onnx"))
        writing.append(time.process_time() - start)
    facts = {
        "left": conv_weights(model) / whole, "macs": cost_of(model.graph).macs, "ratio_given": high,
        "seconds": min(pruned), "write_seconds": min(writing),
        "remark": "read, plan, compensate, slice; then fuse and write",
    }  # fmt: skip
    return Entry(name, written(model, stem, snap.runtime), facts=facts)


def fuse(model: Model) -> None:
    """The fusing passes of the default pipeline, in place."""
    for step in _fusing():
        step.run(model)


def conv_weights(model: Model) -> int:
    """Elements of the convolutions' weights."""
    weights = [input_constant(node, 1) for node in model.graph.nodes if node.op == "Conv"]
    return sum(int(weight.size) for weight in weights if weight is not None)


def markdown(blocks: list[Facts], left: float) -> str:
    lines = [
        f"# Table B: other pruners, {1 - left:.0%} of the convolutions' weights removed",
        "",
        "All prune the same network; ratios are to the unpruned one as exporters write it, below 1 is faster. For ncnn "
        "the others' ONNX goes through our emitter. Seconds: CPU time, least of three, without interpreter start; the "
        "search for the ratio that removes this much is not in it.",
        "",
    ]
    for found in blocks:
        base = found["rows"][0]
        lines += [f"## {found['model']}, {found['runtime']}, {found['size']} px, {found['threads']} thread(s)", ""]
        rows = [
            [
                row["name"], *latency_cells(row), _share(row.get("left")),
                _share(row["macs"] / base["macs"] if row.get("macs") else None), _seconds(row.get("seconds")),
                _seconds(row.get("write_seconds")), "" if "failed" in row else row.get("remark", ""),
            ]
            for row in found["rows"]
        ]  # fmt: skip
        lines += [protocol(found), "", *table(HEAD, rows)]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
