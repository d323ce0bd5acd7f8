"""The journey of a model: load → passes → emit → verify → report. Reads top to bottom as that.

Everything is written into a hidden folder beside the target first, run from there, and moved into place at the end, so
that a failed check leaves what was there before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.limits import limits_for
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.errors import BudgetError, InputError, OnnxSlimError, PassError, UnsupportedError, VerificationError
from onnxslim_yolo.files.atomic import move_into, staging
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import read_model
from onnxslim_yolo.load.onnx import READ_AS_FLOATS
from onnxslim_yolo.load.reference import fit_reference
from onnxslim_yolo.manager import Observer, PassManager
from onnxslim_yolo.options import CompileOptions, options_from
from onnxslim_yolo.passes.canonicalise import GUESSED, Canonicalise
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import parse_pipeline, preparation, remainder, shaping
from onnxslim_yolo.report.artefacts import fill_report, source_sizes, write_artefacts, write_reports
from onnxslim_yolo.report.beforehand import require_all
from onnxslim_yolo.report.budget import budget_of, violations
from onnxslim_yolo.report.gains import enter_latency, measure_gains, predict_latency
from onnxslim_yolo.report.judging import enter_verdict, foretold, judge_result, looks_sparse
from onnxslim_yolo.report.network import network_of
from onnxslim_yolo.report.slim_file import enter_slim
from onnxslim_yolo.result import Result, Taught
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx, session
from onnxslim_yolo.runtime.progress import tell
from onnxslim_yolo.stages import Journey, Stages, up_to_slice
from onnxslim_yolo.verify.chain import Chain, EachPass, check_pair
from onnxslim_yolo.verify.compensation import measure_compensation
from onnxslim_yolo.verify.files import NcnnFiles, Verification, verify_files
from onnxslim_yolo.verify.int8_source import answers_as
from onnxslim_yolo.verify.module import check_module
from onnxslim_yolo.verify.open_size import Written, with_open_size
from onnxslim_yolo.verify.quantised import add_quantised

if TYPE_CHECKING:
    from onnxslim_yolo.measure.smaller_input import SizeChoice

Progress = Callable[[str], None]


def compile(source: str | Path, *, progress: Progress | None = None, **options: Any) -> Result:
    """Compile a trained detector.

    Args:
        source: an ONNX file, a PyTorch checkpoint, or a Darknet cfg.
        progress: called with the name of each stage as it begins, and with `WARNING: …` where damage is certain
            before it is done.
        **options: the fields of `CompileOptions`; as on the command line, with underscores.

    Raises:
        UsageError, InputError, UnsupportedError: bad options or input.
        PassError, VerificationError: a pass failed, or what was written does not compute what it should. Nothing in
            the target folder has changed then.
        BudgetError: a limit was not met; the files are written. A result that no longer detects raises nothing, as no
            limit of the user's is broken and it may be trained: see `Result.verdict`.
    """
    return compile_with(Path(source), options_from(options), progress or (lambda stage: None))


def compile_with(path: Path, options: CompileOptions, progress: Progress) -> Result:
    """Compile with checked options. See `compile`."""
    result = build(path, options, progress)
    require_budget(result.report, options, path, result.folder)
    return result


def require_budget(report: dict[str, Any], options: CompileOptions, path: Path, folder: Path) -> None:
    """Raises BudgetError where a report breaks a limit that the options set."""
    broken = violations(budget_of(options), report)
    if broken:
        raise BudgetError(
            "; ".join(broken), file=path, hint=f"the files are in {folder}; prune more or less, or move the limit"
        )


def build(path: Path, options: CompileOptions, progress: Progress, taught: Taught | None = None) -> Result:
    """Compile and write, whether or not the result keeps within the budget. Raises as `compile`, but no BudgetError.

    Args:
        taught: what the network learnt from, where it is judged against that.
    """
    require_all(path, options)
    if options.passes is not None:
        parse_pipeline(options.passes)
    try:
        return _build(path, options, progress, taught)
    except (PassError, VerificationError) as error:
        reason = _source_fails(path, options)
        if reason is None:
            raise
        hint = "export it again, and run it in onnxruntime first"
        raise InputError(f"the model itself does not run: {reason}", file=path, hint=hint) from error
    except (InputError, UnsupportedError) as error:
        guess = _guessed_size(path, options)
        if guess is not None and guess not in (error.hint or ""):
            error.hint = f"{guess}; {error.hint}" if error.hint else guess
        raise


def _guessed_size(path: Path, options: CompileOptions) -> str | None:
    """The note that an ONNX file's input size was guessed, asked once something has been refused."""
    if path.suffix.lower() != ".onnx":
        return None
    try:
        model, _ = read_model(path, options.load_options())
        Canonicalise(*(options.imgsz or (0, 0))).run(model)
    except OnnxSlimError:
        return None  # it was not for its size
    return next((note for note in model.notes if note.startswith(GUESSED)), None)


