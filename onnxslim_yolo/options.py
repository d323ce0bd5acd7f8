"""What `compile` can be asked for, checked as a whole before anything is read."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from onnxslim_yolo.analysis.limits import Asked
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.input_format import parse_input
from onnxslim_yolo.latency.devices import DEVICES, NAMES, DeviceName
from onnxslim_yolo.load import LoadOptions

EMITTERS = ("onnx", "ncnn", "torch", "ultralytics")
PATHS = ("out", "weights", "reference", "table", "calib", "data", "budget", "dump_to")
"""The options that are files or folders: text will do."""


@dataclass(frozen=True)
class CompileOptions:
    """Options of one compilation; names and meaning as on the command line.

    Attributes:
        out: folder to write to; None: `NAME-slim` in the working directory.
        name: stem of the files; None: the input's.
        imgsz: (height, width) in pixels where the input leaves it open.
        input: what the network is fed for a pixel, as `input_format` spells it; None: what the file shows, else [0, 1].
        weights: Darknet weights, or the yaml of a bare state_dict.
        trust: open archives whose loading runs code.
        reference: an ONNX export of the same weights, made by the model's own code, that the result is compared with.
        prune: share of the prunable channels to remove, or "dead".
        target_latency: predicted latency to come down to, instead of `prune`: "0.6x" of the source's, or "12ms".
        table: a file of latencies made by `onnxslim-yolo profile`, instead of the shipped one.
        target_macs, target_params: share of the source's MACs or parameters to come down to, instead of `prune`.
        depth: whether whole blocks are candidates: "auto", "none" or "only" (see the pass `drop-blocks`).
        scope, importance, aggregate, normalise, floor, keep: see the pass `prune`.
        snap: "none", "pow2", "auto" or a number: see the pass `snap`.
        device: the machine that the result is for, by name (see `latency.devices`); `isa` is another word for it.
        target: the runtime to be fast on.
        compensate: "none", "constant", or "reconstruct", which needs `calib`.
        calib: unlabelled images (a folder, a list, a data.yaml) for "reconstruct", importance "output" and allocation
            by "curves"; the loss on every eighth of them is estimated.
        allocate: "global" or "curves": see the pass `prune`.
        emit: what to write.
        ncnn_weights: how the ncnn pair stores weights.
        head: "keep", "raw" or "decoded".
        data: labelled images (data.yaml): mAP of the source and of what is written goes into the report.
        budget, max_drop, require_speedup: limits that must hold (see `budget`).
        will_train: the result is going to be trained: that it no longer detects is expected (see `trains`).
        measure: time the result against its source even if no limit asks for it.
        passes: a textual pipeline instead of the default one.
        verify: run what is written and compare it with the source.
        run_on: a command that starts the Python in which the pair is run as well (see `runtime.launchers`).
        verify_each: compare after every pass as well.
        dump_to: a folder for the graph after every pass.
        limit_memory, limit_work: bytes and multiply-adds that one run of the model may take, as its shapes tell before
            it is run; None: by its weights (see `limits`), infinite: any.
    """

    out: Path | None = None
    name: str | None = None
    imgsz: tuple[int, int] | None = None
    input: str | None = None
    weights: Path | None = None
    trust: bool = False
    reference: Path | None = None
    prune: float | Literal["dead"] = "dead"
    target_latency: str | None = None
    table: Path | None = None
    target_macs: float | None = None
    target_params: float | None = None
    depth: Literal["auto", "none", "only"] = "auto"
    scope: Literal["all", "no-residual"] = "all"
    importance: Literal["auto", "gamma", "weight", "variance", "output"] = "auto"
    allocate: Literal["global", "curves"] = "global"
    aggregate: Literal["mean", "max", "sum"] = "mean"
    normalise: bool = False
    floor: int = 1
    keep: tuple[str, ...] = ()
    snap: Literal["none", "pow2", "auto"] | int = "auto"
    device: DeviceName = "host"
    target: Literal["ncnn", "onnxruntime"] = "ncnn"
    compensate: Literal["none", "constant", "reconstruct"] = "constant"
    calib: Path | None = None
    emit: tuple[str, ...] = ("onnx", "ncnn")
    ncnn_weights: Literal["fp16", "fp32"] = "fp16"
    head: Literal["keep", "raw", "decoded"] = "keep"
    data: Path | None = None
    budget: Path | None = None
    max_drop: float | None = None
    require_speedup: float | None = None
    will_train: bool = False
    measure: bool = False
    passes: str | None = None
    verify: bool = True
    run_on: str | None = None
    verify_each: bool = False
    dump_to: Path | None = None
    limit_memory: float | None = None
    limit_work: float | None = None

    def __post_init__(self) -> None:
        self.load_options()
        _one_of("depth", self.depth, ("auto", "none", "only"))
        _one_of("scope", self.scope, ("all", "no-residual"))
        _one_of("importance", self.importance, ("auto", "gamma", "weight", "variance", "output"))
        _one_of("allocate", self.allocate, ("global", "curves"))
        _one_of("aggregate", self.aggregate, ("mean", "max", "sum"))
        _one_of("target", self.target, ("ncnn", "onnxruntime"))
        _one_of("--for", self.device, NAMES)
        if DEVICES.get(self.device, DEVICES["neon"]).isa is None and self.target_latency and self.table is None:
            hint = "give --target-macs, or a table of it with --table"
            raise UsageError(f"the time that {self.device} takes cannot be predicted", hint=hint)
        if self.run_on is not None and "ncnn" not in self.emit:
            raise UsageError("--run-on runs NCNN pairs, and --emit names none", hint="--emit onnx,ncnn")
        _one_of("compensate", self.compensate, ("none", "constant", "reconstruct"))
        wanting = [("--compensate", self.compensate, "reconstruct"), ("--importance", self.importance, "output")]
        for option, value, needs in (*wanting, ("--allocate", self.allocate, "curves")):
            if value == needs and self.calib is None:
                raise UsageError(f"{option} {value} needs images", hint="give unlabelled ones with --calib DIR")
        _one_of("ncnn_weights", self.ncnn_weights, ("fp16", "fp32"))
        _one_of("head", self.head, ("keep", "raw", "decoded"))
        if isinstance(self.prune, str) and self.prune != "dead":
            raise UsageError(f"prune takes a ratio in [0, 1) or 'dead', not '{self.prune}'")
        if not isinstance(self.prune, str) and not 0 <= self.prune < 1:
            hint = "0.5 removes half of the prunable channels"
            raise UsageError(f"the pruning ratio {self.prune} is not in [0, 1)", hint=hint)
        if isinstance(self.snap, str):
            _one_of("snap", self.snap, ("none", "pow2", "auto"), "or a number")
        elif self.snap < 1:
            raise UsageError(
                f"cannot snap to multiples of {self.snap}", hint="use none, pow2, auto or a number above 0"
            )
        targets = [t for t in (self.target_macs, self.target_params) if t is not None]
        asked = len(targets) + (self.target_latency is not None)
        if asked > 1 or (asked and self.prune != "dead"):
            raise UsageError("give one of --prune, --target-latency, --target-macs and --target-params")
        if any(not 0 < t <= 1 for t in targets):
            raise UsageError(f"a target is a share of the source in (0, 1], not {targets[0]}")
        if not self.emit:
            raise UsageError("--emit names nothing to write", hint=f"known: {', '.join(EMITTERS)}")
        for kind in self.emit:
            _one_of("emit", kind, EMITTERS)
        for limit in (self.limit_memory, self.limit_work):
            if limit is not None and not limit > 0:
                raise UsageError(f"a limit on what a model may take must be above 0, not {limit}")
        if self.max_drop is not None and self.data is None:
            raise UsageError("--max-drop needs labelled images", hint="give them with --data data.yaml")
        if self.require_speedup is not None and self.require_speedup <= 0:
            raise UsageError(f"the speedup {self.require_speedup} must be above 0; 1.2 means 1.2 times as fast")
        if self.imgsz is not None and any(not 1 <= side <= 1 << 14 for side in self.imgsz):
            raise UsageError(f"the image size {self.imgsz} is not in [1, 16384]")
        if self.name is not None and (
            not self.name or set(self.name) & set('/\\:*?"<>|') or self.name.startswith(".") or not _is_line(self.name)
        ):
            raise UsageError(f"'{self.name}' is no file name")

    def name_for(self, source: Path) -> str:
        """Stem of the files to write. Raises InputError where the source's name cannot be one."""
        if self.name is None and not _is_line(source.stem):
            hint = "give a plain one with --name, rename the file, or set a UTF-8 locale (LC_ALL=C.UTF-8)"
            raise InputError("its name has characters that no written file may have", file=source, hint=hint)
        return self.name or source.stem

    def folder_for(self, source: Path) -> Path:
        """The folder to write to. Raises InputError where the default one is a link: nobody chose where it leads."""
        if self.out is not None:
            return self.out
        folder = Path(f"{self.name_for(source)}-slim")
        if folder.is_symlink():
            raise InputError("is a link", file=folder, hint="remove it, or say with -o where to write")
        return folder

    @property
    def trains(self) -> bool:
        """Whether the result is going to be trained: said so, or written for a trainer."""
        return self.will_train or bool({"torch", "ultralytics"} & set(self.emit))

    def load_options(self) -> LoadOptions:
        """How the source is read. Raises UsageError."""
        form = None if self.input is None else parse_input(self.input)
        asked = Asked(self.limit_memory, self.limit_work)
        return LoadOptions(self.imgsz, self.weights, trust=self.trust, input=form, asked=asked)

    def as_json(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain values."""
        defaults = CompileOptions()
        changed = {f.name for f in fields(self) if getattr(self, f.name) != getattr(defaults, f.name)}
        plain = {key: value for key, value in asdict(self).items() if key in changed}
        return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def options_from(options: dict[str, Any]) -> CompileOptions:
    """CompileOptions from loose Python values: paths as text, `imgsz` as one number, lists for tuples."""
    values = dict(options)
    if "isa" in values:
        if "device" in values:
            raise UsageError("give `device`, or its older name `isa`, not both")
        values["device"] = values.pop("isa")
    known = [option.name for option in fields(CompileOptions)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"there is no option '{key}'", hint=hint)
    for key in PATHS:
        if values.get(key) is not None:
            values[key] = Path(values[key])
    if isinstance(values.get("imgsz"), (int, str)):
        values["imgsz"] = parse_size(str(values["imgsz"]))
    elif values.get("imgsz") is not None:
        values["imgsz"] = tuple(values["imgsz"])
    for key in ("emit", "keep"):
        if isinstance(values.get(key), str):
            values[key] = tuple(part.strip() for part in values[key].split(",") if part.strip())
        elif values.get(key) is not None:
            values[key] = tuple(values[key])
    return CompileOptions(**values)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) from `N`, `HxW` or `H,W`. Raises UsageError."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--imgsz takes N or HxW (or H,W) in pixels, not '{text}'")
    sides = [int(part) for part in parts]
    return sides[0], sides[-1]


def _is_line(name: str) -> bool:
    """Whether a name is one line that any reader takes: no control characters, nothing that is no text."""
    return all(c.isprintable() or c in "\u200c\u200d" for c in name)


def _one_of(name: str, value: str, choices: tuple[str, ...], other: str = "") -> None:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean '{close[0]}'?" if close else None
        raise UsageError(f"{name}: '{value}' is none of {', '.join(choices)}{other and f' {other}'}", hint=hint)
