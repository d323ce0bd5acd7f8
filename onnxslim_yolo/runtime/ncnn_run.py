"""Run an ncnn pair in a child process with a time limit: ncnn's loader and binding crash on what they do not like."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from onnxslim_yolo.analysis.limits import held_to, pair_memory
from onnxslim_yolo.errors import InputError, OnnxSlimError, VerificationError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.boards import Board
from onnxslim_yolo.runtime.launchers import LaunchedChild, start
from onnxslim_yolo.runtime.ncnn_reader import NcnnLayer, NcnnNet, read_ncnn
from onnxslim_yolo.runtime.packages import require_ncnn
from onnxslim_yolo.runtime.replies import blob_size, reply_of, require

CHILD = Path(__file__).with_name("ncnn_child.py")
DEFAULT_TIMEOUT = 120.0
Arithmetic = Literal["default", "fp32", "fp16", "bf16"]
"""What ncnn computes in. "default" is its own choice, which is fp16 where the processor has such instructions."""
LOG_CHARACTERS = 400
_REPLIES: dict[str, Any] = {
    "load": {"inputs": [str], "outputs": [str]},
    "run": {"outputs": [{"name": str, "shape": [int]}]},
}


class NcnnSession:
    """A child process with a loaded network. Use as a context manager, or call `close`.

    Args:
        param: the `.param` file.
        weights: the `.bin` file.
        threads: ncnn's threads.
        timeout: seconds that loading, and each run, may take.
        arithmetic: what ncnn computes in, where the processor can.
        exact: no Winograd convolutions, whose rounding is about five times that of plain ones.
        run_on: a command that starts the Python to run it in (see `launchers`); None: this machine's.
        memory: bytes that the child may take for the model; None: any.

    Raises:
        VerificationError: ncnn refused the files, crashed, or took too long.
        UsageError: the launcher starts no Python that will do, or goes away; or there is no ncnn here.
    """

    def __init__(
        self,
        param: Path,
        weights: Path,
        *,
        threads: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        arithmetic: Arithmetic = "fp32",
        exact: bool = False,
        run_on: str | None = None,
        memory: float | None = None,
    ) -> None:
        if run_on is None:
            require_ncnn()
        self._timeout, self._memory = timeout, memory
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        try:
            threads_of = {"OMP_NUM_THREADS": str(threads)}
            self._child = start(CHILD, run_on, environment=threads_of, stderr=self._log, memory=memory)
        except BaseException:
            self._log.close()
            raise
        self._options = {"threads": threads, "arithmetic": arithmetic, "exact": exact}
        self.board: Board | None = self._child.board if isinstance(self._child, LaunchedChild) else None
        try:
            self.load(param, weights)
        except BaseException:
            self.close()
            raise

    def load(self, param: Path, weights: Path) -> None:
        """Load another network in place of the present one, in the same child. Validate the files first."""
        self._file = param
        request = {"do": "load", **self._options}
        reply, _ = self._ask(request, [], "loading", {"param": param, "bin": weights})
        self.inputs: tuple[str, ...] = tuple(reply["inputs"])
        self.outputs: tuple[str, ...] = tuple(reply["outputs"])

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Blobs by name, as float32 arrays without a batch axis.

        Args:
            inputs: per input blob an array in ncnn's dims, e.g. (3, H, W).
            outputs: the blobs wanted, intermediate ones included; default: the network's outputs.
        """
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs.values()]
        wanted = list(self.outputs if outputs is None else outputs)
        request = {
            "do": "run",
            "inputs": [{"name": n, "shape": list(a.shape)} for n, a in zip(inputs, arrays, strict=True)],
            "outputs": wanted,
            "light": set(wanted) <= set(self.outputs),
        }
        _, results = self._ask(request, arrays, "running")
        return results

    def close(self) -> None:
        """End the child."""
        self._child.close()
        self._log.close()

    def __enter__(self) -> NcnnSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, ValueError, OSError):
            self.close()

    def _ask(
        self, request: dict[str, Any], arrays: list[Array], doing: str, files: Mapping[str, Path] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(self._timeout, stop)
        timer.start()
        try:
            sent = {key: self._child.file(path) for key, path in (files or {}).items()}
            reply, results = self._exchange(request | sent, arrays)
        except (OSError, EOFError) as error:
            raise self._obituary(doing, late.is_set()) from error
        finally:
            timer.cancel()
        if not reply["ok"]:
            raise VerificationError(f"ncnn: {reply['message']}{self._said()}", file=self._file, hint=self._hint())
        return reply, results

    def _exchange(self, request: dict[str, Any], arrays: list[Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        sink, source = self._child.stdin, self._child.stdout
        sink.write(json.dumps(request).encode() + b"\n")
        for array in arrays:
            sink.write(array.tobytes())
        sink.flush()
        line = source.readline()
        if not line:
            raise EOFError
        reply = reply_of(line, {"ok": bool})
        require(reply, _REPLIES[request["do"]] if reply["ok"] else {"message": str})
        results: dict[str, Array] = {}
        for each in reply.get("outputs", []) if request["do"] == "run" else []:
            size = 4 * blob_size(each["shape"])
            data = source.read(size)
            if len(data) != size:
                raise EOFError
            results[each["name"]] = np.frombuffer(data, np.float32).reshape(each["shape"])
        return reply, results

    def _obituary(self, doing: str, late: bool) -> OnnxSlimError:
        if late:
            return VerificationError(f"ncnn did not finish {doing} within {self._timeout:g} s", file=self._file)
        if isinstance(self._child, LaunchedChild) and (lost := self._child.lost(doing)) is not None:
            return lost
        code = self._child.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return VerificationError(
            f"ncnn crashed while {doing} ({how}){self._said()}", file=self._file, hint=self._hint()
        )

    def _hint(self) -> str | None:
        return None if self._memory is None else held_to(self._memory)

    def _said(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").replace(">>> ", "").strip()
        return f"; it said: {text[-LOG_CHARACTERS:]}" if text else ""


def require_answer(run_on: str) -> None:
    """Raises UsageError where a launcher starts no Python that runs NCNN pairs (see `launchers`)."""
    LaunchedChild(run_on, CHILD).close()


def run_ncnn(
    param: Path,
    weights: Path,
    inputs: Sequence[Mapping[str, Array]],
    *,
    outputs: Sequence[str] | None = None,
    threads: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
    arithmetic: Arithmetic = "fp32",
    exact: bool = False,
    run_on: str | None = None,
) -> list[dict[str, Array]]:
    """Run a pair on several inputs in one child process.

    Args:
        param: the `.param` file.
        weights: the `.bin` file.
        inputs: per run, blob name → array in ncnn's dims, (3, H, W) for an image.
        outputs: the blobs wanted; default: all outputs of the network.
        threads: ncnn's threads.
        timeout: seconds for loading and for each run.
        arithmetic, exact, run_on: as for `NcnnSession`.

    Returns:
        Per run, blob name → float32 array without a batch axis.

    Raises:
        InputError: a file is malformed. VerificationError: ncnn refused it, crashed, or took too long.
    """
    read_ncnn(param, weights)
    with NcnnSession(
        param, weights, threads=threads, timeout=timeout, arithmetic=arithmetic, exact=exact, run_on=run_on
    ) as session:
        return [session.run(each, outputs) for each in inputs]


def channels_last(layer: NcnnLayer) -> bool:
    """Whether an Input layer takes an image (h, w, 3): its parameters 0, 1 and 2 are width, height and channels."""
    return layer.integer(0) == 3 and layer.integer(2) != 3


class NcnnRunner:
    """A network with one image input as a function: (1, 3, h, w) → its outputs, batch axis first.

    Args:
        path: an NCNN folder, or its `.param`.
        threads: ncnn's threads.
        arithmetic, run_on: as for `NcnnSession`.
        memory: bytes that the child may take for the model; None: by the size of its `.bin`.

    Raises:
        InputError: a file is missing or malformed, or the network has not exactly one input.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        timeout: float = DEFAULT_TIMEOUT,
        arithmetic: Arithmetic = "fp32",
        run_on: str | None = None,
        memory: float | None = None,
    ) -> None:
        self.param, self.bin = ncnn_files(path)
        self.net: NcnnNet = read_ncnn(self.param, self.bin)
        self._session = NcnnSession(
            self.param,
            self.bin,
            threads=threads,
            timeout=timeout,
            arithmetic=arithmetic,
            run_on=run_on,
            memory=pair_memory(self.bin) if memory is None else memory,
        )
        self.board = self._session.board
        self._last = any(channels_last(layer) for layer in self.net.layers if layer.type == "Input")
        if len(self._session.inputs) != 1:
            raise InputError(f"expected one input, found {len(self._session.inputs)}", file=self.param)

    def __call__(self, images: Array) -> Sequence[Array]:
        """(1, 3, h, w) → outputs in the order out0, out1, …"""
        image = np.ascontiguousarray(images[0].transpose(1, 2, 0)) if self._last else images[0]
        results = self._session.run({self._session.inputs[0]: image})
        return [results[name][None] for name in sorted(results, key=_natural)]

    def close(self) -> None:
        """End the child process."""
        self._session.close()


def ncnn_files(path: Path) -> tuple[Path, Path]:
    """The `.param` and `.bin` of a folder (`*_ncnn_model`) or of a `.param` path.

    Raises:
        InputError: one of them is missing, or the folder has several.
    """
    param = path
    if path.is_dir():
        found = sorted(path.glob("*.param"))
        preferred = path / "model.ncnn.param"
        if preferred not in found and len(found) != 1:
            raise InputError(f"expected one .param file in the folder, found {len(found)}", file=path)
        param = preferred if preferred in found else found[0]
    weights = param.with_suffix(".bin")
    for file in (param, weights):
        if not file.is_file():
            raise InputError("no such file", file=file, hint="an ncnn model is a .param and a .bin side by side")
    return param, weights


def _natural(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)
