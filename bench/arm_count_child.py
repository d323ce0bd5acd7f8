"""Counts instructions of ncnn's layers and networks: runs in an emulated Python whose qemu has arm_counter's plugin.

Reads a line of JSON for each network: `{"param": text, "weights": [[count, kind], …], "inputs": [[c, h, w], …],
"half": bool, "bf16": bool, "times": 2}` for one layer, with weights of 0, as `measure/profile_child.py` has it, or
`{"files": {"param", "bin"}, …}` for a whole network; an empty "bin" stands for weights of 0, as ncnn's benchmark has
them. Answers `{"counts": [six numbers] or null}`; to a request with "blobs", a list of such: what each blob takes after
those before it. The file that the plugin writes is named by $ARM_COUNTS.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

MARK = 5000
COUNTS = os.environ["ARM_COUNTS"]
TIMES = 2
CODES, SCALES = 2, 3
TAG_INT8 = 0x000D4B38


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps({"counts": counted(json.loads(line))}), file=channel, flush=True)


def counted(request: dict[str, Any]) -> list[Any] | None:
    """Instructions of one run by class; of several runs the fewest in sum."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
    if not request.get("half", True):
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(net.opt, name, False)
    net.opt.use_bf16_storage = bool(request.get("bf16"))
    random = np.random.default_rng(0)
    if "files" in request:
        weights = request["files"]["bin"] or ncnn.DataReaderFromEmpty()
        if net.load_param(request["files"]["param"]) or net.load_model(weights):
            return None
    else:
        with tempfile.TemporaryDirectory() as folder:
            param = Path(folder) / "net.param"
            param.write_text(request["param"])
            (Path(folder) / "net.bin").write_bytes(b"".join(weights_of(*each) for each in request["weights"]))
            if net.load_param(str(param)) or net.load_model(str(Path(folder) / "net.bin")):
                return None
    arrays = [random.random(shape, dtype=np.float32) for shape in request["inputs"]]
    mats = [ncnn.Mat(array).clone() for array in arrays]
    if "blobs" in request:
        return by_blob(net, mats, request["blobs"])
    runs = [whole(net, mats) if "files" in request else layer(net, mats) for _ in range(request.get("times", TIMES))]
    return None if None in runs else min(runs, key=sum)


def weights_of(count: int, kind: int) -> bytes:
    """Weights of 0 as ncnn reads them, kinds as `measure/profile_child.py` has them."""
    if kind == CODES:
        return TAG_INT8.to_bytes(4, "little") + bytes(count + -count % 4)
    if kind == SCALES:
        return struct.pack("<f", 100.0) * count
    return bytes(4 * (kind > 0) + 4 * count)


def layer(net: Any, mats: list[Any]) -> list[int] | None:
    extractor = net.create_extractor()
    for index, mat in enumerate(mats):
        extractor.input(f"in{index}", mat)
    for index in range(len(mats)):
        extractor.extract(f"pre{index}", 1)
    before = seen()
    mark()
    extractor.extract("pre0", 1)  # there already: what a call costs
    mark()
    code, result = extractor.extract("out", 1)
    mark()
    if code or result.empty():
        return None
    first, second, third = read(before)
    return [max(0, (c - b) - (b - a)) for a, b, c in zip(first, second, third)]  # noqa: B905 (six each)


def whole(net: Any, mats: list[Any]) -> list[int] | None:
    extractor = net.create_extractor()
    before = seen()
    mark()
    for name, mat in zip(net.input_names(), mats):  # noqa: B905 (as many as there are)
        extractor.input(name, mat)
    codes = [extractor.extract(name)[0] for name in net.output_names()]
    mark()
    first, second = read(before)
    return None if any(codes) else [b - a for a, b in zip(first, second)]  # noqa: B905 (six each)


def by_blob(net: Any, mats: list[Any], blobs: list[str]) -> list[list[int]] | None:
    extractor = net.create_extractor()
    for name, mat in zip(net.input_names(), mats):  # noqa: B905 (as many as there are)
        extractor.input(name, mat)
    before = seen()
    mark()
    for blob in blobs:
        code = extractor.extract(blob, 1)[0]  # as it lies, and let go of: what follows may work in place
        mark()
        extractor.extract(blob, 1)  # there already: what a call costs
        mark()
        if code:
            break
    lines = read(before)
    return [
        [max(0, (b - a) - (c - b)) for a, b, c in zip(*three)]  # noqa: B905 (six each)
        for three in zip(lines[::2], lines[1::2], lines[2::2])  # noqa: B905 (one after the last)
    ]


def mark() -> None:
    _syscall(MARK)


_syscall = ctypes.CDLL(None).syscall


def seen() -> int:
    return os.path.getsize(COUNTS)  # noqa: PTH202 (few instructions)


def read(start: int) -> list[list[int]]:
    with Path(COUNTS).open() as stream:
        stream.seek(start)
        return [[int(word) for word in line.split()] for line in stream]


if __name__ == "__main__":
    main()
