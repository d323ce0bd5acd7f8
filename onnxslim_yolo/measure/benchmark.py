"""How fast models are against each other, by a protocol whose spread is below one percent.

One child process, pinned to as many cores as threads, denormals flushed, holds all models. Each round calls them in
random order, each after one untimed call. One thread is timed by its own CPU time, which other load on the machine
hardly disturbs; more threads by wall time, which needs an idle machine. Compared are the ratios *within* a round to the
first model; reported are their medians with the quartiles. The first model is loaded a second time as a control: its
ratio says what difference means nothing.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxslim_yolo.analysis.limits import Asked, held_to, pair_memory
from onnxslim_yolo.errors import InputError, UsageError, VerificationError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.input_format import InputFormat
from onnxslim_yolo.measure.machine import cores_here, machine, machine_of, require_cores
from onnxslim_yolo.runtime.boards import Board
from onnxslim_yolo.runtime.children import Child
from onnxslim_yolo.runtime.launchers import LaunchedChild, start
from onnxslim_yolo.runtime.packages import require_ncnn
from onnxslim_yolo.runtime.progress import tell
from onnxslim_yolo.runtime.replies import GarbledError, reply_of

Runtime = Literal["onnxruntime", "ncnn"]
CHILD = Path(__file__).with_name("benchmark_child.py")
FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class LayerTime:
    """One node or layer of what the runtime ran: milliseconds, and its share of the layers' sum."""

    name: str
    type: str
    ms: float
    share: float


@dataclass(frozen=True)
class ModelTime:
    """One model's times in milliseconds, and its ratio to the first model, paired round by round (below 1: faster)."""

    name: str
    file: str
    runtime: Runtime
    size: tuple[int, int]
    ms: float
    ms_quartiles: tuple[float, float]
    ms_best: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    layers: tuple[LayerTime, ...] = ()


@dataclass(frozen=True)
class BenchResult:
    """A measurement.

    Attributes:
        models: in the order given; the first one's ratio is 1.
        control: the ratio of the first model to itself, loaded twice; `control_quartiles` likewise.
        clock: "thread-cpu" or "wall".
        rounds, threads: as asked for.
        cores: the cores the process was pinned to; empty where the system cannot.
        denormals_flushed: measured in the process, not assumed.
        seconds: [round][model] seconds per call; the control is the last column.
        machine: CPU model and versions of the runtimes.
    """

    models: tuple[ModelTime, ...]
    control: float
    control_quartiles: tuple[float, float]
    clock: str
    rounds: int
    threads: int
    cores: tuple[int, ...]
    denormals_flushed: bool
    machine: dict[str, str]
    seconds: tuple[tuple[float, ...], ...]

    @property
    def resolution(self) -> float:
        """The smallest difference of a ratio from 1 that means something, at least 2 %.

        What the control's median is off, or two standard errors of it (1.25 σ/√n, σ = IQR/1.35), if more.
        """
        low, high = self.control_quartiles
        error = 2 * 1.25 * (high - low) / 1.35 / math.sqrt(self.rounds)
        return max(0.02, abs(self.control - 1), error)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return {**asdict(self), "resolution": self.resolution}


