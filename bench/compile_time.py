"""How long compiling takes, and how it grows.

Run: python bench/compile_time.py [--peers VENV_PYTHON] [--against PYTHON]

Writes bench/results/compile_time.{json,md}. Times are wall times of whole commands (interpreter start included) and
thread CPU times of single stages, the least of the runs: on a shared machine the minimum is what the work costs; the
CPU of whole commands is the median. With --against another installation's interpreter (of an older commit) compiles the
same files in turn with this one, and the ratio of CPU medians is written down: with `--prune 0.5 --emit onnx
--no-verify`, and of `compile` as a user types it, which writes and verifies ONNX and NCNN.

Peers (onnxsim 0.8.1, OnnxSlim, Torch-Pruning 1.6.1) run in the interpreter given with --peers, which needs them
installed; without it their rows stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.kept import forget
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.zoo.architectures import build, randomise
from onnxslim_yolo.passes import PruneChannels, SliceChannels

RESULTS = Path(__file__).parent / "results"
RUNS = 3
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""Byte code is kept, as pip does on installing; the first run makes it."""


def export(folder: Path, name: str, arch: str, width: float) -> Path:
    path = folder / f"{name}.onnx"
    module = randomise(build(arch, width=width), 0)
    trace(module, torch.rand(1, 3, 640, 640), path)
    return path


def deep(folder: Path, nodes: int) -> Path:
    """A plain residual network of about this many nodes: conv, BatchNorm, ReLU, with an Add every other block."""
    rng = np.random.default_rng(0)
    channels, made = 32, []
    tensor = gs.Variable("images", np.float32, [1, 3, 64, 64])
    start, shortcut = tensor, None
    for k in range(nodes // 4):
        cin = 3 if k == 0 else channels
        weight = gs.Constant(f"w{k}", (rng.standard_normal((channels, cin, 3, 3)) / (3 * cin**0.5)).astype(np.float32))
        norm = [gs.Constant(f"{p}{k}", v) for p, v in zip("gbmv", _norm(rng, channels), strict=True)]
        conv, bn, act = (gs.Variable(f"{p}{k}", np.float32) for p in ("c", "n", "a"))
        made += [
            gs.Node("Conv", f"conv{k}", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [tensor, weight], [conv]),
            gs.Node("BatchNormalization", f"bn{k}", {}, [conv, *norm], [bn]),
            gs.Node("Relu", f"relu{k}", {}, [bn], [act]),
        ]
        tensor = act
        if k % 2 == 0:
            if shortcut is not None:
                total = gs.Variable(f"s{k}", np.float32)
                made.append(gs.Node("Add", f"add{k}", {}, [tensor, shortcut], [total]))
                tensor = total
            shortcut = tensor if k % 20 else None
    head = gs.Variable("output", np.float32, None)
    weight = gs.Constant("head", rng.standard_normal((8, channels, 1, 1)).astype(np.float32))
    made.append(gs.Node("Conv", "head", {}, [tensor, weight], [head]))
    path = folder / f"deep{len(made)}.onnx"
    onnx.save(gs.export_onnx(gs.Graph(made, [start], [head], opset=17)), path)
    return path


def _norm(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    ones = np.ones(n, np.float32)
    return [rng.random(n).astype(np.float32) + 0.5, 0 * ones, 0 * ones, ones]


def stages(path: Path) -> dict[str, float]:
    """Least thread CPU seconds of channel analysis, and of prune + slice, on the canonical graph."""
    model = load(path)
    analysis, cutting = [], []
    for _ in range(RUNS):
        forget(model.graph)  # what was found before is kept otherwise
        start = time.thread_time()
        analyse_channels(model.graph)
        analysis.append(time.thread_time() - start)
        trial: Model = model.copy()
        start = time.thread_time()
        PruneChannels(ratio=0.5).run(trial)
        SliceChannels().run(trial)
        cutting.append(time.thread_time() - start)
    return {"analysis_s": min(analysis), "prune_and_slice_s": min(cutting)}


def command(path: Path, folder: Path, against: str | None) -> dict[str, float]:
    """Least wall and median CPU seconds, and peak memory in MB, of the whole command; and the other's CPU."""
    line = ["-m", "onnxslim_yolo", "compile", str(path), "-q", "-o", str(folder / "out")]
    bare = [*line, "--prune", "0.5", "--no-verify", "--emit", "onnx"]
    (wall, cpu), *others = in_turn(bare, folder, against)
    (_, whole), *others_whole = in_turn(line, folder, against)
    found = {"wall_s": min(wall), "cpu_s": median(cpu), "peak_mb": peak([sys.executable, *bare])}
    found["verified_cpu_s"] = median(whole)
    for name, other in (("against_cpu_s", others), ("against_verified_cpu_s", others_whole)):
        found |= {name: median(other[0][1])} if other else {}
    return found


def in_turn(line: list[str], folder: Path, against: str | None) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Wall and CPU seconds of a command in this interpreter, and in the other, run by turns; not of one that fails."""
    pythons = [sys.executable, *([against] if against else [])]
    runs: dict[str, list[tuple[float, float]]] = {python: [] for python in pythons}
    for _ in range(RUNS):
        for python in list(pythons):
            try:
                runs[python].append(timed([python, *line], folder))
            except subprocess.CalledProcessError:
                if python == sys.executable:
                    raise
                pythons.remove(python)
    return [(tuple(wall for wall, _ in runs[python]), tuple(cpu for _, cpu in runs[python])) for python in pythons]


def timed(line: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command, run where no package of this name lies: `-m` looks there first."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(line, check=True, env=ENVIRONMENT, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak(line: list[str]) -> float:
    """Peak resident memory of the command alone, in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code, *line], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="interpreter with onnxsim, onnxslim and torch-pruning")
    parser.add_argument("--against", help="interpreter with an older commit of this package installed")
    parser.add_argument("--only", help="one of the models; the rows of the others stay as they were")
    arguments = parser.parse_args()
    rows = earlier("compile") if arguments.only else []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        paths = [
            export(folder, "yolov8n", "yolov8n", 1.0),
            export(folder, "yolov8-270MB", "yolov8n", 4.75),
            deep(folder, 1000),
            deep(folder, 5000),
        ]
        for path in paths:
            if arguments.only not in (None, path.stem):
                continue
            nodes = len(onnx.load(path, load_external_data=False).graph.node)
            row = {"model": path.stem, "nodes": nodes, "mb": path.stat().st_size / 1e6}
            rows = [each for each in rows if each["model"] != path.stem]
            rows.append(row | stages(path) | command(path, folder, arguments.against))
            print(rows[-1], flush=True)
        peers = run_peers(arguments.peers, paths[0]) if arguments.peers else earlier("peers")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compile_time.json").write_text(json.dumps({"compile": rows, "peers": peers}, indent=1) + "\n")
    (RESULTS / "compile_time.md").write_text(table(rows, peers))


