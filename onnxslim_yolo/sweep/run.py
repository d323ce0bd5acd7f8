"""A grid of compilations of one model: which ratio, grid of widths, importance and size are worth it.

    grid = Grid(prune=(0.3, 0.5), snap=("none", "auto"))
    rows = sweep(SweepOptions(Path("best.pt"), out=Path("best-sweep"), grid=grid))

Each trial is one compilation into `OUT/trials/KEY`, where KEY is made of the source's bytes and the trial's options.
Each finished trial is a row of `OUT/sweep.csv`; run again, only what has no row yet, or failed, is done. A trial that
fails is a row, too, with its error. The unpruned model is always among them, and other models (the smaller sizes of the
family) may be put beside it. Trials run in parallel processes, or with joblib on a dask cluster; latency is measured
afterwards, alone on the machine and interleaved, because compilations beside it would be measured as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal

from onnxslim_yolo._version import install_line
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.files.atomic import require_folder, resolved
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import LoadOptions
from onnxslim_yolo.load.files_read import content_of, files_of_data, files_of_model
from onnxslim_yolo.measure.smaller_input import Sizes, smaller_sizes
from onnxslim_yolo.options import options_from
from onnxslim_yolo.pruning.calibration_images import evenly
from onnxslim_yolo.runtime.dataset import read_calibration, read_dataset
from onnxslim_yolo.sweep.children import run_in_children
from onnxslim_yolo.sweep.rows import Row, Trial, read_rows, write_rows
from onnxslim_yolo.verify.agreement import agreement, detections_of
from onnxslim_yolo.verify.detector import Detector, open_network

Size = tuple[int, int]
Progress = Callable[[int, int], None]
JUDGED = 32
"""Images that detections are counted on."""

BATCH = 8
"""Models that are timed in one process, besides the base."""


@dataclass(frozen=True)
class Grid:
    """The values to combine, each as `CompileOptions` takes it.

    Attributes:
        prune, snap, importance, compensate: as the options of `compile`.
        imgsz: (h, w) in pixels; None: what the file says. A file whose size is fixed has rows with errors for others.
            "auto" among them: that of the file, and every multiple of 32 below it, down to half of it.
    """

    prune: tuple[float | str, ...] = (0.2, 0.4, 0.6)
    snap: tuple[float | str, ...] = ("auto",)
    importance: tuple[str, ...] = ("auto",)
    compensate: tuple[str, ...] = ("constant",)
    imgsz: tuple[Size | Literal["auto"] | None, ...] = (None,)

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values:
                raise UsageError(f"the grid has no value for {name}")


@dataclass(frozen=True)
class SweepOptions:
    """One sweep.

    Attributes:
        model: what is swept: an ONNX file, a checkpoint, a Darknet cfg.
        out: the folder for everything.
        grid: see `Grid`.
        against: other models, compiled without pruning, for comparison.
        target: the runtime that files are written for, and timed in.
        data: labelled images, for mAP.
        measure: time all results against the unpruned model.
        verify: as for `compile`.
        jobs: trials at a time, each in a process of its own; -1: as many as there are cores.
        backend: "local", or "dask" with `scheduler`, HOST:PORT, and joblib. "loky" is an old name for "local".
        calib, weights, trust: as for `compile`.
    """

    model: Path
    out: Path
    grid: Grid = field(default_factory=Grid)
    against: tuple[Path, ...] = ()
    target: Literal["ncnn", "onnxruntime"] = "ncnn"
    data: Path | None = None
    measure: bool = False
    verify: bool = True
    jobs: int = 1
    backend: Literal["local", "loky", "dask"] = "local"
    scheduler: str | None = None
    calib: Path | None = None
    weights: Path | None = None
    trust: bool = False


def sweep(options: SweepOptions, progress: Progress | None = None) -> list[Row]:
    """Run what has not been run yet. Returns all rows in the grid's order.

    Writes `sweep.csv`, `sweep.parquet` where pyarrow is installed, and `sweep.html` into the sweep's folder.

    Raises:
        InputError: a model is missing, the folder cannot be written, its table is damaged, or the labels are no data.
        UsageError: an option or a value of the grid is out of range, or needs a package that is not installed.
    """
    from onnxslim_yolo.report.sweep import write_sweep_html

    _check(options)
    trials, table = plan_trials(options), options.out / "sweep.csv"
    for trial in trials:
        options_from(_compile_options(trial))  # what no trial can be is told before the first
    known = {row["key"]: row for row in read_rows(table)}
    todo = [trial for trial in trials if trial.key not in known or known[trial.key]["error"]]
    for done, row in enumerate(_run(todo, options), start=len(trials) - len(todo) + 1):
        known[row["key"]] = row
        write_rows(list(known.values()), table)
        if progress is not None:
            progress(done, len(trials))
    if options.measure:
        _measure([known[trial.key] for trial in trials], options)
    write_rows(list(known.values()), table, parquet=True)
    known = {row["key"]: row for row in read_rows(table)}  # new rows and old ones with the same types
    rows = [known[trial.key] for trial in trials]
    write_sweep_html(rows, options.model.name, options.out / "sweep.html")
    return rows


def require_some(rows: Sequence[Row], table: Path) -> None:
    """Raises InputError where everything that was asked for failed: the unpruned model alone is no result."""
    asked = [row for row in rows if str(row["prune"]) not in ("0", "0.0")] or rows
    if all(row.get("error") for row in asked):
        raise InputError(
            f"none of the {len(asked)} trials could be compiled; the first: {asked[0]['error']}",
            file=table,
            hint="the table has every trial's error; run it again when they are mended",
        )


def grid_value(option: str, text: str) -> float | str:
    """A value of the grid from text: a number, a whole one for `snap`, or a word. Raises UsageError for others."""
    words = {"prune": ("dead",), "snap": ("none", "pow2", "auto")}[option]
    if text in words:
        return text
    try:
        return int(text) if option == "snap" else float(text)
    except ValueError as error:
        raise UsageError(f"--{option}: '{text}' is no number and none of {', '.join(words)}") from error


def plan_trials(options: SweepOptions) -> list[Trial]:
    """Every trial, in order: for each size the unpruned models, then the grid."""
    emit = "ncnn" if options.target == "ncnn" else "onnx"
    data = None if options.data is None else str(resolved(options.data))
    common = {"emit": [emit], "target": options.target, "trust": options.trust, "name": "model"}
    files = {"weights": options.weights, "calib": options.calib}
    common |= {name: str(resolved(path)) for name, path in files.items() if path is not None}
    also = [] if options.calib is None else [*read_calibration(options.calib)]
    also += [] if options.data is None else [*files_of_data(options.data)]
    also += [] if options.weights is None else [options.weights]
    images = content_of(also)
    hashes = {path: images + content_of(files_of_model(path)) for path in (options.model, *options.against)}

    def trial(path: Path, size: Size | None, **chosen: Any) -> Trial:
        imgsz = {} if size is None else {"imgsz": list(size)}
        judged = options.calib is not None and path == options.model
        return Trial(str(resolved(path)), hashes[path], {**common, **imgsz, **chosen}, options.verify, data, judged)

    grid, sizes = options.grid, _sizes(options)
    found = [trial(path, size, prune=0.0) for size in sizes for path in hashes]
    for size, prune, snap, importance, compensate in product(
        sizes, grid.prune, grid.snap, grid.importance, grid.compensate
    ):
        if prune != 0:
            chosen = {"prune": prune, "snap": snap, "importance": importance, "compensate": compensate}
            found.append(trial(options.model, size, **chosen))
    return list({each.key: each for each in found}.values())


def _sizes(options: SweepOptions) -> tuple[Size | None, ...]:
    """The sizes of the grid, "auto" spelt out."""
    wanted = options.grid.imgsz
    if "auto" not in wanted:
        return tuple(size for size in wanted if size != "auto")
    table = table_for(options.target)
    full = Sizes(options.model, LoadOptions(None, options.weights, trust=options.trust), table).full
    return tuple(dict.fromkeys((*(size for size in wanted if size != "auto"), None, *smaller_sizes(full))))


def run_trial(trial: Trial, folder: Path) -> Row:
    """Compile one trial into `folder`/KEY and describe it. Whatever goes wrong becomes the row's `error`."""
    from onnxslim_yolo.compiler import compile as compile_model

    started = time.perf_counter()
    out = folder / trial.key
    chosen = {name: trial.options.get(name) for name in ("prune", "snap", "importance", "compensate")}
    size = trial.options.get("imgsz")
    row: Row = {"key": trial.key, "model": Path(trial.model).name, **chosen, "imgsz": size and "x".join(map(str, size))}
    try:
        result = compile_model(trial.model, out=out, verify=trial.verify, **_compile_options(trial))
        row |= _figures(result.report)
        written = result.ncnn or result.onnx
        if written is None:
            raise InputError("nothing was written", file=out)
        row["file"] = str(written.relative_to(folder.parent))
        if trial.judged:
            row["kept"] = _kept(trial, written)
        if trial.data is not None:
            row |= _accuracy(written, Path(trial.data))
    except Exception as error:  # one bad combination must not end a sweep of hours
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def _compile_options(trial: Trial) -> dict[str, Any]:
    size = trial.options.get("imgsz")
    return {**trial.options, **({} if size is None else {"imgsz": tuple(size)})}


