"""An ONNX file, simplified by OnnxSlim and by onnxsim. Run by `table_c.py`, in an environment with these two:

    VENV/bin/python bench/peers_simplify.py MODEL.onnx FOLDER

Writes FOLDER/onnxslim.onnx and FOLDER/onnxsim.onnx, and prints a JSON object {file's stem: CPU seconds, or the error}.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx


def slim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(proto)


def simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    model, equal = onnxsim.simplify(proto)
    if not equal:
        raise RuntimeError("onnxsim's own check found other outputs")
    return model


TOOLS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"onnxslim": slim, "onnxsim": simplify}


def main() -> None:
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    found: dict[str, float | str] = {}
    for name, tool in TOOLS.items():
        with contextlib.redirect_stdout(sys.stderr):
            try:
                proto = onnx.load(file)
                start = time.process_time()
                result = tool(proto)
                found[name] = time.process_time() - start
                onnx.save(result, folder / f"{name}.onnx")
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