def _read(path: Path, options: CompileOptions) -> tuple[Model, onnx.ModelProto]:
    """The model, and what everything after is compared with: the author's export where one is given."""
    model, proto = read_model(path, options.load_options())
    model.equal_parts = "ultralytics" in options.emit
    if model.equal_parts:
        from onnxslim_yolo.load.raw_module import told_widths

        model.told_widths = told_widths(path)
    model.whole_heads = options.attention == "heads"
    model.towers = options.towers
    if options.reference is None:
        return model, proto
    model.note(f"compared with {options.reference.name}, not with what was read of {path.name}")
    return model, fit_reference(options.reference, proto)


def _require_same(model: Model, reference: onnx.ModelProto, file: Path) -> None:
    """The model as read computes what its author's export computes."""
    check = check_pair(f"{file.name} = model", reference, model, image_like_feeds(model, 1))
    if not check.passed:
        worst = max(check.differences, key=lambda d: d.worst)
        raise VerificationError(
            f"the model as it was read does not compute what {file.name} does: '{worst.output}' differs by "
            f"{worst.worst:.2e} of its spread, allowed {check.tolerance:.0e}",
            file=file,
            hint="one of its classes is not the one known here, or the export has other weights; compile the export",
        )


def _source_fails(path: Path, options: CompileOptions) -> str | None:
    """Why the source cannot be run, asked once something has gone wrong; None where it runs."""
    model, reference = _read(path, options)
    limits = limits_for(model, options.limit_memory, options.limit_work)
    try:
        PassManager(preparation(options)).run(model)
        limits.require(model)
        outputs = run_onnx(reference, image_like_feeds(model, 1))[0]
    except OnnxSlimError as error:
        guess = next((note for note in model.notes if note.startswith(GUESSED)), "")
        return f"{error.message}{guess and f' ({guess})'}"
    for name, value in outputs.items():
        lost = 1 - np.isfinite(value).mean() if value.dtype.kind == "f" and value.size else 0.0
        if lost > 0.5:
            return f"its output '{name}' is NaN or infinite in {lost:.0%} of its places on an ordinary image"
    return None


