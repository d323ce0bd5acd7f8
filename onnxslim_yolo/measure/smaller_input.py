"""Input size as a lever: what a network would take at smaller sizes, and what it would still detect there.

Sizes are multiples of 32 along the longer side, down to half of it, the other side in proportion. Latency is predicted
by the table at each; the loss is measured: the source at the smaller size against itself at full size, on unlabelled
images. Nothing is trained, and no weight changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxslim_yolo.analysis.limits import limits_for
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import knows_int8
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.passes import Activations, Canonicalise, FoldAffine, FoldBatchNorm, ReparamBranches, ShuffleToGather
from onnxslim_yolo.passes.to_target import limit_of
from onnxslim_yolo.pruning.calibration_images import input_size
from onnxslim_yolo.quantisation.latency import faster_layers
from onnxslim_yolo.runtime.dataset import read_calibration
from onnxslim_yolo.runtime.progress import tell
from onnxslim_yolo.verify.agreement import Agreement, agreement, detections_of
from onnxslim_yolo.verify.detector import open_onnx

Size = tuple[int, int]
STEP = 32
FLOOR = 0.5
"""The least share of the longer side: below it, detectors lose most of what is small."""

WORTH_KEEPING = 0.5
"""A size at which fewer of the detections are kept than this is not taken: the rest is pruned instead."""


def smaller_sizes(full: Size) -> list[Size]:
    """(h, w) below a size, largest first."""
    long, short = max(full), min(full)
    found = []
    for side in range((long - 1) // STEP * STEP, 0, -STEP):
        if side < FLOOR * long:
            break
        other = max(STEP, round(short * side / long / STEP) * STEP)
        found.append((other, side) if full[0] <= full[1] else (side, other))
    return found


@dataclass
class Sizes:
    """A network at several sizes: read, predicted and run when asked for, once.

    Attributes:
        path, options: the file, and how it is read. table: predicts.
        images: unlabelled ones; may be empty.
    """

    path: Path
    options: LoadOptions
    table: LatencyTable
    images: Sequence[Path] = ()
    _models: dict[Size | None, Model] = field(default_factory=dict)
    _us: dict[Size, float] = field(default_factory=dict)
    _seen: dict[Size, list[Detections]] = field(default_factory=dict)

    @property
    def full(self) -> Size:
        """(h, w) of the source. Raises UnsupportedError where it takes no image."""
        return input_size(self.model(self.options.imgsz))

    def model(self, size: Size | None) -> Model:
        """The network at a size, in canonical form. Raises InputError where it has no such size."""
        if size not in self._models:
            model, _ = read_model(self.path, replace(self.options, imgsz=size))
            asked = self.options.asked
            limits = limits_for(model, asked.memory, asked.work)
            Canonicalise(*(size or (0, 0))).run(model)
            limits.require(model)  # its shapes are known now, and nothing has been run
            for step in (ShuffleToGather(), Canonicalise()):
                step.run(model)
            self._models = {key: self._models[key] for key in self._models if key == self.options.imgsz}
            self._models[size] = model  # the full one and the last are kept: a network may be large
        return self._models[size]

    def us(self, size: Size) -> float:
        """Predicted µs."""
        if size not in self._us:
            self._us[size] = self.table.predict_graph(
                self.model(self.options.imgsz if size == self.full else size).graph
            )
        return self._us[size]

    def left(self, size: Size) -> float:
        """Predicted share of the full size's latency."""
        whole = self.us(self.full)
        return self.us(size) / whole if whole > 0 else 1.0

    def seen(self, size: Size) -> list[Detections]:
        """What the source detects at a size."""
        if size not in self._seen:
            model = self.model(self.options.imgsz if size == self.full else size)
            network = open_onnx(model.to_onnx().SerializeToString(), self.path, size, form=self.options.input)
            self._seen[size] = detections_of(network, self.images)
        return self._seen[size]

    def agreement(self, size: Size) -> Agreement | None:
        """What is kept at a size of the detections at full size; None without images, or where nothing is detected."""
        try:
            if not self.images or not self.objects:
                return None
            return agreement(self.seen(self.full), self.seen(size))
        except UnsupportedError:  # a head that cannot be decoded
            return None

    @property
    def objects(self) -> int:
        """What the source detects on the images at full size."""
        return sum(map(len, self.seen(self.full)))

    def require_objects(self, calib: Path) -> None:
        """Raises InputError where it detects nothing on the images: nothing would tell what anything costs."""
        if not self.objects:
            count = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
            hint = "give images like those that it will see, with objects in them"
            raise InputError(f"the source detects nothing in these {count}", file=calib, hint=hint)


