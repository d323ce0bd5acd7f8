"""What a compilation gained and lost: measured where a limit or the user asks for it, predicted everywhere.

What people should know beyond the figures, such as a result slower than its source, is noted on the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.by_layer import add_latency
from onnxslim_yolo.latency.devices import device_of
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.measure.latency import predicted_latency
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.quantisation.qdq import as_int8
from onnxslim_yolo.report.block_costs import enter_blocks
from onnxslim_yolo.report.budget import budget_of
from onnxslim_yolo.result import Result


def is_timed(options: CompileOptions) -> bool:
    """Whether the result will be timed against its source: the user asks for it, or a limit does."""
    return options.measure or budget_of(options).latency_ratio is not None


def measure_gains(
    result: Result,
    baseline: Model,
    reference: onnx.ModelProto,
    options: CompileOptions,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Speed, estimated loss and mAP, where a limit or the user asks for them: parts of the report by their keys.

    Args:
        baseline: the source in canonical form. reference: the source as it was read.
        progress: called with the name of each stage as it begins.
    """
    found: dict[str, Any] = {}
    written = [path for path in (result.onnx, result.ncnn) if path is not None]
    if is_timed(options):
        from onnxslim_yolo.measure.gain import measure_speed, verdict

        progress("measure")
        wanted = result.ncnn if options.target == "ncnn" and result.ncnn is not None else result.onnx or result.ncnn
        if wanted is not None:
            found["speed"] = measure_speed(baseline, wanted, threads=options.threads, run_on=options.run_on)
            slower = verdict(found["speed"])
            if slower is not None:
                result.model.note(slower)
    if options.calib is not None:
        progress("estimate")
        found["estimate"] = _estimate(baseline, result.model, options.calib)
    if options.data is not None:
        from onnxslim_yolo.measure.gain import measure_accuracy

        progress("evaluate")
        found["accuracy"] = measure_accuracy(reference, written, options.data)
    return found


def predict_latency(model: Model, baseline: Model, options: CompileOptions, *, say: bool) -> dict[str, dict[str, Any]]:
    """Predicted latency, `before` and `after`; with `say`, a note where the table plainly calls the result slower."""
    from onnxslim_yolo.measure.predicted import predicted_verdict

    before, after = (
        predicted_latency(m.graph, options.target, options.device, options.table, m.quantised, options.threads)
        for m in (baseline, model)
    )
    device = device_of(options.device)
    if device.isa is None:
        model.note(f"{device.title}: {device.note}; the figures of latency are this computer's ({device.source})")
        say = False
    slower = predicted_verdict(before, after, options.target)
    if say and slower is not None:
        model.note(slower)
    return {"before": before, "after": after}


def enter_latency(
    report: dict[str, Any], latency: dict[str, dict[str, Any]], graphs: dict[str, gs.Graph], options: CompileOptions
) -> None:
    """Enter predictions into a report's `before` and `after`, in place: what `predict_latency` gave, and by layer."""
    table = table_for(options.target, options.device, options.table, options.threads)
    for key, graph in graphs.items():
        report[key] |= latency[key]
        add_latency(report[key], graph, table)
    enter_blocks(report, graphs, table)


def _estimate(baseline: Model, result: Model, calib: Path) -> dict[str, Any] | None:
    """The loss on calibration images that nothing was fitted to; also a note."""
    from onnxslim_yolo.measure.estimate import estimate_loss
    from onnxslim_yolo.pruning.calibration_images import CalibrationImages

    images = CalibrationImages(calib, baseline, part="held-out")
    found = estimate_loss(baseline, as_int8(result), images, held_out=images.splits)
    if found is None:
        return None
    result.note(found.sentence())
    return found.as_json()