def _build(path: Path, options: CompileOptions, progress: Progress, taught: Taught | None = None) -> Result:
    started = time.perf_counter()
    options, chosen = _sized(path, options, progress)
    progress("load")
    model, reference = _read(path, options)
    if chosen is not None:
        model.note(chosen.note())
    if options.verify:
        _require_runnable(reference, options.reference or path)
    if options.reference is not None:
        _require_same(model, reference, options.reference)
    source = model.copy()
    progress("passes")
    lesson: dict[str, Any] = {} if taught is None else taught.facts
    stages = _run_passes(model, reference, options, progress, lesson)
    baseline, chain = stages.prepared, stages.chain
    if options.verify and any(note.startswith(READ_AS_FLOATS) for note in model.notes):
        model.note(answers_as(path, baseline))
    name, folder = options.name_for(path), options.folder_for(path)
    with staging(folder) as stage:
        progress("emit")
        opened = Written(model)
        if "onnx" in options.emit:
            opened = with_open_size(model, source, reference, baseline, chain, verify=options.verify)
        result, ncnn = write_artefacts(path, model, opened.model, stages.cut, stage, name, options)
        verification = None
        if options.verify:
            progress("verify")
            verification, opened = _verify(path, result, ncnn, chain, options, baseline, opened)
        for note in (*opened.notes, *((taught.note,) if taught is not None else ())):
            model.note(note)
        there: dict[str, Any] = {}
        if options.run_on is not None and ncnn is not None and verification is not None:
            progress("there")
            ncnn, there["there"] = _verify_there(model, ncnn, options.run_on)
        compensation = [gain.as_json() for gain in measure_compensation(stages.compensated, options.calib)]
        gains = measure_gains(result, baseline, reference, options, progress)
        latency = predict_latency(model, baseline, options, say="speed" not in gains)
        progress("alive")
        alive = judge_result(model, baseline, options, run=verification is not None, taught=taught)
        progress("report")
        result.timings = {
            "seconds": round(time.perf_counter() - started, 3),
            "passes": [round(record.seconds, 4) for record in stages.records],
        }
        tell("figures", 0, 3)
        fill_report(result, ncnn, path, options, cost_of(baseline.graph), stages.records, verification)
        result.report |= {"compensation": compensation, "network": network_of(baseline.graph, stages.cut.graph)}
        result.report |= {} if chosen is None else {"input_size": chosen.as_json()}
        result.report |= gains | there | ({"distillation": lesson} if lesson else {})
        enter_slim(result, baseline, up_to_slice(remainder(options, baseline))[0])
        enter_latency(result.report, latency, {"before": baseline.graph, "after": model.graph}, options)
        result.report["source"] |= source_sizes(path, options, reference, result.report)
        tell("verdict", 1, 3)
        enter_verdict(result.report, options, alive, lambda: looks_sparse(baseline))
        tell("pages", 2, 3)
        write_reports(result, stage, name)
        move_into(stage, folder)
    result.folder = folder
    result.onnx = None if result.onnx is None else folder / result.onnx.name
    result.ncnn = None if result.ncnn is None else folder / result.ncnn.name
    result.torch = None if result.torch is None else folder / result.torch.name
    result.ultralytics = None if result.ultralytics is None else folder / result.ultralytics.name
    return result


def _sized(path: Path, options: CompileOptions, progress: Progress) -> tuple[CompileOptions, SizeChoice | None]:
    """The options with the input size that `--size auto` comes to, and what is left to prune at it."""
    if options.size != "auto" or options.target_latency is None:
        return options, None
    from onnxslim_yolo.measure.smaller_input import choose_size  # and with it all that measures

    progress("size")
    table = table_for(options.target, options.device, options.table, options.threads)
    chosen = choose_size(
        path, options.load_options(), table, options.target_latency, options.calib, int8=bool(options.int8)
    )
    imgsz = options.imgsz if chosen.size == chosen.full else chosen.size
    return replace(options, size="file", imgsz=imgsz, target_latency=chosen.rest), chosen


def _require_runnable(reference: onnx.ModelProto, path: Path) -> None:
    """A source that the runtime refuses cannot be compared with: that is the input's fault, not a failed check."""
    try:
        session(reference, optimise=False)
    except VerificationError as error:
        raise InputError(error.message, file=path, hint="export it again with another opset_version") from error


