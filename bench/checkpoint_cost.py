"""What compiling a checkpoint takes: memory and CPU, from the .pt to verified files.

Run: python bench/checkpoint_cost.py

Writes bench/results/checkpoint_cost.{json,md}. The checkpoints are pickled as Ultralytics' trainer writes them, in half
precision, with random weights: YOLOv8s (22 MB) at 640 px; beside it the graph of YOLOv8n (ONNX). CPU seconds are those
of the command and of all its children, user and system, with byte code kept as pip does on installing. Medians of
three runs. Memory is the largest process's peak, and the peak of the
sum over all of the command's processes, sampled every 10 ms (what they share is counted in each).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "load"))

from repositories import save_like_a_trainer

from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.zoo.architectures import build, randomise

RESULTS = Path(__file__).parent / "results"
RUNS = 3
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
PAGE = os.sysconf("SC_PAGE_SIZE")
CASES = (
    ("YOLOv8s.pt", 2.0, ()),
    ("YOLOv8s.pt", 2.0, ("--no-verify",)),
    ("YOLOv8n.onnx", 1.0, ()),
    ("YOLOv8n.onnx", 1.0, ("--no-verify",)),
)
"""File, factor on the nano size's width, options."""


def checkpoint(folder: Path, name: str, width: float) -> Path:
    """A checkpoint as a trainer writes it, or a graph."""
    path = folder / name
    if not path.exists() and path.suffix == ".onnx":
        trace(randomise(build("yolov8n", width=width), 0), torch.rand(1, 3, 640, 640), path)
    elif not path.exists():
        save_like_a_trainer(path, randomise(build("yolov8n", width=width)), half=True)
    return path


def children(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        try:
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        found += [int(word) for word in text.split()]
    return found


def resident(pid: int) -> int:
    """Bytes in memory of one process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def measured(line: list[str]) -> dict[str, float]:
    """Run a command and watch it: wall and CPU seconds, MB of its largest process, MB of all together."""
    start, together = time.perf_counter(), 0
    process = subprocess.Popen(line, env=ENVIRONMENT)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        together = max(together, sum(resident(pid) for pid in children(process.pid)))
        time.sleep(0.01)
    if status:
        raise SystemExit(f"{' '.join(line)}: status {status}")
    return {
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "largest_mb": usage.ru_maxrss / 1e3,
        "together_mb": together / 1e6,
    }


def row(folder: Path, name: str, width: float, options: tuple[str, ...]) -> dict[str, object]:
    """One case: of each number the median of the runs."""
    path = checkpoint(folder, name, width)
    line = [sys.executable, "-m", "onnxslim_yolo", "compile", str(path), "-q", "-o", str(folder / "out"), *options]
    runs = [measured(line) for _ in range(RUNS)]
    facts = {"model": name, "options": " ".join(options), "mb": path.stat().st_size / 1e6}
    return facts | {key: median(run[key] for run in runs) for key in runs[0]}


def table(rows: list[dict[str, object]]) -> str:
    """As Markdown."""
    lines = [
        "| checkpoint | MB | options | CPU s | wall s | largest process MB | all processes MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['mb']:.1f} | {r['options'] or 'verified'} | {r['cpu_s']:.1f} | {r['wall_s']:.1f} | "
        f"{r['largest_mb']:.0f} | {r['together_mb']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


FLOOR = "The largest process counts at least as much as this script had when it started the command: 480 MB."


def processor() -> str:
    """What it was measured on."""
    text = Path("/proc/cpuinfo").read_text()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    return f"{name}{', AVX-512' if 'avx512f' in text else ''}; medians of {RUNS} runs. {FLOOR}"


def main() -> None:
    with tempfile.TemporaryDirectory() as text:
        rows = [row(Path(text), *case) for case in CASES]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checkpoint_cost.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "checkpoint_cost.md").write_text(f"{processor()}\n\n{table(rows)}")
    print(table(rows))


if __name__ == "__main__":
    main()