def _figures(report: dict[str, Any]) -> Row:
    before, after = report["before"], report["after"]
    verification = report["verification"] or {}
    moved = verification.get("difference_from_source") or {"worst": 0.0 if verification else None}
    return {
        "macs": after["macs"],
        "parameters": after["parameters"],
        "macs_ratio": after["macs"] / before["macs"] if before["macs"] else 1.0,
        "bytes": sum(report["files"].values()),
        "difference": moved["worst"],
    }


def _kept(trial: Trial, written: Path) -> float | None:
    """The share of the source's detections at its own size that a result has, too; None where it detects nothing."""
    images = read_calibration(Path(trial.options["calib"]))
    images = tuple(images[index] for index in evenly(JUDGED, len(images)))
    weights = trial.options.get("weights")
    how = LoadOptions(None, None if weights is None else Path(weights), trust=bool(trial.options.get("trust")))
    source = Sizes(Path(trial.model), how, table_for("ncnn"), images)
    try:
        before = source.seen(source.full)
        return (
            agreement(before, detections_of(open_network(written, threads=1), images)).share if source.objects else None
        )
    except UnsupportedError:  # a head that cannot be decoded
        return None


def _accuracy(written: Path, data: Path) -> Row:
    from onnxslim_yolo.measure.evaluate import evaluate

    dataset = read_dataset(data, ("val",))
    found = evaluate(Detector(open_network(written, threads=1), nc=len(dataset.names)), dataset)
    return {"map50": found.map50, "map": found.map}


