"""Trace a checkpoint in a child process, and check the graph here, where torch is not imported.

torch takes 250 MB to import, and its exporter holds every weight several times. None of that is needed once the graph
is there, and only the end of a process gives it all back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxslim_yolo import errors
from onnxslim_yolo.analysis.limits import BY_WEIGHTS, Asked
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.trace_check import check_outputs
from onnxslim_yolo.load.trace_child import GRAPH, PROOF
from onnxslim_yolo.runtime.children import Child, file_name
from onnxslim_yolo.runtime.progress import tell

CHILD = Path(__file__).with_name("trace_child.py")


def is_apart() -> bool:
    """Whether tracing is worth a process: not where torch is imported already, classes registered in it perhaps."""
    return "torch" not in sys.modules


def trace_apart(
    path: Path,
    *,
    imgsz: tuple[int, int] | None = None,
    head: str = "decoded",
    weights: Path | None = None,
    trust: bool = False,
    asked: Asked = BY_WEIGHTS,
    referenced: bool = False,
    towers: str = "file",
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """As `trace_checkpoint`, in a process of its own. Raises what that raises."""
    request = {
        "path": file_name(path),
        "imgsz": imgsz,
        "head": head,
        "weights": None if weights is None else file_name(weights),
        "trust": trust,
        "limits": asdict(asked),
        "referenced": referenced,
        "towers": towers,
    }
    names = {file_name(each): str(each) for each in (path, weights) if each is not None}
    child = Child(CHILD, environment={"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        reply = _ask(child, request, path)
        if "bug" in reply:
            raise RuntimeError(reply["traceback"])
        if "error" in reply:
            raise _rebuilt(reply["error"], names) from RuntimeError(reply["traceback"])
        proto = onnx.load(str(child.folder / GRAPH))
        proof = _proof(child.folder / PROOF)
    finally:
        child.close()
    try:
        if proof:
            check_outputs(proto, *proof)
    except OnnxSlimError as error:
        raise type(error)(error.message, file=path, node=error.node, hint=error.hint) from error
    return proto, tuple(reply["notes"])


def _proof(file: Path) -> tuple[Array, list[Array]] | None:
    """Images, and what torch computed of them."""
    if not file.exists():
        return None
    with np.load(file) as proof:
        return proof["images"], [proof[f"output{i}"] for i in range(len(proof.files) - 1)]


def _ask(child: Child, request: dict[str, Any], path: Path) -> dict[str, Any]:
    line = child.ask(request)
    reply: dict[str, Any] = json.loads(line or b"{}")
    while "what" in reply:
        tell(reply["what"], reply["done"], reply["total"])
        line = child.stdout.readline()
        reply = json.loads(line or b"{}")
    if not line:
        code = child.process.wait()
        raise InputError(
            f"the process that reads and traces it ended without an answer (status {code})",
            file=path,
            hint="is there memory enough? a smaller --imgsz needs less",
        )
    return reply


def _rebuilt(parts: dict[str, Any], names: dict[str, str]) -> OnnxSlimError:
    """The child's error, naming the file as it was given."""
    kind: type[OnnxSlimError] = getattr(errors, parts["kind"], InputError)
    file = parts["file"]
    return kind(parts["message"], file=names.get(file, file), node=parts["node"], hint=parts["hint"])
