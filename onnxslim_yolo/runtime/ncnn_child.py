"""The child process that runs ncnn: a script of its own, so that a crash of the C++ loader takes nobody with it.

Needs nothing of this package. Talks over stdin and stdout: one line of JSON, followed by the raw float32 data it
announces. Requests: `load` (param, bin, threads, arithmetic), `run` (inputs with name and shape, outputs to extract).
Replies: `{"ok": true, …}` or `{"ok": false, "message": …}`.
"""

from __future__ import annotations

import json
import os
import sys
from math import prod
from typing import Any, BinaryIO


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until stdin ends."""
    import ncnn

    net: Any = None
    while line := requests.readline():
        request = json.loads(line)
        try:
            if request["do"] == "load":
                net = load(ncnn, request)
                reply(replies, {"ok": True, "inputs": list(net.input_names()), "outputs": list(net.output_names())})
            else:
                run(ncnn, net, request, requests, replies)
        except _FailedError as failure:
            reply(replies, {"ok": False, "message": str(failure)})


class _FailedError(Exception):
    """ncnn answered with an error code."""


def load(ncnn: Any, request: dict[str, Any]) -> Any:
    """A network; with `exact`, without Winograd convolutions.

    `arithmetic`: "default" (ncnn's own choice), "fp32"; "fp16" or "bf16" where there are such instructions.
    """
    net = ncnn.Net()
    net.opt.num_threads = request["threads"]
    net.opt.use_vulkan_compute = False
    if request["arithmetic"] != "default":
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(net.opt, name, request["arithmetic"] == "fp16")
        net.opt.use_bf16_storage = request["arithmetic"] == "bf16"
    net.opt.use_winograd_convolution = not request["exact"]
    code = net.load_param(request["param"])
    if code != 0:
        raise _FailedError(f"loading the .param failed with code {code}")
    code = net.load_model(request["bin"])
    if code != 0:
        raise _FailedError(f"loading the .bin failed with code {code}")
    return net


def run(ncnn: Any, net: Any, request: dict[str, Any], requests: BinaryIO, replies: BinaryIO) -> None:
    """Feed every input, extract every output asked for, check every code."""
    import numpy as np

    arrays: list[Any] = []
    for each in request["inputs"]:
        data = requests.read(4 * prod(each["shape"]))
        arrays.append(np.frombuffer(data, np.float32).reshape(each["shape"]).copy())
    extractor = net.create_extractor()
    extractor.set_light_mode(request["light"])
    for each, array in zip(request["inputs"], arrays):  # noqa: B905 (one array per input, just read)
        code = extractor.input(each["name"], ncnn.Mat(array).clone())
        if code != 0:
            raise _FailedError(f"feeding '{each['name']}' failed with code {code}")
    results: list[tuple[str, Any]] = []
    for name in request["outputs"]:
        code, mat = extractor.extract(name)
        if code != 0:
            raise _FailedError(f"extracting '{name}' failed with code {code}")
        empty = mat.empty() if hasattr(mat, "empty") else mat.total() == 0
        array = np.zeros(0, np.float32) if empty else np.ascontiguousarray(np.array(mat), np.float32)
        results.append((name, array))
    reply(replies, {"ok": True, "outputs": [{"name": name, "shape": list(array.shape)} for name, array in results]})
    for _, array in results:
        replies.write(array.tobytes())
    replies.flush()


def reply(replies: BinaryIO, message: dict[str, Any]) -> None:
    """One line of JSON."""
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever ncnn prints goes to stderr, not between our replies
    serve(sys.stdin.buffer, channel)
