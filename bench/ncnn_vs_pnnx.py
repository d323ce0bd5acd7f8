"""Latency of our ncnn files against pnnx's, from the same ONNX files.

    python bench/ncnn_vs_pnnx.py --pnnx PATH/TO/pnnx MODEL.onnx … [--rounds 31] [--threads 1] [--json OUT]
    python bench/ncnn_vs_pnnx.py --pnnx PATH/TO/pnnx --zoo yolov5n yolov8n … [--size 320]

pnnx is the executable of the PyPI package `pnnx`, in an environment of its own. Both files, and a second copy of ours
as the A/A control, are loaded in one process and interleaved: each round runs all three in random order, one untimed
call before each timed one. Thread CPU time for one thread, wall time for more. Denormals are flushed (needs torch).
Reported: the median over the rounds of ours / pnnx's, its quartiles, the same for the control, conversion times, and
the largest difference of either from onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxslim_yolo
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.verify.ncnn_compare import run_tensors

PNNX_TIMEOUT = 300
RESULTS = Path(__file__).parent / "results"


def convert_ours(model: Model, folder: Path) -> tuple[Path, Path]:
    """Our pair, with fp16 weights as pnnx writes by default. Passes are not run: the same graph for both."""
    return write_pair(emit_ncnn(model), folder)


def convert_pnnx(pnnx: str, file: Path, shape: tuple[int, ...], folder: Path) -> tuple[Path, Path]:
    """pnnx's pair. Raises RuntimeError if it fails."""
    copy = Path(shutil.copy(file, folder / "m.onnx"))
    command = [pnnx, str(copy), f"inputshape=[{','.join(map(str, shape))}]"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=PNNX_TIMEOUT)
    param, weights = folder / "m.ncnn.param", folder / "m.ncnn.bin"
    if done.returncode or not param.exists():
        raise RuntimeError(f"pnnx ended with {done.returncode}: {done.stdout.decode(errors='replace')[-200:]}")
    return param, weights


class Net:
    """A pair loaded through the Python binding."""

    def __init__(self, param: Path, weights: Path, threads: int) -> None:
        import ncnn

        self.ncnn, self.net = ncnn, ncnn.Net()
        self.net.opt.num_threads = threads
        if self.net.load_param(str(param)) or self.net.load_model(str(weights)):
            raise RuntimeError(f"ncnn cannot load {param}")
        self.outputs = sorted(self.net.output_names())

    def __call__(self, image: Array) -> list[Array]:
        """(3, H, W) → outputs."""
        extractor = self.net.create_extractor()
        if extractor.input("in0", self.ncnn.Mat(image).clone()):
            raise RuntimeError("input failed")
        results = []
        for name in self.outputs:
            code, mat = extractor.extract(name)
            if code:
                raise RuntimeError(f"extracting {name} failed with {code}")
            results.append(np.array(mat))
        return results


