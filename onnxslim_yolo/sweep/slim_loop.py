"""From a trained checkpoint to a small one in one run: sparsify → compile to a target → fine-tune → compile.

    FOLDER/dense/      what was given, compiled without pruning, for comparison
    FOLDER/sparse/     Ultralytics' run folder of `sparsify`; weights/sparse.pt goes on
    FOLDER/pruned/     compiled to the target; NAME-slim.pt goes on
    FOLDER/tuned/      Ultralytics' run folder of `finetune`, with what was given as teacher; weights/best.pt goes on
    FOLDER/final/      what to deploy: ONNX, NCNN, report
    FOLDER/slim.json   what is done: the same command again goes on behind it, within a training as well

Each stage is one of this package's commands. Half of the epochs train for sparsity, half fine-tune.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from onnxslim_yolo.errors import BudgetError, InputError, UsageError
from onnxslim_yolo.files.atomic import require_file, sha256_of, write_atomically
from onnxslim_yolo.options import CompileOptions, options_from
from onnxslim_yolo.passes.to_target import parse_target
from onnxslim_yolo.training.stages import Stages

STAGES = ("dense", "sparse", "pruned", "tuned", "final")

FEWEST = 8
"""Epochs: in fewer than four nothing is pushed to zero."""

Row = dict[str, Any]


@dataclass(frozen=True)
class LoopOptions:
    """What a run is asked for.

    Attributes:
        checkpoint: what is made small. data: its data.yaml, with labels. out: the run's folder.
        target_latency: as of `compile`. epochs: of both trainings together.
        target: share of γ to bring to zero; None: as much as a share of latency asks to go, else a half.
        device: as of `compile --for`. max_drop: the largest loss of mAP50, else exit 4.
        settings: Ultralytics' train arguments, for both trainings.
    """

    checkpoint: Path
    data: Path
    out: Path
    target_latency: str
    epochs: int = 100
    target: float | None = None
    device: str = "host"
    max_drop: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < FEWEST:
            raise UsageError(f"{self.epochs} epochs are too few for two trainings", hint="--epochs 100")
        parse_target(self.target_latency)  # said before anything is trained
        if not 0 < self.share < 1:
            raise UsageError(f"the target {self.share} is not in (0, 1)", hint="0.5 brings half of the γ to zero")
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max-drop {self.max_drop} is not in [0, 1]")
        taken = [name for name in ("project", "name", "exist_ok", "save_dir") if name in self.settings]
        if taken:
            raise UsageError(f"'{taken[0]}': the command sets {taken[0]} itself", hint="-o says where the run goes")
        self.compiling("pruned", emit=("onnx",))

    @property
    def share(self) -> float:
        """The share of γ to bring to zero."""
        if self.target is not None:
            return self.target
        number, unit = parse_target(self.target_latency)
        return 1 - number if unit == "x" else 0.5

    @property
    def imgsz(self) -> tuple[int, int] | None:
        """(h, w) where the settings say it."""
        size = self.settings.get("imgsz")
        return (size, size) if isinstance(size, int) else None

    def compiling(self, stage: str, emit: tuple[str, ...], **more: Any) -> CompileOptions:
        """Options of one of the compilations."""
        hows: dict[str, dict[str, Any]] = {"dense": {"prune": 0.0}, "pruned": {"target_latency": self.target_latency}}
        how = hows.get(stage, {})  # in the end, what is dead goes: layers that training needs may keep a channel
        where = {"out": self.out / stage, "name": self.checkpoint.stem, "imgsz": self.imgsz, "device": self.device}
        return options_from({**where, "emit": emit, **how, **more})

    def asked(self) -> dict[str, Any]:
        """What a later start has to ask for, too; limits may change."""
        plain = {name: str(value) for name, value in sorted(self.settings.items())}
        require_file(self.checkpoint)
        if not self.checkpoint.is_file():
            raise InputError("no such file", file=self.checkpoint)
        return {
            "checkpoint": sha256_of(self.checkpoint),
            "data": str(self.data.resolve()),
            "target_latency": self.target_latency,
            "epochs": self.epochs,
            "target": round(self.share, 6),
            "device": self.device,
            "settings": plain,
        }


class Work(Protocol):
    """What does the stages' work: the package's commands, or in tests something smaller."""

    def compile(self, source: Path, options: CompileOptions) -> Mapping[str, Any]:
        """Compile; returns the report."""

    def sparsify(self, source: Path, epochs: int, target: float, settings: Mapping[str, Any], *, resume: bool) -> Path:
        """Train for sparsity; returns the run's folder. With `resume` the source is that folder."""

    def finetune(self, source: Path, epochs: int, teacher: Path, settings: Mapping[str, Any], *, resume: bool) -> Path:
        """Train the pruned network; returns the run's folder. With `resume` the source is that folder."""

    def score(self, onnx: Path) -> Mapping[str, float]:
        """mAP: `map50` and `map`."""