def _run_passes(
    model: Model,
    reference: onnx.ModelProto,
    options: CompileOptions,
    progress: Progress = lambda stage: None,
    lesson: dict[str, Any] | None = None,
) -> Stages:
    """Prepare, choose what goes and cut it, fuse what is left. The model is edited in place.

    Args:
        lesson: gets what came of a training.
    """
    observe = _each_pass(reference) if options.verify_each else None

    def manage(steps: Sequence[Pass], first: int) -> PassManager:
        return PassManager(steps, dump_to=options.dump_to, observe=observe, first_index=first, journal=True)

    journey = Journey(model, Chain(reference), manage, watched=options.verify or options.verify_each)
    limits = limits_for(model, options.limit_memory, options.limit_work)
    first, *others = preparation(options)
    journey.run([first])
    limits.require(model)  # shapes are known now, and nothing has been run
    journey.run(others)
    baseline = journey.standing()
    warning = foretold(model, options)
    if warning is not None:
        progress(warning)
        model.note(warning)
    cutting, fusing = up_to_slice(remainder(options, model))
    journey.run(cutting)
    journey.run(_teaching(options, baseline, lesson))
    trainable = journey.standing()
    journey.run(fusing)
    return Stages(baseline, trainable, journey.chain, tuple(journey.compensated), tuple(journey.records))


def _teaching(options: CompileOptions, baseline: Model, lesson: dict[str, Any] | None) -> list[Pass]:
    """The training that `--compensate distil` asks for, its teacher with the outputs that are written."""
    if options.compensate != "distil" or options.calib is None:
        return []
    from onnxslim_yolo.training.compensate import Distil

    teacher = baseline.copy()
    PassManager(shaping(options)).run(teacher)
    return [Distil(teacher, options.calib, facts={} if lesson is None else lesson)]


def _each_pass(reference: onnx.ModelProto) -> Observer:
    """Compares before and after every pass, on inputs of the size that the first pass settles."""
    each: list[EachPass] = []

    def observe(step: Pass, before: Model, after: Model) -> None:
        if not each:
            each.append(EachPass(reference, image_like_feeds(after)))
        each[0](step, before, after)

    return observe


def _verify(
    path: Path,
    result: Result,
    ncnn: NcnnFiles | None,
    chain: Chain,
    options: CompileOptions,
    source: Model,
    opened: Written,
) -> tuple[Verification, Written]:
    """Verify what was written; a file that is wrong with its size open is written again with its size fixed."""
    try:
        float_file = result.onnx if result.model.quantised is None else None
        found = verify_files(result.model, float_file, ncnn, chain, source=source, calib=options.calib)
        if result.torch is not None and result.trainable is not None:
            found.checks.append(check_module(result.torch, result.trainable, found))
    except VerificationError as error:
        if result.onnx is not None and opened.model is not result.model:
            write_onnx(result.model, result.onnx)
            fixed = opened.stays_fixed(result.model, f"open it fails: {error.message}")
            return _verify(path, result, ncnn, chain, options, source, fixed)
        if options.verify_each:
            raise
        culprit = _bisect(path, options)
        if culprit is None:
            raise
        raise VerificationError(f"{error.message}; {culprit}", file=path, hint=error.hint) from error
    for note in source.notes:  # which images could not be read
        result.model.note(note)
    found.checks += opened.checks
    if result.onnx is not None and result.model.quantised is not None:
        add_quantised(found, result.model, opened.model, result.onnx)
    return found, opened


def _verify_there(model: Model, ncnn: NcnnFiles, run_on: str) -> tuple[NcnnFiles, dict[str, Any]]:
    """The pair where it will run, mended where half precision does not hold it. What is to be known is noted."""
    from onnxslim_yolo.verify.pair_there import verify_there

    ncnn, there, notes = verify_there(ncnn, run_on)
    for note in notes:
        model.note(note)
    return ncnn, there.as_json()


def _bisect(path: Path, options: CompileOptions) -> str | None:
    """Run the passes again, checking each: the message about the first that breaks something, or None."""
    model, reference = _read(path, options)
    try:
        _run_passes(model, reference, replace(options, verify_each=True, dump_to=None))
    except OnnxSlimError as error:
        return error.message
    return None
