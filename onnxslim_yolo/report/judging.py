"""The verdicts of a compilation: whether the result is alive, and what that, equality and accuracy come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.sparsity import sparsity_of
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.quantisation.qdq import as_int8
from onnxslim_yolo.report.budget import budget_as_json, budget_of
from onnxslim_yolo.report.verdict import verdict_of
from onnxslim_yolo.result import Taught
from onnxslim_yolo.runtime.onnx_run import Feeds
from onnxslim_yolo.verify.alive import ENOUGH, NOT_RUN, SAME_FUNCTION, Alive, judge, mirrored
from onnxslim_yolo.verify.scenes import scene_feeds

SCENES = 6
"""Made-up photographs, where no images are given."""

SURE, SURER = 0.1, 0.3
"""Ratios from which on no dense network that was tried kept half of its mAP50 without images, or 0.02 of it."""

MOST_IMAGES = 32
"""Calibration images at most that are judged on, where too little is seen on those that nothing was fitted to."""


def judge_result(
    model: Model, baseline: Model, options: CompileOptions, *, run: bool, taught: Taught | None = None
) -> Alive:
    """Whether the compiled model still detects what its source detects (see `verify.alive`).

    Args:
        model: the compiled graph. baseline: the source in canonical form.
        run: whether what was written was verified; else nothing is run here, either.
        taught: what the model was taught by, which is its source then.
    """
    if not run:
        return NOT_RUN
    if taught is not None:
        source, model = _comparable(taught.teacher, model), as_int8(model)
        return _FOREIGN if source is None else _on_images(source, model, taught.images)
    if model.quantised is None and model.lossless:
        return SAME_FUNCTION
    source, model = _comparable(baseline, model), as_int8(model)
    if source is None:
        return _FOREIGN
    if options.calib is None:
        return judge(source, model, scene_feeds(source, SCENES), "made-up")
    found = _on_images(source, model, options.calib)
    if found.detections == 0:
        found = _where_something_is_seen(source, model, found)
    return replace(found, why=f"{found.why} ({FITTED})") if found.kind == "calibration" and _fits(options) else found


_FOREIGN = Alive("not judged", "its outputs are of another kind than its source's")

FITTED = "judged on images that the result was fitted to; more of them leave some to judge on"


def _fits(options: CompileOptions) -> bool:
    """Whether images decide weights or widths."""
    ranked = options.importance in ("output", "variance") or options.allocate == "curves"
    return options.compensate in ("reconstruct", "distil") or ranked or options.passes is not None


def _where_something_is_seen(source: Model, model: Model, found: Alive) -> Alive:
    """On made-up photographs, where nothing is detected on the images and something is on those."""
    other = judge(source, model, scene_feeds(source, SCENES), "made-up")
    if not other.detections:
        return found
    return replace(other, why=f"{other.why} (on made-up photographs: the source detects nothing on the images)")


def _on_images(source: Model, model: Model, calib: Path) -> Alive:
    held = CalibrationImages(calib, source, part="held-out")
    first = judge(source, model, _fed(source, list(mirrored(list(held)))), "held-out" if held.splits else "calibration")
    if not held.splits or first.detections is None or first.detections >= ENOUGH:
        return first
    return judge(source, model, _fed(source, list(CalibrationImages(calib, source, MOST_IMAGES))), "calibration")


def _fed(model: Model, images: list[Array]) -> list[Feeds]:
    tensor = model.graph.inputs[0]
    dtype = np.float32 if tensor.dtype is None else tensor.dtype
    return [{tensor.name: image.astype(dtype, copy=False)} for image in images]


def _comparable(baseline: Model, model: Model) -> Model | None:
    """The source with outputs as the result has them: as it is, or its head cut likewise."""
    from onnxslim_yolo.passes import Head

    wanted = [tensor.name for tensor in model.graph.outputs]
    if [tensor.name for tensor in baseline.graph.outputs] == wanted:
        return baseline
    for kind in ("raw", "decoded"):
        source = baseline.copy()
        try:
            Head(kind).run(source)
        except OnnxSlimError:
            continue
        if [tensor.name for tensor in source.graph.outputs] == wanted:
            return source
    return None


def enter_verdict(report: dict[str, Any], options: CompileOptions, alive: Alive, sparse: Callable[[], bool]) -> None:
    """Enter `budget`, `verdict` and `exit` into a report, in place. Everything measured has to be there before.

    Args:
        sparse: asked whether the source was trained to be sparse, where it matters.
    """
    report["budget"] = budget_as_json(budget_of(options), report)
    hurt = alive.state in ("weakened", "needs training")
    verdict, report["exit"] = verdict_of(
        report,
        alive.as_json(),
        will_train=options.trains,
        sparse=not hurt or sparse(),
        images=options.calib is not None,
    )
    report["verdict"] = verdict


def foretold(model: Model, options: CompileOptions) -> str | None:
    """What is certain before the work: a dense network does not survive a ratio without images; None where nothing is.

    Args:
        model: the source in canonical form.
    """
    ratio = options.prune
    if isinstance(ratio, str) or ratio < SURE or options.calib is not None or options.passes is not None:
        return None
    if looks_sparse(model):
        return None
    left = "nothing that detects" if ratio >= SURER else "less than half of the mAP"
    return (
        f"WARNING: this network was not trained for sparsity: with {ratio:g} removed without images {left} is left, as "
        "in every such network measured (bench/results/verdicts.md). --calib DIR --compensate reconstruct loses less; "
        "without training a smaller --imgsz, or --quantize int8, is the better bargain"
    )


def looks_sparse(model: Model) -> bool:
    """Whether a network was trained to be sparse, or has no γ left to tell by."""
    found = sparsity_of(analyse_channels(model.graph))
    return found.sparse or found.kind != "gamma"