def run_loop(options: LoopOptions, work: Work, progress: Callable[[str], None] = lambda stage: None) -> list[Row]:
    """Do what is left to do. Returns a row per stage that gives a network: `map50`, `map`, predicted `latency_us`.

    Raises:
        OnnxSlimError: as the commands. BudgetError: more mAP50 is lost than `max_drop`; everything is written.
    """
    stages = Stages.open(options.out / "slim.json", options.asked())
    half = options.epochs // 2
    stem = options.checkpoint.stem

    def compiled(stage: str, source: Path, emit: tuple[str, ...], **more: Any) -> dict[str, Any]:
        progress(stage)
        report = work.compile(source, options.compiling(stage, emit, **more))
        kept = f"{stage}/{stem}-slim.pt" if "ultralytics" in emit else f"{stage}/{stem}.onnx"
        return {"file": kept, **_row(stage, report, work.score(options.out / stage / f"{stem}.onnx"))}

    def trained(stage: str, epochs: int, kept: str, train: Callable[..., Path], source: Path, *given: Any) -> Row:
        progress(stage)
        folder = options.out / stage
        settings = {**options.settings, "project": str(options.out.resolve()), "name": stage, "exist_ok": True}
        if epochs_done(folder) < epochs or not (folder / "weights" / kept).is_file():
            resume = 0 < epochs_done(folder) < epochs and (folder / "weights/last.pt").is_file()
            train(folder if resume else source, epochs, *given, settings, resume=resume)
        return {"file": f"{stage}/weights/{kept}"}

    dense = stages.run("dense", lambda: compiled("dense", options.checkpoint, ("onnx", "ncnn")))
    sparse = stages.run(
        "sparse",
        lambda: trained("sparse", half, "sparse.pt", work.sparsify, options.checkpoint, options.share),
    )
    emit = ("onnx", "ncnn", "ultralytics")
    pruned = stages.run("pruned", lambda: compiled("pruned", options.out / sparse["file"], emit, will_train=True))
    tuned = stages.run(
        "tuned",
        lambda: trained(
            "tuned", options.epochs - half, "best.pt", work.finetune, options.out / pruned["file"], options.checkpoint
        ),
    )
    final = stages.run("final", lambda: compiled("final", options.out / tuned["file"], ("onnx", "ncnn")))
    rows = [{"stage": name, **facts} for name, facts in (("dense", dense), ("pruned", pruned), ("final", final))]
    write_atomically(options.out / "stages.csv", table_of(rows))
    require_kept(rows, options)
    return rows


def _row(stage: str, report: Mapping[str, Any], score: Mapping[str, float]) -> Row:
    # Of what was given, as it came: that is what a share of latency is a share of.
    costs = report["before" if stage == "dense" else "after"]
    found = {"map50": round(score["map50"], 4), "map": round(score["map"], 4)}
    return {**found, "latency_us": costs.get("latency_us"), "macs": costs["macs"], "parameters": costs["parameters"]}


def epochs_done(folder: Path) -> int:
    """How many epochs Ultralytics' run folder tells of."""
    try:
        with (folder / "results.csv").open(encoding="utf-8", newline="") as stream:
            return max(0, sum(1 for row in csv.reader(stream) if row) - 1)
    except (OSError, UnicodeDecodeError, csv.Error):
        return 0


def table_of(rows: list[Row]) -> str:
    """The rows as CSV."""
    names = ("stage", "map50", "map", "latency_us", "macs", "parameters")
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    return "\n".join(lines) + "\n"


def require_kept(rows: list[Row], options: LoopOptions) -> None:
    """Raises BudgetError where the last network lost more mAP50 than it may."""
    drop = rows[0]["map50"] - rows[-1]["map50"]
    if options.max_drop is not None and drop > options.max_drop:
        raise BudgetError(
            f"mAP50 fell by {drop:.3f}, from {rows[0]['map50']:.3f}; allowed are {options.max_drop:g}",
            file=options.checkpoint,
            hint=f"the files are in {options.out / 'final'}; more epochs, a larger latency, or another limit",
        )
