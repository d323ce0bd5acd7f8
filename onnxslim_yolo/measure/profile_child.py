"""The process that measures single layers: a script of its own, pinned, denormals flushed, without this package.

Reads one JSON request a line from stdin and answers each with one line `{"us": [µs or null, …]}`:

* `{"runtime": "ncnn", "threads": 1, "nets": [{"param": text, "weights": [[count, kind], …],
  "inputs": [[c, h, w], …]}]}`
* `{"runtime": "onnxruntime", "threads": 1, "model": path, "count": n}`: a model of n independent layers whose nodes are
  named `L0_…` to `L(n-1)_…`.
* `{"runtime": …, "threads": 1, "whole": {"param": path, "bin": path} or {"model": path}, "inputs": [[c, h, w]]}`: a
  whole network.

ncnn: the blobs before the layer are extracted first, in the packed layout the layer wants, by a ReLU in front of it;
timed is the extraction of the layer's own blob, not converted for the caller. onnxruntime: its profiler's kernel times;
what it inserts to convert layouts between the graph's inputs and the layer is not counted.

Before each repetition more memory is written than the second-level cache holds: in a network, a layer's weights and
output are not in the cache either, while its input has just been written. Noise only ever adds time, so the low third
of the repetitions is averaged.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEWEST, MOST, ENOUGH = 6, 16, 3e-3
"""Repetitions of one layer: at least, at most, and seconds in sum that suffice."""

FLUSHED = 3 << 20
"""Bytes written between repetitions: above the second-level cache of common cores (0.25 to 2 MB)."""

CODES, SCALES = 2, 3
TAG_INT8 = 0x000D4B38

_MXCSR_WORD, _MXCSR_BITS = 7, 0x8040  # glibc's fenv_t on x86-64: 28 bytes of x87 state, then MXCSR; FTZ | DAZ
_FPCR_WORD, _FPCR_BITS = 0, 1 << 24  # glibc's fenv_t on aarch64: FPCR, FPSR; FZ


def main() -> None:
    """Answer every request."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the runtimes print goes to stderr
    for line in sys.stdin:
        request = json.loads(line)
        pin(request["threads"])
        flush_denormals()
        times = (WHOLE if "whole" in request else MEASURE)[request["runtime"]](request)
        print(json.dumps({"us": times}), file=channel, flush=True)