def _run(trials: Sequence[Trial], options: SweepOptions) -> Iterator[Row]:
    """The trials' rows as they come."""
    folder = resolved(options.out / "trials")
    if options.jobs == 1 and options.backend != "dask":
        yield from (run_trial(trial, folder) for trial in trials)
        return
    if options.backend != "dask":
        yield from run_in_children([asdict(trial) for trial in trials], folder, options.jobs)
        return
    joblib = _joblib()
    with _dask(options.scheduler), joblib.parallel_config(backend="dask", n_jobs=-1):
        parallel = joblib.Parallel(return_as="generator_unordered")
        yield from parallel(joblib.delayed(run_trial)(trial, folder) for trial in trials)


def _dask(scheduler: str | None) -> Any:
    """The cluster's client, to be entered: joblib's backend takes what is open."""
    try:
        distributed = import_module("distributed")
    except ImportError as error:
        raise UsageError("--backend dask needs the package distributed", hint="pip install distributed") from error
    try:
        return distributed.Client(scheduler, timeout=10)
    except OSError as error:
        raise UsageError(f"no dask scheduler answers at {scheduler}: {error}") from error


def _joblib() -> Any:
    try:
        return import_module("joblib")
    except ImportError as error:
        raise UsageError("trials on a cluster need joblib", hint=install_line("sweep")) from error


def _measure(rows: list[Row], options: SweepOptions) -> None:
    """Fill in `latency_ms` and `latency_ratio` (to the first row, the unpruned model) where one is missing."""
    from onnxslim_yolo.measure.benchmark import benchmark

    base, *others = rows
    if not base.get("file"):
        raise InputError(f"the unpruned model could not be compiled: {base.get('error')}", file=options.model)
    missing = [row for row in others if row.get("file") and row.get("latency_ratio") is None]
    for batch in _batches(missing, BATCH):
        found = benchmark([options.out / row["file"] for row in (base, *batch)])
        for row, timed in zip((base, *batch), found.models, strict=True):
            row |= {"latency_ms": timed.ms, "latency_ratio": timed.ratio}


def _batches(rows: Sequence[Row], size: int) -> Iterable[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _check(options: SweepOptions) -> None:
    for path in (options.model, *options.against):
        if not path.is_file():
            raise InputError("no such file", file=path)
    require_folder(options.out)
    if options.against and options.data is None:
        raise UsageError(
            "rivals are compared by mAP: without it each is measured against itself, and wins",
            hint="give labelled images with --data data.yaml, or leave --against out",
        )
    if options.data is not None:
        read_dataset(options.data, ("val",))
    if options.calib is not None:
        read_calibration(options.calib)
    if options.jobs == 0 or options.jobs < -1:
        raise UsageError(f"{options.jobs} trials at a time?", hint="--jobs takes a number above 0, or -1 for all cores")
    if options.backend not in ("local", "loky", "dask"):
        raise UsageError(f"backend: '{options.backend}' is neither local nor dask")
    if options.target not in ("ncnn", "onnxruntime"):
        raise UsageError(f"target: '{options.target}' is neither ncnn nor onnxruntime")
    if (options.scheduler is None) != (options.backend != "dask"):
        raise UsageError("--backend dask and --scheduler HOST:PORT belong together")
