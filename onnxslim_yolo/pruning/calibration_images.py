"""Calibration images as a network is fed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from onnxslim_yolo.analysis.views import view_of
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.spec import identify_head
from onnxslim_yolo.ir.graph import Array, static_shape
from onnxslim_yolo.ir.input_format import UNIT, image_axes, input_format_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.progress import counted

KEPT_BYTES = 64_000_000
"""Calibration images are kept up to this, at a byte a value."""

HELD_OUT = 8
"""Every eighth calibration image is kept to estimate the loss on."""


FLAT = 1.0
"""Grey levels by which an image that shows something varies at least."""


class CalibrationImages(Sequence[Array]):
    """Image files as inputs of a model, letterboxed to its size; read one by one, and again where many do not fit.

    With `views`, every image is followed by others of itself: mirrored, and magnified cut-outs of it. Few images have
    few large objects, and what is fitted to those alone takes channels for redundant that are not.

    Args:
        source: a folder, a list of images, one image, or a data.yaml (see `read_calibration`).
        model: tells the size and the type of its input, and how often its batch wants each image.
        limit: so many images at most, evenly picked; 0 for all.
        part: "all"; "fit", which leaves every eighth image out; or "held-out", those. Of fewer than eight images, both
            are all of them.
        views: inputs made of each image, see `analysis.views`.
    """

    def __init__(
        self,
        source: Path,
        model: Model,
        limit: int = 0,
        part: Literal["all", "fit", "held-out"] = "all",
        views: int = 1,
    ) -> None:
        from onnxslim_yolo.runtime.dataset import read_calibration

        paths = read_calibration(source)
        self.splits = len(paths) >= HELD_OUT
        if part != "all" and self.splits:
            held = slice(HELD_OUT - 1, None, HELD_OUT)
            paths = paths[held] if part == "held-out" else tuple(p for p in paths if p not in set(paths[held]))
        if 0 < limit < len(paths):
            paths = tuple(paths[i] for i in evenly(limit, len(paths)))
        self._paths = paths
        self._views = views
        self._canvases: dict[int, Array] = {}
        self.size = input_size(model)
        first = model.graph.inputs[0].shape[0]
        self._batch = int(first) if isinstance(first, (int, np.integer)) and first > 0 else 1
        self._dtype = model.graph.inputs[0].dtype or np.float32
        self._channels_last = not channels_first(model)
        form = input_format_of(model.metadata) or UNIT
        self._form = replace(form, bgr=form.bgr or _wants_bgr(model, self.size))

    def __len__(self) -> int:
        return len(self._paths) * self._views

    def __getitem__(self, index: int) -> Array:  # type: ignore[override]  # slices are not needed
        from onnxslim_yolo.runtime.images import to_input

        if not 0 <= index < len(self):
            raise IndexError(index)
        number, view = divmod(index, self._views)
        return self.feed(view_of(to_input(self.canvas(number)), view, number))

    def feed(self, pixels: Array) -> Array:
        """(b, 3, h, w) RGB in [0, 1] as the model is fed it: (b, h, w, 3) where it takes that."""
        image = self._form.feed(pixels, self._dtype)
        placed = np.ascontiguousarray(np.moveaxis(image, 1, -1)) if self._channels_last else image
        return placed if self._batch == 1 else np.repeat(placed, self._batch, axis=0)

    def canvas(self, number: int) -> Array:
        """An image, letterboxed: (h, w, 3) uint8 RGB."""
        from onnxslim_yolo.runtime.images import load_canvas

        found = self._canvases.get(number)
        if found is None:
            found, _ = load_canvas(self._paths[number], self.size)
            if (len(self._canvases) + 1) * found.nbytes <= KEPT_BYTES:
                self._canvases[number] = found
        return found

    def is_blank(self, index: int) -> bool:
        """Whether an image shows nothing: one colour, beside the margin that fits it to the input's size."""
        from onnxslim_yolo.runtime.images import PAD_VALUE

        canvas = self.canvas(index // self._views)
        shown = canvas[(canvas != PAD_VALUE).any(axis=-1)]
        return not shown.size or float(shown.std(axis=0).max()) < FLAT

    def __iter__(self) -> Iterator[Array]:
        return (self[index] for index in counted("images", range(len(self)), len(self)))

    def seen(self, views: int) -> CalibrationImages:
        """The same images in so many views each."""
        other = copy(self)
        other._views = views
        return other


def _wants_bgr(model: Model, size: tuple[int, int]) -> bool:
    """Whether the head is one whose networks are trained on BGR images."""
    shapes = [static_shape(output) for output in model.graph.outputs]
    try:
        return identify_head([shape for shape in shapes if shape is not None], size, model.metadata).bgr
    except (UnsupportedError, InputError):
        return False


def evenly(count: int, total: int) -> list[int]:
    """So many of `total` indices, evenly picked; all where there are no more."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def input_size(model: Model) -> tuple[int, int]:
    """(h, w) of the model's image input.

    Raises:
        UnsupportedError: the model does not take one image (b, 3, h, w) or (b, h, w, 3) of fixed size.
    """
    if len(model.graph.inputs) == 1:
        shape = list(model.graph.inputs[0].shape or [])
        channel, axes = image_axes(shape) if len(shape) == 4 else (0, ())
        sides = [shape[axis] for axis in axes]
        if sides and shape[channel] == 3 and all(isinstance(d, int) and d > 0 for d in sides):
            return int(sides[0]), int(sides[1])
    listed = ", ".join(f"{t.name} {t.shape}" for t in model.graph.inputs)
    raise UnsupportedError(
        f"calibration needs one image of fixed size, (b, 3, h, w) or (b, h, w, 3); the model has {listed}",
        file=model.source.file,
        hint="fix an open size with --imgsz, or leave --calib out",
    )


def channels_first(model: Model) -> bool:
    """Whether the model's image is (b, 3, h, w); else (b, h, w, 3), if it is one at all."""
    shape = list(model.graph.inputs[0].shape or [])
    return len(shape) == 4 and image_axes(shape)[0] == 1
