"""What `compile` can be asked for, checked as a whole before anything is read."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from onnxslim_yolo.analysis.importance import Aggregate
from onnxslim_yolo.analysis.limits import Asked
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.files.atomic import require_other
from onnxslim_yolo.ir.input_format import parse_input
from onnxslim_yolo.latency.devices import DEVICES, SHOWN, DeviceName
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.load import LoadOptions, Towers
from onnxslim_yolo.options.row import PANELS, rows_of, told
from onnxslim_yolo.options.spellings import grid, int8_layers, limit, parse_size, ratio, share
from onnxslim_yolo.passes.to_target import require_share

Emitter = Literal["onnx", "ncnn", "torch", "ultralytics"]
EMITTERS: tuple[Emitter, ...] = get_args(Emitter)
ALIASES = {"isa": "device"}
"""Options by other names that they had."""
*_, LIMITS, CHECKED = PANELS
MOST_THREADS = 1024


@dataclass(frozen=True)
class CompileOptions:
    """Options of one compilation; names and meaning as on the command line.

    Attributes:
        out: folder to write to; None: `NAME-slim` in the working directory.
        name: stem of the files; None: the input's.
        imgsz: (height, width) in pixels; None: what the file says.
        input: what the network is fed for a pixel, as `input_format` spells it; None: what the file shows, else [0, 1].
        weights: Darknet weights, or the yaml of a bare state_dict.
        trust: open archives whose loading runs code.
        reference: an ONNX export of the same weights, made by the model's own code, that the result is compared with.
        prune: share of the prunable channels to remove, or "dead".
        target_latency: predicted latency to come down to, instead of `prune`: "0.6x" of the source's, or "12ms".
        size: "file", or "auto": where `target_latency` asks for less, the input shrinks first, to the shape of the
            `calib` images if there are any, and what is left is pruned (see `measure.smaller_input`).
        table: a file of latencies made by `onnxslim-yolo profile`, instead of the shipped one.
        target_macs, target_params: share of the source's MACs or parameters to come down to, instead of `prune`.
        depth: whether whole blocks are candidates: "auto", "none" or "only" (see the pass `drop-blocks`).
        attention: what goes of an attention: "channels" of every head, or whole "heads".
        scope, importance, aggregate, normalise, floor, keep: see the pass `prune`.
        snap: "none", "pow2", "auto" or a number: see the pass `snap`.
        device: the machine that the result is for, by name (see `latency.devices`); `isa` is another word for it.
        target: the runtime to be fast on. threads: how many it will have there: of the shipped tables of latencies, the
            one of most threads that is no more than that is read, and so many are timed with.
        compensate: "none", "constant", or what needs `calib`: "reconstruct", or "distil", which then trains as well,
            the source as teacher, and needs torch (see `training.compensate`).
        calib: unlabelled images (a folder, a list, a data.yaml) for these, importance "output" and allocation
            by "curves"; the loss on every eighth of them is estimated.
        allocate: "global" or "curves": see the pass `prune`.
        quantize: "none", or what is int8 in the files written: "int8" (or "auto": as much as the detector bears),
            "all", or patterns of layers' names; needs `calib` (see the pass `quantise`).
        emit: what to write.
        ncnn_weights: how the ncnn pair stores weights.
        head: "keep", "raw" or "decoded".
        towers: of a checkpoint that has two sets (YOLOv10, YOLO26) the one that is compiled: "one-to-one", whose boxes
            are final, or "one-to-many", whose boxes need NMS; "file": the one that it is set to.
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

    out: Path | None = field(
        default=None, metadata=told("Folder to write to (default: NAME-slim).", "Output", flags=("-o", "--out"))
    )
    name: str | None = field(default=None, metadata=told("Stem of the written files (default: the input's).", "Output"))
    imgsz: tuple[int, int] | None = field(
        default=None,
        metadata=told(
            "Input size; of a file of a fixed size, too, where that can be.", "Input", shown="N|HxW", read=parse_size
        ),
    )
    input: str | None = field(
        default=None,
        metadata=told(
            "What the network is fed for a pixel.", "Input", flags=("--input",), shown="0..1|0..255|mean=…,std=…"
        ),
    )
    weights: Path | None = field(default=None, metadata=told("Darknet weights, or the yaml of a state_dict.", "Input"))
    trust: bool = field(default=False, metadata=told("Open archives whose loading runs code.", "Input", reach="typed"))
    reference: Path | None = field(
        default=None, metadata=told("The author's export of the same weights, to compare with.", "Input", shown="ONNX")
    )
    prune: float | Literal["dead"] = field(
        default="dead",
        metadata=told("Share of prunable channels to remove, or 'dead'.", "What to cut", shown="R|dead", read=ratio),
    )
    target_latency: str | None = field(
        default=None,
        metadata=told("Come down to this predicted latency on --target.", "What to cut", shown="0.6x|12ms"),
    )
    size: Literal["file", "auto"] = field(
        default="file",
        metadata=told("auto: a smaller input first, then pruning, to --target-latency.", "What to cut"),
    )
    table: Path | None = field(
        default=None, metadata=told("Latencies made by `profile`, instead of the shipped ones.", "Device", shown="FILE")
    )
    target_macs: float | None = field(
        default=None,
        metadata=told("Come down to this share of the MACs.", "What to cut", shown="0.7x", read=share("--target-macs")),
    )
    target_params: float | None = field(
        default=None,
        metadata=told("The same for parameters.", "What to cut", shown="0.5x", read=share("--target-params")),
    )
    depth: Literal["auto", "none", "only"] = field(
        default="auto", metadata=told("Whole blocks as candidates.", "What to cut")
    )
    attention: Literal["channels", "heads"] = field(
        default="channels", metadata=told("What goes of an attention: channels of every head, or heads.", "What to cut")
    )
    scope: Literal["all", "no-residual"] = field(default="all", metadata=told("What may be pruned.", "What to cut"))
    importance: Literal["auto", "gamma", "weight", "variance", "output"] = field(
        default="auto", metadata=told("How channels are ranked.", "What to cut")
    )
    aggregate: Aggregate = field(
        default="mean", metadata=told("How coupled channels are ranked as one.", "What to cut")
    )
    keep: tuple[str, ...] = field(
        default=(),
        metadata=told(
            "Layers not to touch; repeatable.",
            "What to cut",
            flags=("--keep", "--ignore"),
            shown="PATTERN",
            repeated=True,
        ),
    )
    floor: int = field(default=1, metadata=told("The least channels any tensor keeps.", "What to cut"))
    normalise: bool = field(default=False, metadata=told("Rank channels relative to their layer.", "What to cut"))
    snap: Literal["none", "pow2", "auto"] | int = field(
        default="auto",
        metadata=told("Widths that channels are rounded to.", "Device", shown="none|pow2|N|auto", read=grid),
    )
    device: DeviceName = field(
        default="host",
        metadata=told("The machine that the result is for.", "Device", flags=("--for", "--isa"), shown=SHOWN),
    )
    target: Runtime = field(default="ncnn", metadata=told("The runtime to be fast on.", "Device"))
    threads: int = field(
        default=1, metadata=told("Its threads there: for the choice of the table, and timed with.", "Device")
    )
    allocate: Literal["global", "curves"] = field(
        default="global", metadata=told("How widths are chosen.", "What to cut")
    )
    compensate: Literal["none", "constant", "reconstruct", "distil"] = field(
        default="constant", metadata=told("How what is left makes up for what went.", "Compensation")
    )
    calib: Path | None = field(
        default=None, metadata=told("Unlabelled images to calibrate on.", "Compensation", shown="DIR|FILE")
    )
    emit: tuple[Emitter, ...] = field(
        default=("onnx", "ncnn"),
        metadata=told("What to write, of these; the last two: to train.", "Output", shown=",".join(EMITTERS)),
    )
    ncnn_weights: Literal["fp16", "fp32"] = field(
        default="fp16", metadata=told("How ncnn's weights are stored.", "Output")
    )
    head: Literal["keep", "raw", "decoded"] = field(default="keep", metadata=told("Where the network ends.", "Output"))
    towers: Towers = field(
        default="file", metadata=told("Of a v10's or 26's two sets of towers, the one that runs.", "Input")
    )
    data: Path | None = field(
        default=None, metadata=told("Labelled images, for mAP before and after.", CHECKED, shown="YAML")
    )
    budget: Path | None = field(
        default=None, metadata=told("Limits that must hold, else exit 4.", LIMITS, shown="TOML")
    )
    max_drop: float | None = field(default=None, metadata=told("Largest loss of mAP50; needs --data.", LIMITS))
    require_speedup: float | None = field(
        default=None, metadata=told("Measured against the source.", LIMITS, shown="1.2")
    )
    will_train: bool = field(
        default=False, metadata=told("A result that no longer detects is expected (else exit 5).", LIMITS)
    )
    measure: bool = field(default=False, metadata=told("Time the result against its source.", CHECKED))
    passes: str | None = field(default=None, metadata=told("A textual pipeline instead of the default.", shown="SPEC"))
    verify: bool = field(
        default=True, metadata=told("Do not run what is written.", CHECKED, flags=("--no-verify",), off=True)
    )
    run_on: str | None = field(
        default=None,
        metadata=told(
            "Run NCNN pairs in another Python: 'ssh pi@raspberrypi.local python3 -', say.",
            "Device",
            shown="LAUNCHER",
            reach="named",
        ),
    )
    quantize: str = field(
        default="none",
        metadata=told("What is int8 in the files; needs --calib.", "Output", shown="int8|all|PATTERN|none"),
    )
    verify_each: bool = field(default=False, metadata=told("Compare after every pass.", CHECKED))
    dump_to: Path | None = field(
        default=None, metadata=told("Dump the graph after every pass.", flags=("--print-after-all",), shown="DIR")
    )
    limit_memory: float | None = field(
        default=None,
        metadata=told(
            "Memory that one run of the model may take, by its shapes.",
            LIMITS,
            shown="3GB|none",
            read=limit("--limit-memory"),
            reach="named",
        ),
    )
    limit_work: float | None = field(
        default=None,
        metadata=told(
            "Multiply-adds that one run of the model may take.",
            LIMITS,
            shown="500G|none",
            read=limit("--limit-work"),
            reach="named",
        ),
    )

    def __post_init__(self) -> None:
        for row in rows_of(CompileOptions):
            object.__setattr__(self, row.name, row.from_value(getattr(self, row.name)))
        self.load_options()
        if DEVICES.get(self.device, DEVICES["neon"]).isa is None and self.target_latency and self.table is None:
            hint = "give --target-macs, or a table of it with --table"
            raise UsageError(f"the time that {self.device} takes cannot be predicted", hint=hint)
        if self.run_on is not None and "ncnn" not in self.emit:
            raise UsageError("--run-on runs NCNN pairs, and --emit names none", hint="--emit onnx,ncnn")
        fitted = [("--compensate", self.compensate, how) for how in ("reconstruct", "distil")]
        wanting = [*fitted, ("--importance", self.importance, "output")]
        for option, value, needs in (*wanting, ("--allocate", self.allocate, "curves")):
            if value == needs and self.calib is None:
                raise UsageError(f"{option} {value} needs images", hint="give unlabelled ones with --calib DIR")
        if self.compensate == "distil" and self.passes is not None:
            raise UsageError("--compensate distil belongs to the default pipeline", hint="leave --passes out")
        if self.int8 and self.calib is None:
            hint = "give unlabelled ones with --calib DIR"
            raise UsageError(f"--quantize {self.quantize} needs images", hint=hint)
        if self.int8 and "onnx" not in self.emit:
            hint = "--emit onnx,ncnn: whether int8 still detects is told by the ONNX file"
            raise UsageError("--quantize needs the ONNX file, and --emit names none", hint=hint)
        if not isinstance(self.prune, str) and not 0 <= self.prune < 1:
            hint = "0.5 removes half of the prunable channels"
            raise UsageError(f"the pruning ratio {self.prune} is not in [0, 1)", hint=hint)
        if not isinstance(self.snap, str) and self.snap < 1:
            raise UsageError(
                f"cannot snap to multiples of {self.snap}", hint="use none, pow2, auto or a number above 0"
            )
        targets = [t for t in (self.target_macs, self.target_params) if t is not None]
        asked = len(targets) + (self.target_latency is not None)
        if asked > 1 or (asked and self.prune != "dead"):
            raise UsageError("give one of --prune, --target-latency, --target-macs and --target-params")
        if self.size == "auto" and self.target_latency is None:
            raise UsageError("--size auto needs a latency to come down to", hint="give --target-latency 0.7x")
        for target in targets:
            require_share(target)
        if any(not t > 0 for t in targets):
            raise UsageError(f"a target is a share of the source in (0, 1], not {targets[0]}")
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"--threads {self.threads} is not in [1, {MOST_THREADS}]")
        if not self.emit:
            raise UsageError("--emit names nothing to write", hint=f"known: {', '.join(EMITTERS)}")
        for most in (self.limit_memory, self.limit_work):
            if most is not None and not most > 0:
                raise UsageError(f"a limit on what a model may take must be above 0, not {most}")
        if self.max_drop is not None and self.data is None:
            raise UsageError("--max-drop needs labelled images", hint="give them with --data data.yaml")
        if self.require_speedup is not None and self.require_speedup <= 0:
            raise UsageError(f"the speedup {self.require_speedup} must be above 0; 1.2 means 1.2 times as fast")
        if self.imgsz is not None and any(not 1 <= side <= 1 << 14 for side in self.imgsz):
            raise UsageError(f"the image size {self.imgsz[0]}x{self.imgsz[1]} has a side that is not in [1, 16384]")
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
        """The folder to write to. Raises InputError where the default one is a link: nobody chose where it leads; and
        where what is read would be written over."""
        name = self.name_for(source)
        if self.out is not None:
            written = [self.out / f"{name}{ending}" for ending in (".onnx", ".pt", "-slim.pt")]
            require_other(written, source, self.reference, hint="choose another folder with -o, or another --name")
            return self.out
        folder = Path(f"{name}-slim")
        if folder.is_symlink():
            raise InputError("is a link", file=folder, hint="remove it, or say with -o where to write")
        return folder

    @property
    def int8(self) -> tuple[str, ...]:
        """What is to be int8, as the pass `quantise` takes it; empty for nothing. Raises UsageError."""
        return int8_layers(self.quantize)

    @property
    def trains(self) -> bool:
        """Whether the result is going to be trained: said so, or written for a trainer."""
        return self.will_train or bool({"torch", "ultralytics"} & set(self.emit))

    def load_options(self) -> LoadOptions:
        """How the source is read. Raises UsageError."""
        form = None if self.input is None else parse_input(self.input)
        asked = Asked(self.limit_memory, self.limit_work)
        return LoadOptions(
            self.imgsz,
            self.weights,
            trust=self.trust,
            input=form,
            asked=asked,
            referenced=self.reference is not None,
            towers=self.towers,
        )

    def as_json(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain values."""
        defaults = CompileOptions()
        changed = {f.name for f in fields(self) if getattr(self, f.name) != getattr(defaults, f.name)}
        plain = {key: value for key, value in asdict(self).items() if key in changed}
        return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


ROWS = rows_of(CompileOptions)
"""The table of options."""


def options_from(options: dict[str, Any]) -> CompileOptions:
    """CompileOptions from loose Python values, spelt as on the command line or not. Raises UsageError."""
    values = dict(options)
    for older, name in ALIASES.items():
        if older in values:
            if name in values:
                raise UsageError(f"give `{name}`, or its older name `{older}`, not both")
            values[name] = values.pop(older)
    known = [row.name for row in ROWS]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UsageError(f"there is no option '{key}'", hint=hint)
    return CompileOptions(**values)


def _is_line(name: str) -> bool:
    """Whether a name is one line that any reader takes: no control characters, nothing that is no text."""
    return all(c.isprintable() or c in "\u200c\u200d" for c in name)