@dataclass(frozen=True)
class SizeChoice:
    """What `--size auto` chose.

    Attributes:
        full, size: (h, w) of the source, and what was chosen. left: predicted share of the latency.
        rest: what pruning has to come down to at that size, as `--target-latency` takes it; None: nothing.
        found: what is kept at that size; None: not known.
        int8: what int8 is predicted to leave of a size's latency, on top of `left`; None: not asked for, or not known.
    """

    full: Size
    size: Size
    left: float
    rest: str | None
    found: Agreement | None
    int8: float | None = None

    def note(self) -> str:
        """For the report."""
        counted = "" if self.int8 is None else f" as floats, {self.left * self.int8:.2f} in int8"
        sizes = f"{self.size[0]}x{self.size[1]} instead of {self.full[0]}x{self.full[1]}"
        if self.size == self.full:
            return f"input size: {sizes.split()[0]} as it is: no smaller size would do (--size auto)"
        lost = "what it costs in detections is not known (--calib)"
        if self.found is not None:
            lost = f"{self.found.kept} of {self.found.objects} detections kept on {self.found.images} images"
        left = f"predicted {self.left:.2f} of its latency{counted}"
        return f"input size: {sizes}, {left}; {lost}; figures below are at this size"

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        kept = None if self.found is None else self.found.as_json()
        plain = {"from": list(self.full), "to": list(self.size), "latency_left": round(self.left, 4)}
        return (
            plain
            | {"rest": self.rest, "kept": kept}
            | ({} if self.int8 is None else {"int8_left": round(self.int8, 4)})
        )


def choose_size(
    path: Path,
    options: LoadOptions,
    table: LatencyTable,
    target: str,
    calib: Path | None = None,
    *,
    int8: bool = False,
) -> SizeChoice:
    """The largest size that meets a target; where none does that keeps enough, the smallest that does, and the rest.

    Args:
        target: as `--target-latency` takes it, of the source at full size.
        int8: what is made is going to be int8: where the table has its times, the limit is one on those.

    Raises:
        InputError: no other size can be had, or the source detects nothing on the images. UsageError: no target.
    """
    sizes = Sizes(path, options, table, read_calibration(calib) if calib is not None else ())
    full = sizes.full
    if calib is not None:
        with suppress(UnsupportedError):
            sizes.require_objects(calib)
    left = int8_left(sizes.model(options.imgsz), table) if int8 else None
    limit = limit_of(target, sizes.us(full)) / (left or 1.0)
    if sizes.us(full) <= limit:
        return SizeChoice(full, full, 1.0, None, None, left)
    chosen, candidates = full, smaller_sizes(full)
    for done, size in enumerate(candidates):
        tell("sizes", done, len(candidates))
        try:
            sizes.us(size)
        except (InputError, UnsupportedError) as error:
            if chosen == full:
                hint = "export it with an open size (dynamic=True), or leave --size out"
                raise InputError(f"its input size cannot be changed: {error.message}", file=path, hint=hint) from error
            break
        found = sizes.agreement(size)
        if found is not None and found.share < WORTH_KEEPING:
            break
        chosen = size
        if sizes.us(size) <= limit:
            break
    rest = None if sizes.us(chosen) <= limit else f"{limit / 1000:.9g}ms"
    return SizeChoice(full, chosen, sizes.left(chosen), rest, sizes.agreement(chosen), left)


def int8_left(model: Model, table: LatencyTable) -> float | None:
    """The share of latency that int8 is predicted to leave of a network; None where the table has no int8 times."""
    if not knows_int8(table):
        return None
    fused = model.copy()
    for step in (ReparamBranches(), FoldBatchNorm(), FoldAffine(), Activations(), Canonicalise()):
        step.run(fused)
    return faster_layers(fused, table, lambda node: None)[1].left