def earlier(part: str) -> list[dict[str, Any]]:
    """The rows of the last run that had any."""
    path = RESULTS / "compile_time.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())[part] if path.exists() else []
    return found


def run_peers(python: str, path: Path) -> list[dict[str, object]]:
    script = Path(__file__).with_name("peers_compile.py")
    done = subprocess.run([python, str(script), str(path)], check=True, capture_output=True, text=True)
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def ratio(row: dict[str, float], of: str) -> str:
    """The CPU seconds as a share of the other installation's."""
    return f"{row[of] / row[f'against_{of}']:.2f}" if f"against_{of}" in row else ""


def table(rows: list[dict[str, float]], peers: list[dict[str, object]]) -> str:
    lines = [
        "| model | nodes | MB | analysis s | prune+slice s | wall s | CPU s | of --against | peak MB | peak / size "
        "| verified, CPU s | of --against |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['nodes']} | {r['mb']:.1f} | {r['analysis_s']:.3f} | {r['prune_and_slice_s']:.3f} | "
        f"{r['wall_s']:.2f} | {r['cpu_s']:.2f} | {ratio(r, 'cpu_s')} | {r['peak_mb']:.0f} | "
        f"{r['peak_mb'] / r['mb']:.1f} | {r['verified_cpu_s']:.2f} | {ratio(r, 'verified_cpu_s')} |"
        for r in rows
    ]
    if peers:
        lines += ["", "| peer | seconds | parameters left | remark |", "|---|---|---|---|"]
        lines += [f"| {p['name']} | {p['seconds']} | {p['left']} | {p['remark']} |" for p in peers]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
