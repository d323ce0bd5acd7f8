"""The files of one compilation: ONNX, the NCNN pair, the module, and beside them the plan and the reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo._version import install_line
from onnxslim_yolo.analysis.cost import Cost
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.errors import UnsupportedError, UsageError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.devices import device_of
from onnxslim_yolo.load import CHECKPOINTS
from onnxslim_yolo.manager import PassRecord
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pruning.plan import plan_as_json
from onnxslim_yolo.report.slim_file import write_slim
from onnxslim_yolo.result import Result
from onnxslim_yolo.verify.files import NcnnFiles, Verification

if TYPE_CHECKING:
    import onnx

    from onnxslim_yolo.emit.ncnn.emitter import NcnnModel


def write_artefacts(
    path: Path,
    model: Model,
    opened: Model,
    trainable: Model,
    stage: Path,
    name: str,
    options: CompileOptions,
) -> tuple[Result, NcnnFiles | None]:
    """Write the model in every form asked for into the folder `stage`.

    Args:
        path: the input.
        model: the compiled graph. Remarks of the conversion are noted on it.
        opened: the same as it is written as ONNX, its size open where its source's is.
        trainable: the graph as cut, for the module.

    Raises:
        UnsupportedError: a runtime or the module cannot express the model. UsageError: torch is asked for and missing.
    """
    result, ncnn = Result(model=model, folder=stage, trainable=trainable), None
    if "onnx" in options.emit:
        result.onnx = write_onnx(opened, stage / f"{name}.onnx")
    if "ncnn" in options.emit:
        from onnxslim_yolo.emit.ncnn.write import write_ncnn

        source, pair = _convert(model, options)
        result.ncnn = write_ncnn(pair, stage / f"{name}_ncnn_model", source.metadata)
        ncnn = NcnnFiles(result.ncnn, pair, source)
    if "torch" in options.emit:
        result.torch = _save_module(trainable, stage / f"{name}.pt")
    if "ultralytics" in options.emit:
        write_slim(path, trainable, stage, name, result)
    return result, ncnn


def _save_module(trainable: Model, path: Path) -> Path:
    try:
        from onnxslim_yolo.emit.torch import save_module, to_torch
    except ImportError as error:
        raise UsageError("--emit torch needs torch", hint=install_line("torch")) from error
    return save_module(to_torch(trainable), path)


def _convert(model: Model, options: CompileOptions) -> tuple[Model, NcnnModel]:
    """Convert to ncnn; a head that ncnn cannot express is cut to its raw maps, and the metadata says how to decode."""
    from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
    from onnxslim_yolo.passes import Canonicalise, Head

    source = model
    # Compiled on a PC for no machine in particular, a pair may end up on a phone.
    half = device_of(options.device).half or (None if options.device == "host" else False)
    dots = device_of(options.device).isa == "neon-fp16"  # fp16 arithmetic and dot products came together
    try:
        pair = emit_ncnn(model, weights=options.ncnn_weights, cut=False, half=half, dot_products=dots)
    except UnsupportedError as error:
        raw = model.copy()
        if Head("raw").run(raw):
            Canonicalise().run(raw)
            source = raw
            model.note(
                f"ncnn: {error.message}; the head is cut to its raw maps, which onnxslim_yolo.postprocess decodes"
            )
        pair = emit_ncnn(source, weights=options.ncnn_weights, half=half, dot_products=dots)
    for note in pair.notes:
        model.note(note)
    return source, pair


def fill_report(
    result: Result,
    ncnn: NcnnFiles | None,
    path: Path,
    options: CompileOptions,
    before: Cost,
    records: Sequence[PassRecord],
    verification: Verification | None,
) -> None:
    """Set `result.plan` and `result.report`. Everything that is to stand among the notes has been noted before.

    Args:
        path: the input. before: what the source costs. records: one per pass.
    """
    from onnxslim_yolo.report.build import build_report

    result.plan = plan_as_json(result.model, from_checkpoint=path.suffix.lower() in CHECKPOINTS)
    result.report = build_report(
        result, None if ncnn is None else ncnn.pair, path, options, before, records, verification
    )


def source_sizes(
    path: Path, options: CompileOptions, reference: onnx.ModelProto, report: Mapping[str, Any]
) -> dict[str, int]:
    """What the source weighs as each kind of file that was written, so that like is compared with like.

    Returns:
        `bytes`: of the file itself, Darknet's weights beside its cfg. `onnx_bytes`: as ONNX, before anything was done.
        `ncnn_bytes`: as a pair like the one written: its parameters at two bytes or four, and as long a `.param`.
    """
    suffix, size = path.suffix.lower(), report["source"]["bytes"]
    if suffix == ".cfg":
        twin = options.weights or path.with_suffix(".weights")
        size += twin.stat().st_size if twin.is_file() else 0
    sizes = {"bytes": size, "onnx_bytes": size if suffix == ".onnx" else reference.ByteSize()}
    pair = report["ncnn"]
    if pair is not None:
        text = sum(length for name, length in report["files"].items() if name.endswith(".ncnn.param"))
        sizes["ncnn_bytes"] = report["before"]["parameters"] * (2 if pair["weights"] == "fp16" else 4) + text
    return sizes


def write_reports(result: Result, stage: Path, name: str) -> None:
    """Write plan and report into the folder `stage`, the latter as JSON and as a page."""
    from onnxslim_yolo.report.html import write_html

    write_atomically(stage / f"{name}.plan.json", json.dumps(result.plan, indent=1) + "\n")
    write_atomically(stage / f"{name}.report.json", json.dumps(result.report, indent=1) + "\n")
    write_html(result.report, stage / f"{name}.report.html")