def measure(nets: dict[str, Net], image: Array, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds per call, per net and round."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in nets}
    rng = random.Random(0)
    for _ in range(rounds):
        order = list(nets)
        rng.shuffle(order)
        for name in order:
            nets[name](image)
            start = clock()
            nets[name](image)
            times[name].append(clock() - start)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    """First quartile, median and third quartile of the per-round ratios."""
    ratios = np.asarray(times[one]) / np.asarray(times[other])
    return [round(float(value), 4) for value in np.percentile(ratios, (25, 50, 75))]


def worst(found: list[Array], wanted: list[Array]) -> float | str:
    """Largest difference over the reference's standard deviation; outputs are matched by size."""
    if sorted(a.size for a in found) != sorted(a.size for a in wanted):
        return "other outputs"
    pairs = zip(sorted(found, key=lambda a: a.size), sorted(wanted, key=lambda a: a.size), strict=True)
    return max(float(np.abs(a.reshape(-1) - b.reshape(-1)).max() / (b.std() or 1)) for a, b in pairs)


def bench(file: Path, pnnx: str, rounds: int, threads: int) -> dict[str, Any]:
    """One model's row."""
    model = Model.from_onnx(onnx.load(file))
    row: dict[str, Any] = {"model": file.stem, "threads": threads}
    with tempfile.TemporaryDirectory() as place:
        ours, theirs = Path(place, "ours"), Path(place, "pnnx")
        ours.mkdir()
        theirs.mkdir()
        start = time.perf_counter()
        pair = convert_ours(model, ours)
        row["ours_s"] = round(time.perf_counter() - start, 3)
        converted = emit_ncnn(model)
        (port,) = converted.inputs.values()
        image = np.random.default_rng(0).random(port.dims, dtype=np.float32)
        names = [output.onnx for output in converted.outputs.values()]
        wanted = list(run_tensors(model, names, {port.onnx: image[None]}).values())
        nets = {"ours": Net(*pair, threads), "control": Net(*pair, threads)}
        row["ours_error"] = worst(nets["ours"](image), wanted)
        try:
            start = time.perf_counter()
            other = convert_pnnx(pnnx, file, port.shape, theirs)
            row["pnnx_s"] = round(time.perf_counter() - start, 3)
            nets["pnnx"] = Net(*other, threads)
            row["pnnx_error"] = worst(nets["pnnx"](image), wanted)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            nets.pop("pnnx", None)
            row["pnnx_failed"] = str(error)[-160:]
        flush_denormals()
        times = measure(nets, image, rounds, threads)
        row["ours_ms"] = round(1e3 * float(np.median(times["ours"])), 3)
        row["control"] = ratio(times, "control", "ours")
        if "pnnx" in nets:
            row["pnnx_ms"] = round(1e3 * float(np.median(times["pnnx"])), 3)
            row["ours/pnnx"] = ratio(times, "ours", "pnnx")
    return row


def flush_denormals() -> None:
    """Set the processor's flush-to-zero flags for this thread. Creating an onnxruntime session clears them."""
    import torch

    torch.set_flush_denormal(True)


def isolated(file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One model in a process of its own: a file of pnnx's can crash ncnn."""
    command = [sys.executable, __file__, "--pnnx", arguments.pnnx, "--rounds", str(arguments.rounds)]
    command += ["--threads", str(arguments.threads), "--one", str(file)]
    done = subprocess.run(command, capture_output=True, timeout=1800)
    lines = done.stdout.decode().strip().splitlines()
    if done.returncode or not lines:
        return {"model": file.stem, "failed": f"exit {done.returncode}: {done.stderr.decode()[-300:]}"}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def zoo_files(names: list[str], size: int) -> list[Path]:
    """Exports of the test zoo at full nano width, BatchNorm folded."""
    from tests import zoo

    folder = Path(tempfile.mkdtemp(prefix="ncnn-bench-"))
    chosen = [name for name in zoo.NAMES if name in names or names == ["all"]]
    files = []
    for name in chosen:
        files.append(folder / f"{name}.onnx")
        files[-1].write_bytes(zoo.onnx_bytes(name, nc=80, width=1.0, size=size, fold=True))
    return files


def installed_mb(name: str) -> float:
    """Size of an installed distribution's files, in MB."""
    files = distribution(name).files or []
    return sum(Path(str(file.locate())).stat().st_size for file in files if Path(str(file.locate())).is_file()) / 1e6


def as_markdown(rows: list[dict[str, Any]], pnnx: str) -> str:
    """The table, then what pnnx cannot convert or gets wrong."""
    both = [row for row in rows if "ours/pnnx" in row]
    seconds = [float(np.median([row[key] for row in both])) for key in ("ours_s", "pnnx_s")]
    own = sum(file.stat().st_size for file in Path(onnxslim_yolo.__file__).parent.rglob("*.py")) / 1e6
    sizes = f"{own:.1f} MB of Python (runs on onnx, {installed_mb('onnx'):.0f} MB)"
    lines = [
        "# ncnn files: ours against pnnx's",
        "",
        "The same ONNX file through both, fp16 weights; both files and a second copy of ours interleaved in one",
        "process (`python bench/ncnn_vs_pnnx.py`). Ratios are medians of the rounds with their quartiles. Where 1 lies",
        "between a row's quartiles, or its ratio between the control's, there is no difference that this measurement",
        "shows. Errors are the worst element over the output's spread, from onnxruntime in single precision: what fp16",
        "weights cost on these random ones.",
        "",
        f"Converting takes {seconds[0]:.2f} s here, {seconds[1]:.2f} s in pnnx (median). To install: {sizes}; pnnx "
        f"{Path(pnnx).resolve().stat().st_size / 1e6:.0f} MB.",
        "",
        "| model | threads | ours, ms | ours / pnnx | quartiles | control | error, ours | error, pnnx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in both:
        low, middle, high = row["ours/pnnx"]
        errors = (row["ours_error"], row["pnnx_error"])
        cells = [row["model"], row["threads"], f"{row['ours_ms']:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        cells += ["{0:.2f} to {2:.2f}".format(*row["control"])]
        cells += [f"{each:.1e}" if isinstance(each, float) else each for each in errors]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    ratios = [row["ours/pnnx"][1] for row in both]
    lines += [
        "",
        f"Median over {len(both)} rows: {np.median(ratios):.3f}. Error: worst element over the output's spread.",
    ]
    failed = {row["model"]: row["pnnx_failed"] for row in rows if "pnnx_failed" in row}
    lines += ["", "pnnx's file does not run:", ""]
    lines += [f"* {name}: {why.strip().splitlines()[-1].split('/')[0].strip()}" for name, why in failed.items()]
    refused = [row["model"] for row in rows if "failed" in row]
    lines += ["", f"Refused here, before anything is written: {', '.join(dict.fromkeys(refused)) or 'none'}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--zoo", nargs="*", default=[])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--pnnx", required=True)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="write results/ncnn_vs_pnnx.md from these --json files")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        if arguments.threads == 1:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # choose with taskset
        print(json.dumps(bench(arguments.one, arguments.pnnx, arguments.rounds, arguments.threads)))
        return
    if arguments.table:
        rows = [row for path in arguments.table for row in json.loads(path.read_text())]
        (RESULTS / "ncnn_vs_pnnx.md").write_text(as_markdown(rows, arguments.pnnx), encoding="utf-8")
        return
    rows = []
    for file in [*arguments.models, *zoo_files(arguments.zoo, arguments.size)]:
        rows.append(isolated(file, arguments))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
