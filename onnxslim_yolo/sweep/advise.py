"""Which lever to pull: every one that needs no training is tried at a latency, and the best few are timed.

    OUT/fit.txt, OUT/judge.txt   images of --calib: those fitted to, and those that detections are counted on
    OUT/trials/KEY/              each trial's files
    OUT/advise.json              what is done, and the answer: the same command again goes on behind it
    OUT/advise.html              the picture

A trial is a compilation without verification: what it keeps of the source's detections is counted on its own file, in
the runtime that it is for. The commands in the answer verify.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxslim_yolo._version import __version__
from onnxslim_yolo.errors import BudgetError, InputError, OnnxSlimError
from onnxslim_yolo.files.atomic import require_folder, resolved, write_atomically
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.latency.int8 import knows_int8
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load.files_read import content_of, files_of_data, files_of_model
from onnxslim_yolo.measure.machine import cores_here, require_cores
from onnxslim_yolo.measure.smaller_input import Size, Sizes, shapes_of
from onnxslim_yolo.options import CompileOptions, options_from
from onnxslim_yolo.passes.to_target import limit_of, parse_target
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.quantisation.choose import COSTLY
from onnxslim_yolo.report.advice import Advice, Row, left_of, ranked, write_advice_html
from onnxslim_yolo.report.command import command_of
from onnxslim_yolo.runtime.dataset import read_calibration, read_dataset
from onnxslim_yolo.sweep.known_trials import FORMAT, as_timed_by, known_trials
from onnxslim_yolo.sweep.levers import INT8, INT8_ALL, Lever, levers, nearer, usable_sizes
from onnxslim_yolo.verify.agreement import FAINT, agreement, average_precision, confident, detections_of
from onnxslim_yolo.verify.detector import Detector, open_network

Progress = Callable[[str], None]
ENOUGH = 8
"""Images that show something, at least."""

APART = 16
"""With so many, half of them are fitted to and half are judged on; fewer serve both."""

TIMED = 3
"""Trials that are timed together, the best first."""

NEARER = 2
"""How often what was timed is brought nearer to the target."""

NOISE = 1.03
"""Measured latency may miss the target by so much."""


@dataclass(frozen=True)
class AdviseOptions:
    """What is asked.

    Attributes:
        model: what is to be faster. calib: unlabelled images. target_latency: "0.7x" or "12ms". out: the work's folder.
        data: labelled images: mAP decides then.
        compile: options of `compile` that hold for all trials: device, target, table, threads, imgsz, input, weights,
            trust.
        run_on: as of `compile`; measure: time the best, where the device is this machine or `run_on` leads to it.
    """

    model: Path
    calib: Path
    target_latency: str
    out: Path
    data: Path | None = None
    compile: Mapping[str, Any] = field(default_factory=dict)
    run_on: str | None = None
    measure: bool = True

    @cached_property
    def plain(self) -> CompileOptions:
        """The options of a compilation that changes nothing. Raises UsageError."""
        return options_from({**self.compile, "prune": 0.0, "target_latency": None})


def advise(options: AdviseOptions, progress: Progress = lambda stage: None) -> Advice:
    """Try every lever, and answer. See the module for what is written.

    Raises:
        InputError: the model, the images or the work folder are no good, or every trial failed.
        UsageError: an option is. UnsupportedError: the model's head cannot be decoded, or it cannot be compiled.
    """
    work = _Work(options, progress)
    progress("reading")
    work.require_images()
    work.sizes.require_objects(options.calib)
    source = work.row(Lever("source", {}), required=True)
    limit = limit_of(options.target_latency, work.whole)
    smaller, why = usable_sizes(work.sizes, shapes_of([*work.fit, *work.judged], work.sizes.full))
    int8 = work.int8(source, limit)
    rows = [source, *int8.values()]
    left = {lever: share for lever, row in int8.items() if (share := work.int8_left(row)) is not None}
    for lever in levers(work.sizes, smaller, limit, left, options.target_latency):
        rows.append(work.row(lever))
        work.count_int8(rows[-1], left)
    tried = [row for row in rows[1:] if not row.get("error")]
    if not tried:
        raise InputError(f"no lever could be tried; the first: {rows[1]['error']}", file=options.model)
    work.time(source, tried, limit)
    for _ in range(NEARER):
        again = [work.row(lever) for lever in work.nearer(tried, smaller, limit)]
        rows += again
        tried += [row for row in again if not row.get("error")]
        work.time_all(source, tried[len(tried) - len(again) :])
    for row in rows:
        row["meets"] = not row.get("error") and row is not source and work.meets(row, limit)
    advice = Advice(options.model.name, options.target_latency, ranked(rows), work.facts(why))
    write_advice_html(advice, options.out / "advise.html")
    work.save(advice)
    return advice


def require_answer(advice: Advice, out: Path) -> None:
    """Raises BudgetError where no lever comes down to the target."""
    if not any(row["meets"] for row in advice.rows):
        left = min(left_of(row) for row in advice.rows if not row.get("error"))
        raise BudgetError(
            f"no lever without training comes down to {advice.target}: the fastest leaves {left:.2f}x",
            file=out / "advise.json",
            hint="a higher target, a smaller model, or training: onnxslim-yolo slim",
        )


class _Work:
    """The folder, what is known already, and how a trial is made and judged."""

    def __init__(self, options: AdviseOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        parse_target(options.target_latency)
        plain = options.plain
        if self._timing and options.run_on is None:
            require_cores(plain.threads, cores_here())  # before minutes of trials
        if not options.model.is_file():
            raise InputError("no such file", file=options.model)
        require_folder(options.out)
        self.dataset = None if options.data is None else read_dataset(options.data, ("val",))
        self.table = table_for(plain.target, plain.device, plain.table, plain.threads)
        images = read_calibration(options.calib)
        apart = len(images) >= APART
        self.fit, self.judged = (images[::2], images[1::2]) if apart else (images, images)
        self.apart = apart
        self.sizes = Sizes(options.model, plain.load_options(), self.table, self.judged)
        options.out.mkdir(parents=True, exist_ok=True)
        for name, part in (("fit", self.fit), ("judge", self.judged)):
            write_atomically(options.out / f"{name}.txt", "".join(f"{resolved(path)}\n" for path in part))
        self.known: dict[str, Row] = known_trials(options.out / "advise.json")
        self.done: dict[str, Row] = {}

    @cached_property
    def reference(self) -> tuple[Size, list[Detections]]:
        """What the trials' detections are judged by, and the size at which the source sees it."""
        return self.sizes.reference()

    @property
    def whole(self) -> float:
        """Predicted µs of the source."""
        return self.sizes.us(self.sizes.full)

    def require_images(self) -> None:
        """Raises InputError where too few of them show something."""
        images = CalibrationImages(self.options.out / "fit.txt", self.sizes.model(self.options.plain.imgsz))
        shown = sum(not images.is_blank(index) for index in range(len(images)))
        if shown < ENOUGH:
            blank = f" that show something ({len(images) - shown} are blank)" if shown < len(images) else ""
            hint = "give some 32 like those that the detector will see"
            raise InputError(
                f"at least {ENOUGH} images are needed to fit to, and there are {shown}{blank}",
                file=self.options.calib,
                hint=hint,
            )

    def row(self, lever: Lever, *, required: bool = False) -> Row:
        """A lever tried, or as it is known. Its error is kept in the row, unless it is `required`."""
        key = self._key(lever)
        known = self.known.get(key)
        if known is not None and (self.options.out / str(known.get("file"))).exists():
            self.done[key] = as_timed_by(known, self.options.run_on, self.whole)
            return self.done[key]
        self.progress(lever.name)
        row: Row = {"key": key, "lever": lever.name, "options": lever.options, "command": self._command(lever)}
        try:
            row |= self._tried(lever, key)
        except OnnxSlimError as error:
            if required:
                raise
            row |= {"error": str(error).splitlines()[0], "left": None}
        self.done[key] = row
        self._write()
        return row

    def _tried(self, lever: Lever, key: str) -> Row:
        from onnxslim_yolo.compiler import compile as compile_model
        from onnxslim_yolo.emit.onnx import write_onnx

        target = self.options.plain.target
        emit = ["onnx", "ncnn"] if target == "ncnn" else ["onnx"]
        chosen = {**self._common(), **lever.options, "emit": emit}
        if "target_latency" not in lever.options:
            chosen.setdefault("prune", 0.0)
        if set(lever.options) & {"quantize", "compensate"}:
            chosen["calib"] = self.options.out / "fit.txt"
        folder = self.options.out / "trials" / key
        result = compile_model(self.options.model, out=folder, name="model", verify=False, **chosen)
        file = result.ncnn
        if file is None:  # with its size fixed: what is compared here has several
            file = write_onnx(result.model, folder / "fixed.onnx")
        after = result.report["after"]["latency_us"]
        row: Row = {"file": str(file.relative_to(self.options.out)), "bytes": _bytes(file), "predicted_us": after}
        row |= {"left": after / self.whole, "notes": _worth_saying(result.report)}
        plan = result.report["int8"]
        row["int8"] = plan is not None
        row["costly"] = plan is not None and any(each["reason"] == COSTLY for each in plan["float"])
        network = open_network(file, threads=1)
        full = self.sizes.full
        seen = detections_of(network, self.judged, conf=FAINT)
        row["kept"] = agreement(self.sizes.seen(full), confident(seen)).as_json()
        row["precision"] = row["gain"] = average_precision(self.reference[1], seen)
        if self.dataset is not None:
            from onnxslim_yolo.measure.evaluate import evaluate

            counted = evaluate(Detector(network, nc=len(self.dataset.names)), self.dataset)
            row |= {"map50": counted.map50, "map": counted.map, "gain": counted.map50}
        return row

    def int8(self, source: Row, limit: float) -> dict[Lever, Row]:
        """int8 alone; where it is not enough, and has left layers float for what they cost, also throughout."""
        found = {INT8: self._alone(source, INT8)}
        left = self.int8_left(found[INT8])
        if left is not None and left * self.whole > limit and found[INT8].get("costly"):
            found[INT8_ALL] = self._alone(source, INT8_ALL)
        return found

    def _alone(self, source: Row, lever: Lever) -> Row:
        row = self.row(lever)
        if not row.get("error") and row["int8"] and not knows_int8(self.table) and self._timing:
            self.time_all(source, [row])
            row["left"] = row["measured"]
        return row

    def int8_left(self, int8: Row) -> float | None:
        """The share of latency that int8 leaves: by the table, else as timed; None where it is not known."""
        if int8.get("error") or not int8["int8"] or not (knows_int8(self.table) or self._timing):
            return None
        return float(int8["left"])

    def count_int8(self, row: Row, left: Mapping[Lever, float]) -> None:
        """A table without int8 times predicts the floats' time: what int8 leaves at full size is taken off."""
        known = [share for lever, share in left.items() if lever.quantize == row["options"].get("quantize")]
        if known and row.get("int8") and not knows_int8(self.table):
            row["left"] = row["predicted_us"] / self.whole * known[0]

    def nearer(self, tried: Sequence[Row], smaller: Sequence[Size], limit: float) -> list[Lever]:
        """Levers that were timed, nearer to the target: sizes, and what keeps more than all that meets it."""
        met = [row["gain"] for row in tried if row.get("measured") is not None and self.meets(row, limit)]
        found: dict[str, Lever] = {}
        for row in tried:
            if row.get("measured") is None or (
                "target_latency" in row["options"] and row["gain"] < max(met, default=0)
            ):
                continue
            lever = nearer(Lever(row["lever"], row["options"]), self._reached(row), self.sizes, smaller)
            if lever is not None and self._key(lever) not in self.done:
                found[lever.name] = lever
        return list(found.values())

    @property
    def _timing(self) -> bool:
        here = self.options.plain.device == "host" or self.options.run_on is not None
        return here and self.options.measure

    def time(self, source: Row, tried: Sequence[Row], limit: float) -> None:
        """Time the best, and others while none of those meets the target."""
        if not self._timing:
            return
        left = [row for row in ranked([row | {"meets": self.meets(row, limit)} for row in tried]) if row["meets"]]
        order = [next(row for row in tried if row["key"] == each["key"]) for each in left]
        for start in range(0, len(order), TIMED):
            batch = order[start : start + TIMED]
            self.time_all(source, batch)
            if any(self.meets(row, limit) for row in batch):
                break

    def time_all(self, source: Row, rows: Sequence[Row]) -> None:
        """Time those that are not timed, beside the source."""
        from onnxslim_yolo.measure.benchmark import benchmark

        rows = [row for row in rows if row.get("measured") is None and not row.get("error")]
        if not rows:
            return
        self.progress("timing " + ", ".join(row["lever"] for row in rows))
        files = [self.options.out / row["file"] for row in (source, *rows)]
        names, threads = [row["lever"] for row in (source, *rows)], self.options.plain.threads
        found = benchmark(files, names=names, threads=threads, run_on=self.options.run_on)
        for row, timed in zip((source, *rows), found.models, strict=True):
            row |= {"measured": timed.ratio, "measured_ms": timed.ms, "timed_on": self.options.run_on}
        self._write()

    def meets(self, row: Row, limit: float) -> bool:
        """Whether a row comes down to the target: as measured, else as predicted."""
        if row.get("measured") is not None:
            return self._reached(row) <= NOISE
        return row["left"] is not None and bool(row["left"] * self.whole <= 1.001 * limit)

    def _reached(self, row: Row) -> float:
        """What was measured, as a share of what was asked for."""
        number, unit = parse_target(self.options.target_latency)
        return float(row["measured"] if unit == "x" else row["measured_ms"]) / number

    def facts(self, sizes_why: str | None) -> dict[str, Any]:
        """What the answer rests on."""
        plain = self.options.plain
        notes = [why for why in (sizes_why, self.sizes.says_refused()) if why is not None]
        if not self.apart:
            notes.append(f"{len(self.judged)} images are few: detections are counted on those that were fitted to")
        if not any(row.get("measured") for row in self.done.values()):
            notes.append(f"nothing was timed: latency is predicted ({self.table.name})")
        notes += dict.fromkeys(note for row in self.done.values() for note in row.get("notes") or [])
        slim = ["onnxslim-yolo", "slim", "CKPT", "--data", "D", "--target-latency", self.options.target_latency]
        return {
            "runtime": plain.target,
            "device": plain.device,
            "threads": plain.threads,
            "table": self.table.name,
            "source_us": round(self.whole, 1),
            "images": len(self.judged),
            "objects": self.sizes.objects,
            "reference": list(self.reference[0]),
            "apart": self.apart,
            "data": None if self.options.data is None else self.options.data.name,
            "notes": notes,
            "training": " ".join(slim if plain.device == "host" else [*slim, "--for", plain.device]),
        }

    def save(self, advice: Advice) -> None:
        """Write the answer beside what is done."""
        self._write(advice)

    def _write(self, advice: Advice | None = None) -> None:
        rows = {**self.known, **self.done}
        plain = {"format": FORMAT, "version": 1, "trials": rows} | ({} if advice is None else advice.as_json())
        write_atomically(self.options.out / "advise.json", json.dumps(plain, indent=1) + "\n")

    def _common(self) -> dict[str, Any]:
        return {**self.options.compile}

    def _command(self, lever: Lever) -> str:
        options = {**self._common(), **lever.options}
        if set(lever.options) & {"quantize", "compensate"}:
            options["calib"] = self.options.calib
        if "target_latency" not in lever.options:
            options.setdefault("prune", 0)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
        plain = {key: value for key, value in plain.items() if (key, value) not in _UNSAID}
        return command_of({"source": {"file": str(self.options.model)}, "options": plain})

    @cached_property
    def _content(self) -> list[str | None]:
        """What trials are made of and judged on."""
        plain, data = self.options.plain, self.options.data
        named = [None if file is None else content_of([file]) for file in (plain.table, plain.weights)]
        labelled = None if data is None else content_of(files_of_data(data))
        return [content_of(files_of_model(self.options.model)), content_of((*self.fit, *self.judged)), *named, labelled]

    def _key(self, lever: Lever) -> str:
        chosen = {key: str(value) for key, value in {**self._common(), **lever.options}.items()}
        facts = [self._content, chosen, __version__]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


_UNSAID = (("device", "host"), ("target", "ncnn"), ("threads", 1), ("trust", False))
"""Defaults that a command does not repeat."""


def _bytes(file: Path) -> int:
    return sum(each.stat().st_size for each in file.iterdir()) if file.is_dir() else file.stat().st_size


def _worth_saying(report: Mapping[str, Any]) -> list[str]:
    return [
        note for note in report["notes"] if note.startswith("int8: ") and ("stays float:" in note or "table" in note)
    ]
