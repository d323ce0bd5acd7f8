"""The process that traces a checkpoint: a script of its own, so that torch's memory is gone when the passes begin.

Reads one line of JSON from stdin: `path`, and the options of `trace_unchecked`. Writes `traced.onnx` and, unless the
graph is checked already, `proof.npz` into its own folder. Says how far it is in lines of `{"what": …, "done": …,
"total": …}`, and answers with one line: `{"notes": […]}`, or `{"error": …}` with the parts of an error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRAPH, PROOF = "traced.onnx", "proof.npz"


def answer(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Trace what a request names, into the working directory; `say` is told how far that is."""
    from onnxslim_yolo.errors import OnnxSlimError
    from onnxslim_yolo.runtime.progress import listening

    try:
        with listening(lambda what, done, total: say({"what": what, "done": done, "total": total})):
            return _trace(request)
    except OnnxSlimError as error:
        parts = {key: getattr(error, key) for key in ("message", "file", "node", "hint")}
        return {"error": {"kind": type(error).__name__, **parts}, "traceback": traceback.format_exc()}
    except BaseException as error:
        return {"error": None, "traceback": traceback.format_exc(), "bug": f"{type(error).__name__}: {error}"}


def _trace(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from onnxslim_yolo.analysis.limits import Asked
    from onnxslim_yolo.load.saved_module import is_saved_module
    from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint, trace_unchecked

    path, size, weights = Path(request["path"]), request["imgsz"], request["weights"]
    if is_saved_module(path):
        proto, notes = trace_checkpoint(path, towers=request["towers"])
        Path(GRAPH).write_bytes(proto.SerializeToString(deterministic=True))
        return {"notes": list(notes)}
    traced, notes = trace_unchecked(
        path,
        imgsz=None if size is None else (size[0], size[1]),
        head=request["head"],
        weights=None if weights is None else Path(weights),
        trust=request["trust"],
        asked=Asked(**request["limits"]),
        referenced=request["referenced"],
        towers=request["towers"],
    )
    arrays: dict[str, Any] = {f"output{i}": array for i, array in enumerate(traced.outputs)}
    np.savez(PROOF, images=traced.images, **arrays)
    Path(GRAPH).write_bytes(traced.proto.SerializeToString(deterministic=True))
    return {"notes": list(notes)}


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever torch prints goes to stderr, not between our replies

    def say(message: dict[str, Any]) -> None:
        """One line to who asked."""
        channel.write(json.dumps(message).encode() + b"\n")
        channel.flush()

    say(answer(json.loads(sys.stdin.buffer.readline()), say))
