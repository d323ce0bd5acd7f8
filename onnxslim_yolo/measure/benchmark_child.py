"""The process that measures: a script of its own, pinned, with denormals flushed. Needs nothing of this package.

Reads one JSON request from stdin, writes one JSON object a line to the given stream: `{"round": r}` as progress, at the
end `{"result": …}` or `{"error": …, "model": …}`.

Flushing: a network whose activations underflow runs 1.5 to 8 times slower, which says nothing about its shape. The
C library's `fesetenv` sets FTZ and DAZ (x86) or FZ (ARM) for this thread and those it starts; onnxruntime clears them
when it opens a session, so they are set once more after loading. Whether it worked is measured, not assumed.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHORTEST = 2e-3
"""Seconds that one timing takes at least: shorter networks are called several times in a row."""

Call = Callable[[], Any]
_MXCSR_WORD, _MXCSR_BITS = 7, 0x8040  # glibc's fenv_t on x86-64: 28 bytes of x87 state, then MXCSR; FTZ | DAZ
_FPCR_WORD, _FPCR_BITS = 0, 1 << 24  # glibc's fenv_t on aarch64: FPCR, FPSR; FZ


class ModelError(Exception):
    """A model cannot be run; the message says why."""


def flush_denormals() -> bool:
    """Flush denormals to zero in this thread where the platform allows; returns whether they are now flushed."""
    places = {"x86_64": (_MXCSR_WORD, _MXCSR_BITS), "aarch64": (_FPCR_WORD, _FPCR_BITS)}
    place = places.get(platform.machine())
    if sys.platform == "linux" and place is not None and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        state = (ctypes.c_uint32 * 16)()
        library.fegetenv(state)
        state[place[0]] |= place[1]
        library.fesetenv(state)
    return denormals_flushed()


def denormals_flushed() -> bool:
    """Whether a product that only a denormal could hold comes out as zero."""
    import numpy as np

    tiny = np.full(8, 1e-38, np.float32)
    return not bool((tiny * np.float32(1e-3)).any())


def main() -> None:
    """Answer the one request."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the runtimes print goes to stderr
    request = json.loads(sys.stdin.read())

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    model = ""
    try:
        cores = pin(request["threads"])
        flush_denormals()
        calls: list[Call] = []
        for entry in request["entries"]:
            model = entry["file"]
            calls.append(OPEN[entry["runtime"]](entry, request["threads"]))
        flushed = flush_denormals()
        rounds = measure(calls, request, lambda r: say({"round": r}))
        layers = []
        for entry in request["entries"] if request["layers"] else []:
            model = entry["file"]
            layers.append(LAYERS[entry["runtime"]](entry, request["threads"]))
        say({"result": {"rounds": rounds, "cores": cores, "flushed": flushed, "layers": layers}})
    except ModelError as error:
        say({"error": str(error), "model": model})


def pin(threads: int) -> list[int]:
    """Keep this process on as many cores as it has threads, the highest-numbered ones; [] where that cannot be."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


def measure(calls: list[Call], request: dict[str, Any], progress: Callable[[int], None]) -> list[list[float]]:
    """Seconds per call, [round][entry]: in random order, each after one untimed call."""
    clock = time.thread_time if request["threads"] == 1 else time.perf_counter
    repeats = [repeat_count(call, clock) for call in calls]
    shuffle = random.Random(request["seed"])
    rounds: list[list[float]] = []
    order = list(range(len(calls)))
    for number in range(request["rounds"]):
        shuffle.shuffle(order)
        seconds = [0.0] * len(calls)
        for index in order:
            call, count = calls[index], repeats[index]
            call()
            start = clock()
            for _ in range(count):
                call()
            seconds[index] = (clock() - start) / count
        rounds.append(seconds)
        progress(number + 1)
    return rounds


def repeat_count(call: Call, clock: Callable[[], float]) -> int:
    """How often to call a network in one timing. Warms it up, too."""
    call()
    start = clock()
    call()
    return max(1, min(50, round(SHORTEST / max(clock() - start, 1e-6))))


def image(entry: dict[str, Any]) -> Any:
    """(1, 3, h, w) float32, or (1, h, w, 3): smooth colours with some grain, like a photograph and unlike noise, as the
    network wants pixels."""
    import numpy as np

    generator = np.random.default_rng(0)
    height, width = entry["size"]
    coarse = generator.random((3, height // 32 + 2, width // 32 + 2), np.float32)
    y, x = np.linspace(0, coarse.shape[1] - 1.001, height), np.linspace(0, coarse.shape[2] - 1.001, width)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    rows = coarse[:, y0] * (1 - fy) + coarse[:, y0 + 1] * fy
    smooth = rows[:, :, x0] * (1 - fx) + rows[:, :, x0 + 1] * fx
    grain = generator.normal(0, 0.02, smooth.shape)
    mean, std = (np.reshape(entry.get(key, value), (-1, 1, 1)) for key, value in (("mean", 0.0), ("std", 255.0)))
    values = ((smooth + grain).clip(0, 1) * 255 - mean) / std
    placed = values.transpose(1, 2, 0) if entry.get("last") else values
    return np.ascontiguousarray(placed[None], dtype=np.float32)


def open_onnx(entry: dict[str, Any], threads: int, profile: str = "") -> Call:
    """A call of onnxruntime's session."""
    session = onnx_session(entry, threads, profile)
    first = session.get_inputs()[0]
    array = image(entry)
    kinds = {"tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(double)": "double"}
    feeds = {first.name: array.astype(kinds.get(first.type, "float32"), copy=False)}

    def call() -> Any:
        return session.run(None, feeds)

    call.session = session  # type: ignore[attr-defined]
    try:
        call()
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ModelError(f"onnxruntime: {error}") from error
    return call


