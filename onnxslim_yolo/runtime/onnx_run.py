"""Run an ONNX model in onnxruntime, with its graph optimisations off or on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import Array, input_constant
from onnxslim_yolo.ir.input_format import UNIT, input_format_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.apart import Apart, apart
from onnxslim_yolo.runtime.onnx_pads import fit_for_onnxruntime
from onnxslim_yolo.runtime.processor import NARROW, adds_in_16_bits
from onnxslim_yolo.runtime.progress import counted

Feeds = dict[str, Array]

Runs = Model | onnx.ModelProto | Apart | bytes | Path
"""What a session can be made of."""


def session(model: Runs, *, optimise: bool, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Layers between codes are computed in whole numbers, where there are kernels; of a Model whose weights this machine's
    kernels overflow on, which is for other machines, in float from the codes.

    Raises:
        VerificationError: onnxruntime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # what a run has taken is given back after it
    options.enable_mem_pattern = False  # planning it takes time by the square of what lives at once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(model, Model) and _overflows(model):  # a file is run as it is: that is what this machine makes of it
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    fit = fit_for_onnxruntime(model) if isinstance(model, Model) else model
    given = apart(fit) if isinstance(fit, Model | onnx.ModelProto) else fit
    weights = given.weights if isinstance(given, Apart) else {}
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
    try:
        runner = ort.InferenceSession(_readable(given), options, providers=["CPUExecutionProvider"])
        runner.weights = weights  # they live as long as the session, which reads them where they lie
        return runner
    except Exception as error:
        raise VerificationError(f"onnxruntime refuses the model: {_first_line(error)}") from error


def _overflows(model: Model) -> bool:
    """Whether int8 weights are larger than pairs of products leave room for here."""
    first = (input_constant(node, 0) for node in model.graph.nodes if node.inputs)
    codes = (value.astype(int) for value in first if value is not None and value.dtype == np.int8)
    return adds_in_16_bits() and any(int(np.abs(code).max(initial=0)) > NARROW for code in codes)


def _readable(model: Apart | bytes | Path) -> bytes | str:
    return str(model) if isinstance(model, Path) else model.data if isinstance(model, Apart) else model


def bytes_of(model: Model | onnx.ModelProto) -> bytes:
    """A model as a file has it."""
    proto = fit_for_onnxruntime(model).to_onnx() if isinstance(model, Model) else model
    return bytes(proto.SerializeToString())


def with_outputs(model: Model | onnx.ModelProto | bytes | Path, names: Sequence[str]) -> bytes:
    """A model as a file has it, byte by byte, and behind that inner tensors as further outputs.

    Messages in protobuf's form that are written one after the other are read as one, lists joined.
    """
    data = model.read_bytes() if isinstance(model, Path) else model if isinstance(model, bytes) else bytes_of(model)
    further = onnx.GraphProto(output=[onnx.ValueInfoProto(name=name) for name in names])
    return data + onnx.ModelProto(graph=further).SerializeToString() if names else data


def run_onnx(model: Runs, feeds: list[Feeds], *, optimise: bool = False, threads: int = 0) -> list[Feeds]:
    """Every output by name, for each of the feeds.

    Raises:
        VerificationError: onnxruntime refuses the model or fails while running it.
    """
    runner = session(model, optimise=optimise, threads=threads)
    names = [output.name for output in runner.get_outputs()]
    try:
        return [dict(zip(names, runner.run(names, feed), strict=True)) for feed in counted("inputs", feeds, len(feeds))]
    except Exception as error:
        raise VerificationError(f"onnxruntime fails while running the model: {_first_line(error)}") from error


def run_each(model: Runs, feeds: Iterable[Feeds], *, threads: int = 1) -> Iterator[Feeds]:
    """Outputs one by one, in onnxruntime's optimised form; a pair of networks never has all of them in memory.

    Raises:
        VerificationError: as `run_onnx`.
    """
    runner = session(model, optimise=True, threads=threads)
    names = [output.name for output in runner.get_outputs()]
    for feed in feeds:
        try:
            yield dict(zip(names, runner.run(names, feed), strict=True))
        except Exception as error:
            raise VerificationError(f"onnxruntime fails while running the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def image_like_feeds(model: Model, count: int = 2, seed: int = 0) -> list[Feeds]:
    """Deterministic inputs that look like images: smooth patches with noise, in [0, 1] unless the model's metadata
    say otherwise; a symbolic batch is 1.

    Noise averages out in a few layers, and flat inputs hide spatial mistakes; patches at several scales do neither.
    """
    rng = np.random.default_rng(seed)
    return [
        {tensor.name: as_fed(model, image_like(tensor.shape, rng, tensor.dtype)) for tensor in model.graph.inputs}
        for _ in range(count)
    ]


def as_fed(model: Model, value: Array) -> Array:
    """An image in [0, 1] as the model's metadata say that it is fed; anything else as it is."""
    form = input_format_of(model.metadata) or UNIT
    return form.feed(value, value.dtype) if value.dtype.kind == "f" and value.shape[1:2] == (3,) else value


def image_like(shape: Any, rng: np.random.Generator, dtype: Any = None) -> Array:
    """One input of the given shape: patches at several scales for an image, noise for anything else."""
    dims = [int(d) if isinstance(d, (int, np.integer)) and d > 0 else 1 for d in shape or []]
    image = np.zeros(dims)
    if len(dims) == 4:
        for cell in (64, 16, 4, 1):
            coarse = rng.random([*dims[:2], -(-dims[2] // cell), -(-dims[3] // cell)]) / 4
            image += coarse.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, : dims[2], : dims[3]]
    else:
        image = rng.random(dims)
    kind = np.dtype(np.float32 if dtype is None else dtype)
    return np.ascontiguousarray(image * 255 if kind.kind in "iu" else image, dtype=kind)
