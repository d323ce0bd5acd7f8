"""Input size as a lever: what a network would take at smaller sizes, and what it would still detect there.

Sizes are multiples of 32, down to half of either side. Which of them are worth trying, images tell by their shapes: of
all sizes of one area the best is the one in which they are seen largest, and the letterbox's grey margin, which holds
nothing, is cut off first. Without images both sides shrink in proportion. Latency is predicted by the table at each;
the loss is measured: the source at the smaller size against itself at full size, on unlabelled images. Nothing is
trained, and no weight changes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, gcd
from pathlib import Path
from typing import Any

from onnxslim_yolo.analysis.limits import limits_for
from onnxslim_yolo.errors import InputError, OnnxSlimError, UnsupportedError
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import knows_int8
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.passes import Activations, Canonicalise, FoldAffine, FoldBatchNorm, ReparamBranches, ShuffleToGather
from onnxslim_yolo.passes.to_target import limit_of
from onnxslim_yolo.pruning.calibration_images import evenly, input_size
from onnxslim_yolo.quantisation.latency import faster_layers
from onnxslim_yolo.runtime.dataset import read_calibration
from onnxslim_yolo.runtime.images import load_canvas
from onnxslim_yolo.verify.agreement import FAINT, Agreement, agreement, confident, detections_of
from onnxslim_yolo.verify.detector import open_onnx

Size = tuple[int, int]
STEP = 32
FLOOR = 0.5
"""The least share of a side: below it, detectors lose most of what is small."""

SHAPES = 64
"""Images at most whose shapes are looked at, evenly picked."""

LARGER = 1.005
"""A larger area has to show images larger by this on average: else the smaller one is as good."""

FOUND_AGAIN = 0.75
"""The source at twice its size judges what is tried if it finds this share of its own detections there. YOLOv5n (of
640 px) finds 0.82 at 640 of what it finds at 320, and 0.59 at 1280 of what it finds at 640; YOLOv5-Lite-s,
Yolo-Fastest and FastestDet at twice the size that they were trained for find 0.61, 0.46 and 0.20. The order by that was
chance, or worse (`bench/advise.py`)."""

WORTH_KEEPING = 0.5
"""A size at which fewer of the detections are kept than this is not taken: the rest is pruned instead."""


def smaller_sizes(full: Size, shapes: Sequence[Size] = ()) -> list[Size]:
    """(h, w) of a smaller area than a size's, largest first.

    Args:
        shapes: (h, w) of images. With them, a size is among those found only if none of its area or less shows the
            images as large, on average of their scales.
    """
    return _fitted(full, shapes) if shapes else _in_proportion(full)


def _fitted(full: Size, shapes: Sequence[Size]) -> list[Size]:
    sides = [range(STEP * ceil(FLOOR * side / STEP), side + 1, STEP) for side in full]
    sizes = [(h, w) for h, w in product(*sides) if h * w < full[0] * full[1]]
    seen = {size: _scale(size, full, shapes) for size in sizes}
    found: list[Size] = []
    for size in sorted(sizes, key=lambda size: (size[0] * size[1], -seen[size])):
        if not found or seen[size] > LARGER * seen[found[-1]]:
            found.append(size)
    return found[::-1]


def _scale(size: Size, full: Size, shapes: Sequence[Size]) -> float:
    """How large images are at a size, as a share of what they are at full size, on average."""

    def scale(canvas: Size, shape: Size) -> float:
        return min(canvas[0] / shape[0], canvas[1] / shape[1])

    return sum(scale(size, shape) / scale(full, shape) for shape in shapes) / len(shapes)


def _divisor(size: Size) -> int:
    """The largest power of two that divides both sides."""
    common = gcd(*size)
    return common & -common


def shapes_of(images: Sequence[Path], full: Size) -> list[Size]:
    """(h, w) of images, upright. Raises InputError where one cannot be read."""
    return [load_canvas(images[i], full)[1].source for i in evenly(SHAPES, len(images))]


def _in_proportion(full: Size) -> list[Size]:
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
        refused: the sizes that it turned out not to have, and why: those of a network of stride 64 are multiples of 64.
    """

    path: Path
    options: LoadOptions
    table: LatencyTable
    images: Sequence[Path] = ()
    refused: dict[Size, str] = field(default_factory=dict)
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

    def first(self, sizes: Sequence[Size], holds: Callable[[Size], bool]) -> tuple[list[Size], int]:
        """The sizes that the network can have, and the index of the first one of which something holds that holds of
        all behind it; their number if it holds of none.

        A size is tried when it is asked about; one that the network cannot have is left out, and kept in `refused`.

        Args:
            sizes: largest first.

        Raises:
            InputError, UnsupportedError: it can have none of them, as told by one and by the most divisible of them.
        """
        while True:
            there = [size for size in sizes if size not in self.refused]
            tried: list[Size] = []

            def holds_of(size: Size, tried: list[Size] = tried) -> bool:
                tried.append(size)
                return holds(size)

            try:
                return there, bisect_left(there, True, key=holds_of)
            except (InputError, UnsupportedError) as error:
                self._refuse(tried[-1], error)
                self._require_one(there, error)

    def _refuse(self, size: Size, error: OnnxSlimError) -> None:
        self.refused[size] = error.message

    def _require_one(self, sizes: Sequence[Size], error: OnnxSlimError) -> None:
        """Raises the error where the network cannot have the most divisible of these sizes either."""
        easiest = max(sizes, key=_divisor)
        if easiest in self.refused:
            raise error
        try:
            self.us(easiest)
        except (InputError, UnsupportedError):
            raise error from None

    def first_below(self, sizes: Sequence[Size], limit: float) -> tuple[list[Size], int]:
        """The sizes that it can have, and the index of the first that meets a limit (µs). See `first`."""
        return self.first(sizes, lambda size: self.us(size) <= limit)

    def says_refused(self) -> str | None:
        """In a sentence, which sizes were left out; None where none was."""
        if not self.refused:
            return None
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(self.refused, reverse=True))
        return f"input sizes that it cannot have are left out: {listed} ({next(iter(self.refused.values()))})"

    def left(self, size: Size) -> float:
        """Predicted share of the full size's latency."""
        whole = self.us(self.full)
        return self.us(size) / whole if whole > 0 else 1.0

    def seen(self, size: Size) -> list[Detections]:
        """What the source detects at a size."""
        if size not in self._seen:
            self._seen[size] = confident(self._run(size))
        return self._seen[size]

    def _run(self, size: Size) -> list[Detections]:
        model = self.model(self.options.imgsz if size == self.full else size)
        network = open_onnx(model.to_onnx().SerializeToString(), self.path, size, form=self.options.input)
        return detections_of(network, self.images, conf=FAINT)

    def reference(self) -> tuple[Size, list[Detections]]:
        """What the source detects at twice its size, faint detections too, where that shows more; else at its own.

        It does where the source was trained for larger images than it is given. Else it loses at twice the size much
        of what it is sure of at its own (see `FOUND_AGAIN`), and would call what keeps that wrong.
        """
        twice = (2 * self.full[0], 2 * self.full[1])
        with suppress(InputError, UnsupportedError):
            found = self._run(twice)
            again = agreement(self.seen(self.full), confident(found))
            if again.kept >= FOUND_AGAIN * again.objects:
                return twice, found
        return self.full, self._run(self.full)

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
        refused: which sizes the network cannot have, in a sentence; None: none was met.
    """

    full: Size
    size: Size
    left: float
    rest: str | None
    found: Agreement | None
    int8: float | None = None
    refused: str | None = None

    def note(self) -> str:
        """For the report."""
        counted = "" if self.int8 is None else f" as floats, {self.left * self.int8:.2f} in int8"
        sizes = f"{self.size[0]}x{self.size[1]} instead of {self.full[0]}x{self.full[1]}"
        if self.size == self.full:
            return f"input size: {sizes.split()[0]} as it is: no smaller size would do (--size auto)"
        more = "" if self.refused is None else f"; {self.refused}"
        lost = "what it costs in detections is not known (--calib)"
        if self.found is not None:
            lost = f"{self.found.kept} of {self.found.objects} detections kept on {self.found.images} images"
        left = f"predicted {self.left:.2f} of its latency{counted}"
        shaped = "" if self.size in _in_proportion(self.full) else " (of the calibration images' shape)"
        return f"input size: {sizes}{shaped}, {left}; {lost}; figures below are at this size{more}"

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
    candidates = smaller_sizes(full, shapes_of(sizes.images, full))
    try:
        chosen = _largest_kept(sizes, *sizes.first_below(candidates, limit))
    except (InputError, UnsupportedError) as error:
        hint = "export it with an open size (dynamic=True), or leave --size out"
        raise InputError(f"its input size cannot be changed: {error.message}", file=path, hint=hint) from error
    rest = None if sizes.us(chosen) <= limit else f"{limit / 1000:.9g}ms"
    return SizeChoice(full, chosen, sizes.left(chosen), rest, sizes.agreement(chosen), left, sizes.says_refused())


def _largest_kept(sizes: Sizes, candidates: Sequence[Size], index: int) -> Size:
    """The size of this index, or the smallest above it at which enough is kept; the last where none is so small."""

    def lost(size: Size) -> bool:
        found = sizes.agreement(size)
        return found is not None and found.share < WORTH_KEEPING

    kept = [sizes.full, *candidates[: index + 1]]
    if not lost(kept[-1]):
        return kept[-1]
    kept, first = sizes.first(kept, lost)
    return kept[first - 1]


def int8_left(model: Model, table: LatencyTable) -> float | None:
    """The share of latency that int8 is predicted to leave of a network; None where the table has no int8 times."""
    if not knows_int8(table):
        return None
    fused = model.copy()
    for step in (ReparamBranches(), FoldBatchNorm(), FoldAffine(), Activations(), Canonicalise()):
        step.run(fused)
    return faster_layers(fused, table, lambda node: None)[1].left