def onnx_session(entry: dict[str, Any], threads: int, profile: str) -> Any:
    """A session with as many threads as asked for, which do not spin between the operators of two networks."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return ort.InferenceSession(entry.get("model", entry["file"]), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ModelError(f"onnxruntime: {error}") from error


def open_ncnn(entry: dict[str, Any], threads: int) -> Call:
    """A call of an ncnn network: feed the image, extract every output."""
    import ncnn

    net = ncnn_net(entry, threads)
    source, outputs = net.input_names()[0], list(net.output_names())
    array = image(entry)[0].copy()
    picture = ncnn.Mat(array).clone()

    def call() -> Any:
        extractor = net.create_extractor()
        extractor.input(source, picture)
        return [extractor.extract(name) for name in outputs]

    if any(code != 0 for code, _ in call()):
        raise ModelError("ncnn: extracting an output failed")
    call.keep = (net, array)  # type: ignore[attr-defined]
    return call


def ncnn_net(entry: dict[str, Any], threads: int) -> Any:
    """A loaded network with ncnn's own defaults, but the threads."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if net.load_param(entry["param"]) != 0 or net.load_model(entry["bin"]) != 0:
        raise ModelError("ncnn: the pair cannot be loaded")
    return net


def onnx_layers(entry: dict[str, Any], threads: int, runs: int = 15) -> list[dict[str, Any]]:
    """Milliseconds per node, the median over runs, from onnxruntime's own profile (of the graph it optimised)."""
    with tempfile.TemporaryDirectory() as folder:
        call = open_onnx(entry, threads, str(Path(folder) / "profile"))
        flush_denormals()
        for _ in range(runs):
            call()
        path = Path(call.session.end_profiling())  # type: ignore[attr-defined]
        events = json.loads(path.read_text())
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"][: -len("_kernel_time")], event["args"].get("op_name", ""))
            times.setdefault(key, []).append(event["dur"] / 1000)
    return [{"name": name, "type": op, "ms": median(values[1:] or values)} for (name, op), values in times.items()]


def ncnn_layers(entry: dict[str, Any], threads: int, runs: int = 9) -> list[dict[str, Any]]:
    """Milliseconds per layer, the median over runs.

    One extractor computes blob after blob. Each is extracted twice, and the second time, which only converts the
    result for the caller, is taken off the first. Layers that would work in place pay for a copy, so the sum is an
    upper bound.
    """
    import ncnn

    net = ncnn_net(entry, threads)
    flush_denormals()
    lines = [line.split() for line in Path(entry["param"]).read_text().splitlines()[2:] if line.strip()]
    array = image(entry)[0].copy()
    picture = ncnn.Mat(array).clone()
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in lines]
    for _ in range(runs):
        extractor = net.create_extractor()
        extractor.set_light_mode(False)
        extractor.input(net.input_names()[0], picture)
        for index, (_, _, inputs, outputs, *rest) in enumerate(lines):
            made = rest[int(inputs) : int(inputs) + int(outputs)]
            if not made:
                continue
            spent = []
            for _ in range(2):
                start = clock()
                if extractor.extract(made[0])[0] != 0:
                    raise ModelError(f"ncnn: extracting '{made[0]}' failed")
                spent.append(clock() - start)
            times[index].append(max(spent[0] - spent[1], 0.0) * 1000)
    return [
        {"name": line[1], "type": line[0], "ms": median(values)}
        for line, values in zip(lines, times)  # noqa: B905 (made together)
        if values and line[0] not in ("Input", "MemoryData")
    ]


def median(values: list[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


OPEN = {"onnxruntime": open_onnx, "ncnn": open_ncnn}
LAYERS = {"onnxruntime": onnx_layers, "ncnn": ncnn_layers}

if __name__ == "__main__":
    main()
