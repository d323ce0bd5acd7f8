"""Ask a process of its own for latencies: runtimes crash, and a crash costs one layer, not the table."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.errors import UnsupportedError, VerificationError
from onnxslim_yolo.ir.graph import copy_graph
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.layers import LayerKey
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.measure.networks import ncnn_network, onnx_network
from onnxslim_yolo.quantisation.plan import Quantisation
from onnxslim_yolo.runtime.boards import Board
from onnxslim_yolo.runtime.children import Child
from onnxslim_yolo.runtime.launchers import LaunchedChild, start
from onnxslim_yolo.runtime.packages import require_ncnn
from onnxslim_yolo.runtime.replies import GarbledError, reply_of

CHILD = Path(__file__).with_name("profile_child.py")
MOST_REFUSED = 100


class Measurer:
    """A measuring process, started again when a layer crashes it. Use as a context manager."""

    def __init__(self, runtime: Runtime, threads: int, timeout: float = 60.0, run_on: str | None = None) -> None:
        if runtime == "ncnn" and run_on is None:
            require_ncnn("--target onnxruntime")
        self._runtime, self._threads, self._timeout, self._run_on = runtime, threads, timeout, run_on
        self._child: Child | LaunchedChild | None = None
        self._folder = tempfile.TemporaryDirectory()
        self.refused: list[LayerKey] = []

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        """µs per layer; a batch that crashes the process is tried again layer by layer."""
        request: dict[str, object] = {"runtime": self._runtime, "threads": self._threads}
        if self._runtime == "ncnn":
            request["nets"] = [ncnn_network(key).as_json() for key in keys]
        else:
            path = onnx_network(keys, Path(self._folder.name) / "layers.onnx")
            request |= {"model": path, "count": len(keys)}
        try:
            return self._ask(request)
        except (EOFError, BrokenPipeError) as error:
            self._stop()
            if len(keys) > 1:
                return [self([key])[0] for key in keys]
            if len(self.refused) < MOST_REFUSED:
                self.refused.append(keys[0])
                return [None]
            raise VerificationError("the measuring process crashes at every layer") from error

    def whole(self, graph: gs.Graph, quantised: Quantisation | None = None) -> float | None:
        """µs of a graph as it is, what is quantised of it in int8; None where the runtime cannot run it."""
        shapes = concrete_shapes(graph)
        inputs = [shapes[id(tensor)] for tensor in graph.inputs]
        if any(shape is None or len(shape) != 4 for shape in inputs):
            return None
        folder = Path(self._folder.name)
        model = Model(graph=copy_graph(graph), quantised=quantised)
        try:
            files = self._files(model, folder)
            request = {"runtime": self._runtime, "threads": self._threads, "whole": files}
            return self._ask({**request, "inputs": [list(shape[1:]) for shape in inputs if shape is not None]})[0]
        except (UnsupportedError, EOFError, BrokenPipeError):
            self._stop()
            return None

    def board(self) -> Board | None:
        """What the launched Python is; None where this machine is measured. Starts the process."""
        child = self._child or self._start()
        return child.board if isinstance(child, LaunchedChild) else None

    def _files(self, model: Model, folder: Path) -> dict[str, Path]:
        if self._runtime == "onnxruntime":
            return {"model": write_onnx(model, folder / "whole.onnx")}
        from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
        from onnxslim_yolo.emit.ncnn.write import write_pair

        param, weights = write_pair(emit_ncnn(model), folder)
        return {"param": param, "bin": weights}

    def _ask(self, request: dict[str, object]) -> list[float | None]:
        child = self._child or self._start()
        timer = threading.Timer(self._timeout, child.kill)
        timer.start()
        try:
            child.stdin.write(json.dumps(_sent(child, request)) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            if isinstance(child, LaunchedChild) and (lost := child.lost("measuring")) is not None:
                raise lost
            raise EOFError
        times: list[float | None] = reply_of(line, {"us": [(float, None)]})["us"]
        nets = request.get("nets", [None])
        if len(times) != request.get("count", len(nets) if isinstance(nets, list) else 1):
            raise GarbledError
        return times

    def _start(self) -> Child | LaunchedChild:
        from onnxslim_yolo.measure.benchmark import environment_of

        environment = environment_of(self._threads)
        self._child = start(CHILD, self._run_on, environment=environment, text=True, stderr=subprocess.DEVNULL)
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _sent(child: Child | LaunchedChild, value: object) -> object:
    """A request with its files as the child reads them."""
    if isinstance(value, dict):
        return {key: _sent(child, item) for key, item in value.items()}
    return child.file(value) if isinstance(value, Path) else value