def benchmark(
    models: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    threads: int = 1,
    rounds: int = 21,
    size: tuple[int, int] | None = None,
    form: InputFormat | None = None,
    layers: bool = False,
    asked: Asked | None = None,
    seed: int = 0,
    timeout: float = 1800.0,
    run_on: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Time models against the first of them.

    Args:
        models: ONNX files (run in onnxruntime) and NCNN folders or `.param` files (run in ncnn), mixed as you like.
        names: what to call them; the files' names by default.
        threads: threads of the runtime.
        rounds: how often each is timed; 21 or more for ratios good to half a percent.
        size: (h, w) for models whose input size is free.
        form: what the networks are fed for a pixel; None for what the files show.
        layers: also time each layer (onnxruntime's profile; in ncnn, blob by blob).
        asked: what running an ONNX graph may take, judged before it is opened, and what an NCNN pair may, held while it
            runs; None: neither.
        seed: of the order within rounds.
        timeout: seconds for all of it.
        run_on: a command that starts the Python to measure in (see `runtime.launchers`); None: this machine.
        progress: called with (rounds done, rounds).

    Raises:
        InputError: a file is missing, malformed, or cannot be run.
        UsageError: no models, fewer than 3 rounds, more threads than cores.
        VerificationError: the measuring process crashed or took too long.
    """
    _check_usage(models, names, rounds)
    if run_on is None:
        require_cores(threads, cores_here())
    entries = _at_one_size(models, size, form, asked)
    if run_on is None and any(entry["runtime"] == "ncnn" for entry in entries):
        require_ncnn()
    request = {
        "entries": [*entries, entries[0]],
        "threads": threads,
        "rounds": rounds,
        "layers": layers,
        "seed": seed,
    }
    memory = None if asked is None else _memory([*entries, entries[0]], asked)
    reply, board = _measure(request, rounds, timeout, progress, run_on, memory)
    seconds = np.array(reply["rounds"])
    labels = list(names) if names is not None else [path.name for path in models]
    control = _summary(seconds[:, -1] / seconds[:, 0])
    return BenchResult(
        models=tuple(
            _model_time(label, entry, seconds[:, index], seconds[:, 0], reply["layers"][index] if layers else [])
            for index, (label, entry) in enumerate(zip(labels, entries, strict=True))
        ),
        control=control[0],
        control_quartiles=control[1],
        clock="thread-cpu" if threads == 1 else "wall",
        rounds=rounds,
        threads=threads,
        cores=tuple(reply["cores"]),
        denormals_flushed=bool(reply["flushed"]),
        machine=machine() if board is None else machine_of(board),
        seconds=tuple(tuple(row) for row in reply["rounds"]),
    )


def _check_usage(models: Sequence[Path], names: Sequence[str] | None, rounds: int) -> None:
    if not models or (names is not None and len(names) != len(models)):
        raise UsageError("give at least one model, and as many names as models")
    if rounds < FEWEST_ROUNDS:
        raise UsageError(f"{rounds} rounds say nothing about the spread: at least {FEWEST_ROUNDS}, better 21")


def _at_one_size(
    models: Sequence[Path], size: tuple[int, int] | None, form: InputFormat | None, asked: Asked | None
) -> list[dict[str, Any]]:
    """What the child is told of each model; those that leave their size open are run at the others'."""
    from onnxslim_yolo.verify.input_size import FIXED, common_size

    entries = [_entry(path, size, form, asked) for path in models]
    sure = [entry.pop("sure", FIXED) for entry in entries]
    found = [((entry["size"][0], entry["size"][1]), known) for entry, known in zip(entries, sure, strict=True)]
    wanted = None if size is not None else common_size(found)
    if wanted is None:
        return entries
    again = [_entry(p, wanted, form, asked) if s != wanted and k != FIXED else e
             for p, e, (s, k) in zip(models, entries, found, strict=True)]  # fmt: skip
    return [{key: value for key, value in entry.items() if key != "sure"} for entry in again]


def _entry(path: Path, size: tuple[int, int] | None, form: InputFormat | None, asked: Asked | None) -> dict[str, Any]:
    if path.is_dir() or path.suffix == ".param":
        return _ncnn_entry(path, size, form, asked)
    if path.suffix != ".onnx":
        raise InputError("is neither an .onnx file nor an NCNN folder or .param", file=path)
    if not path.is_file():
        raise InputError("no such file", file=path)
    from onnxslim_yolo.verify.affordable import require_affordable
    from onnxslim_yolo.verify.detector import open_onnx

    if asked is not None:
        require_affordable(path, path, size, asked)
    network = open_onnx(path, path, size, form=form)
    facts = {"file": str(path), "model": path, "size": list(network.size), "sure": network.sure}
    return {"runtime": "onnxruntime", **facts, "last": network.last, **_pixels(network.form)}


def _memory(entries: Sequence[Mapping[str, Any]], asked: Asked) -> float:
    """Bytes that the measuring process may take: for all that it opens, which it holds at once. A graph has been
    judged, so what is counted for it is only not to be in the way."""
    pairs = sum(pair_memory(entry["bin"], asked.memory) for entry in entries if entry["runtime"] == "ncnn")
    return pairs + sum(4 * pair_memory(entry["model"], asked.memory) for entry in entries if "model" in entry)


def _pixels(form: InputFormat) -> dict[str, Any]:
    """How the child makes a network's input of values in [0, 1]."""
    return {"mean": list(form.mean), "std": list(form.std)}


def _ncnn_entry(
    path: Path, size: tuple[int, int] | None, form: InputFormat | None, asked: Asked | None
) -> dict[str, Any]:
    from onnxslim_yolo.runtime.ncnn_effort import require_affordable_pair
    from onnxslim_yolo.runtime.ncnn_reader import read_ncnn
    from onnxslim_yolo.runtime.ncnn_run import channels_last, ncnn_files
    from onnxslim_yolo.verify.detector import ncnn_input_format, ncnn_input_size

    param, weights = ncnn_files(path)
    net = read_ncnn(param, weights)
    if len(net.inputs) != 1:
        raise InputError("expected a network with one input", file=param)
    where = ncnn_input_size(path, size)
    if asked is not None:
        require_affordable_pair(param, weights, where, asked)
    return {
        "runtime": "ncnn",
        "file": str(path),
        "param": param,
        "bin": weights,
        "size": list(where),
        "last": any(channels_last(layer) for layer in net.layers if layer.type == "Input"),
        **_pixels(form or ncnn_input_format(path)),
    }


def environment_of(threads: int) -> dict[str, str]:
    """What is set in the environment of a process that measures with so many threads.

    The C library's allocator keeps what is freed: otherwise, depending on what else the process did before, ncnn's
    blobs come from the system anew in every call, and clearing their pages makes the same network a quarter slower.
    OpenMP waits as it does by default: with `OMP_WAIT_POLICY=passive`, two threads take three times as long at 320 px.
    """
    kept = str(1 << 30)
    return {
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": kept, "MALLOC_TRIM_THRESHOLD_": kept,
    }  # fmt: skip


def _measure(
    request: dict[str, Any],
    rounds: int,
    timeout: float,
    progress: Callable[[int, int], None] | None,
    run_on: str | None,
    memory: float | None,
) -> tuple[dict[str, Any], Board | None]:
    with tempfile.TemporaryFile() as log:
        environment = environment_of(request["threads"])
        child = start(CHILD, run_on, environment=environment, text=True, stderr=log, memory=memory)
        board = child.board if isinstance(child, LaunchedChild) else None
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        try:
            if board is not None:
                _check_board(board, request)
            return _converse(child, request, rounds, progress), board
        except InputError as error:
            if memory is not None:
                error.hint = held_to(memory)
            raise
        except (EOFError, BrokenPipeError) as error:
            if timer.is_alive() and isinstance(child, LaunchedChild) and (lost := child.lost("measuring")) is not None:
                raise lost from error
            child.process.wait()
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-400:]
            late = "took too long" if not timer.is_alive() else "crashed"
            raise VerificationError(
                f"the measuring process {late} (status {child.process.returncode}): {said}"
            ) from error
        finally:
            timer.cancel()
            child.close()


def _check_board(board: Board, request: dict[str, Any]) -> None:
    require_cores(request["threads"], board.cores)
    if not board.onnxruntime and any(entry["runtime"] == "onnxruntime" for entry in request["entries"]):
        raise UsageError("--run-on: no onnxruntime in that Python", hint="pip install onnxruntime, there")


def _sent(child: Child | LaunchedChild, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with their files as the child reads them, each sent once."""
    names: dict[Path, str] = {}
    for path in (value for entry in entries for value in entry.values() if isinstance(value, Path)):
        if path not in names:
            names[path] = child.file(path)
    return [{k: names[v] if isinstance(v, Path) else v for k, v in entry.items()} for entry in entries]


_ERROR = {"error": str, "model": str}
_RESULT = {
    "result": {
        "rounds": [[float]],
        "cores": [int],
        "flushed": bool,
        "layers": [[{"name": str, "type": str, "ms": float}]],
    }
}


def _converse(
    child: Child | LaunchedChild,
    request: dict[str, Any],
    rounds: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    entries = _sent(child, request["entries"])
    with child.stdin as sink:
        sink.write(json.dumps(request | {"entries": entries}) + "\n")
    with child.stdout as source:
        for line in source:
            message = reply_of(line, (_ERROR, _RESULT, {"round": int}))
            if "error" in message:
                raise InputError(message["error"], file=message["model"])
            if "result" in message:
                result: dict[str, Any] = message["result"]
                times, layers = result["rounds"], result["layers"]
                whole = len(times) == rounds and all(len(row) == len(entries) for row in times)
                if not whole or (request["layers"] and len(layers) != len(entries)):
                    raise GarbledError
                return result
            tell("rounds", message["round"], rounds)
            if progress is not None:
                progress(message["round"], rounds)
    raise EOFError


def _model_time(
    name: str, entry: dict[str, Any], seconds: Array, first: Array, layers: Sequence[dict[str, Any]]
) -> ModelTime:
    ms, quartiles = _summary(seconds * 1000)
    ratio, ratio_quartiles = _summary(seconds / first)
    total = sum(layer["ms"] for layer in layers) or 1.0
    return ModelTime(
        name=name,
        file=entry["file"],
        runtime=entry["runtime"],
        size=(entry["size"][0], entry["size"][1]),
        ms=ms,
        ms_quartiles=quartiles,
        ms_best=float(seconds.min() * 1000),
        ratio=ratio,
        ratio_quartiles=ratio_quartiles,
        layers=tuple(LayerTime(x["name"], x["type"], x["ms"], x["ms"] / total) for x in layers),
    )


def _summary(values: Array) -> tuple[float, tuple[float, float]]:
    low, middle, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
    return middle, (low, high)
