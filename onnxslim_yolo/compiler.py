"""The journey of a model: load → passes → emit → verify → report. Reads top to bottom as that.

Everything is written into a hidden folder beside the target first, run from there, and moved into place at the end, so
that a failed check leaves what was there before.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxslim_yolo.analysis.cost import Cost, cost_of
from onnxslim_yolo.budget import Budget, read_budget, violations
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.errors import (
    BudgetError,
    InputError,
    OnnxSlimError,
    PassError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from onnxslim_yolo.files import move_into, staging, write_atomically
from onnxslim_yolo.graph import Model
from onnxslim_yolo.latency.command import predicted_latency
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import Pass, PassManager, PassRecord
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation, remainder
from onnxslim_yolo.plan import plan_as_json
from onnxslim_yolo.report.latency import add_latency
from onnxslim_yolo.verify.chain import Chain, EachPass
from onnxslim_yolo.verify.compensation import CompensationProbe
from onnxslim_yolo.verify.files import NcnnFiles, Verification, verify_files
from onnxslim_yolo.verify.onnx_run import image_like_feeds, run_onnx, session

if TYPE_CHECKING:
    from onnxslim_yolo.emit.ncnn import NcnnModel
    from onnxslim_yolo.emit.torch import GraphModule

Progress = Callable[[str], None]
Observer = Callable[[Pass, Model, Model], None]


@dataclass
class Result:
    """What a compilation made.

    Attributes:
        model: the compiled graph.
        folder: where the files are.
        trainable: the graph as cut, before anything is fused: BatchNorms are still there.
        onnx, ncnn, torch: the ONNX file, the NCNN folder, the saved module; None where not asked for.
        plan, report: the contents of NAME.plan.json and NAME.report.json.
        timings: wall `seconds` of the compilation, and of each pass in the report's order. Files do not hold them, so
            that the same input and options give the same bytes.
    """

    model: Model
    folder: Path
    onnx: Path | None = None
    ncnn: Path | None = None
    torch: Path | None = None
    trainable: Model | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    def to_torch(self) -> GraphModule:
        """The pruned network as a trainable module, its BatchNorms kept and its parameters under their old names.

        Raises:
            UnsupportedError: an operator that the module cannot run; it is named. ImportError: torch is missing.
        """
        from onnxslim_yolo.emit.torch import to_torch

        return to_torch(self.trainable or self.model)


def compile(source: str | Path, *, progress: Progress | None = None, **options: Any) -> Result:
    """Compile a trained detector.

    Args:
        source: an ONNX file, a PyTorch checkpoint, or a Darknet cfg.
        progress: called with the name of each stage as it begins.
        **options: the fields of `CompileOptions`; as on the command line, with underscores.

    Raises:
        UsageError, InputError, UnsupportedError: bad options or input.
        PassError, VerificationError: a pass failed, or what was written does not compute what it should. Nothing in
            the target folder has changed then.
    """
    return compile_with(Path(source), options_from(options), progress or (lambda stage: None))


def options_from(options: dict[str, Any]) -> CompileOptions:
    """CompileOptions from loose Python values: paths as text, `imgsz` as one number, lists for tuples."""
    values = dict(options)
    known = [option.name for option in fields(CompileOptions)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"there is no option '{key}'", hint=hint)
    for key in ("out", "weights", "dump_to", "calib"):
        if values.get(key) is not None:
            values[key] = Path(values[key])
    if isinstance(values.get("imgsz"), int):
        values["imgsz"] = (values["imgsz"], values["imgsz"])
    for key in ("emit", "keep"):
        if isinstance(values.get(key), str):
            values[key] = tuple(part.strip() for part in values[key].split(",") if part.strip())
        elif values.get(key) is not None:
            values[key] = tuple(values[key])
    return CompileOptions(**values)


def compile_with(path: Path, options: CompileOptions, progress: Progress) -> Result:
    """Compile with checked options. See `compile`."""
    result = build(path, options, progress)
    require_budget(result.report, options, path, result.folder)
    return result


def require_budget(report: dict[str, Any], options: CompileOptions, path: Path, folder: Path) -> None:
    """Raises BudgetError where a report breaks a limit that the options set."""
    broken = violations(_budget(options), report)
    if broken:
        raise BudgetError(
            "; ".join(broken), file=path, hint=f"the files are in {folder}; prune more or less, or move the limit"
        )


def build(path: Path, options: CompileOptions, progress: Progress) -> Result:
    """Compile and write, whether or not the result keeps within the budget. Raises as `compile`, but no BudgetError."""
    try:
        return _build(path, options, progress)
    except (PassError, VerificationError) as error:
        reason = _source_fails(path, options)
        if reason is None:
            raise
        hint = "export it again, and run it in onnxruntime first"
        raise InputError(f"the model itself does not run: {reason}", file=path, hint=hint) from error


def _source_fails(path: Path, options: CompileOptions) -> str | None:
    """Why the source cannot be run, asked once something has gone wrong; None where it runs."""
    model, reference = read_model(path, LoadOptions(options.imgsz, options.weights, trust=options.trust))
    try:
        PassManager(preparation(options)).run(model)
        run_onnx(reference, image_like_feeds(model, 1))
    except OnnxSlimError as error:
        return error.message
    return None


def _build(path: Path, options: CompileOptions, progress: Progress) -> Result:
    started = time.perf_counter()
    progress("load")
    model, reference = read_model(path, LoadOptions(options.imgsz, options.weights, trust=options.trust))
    _budget(options)  # a broken file is refused before any work
    if options.verify:
        _require_runnable(reference, path)
    chain, probe = Chain(reference), CompensationProbe()
    progress("passes")
    baseline, trainable, records = _run_passes(model, reference, options, chain, probe)
    name = options.name or path.stem
    folder = options.out or Path(f"{name}-slim")
    with staging(folder) as stage:
        progress("emit")
        result, ncnn = _emit(model, trainable, stage, name, options)
        verification = None
        if options.verify:
            progress("verify")
            verification = _verify(path, result, ncnn, chain, options)
        compensation = [gain.as_json() for gain in probe.measure(options.calib)]
        gains = _measure(result, baseline, reference, options, progress)
        latency = _predict(model, baseline, options, say="speed" not in gains)
        progress("report")
        result.timings = {
            "seconds": round(time.perf_counter() - started, 3),
            "passes": [round(record.seconds, 4) for record in records],
        }
        _report(result, ncnn, path, options, cost_of(baseline.graph), records, verification)
        result.report |= {"compensation": compensation} | gains
        table = table_for(options.target, options.isa, options.table)
        for key, graph in (("before", baseline.graph), ("after", model.graph)):
            result.report[key] |= latency[key]
            add_latency(result.report[key], graph, table)
        _write_reports(result, stage, name)
        move_into(stage, folder)
    result.folder = folder
    result.onnx = None if result.onnx is None else folder / result.onnx.name
    result.ncnn = None if result.ncnn is None else folder / result.ncnn.name
    result.torch = None if result.torch is None else folder / result.torch.name
    return result


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
    chain: Chain,
    probe: CompensationProbe | None = None,
) -> tuple[Model, Model, list[PassRecord]]:
    """Prepare, then do the rest. Returns the model as prepared, the model as cut, and a record per pass."""
    observe = _observer(reference, options, chain, probe)
    first = PassManager(preparation(options), dump_to=options.dump_to, observe=observe)
    records = first.run(model)
    baseline = model.copy()
    planning, fusing = _split(remainder(options, model))
    for steps in (planning, fusing):
        if steps is fusing:
            trainable = model.copy()
        manager = PassManager(steps, dump_to=options.dump_to, observe=observe, first_index=len(records))
        records += manager.run(model)
    return baseline, trainable, records


def _split(steps: list[Pass]) -> tuple[list[Pass], list[Pass]]:
    """The passes up to the last `slice`, and those behind it, which fuse."""
    last = max((index for index, step in enumerate(steps) if step.name == "slice"), default=-1)
    return steps[: last + 1], steps[last + 1 :]


def _observer(
    reference: onnx.ModelProto, options: CompileOptions, chain: Chain, probe: CompensationProbe | None
) -> Callable[[Pass, Model, Model], None] | None:
    if not options.verify and not options.verify_each:
        return None
    each: list[EachPass] = []

    def observe(step: Pass, before: Model, after: Model) -> None:
        chain(step, before, after)
        if probe is not None:
            probe(step, before, after)
        if options.verify_each:
            if not each:  # the input's size is settled by the first pass
                each.append(EachPass(reference, image_like_feeds(after, 1)))
            each[0](step, before, after)

    return observe


def _emit(
    model: Model, trainable: Model, stage: Path, name: str, options: CompileOptions
) -> tuple[Result, NcnnFiles | None]:
    result, ncnn = Result(model=model, folder=stage, trainable=trainable), None
    if "onnx" in options.emit:
        result.onnx = write_onnx(model, stage / f"{name}.onnx")
    if "ncnn" in options.emit:
        from onnxslim_yolo.emit.ncnn_write import write_ncnn

        source, pair = _convert(model, options)
        result.ncnn = write_ncnn(pair, stage / f"{name}_ncnn_model", source.metadata)
        ncnn = NcnnFiles(result.ncnn, pair, source)
    if "torch" in options.emit:
        result.torch = _save_module(trainable, stage / f"{name}.pt")
    return result, ncnn


def _save_module(trainable: Model, path: Path) -> Path:
    try:
        from onnxslim_yolo.emit.torch import save_module, to_torch
    except ImportError as error:
        raise UsageError("--emit torch needs torch", hint="pip install 'onnxslim-yolo[torch]'") from error
    return save_module(to_torch(trainable), path)


def _convert(model: Model, options: CompileOptions) -> tuple[Model, NcnnModel]:
    """Convert to ncnn; a head that ncnn cannot express is cut to its raw maps, and the metadata says how to decode."""
    from onnxslim_yolo.emit.ncnn import emit_ncnn
    from onnxslim_yolo.passes import Canonicalise, Head

    source = model
    try:
        pair = emit_ncnn(model, weights=options.ncnn_weights, cut=False)
    except UnsupportedError as error:
        raw = model.copy()
        if Head("raw").run(raw):
            Canonicalise().run(raw)
            source = raw
            model.note(
                f"ncnn: {error.message}; the head is cut to its raw maps, which onnxslim_yolo.postprocess decodes"
            )
        pair = emit_ncnn(source, weights=options.ncnn_weights)
    for note in pair.notes:
        model.note(f"ncnn: {note}")
    return source, pair


def _verify(path: Path, result: Result, ncnn: NcnnFiles | None, chain: Chain, options: CompileOptions) -> Verification:
    try:
        return verify_files(result.model, result.onnx, ncnn, chain)
    except VerificationError as error:
        if options.verify_each:
            raise
        culprit = _bisect(path, options)
        if culprit is None:
            raise
        raise VerificationError(f"{error.message}; {culprit}", file=path, hint=error.hint) from error


def _bisect(path: Path, options: CompileOptions) -> str | None:
    """Run the passes again, checking each: the message about the first that breaks something, or None."""
    model, reference = read_model(path, LoadOptions(options.imgsz, options.weights, trust=options.trust))
    from dataclasses import replace

    try:
        _run_passes(model, reference, replace(options, verify_each=True, dump_to=None), Chain(reference))
    except OnnxSlimError as error:
        return error.message
    return None


def _budget(options: CompileOptions) -> Budget:
    limits = Budget() if options.budget is None else read_budget(options.budget)
    return limits.with_options(options.max_drop, options.require_speedup)


def _measure(
    result: Result, baseline: Model, reference: onnx.ModelProto, options: CompileOptions, progress: Progress
) -> dict[str, Any]:
    """Speed and mAP, where a limit or the user asks for them."""
    found: dict[str, Any] = {}
    written = [path for path in (result.onnx, result.ncnn) if path is not None]
    if options.measure or _budget(options).latency_ratio is not None:
        from onnxslim_yolo.verify.gain import measure_speed, verdict

        progress("measure")
        wanted = result.ncnn if options.target == "ncnn" and result.ncnn is not None else result.onnx or result.ncnn
        if wanted is not None:
            found["speed"] = measure_speed(baseline, wanted)
            slower = verdict(found["speed"])
            if slower is not None:
                result.model.note(slower)
    if options.calib is not None:
        progress("estimate")
        found["estimate"] = _estimate(baseline, result.model, options.calib)
    if options.data is not None:
        from onnxslim_yolo.verify.gain import measure_accuracy

        progress("evaluate")
        found["accuracy"] = measure_accuracy(reference, written, options.data)
    return found


def _predict(model: Model, baseline: Model, options: CompileOptions, *, say: bool) -> dict[str, dict[str, Any]]:
    """Predicted latency, `before` and `after`; with `say`, a note where the table plainly calls the result slower."""
    from onnxslim_yolo.verify.predicted import predicted_verdict

    before, after = (predicted_latency(m.graph, options.target, options.isa, options.table) for m in (baseline, model))
    slower = predicted_verdict(before, after, options.target)
    if say and slower is not None:
        model.note(slower)
    return {"before": before, "after": after}


def _estimate(baseline: Model, result: Model, calib: Path) -> dict[str, Any] | None:
    """The loss on calibration images that nothing was fitted to; also a note."""
    from onnxslim_yolo.analysis.calibration import CalibrationImages
    from onnxslim_yolo.verify.estimate import estimate_loss

    images = CalibrationImages(calib, baseline, part="held-out")
    found = estimate_loss(baseline, result, images, held_out=images.splits)
    if found is None:
        return None
    result.note(found.sentence())
    return found.as_json()


def _report(
    result: Result,
    ncnn: NcnnFiles | None,
    path: Path,
    options: CompileOptions,
    before: Cost,
    records: list[PassRecord],
    verification: Verification | None,
) -> None:
    from onnxslim_yolo.report.build import build_report

    source = result.model.source
    result.plan = plan_as_json(result.model.plan, source.file, source.sha256)
    result.report = build_report(
        result, None if ncnn is None else ncnn.pair, path, options, before, records, verification
    )


def _write_reports(result: Result, stage: Path, name: str) -> None:
    from onnxslim_yolo.report.html import write_html

    write_atomically(stage / f"{name}.plan.json", json.dumps(result.plan, indent=1) + "\n")
    write_atomically(stage / f"{name}.report.json", json.dumps(result.report, indent=1) + "\n")
    write_html(result.report, stage / f"{name}.report.html")
