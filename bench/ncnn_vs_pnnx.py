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
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn import emit_ncnn
from onnxslim_yolo.emit.ncnn_write import write_pair
from onnxslim_yolo.graph import Array, Model
from onnxslim_yolo.verify.ncnn_compare import run_tensors

PNNX_TIMEOUT = 300


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--zoo", nargs="*", default=[])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--pnnx", required=True)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        if arguments.threads == 1:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # choose with taskset
        print(json.dumps(bench(arguments.one, arguments.pnnx, arguments.rounds, arguments.threads)))
        return
    rows = []
    for file in [*arguments.models, *zoo_files(arguments.zoo, arguments.size)]:
        rows.append(isolated(file, arguments))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