def pin(threads: int) -> None:
    """Keep this process on as many cores as it has threads, the highest-numbered ones, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def flush_denormals() -> None:
    """Flush denormals to zero in this thread and those it starts, where the platform allows."""
    places = {"x86_64": (_MXCSR_WORD, _MXCSR_BITS), "aarch64": (_FPCR_WORD, _FPCR_BITS)}
    place = places.get(platform.machine())
    if sys.platform == "linux" and place is not None and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        state = (ctypes.c_uint32 * 16)()
        library.fegetenv(state)
        state[place[0]] |= place[1]
        library.fesetenv(state)


def low(seconds: list[float]) -> float:
    """The mean of the lowest third, in microseconds."""
    ordered = sorted(seconds)[: max(1, len(seconds) // 3)]
    return 1e6 * sum(ordered) / len(ordered)


def measure_ncnn(request: dict[str, Any]) -> list[float | None]:
    """µs per network; null where ncnn refuses it."""
    clock = time.thread_time if request["threads"] == 1 else time.perf_counter
    return [one_ncnn(net, request["threads"], clock) for net in request["nets"]]


def one_ncnn(spec: dict[str, Any], threads: int, clock: Callable[[], float]) -> float | None:
    """µs of the blob `out`, given the blobs `pre0`, `pre1` … that are computed from the inputs."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(spec["param"])
        with weights.open("wb") as stream:
            for count, kind in spec["weights"]:
                stream.write(weights_of(random, count, kind))
        if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
            return None
    arrays = [random.random(shape, dtype=np.float32) for shape in spec["inputs"]]
    mats = [ncnn.Mat(array).clone() for array in arrays]
    others = np.zeros(FLUSHED // 4, np.float32)
    seconds: list[float] = []
    total = 0.0
    while len(seconds) < FEWEST or (total < ENOUGH and len(seconds) < MOST):
        others += 1
        extractor = net.create_extractor()
        for index, mat in enumerate(mats):
            extractor.input(f"in{index}", mat)
        idle = 0.0
        for index in range(len(mats)):
            extractor.extract(f"pre{index}", 1)
            start = clock()
            extractor.extract(f"pre{index}", 1)  # there already: what a call costs
            idle = clock() - start
        start = clock()
        code, result = extractor.extract("out", 1)
        seconds.append(max(clock() - start - idle, 0.0))
        if code != 0 or result.empty():
            return None
        del result
        total += seconds[-1]
    return low(seconds[1:])


def weights_of(random: Any, count: int, kind: int) -> bytes:
    """Weights as ncnn reads them. kind: 0 floats, 1 floats behind a tag, 2 codes behind theirs, 3 scales of codes."""
    if kind == CODES:
        codes: bytes = random.integers(-127, 128, count, "i1").tobytes()
        return TAG_INT8.to_bytes(4, "little") + codes + bytes(-count % 4)
    if kind == SCALES:
        scales: bytes = random.uniform(50, 150, count).astype("<f4").tobytes()
        return scales
    floats: bytes = random.normal(0, 0.1, count).astype("<f4").tobytes()
    return (b"\0\0\0\0" if kind else b"") + floats


def measure_onnxruntime(request: dict[str, Any]) -> list[float | None]:
    """µs per layer of the model."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.enable_profiling = True
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
        flush_denormals()
        feeds = {i.name: random.random(i.shape, dtype=np.float32) for i in session.get_inputs()}
        for _ in range(2 * FEWEST):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kernels.setdefault(event["name"], []).append(event["dur"] / 1e6)
    times: list[float | None] = [None] * request["count"]
    for name, seconds in kernels.items():
        found = re.match(r"L(\d+)_", name)
        if found:
            index = int(found[1])
            times[index] = (times[index] or 0.0) + low(seconds[1:])
    return times


def whole_ncnn(request: dict[str, Any]) -> list[float | None]:
    """µs of a network with its defaults."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = request["threads"]
    net.opt.use_vulkan_compute = False
    if net.load_param(request["whole"]["param"]) != 0 or net.load_model(request["whole"]["bin"]) != 0:
        return [None]
    arrays = [np.random.default_rng(0).random(shape, dtype=np.float32) for shape in request["inputs"]]
    mats = [ncnn.Mat(array).clone() for array in arrays]
    outputs = list(net.output_names())

    def call() -> object:
        extractor = net.create_extractor()
        for name, mat in zip(net.input_names(), mats):  # noqa: B905 (as many as the network has)
            extractor.input(name, mat)
        return [extractor.extract(name) for name in outputs]

    return [repeat(call, request["threads"])]


def whole_onnxruntime(request: dict[str, Any]) -> list[float | None]:
    """µs of a model."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ort.InferenceSession(request["whole"]["model"], options, providers=["CPUExecutionProvider"])
    flush_denormals()
    random = np.random.default_rng(0)
    feeds = {
        i.name: random.random([1, *shape], dtype=np.float32)
        for i, shape in zip(session.get_inputs(), request["inputs"])  # noqa: B905 (as many as the model has)
    }
    return [repeat(lambda: session.run(None, feeds), request["threads"])]


def repeat(call: Callable[[], object], threads: int) -> float:
    """µs of a call, after two that warm it up."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = []
    for _ in range(MOST):
        start = clock()
        call()
        seconds.append(clock() - start)
    return low(seconds[2:])


WHOLE: dict[str, Callable[[dict[str, Any]], list[float | None]]] = {
    "ncnn": whole_ncnn,
    "onnxruntime": whole_onnxruntime,
}
MEASURE: dict[str, Callable[[dict[str, Any]], list[float | None]]] = {
    "ncnn": measure_ncnn,
    "onnxruntime": measure_onnxruntime,
}

if __name__ == "__main__":
    main()
