"""What numbers a network expects for a pixel: RGB in [0, 1] unless it says otherwise.

A pixel value v in 0 … 255 is fed as (v − mean) / std per channel:

    0..1               mean 0, std 255
    0..255             mean 0, std 1
    mean=…,std=…       one number or three; where none exceeds 1 they are for v / 255 (0.485, 0.229), else for v

and ",bgr" behind it for channels in OpenCV's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.graph import Array

INPUT_KEY = "onnxslim_yolo.input"
"""The metadata key that holds an `InputFormat` as text."""

_HINT = "0..1, 0..255, or mean=…,std=… with one number or three each; ,bgr behind it for BGR"
_CHANNELS = 3


@dataclass(frozen=True)
class InputFormat:
    """How pixels become a network's input.

    Attributes:
        mean, std: per channel, for values from 0 to 255, in the order in which the network has its channels.
        bgr: that order is blue, green, red.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    bgr: bool = False

    def feed(self, image: Array, dtype: Any = np.float32) -> Array:
        """(b, 3, h, w) RGB in [0, 1] → what the network is fed, contiguous, of its input's type."""
        kind = np.dtype(dtype)
        ordered = image[:, ::-1] if self.bgr else image
        if (self.mean, self.std) != ((0.0,), (255.0,)):
            mean, std = (np.asarray(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
            ordered = (ordered * np.float32(255) - mean) / std
        if kind.kind in "iu":
            ordered = np.rint(ordered)
        return np.ascontiguousarray(ordered, dtype=kind)

    def __str__(self) -> str:
        """As `--input` takes it."""
        order = ",bgr" if self.bgr else ""
        if self.mean == (0.0,) and self.std in ((1.0,), (255.0,)):
            return ("0..1" if self.std == (255.0,) else "0..255") + order
        mean, std = (",".join(f"{v:.9g}" for v in values) for values in (self.mean, self.std))
        return f"mean={mean},std={std}{order}"


def image_axes(shape: Sequence[object]) -> tuple[int, tuple[int, int]]:
    """Where an image of rank 4 has its channels, and its height and width: channels last where three lie there and axis
    1 has neither three nor one, as graphs that hold their own preprocessing take pictures."""
    return (3, (1, 2)) if shape[3] == 3 and shape[1] not in (1, 3) else (1, (2, 3))


UNIT = InputFormat()
BYTES = InputFormat(std=(1.0,))


def parse_input(text: str) -> InputFormat:
    """An `InputFormat` from its spelling. Raises UsageError."""
    values: dict[str, list[float]] = {}
    current, bgr, plain = "", False, None
    for part in text.replace(" ", "").split(","):
        name, equals, number = part.rpartition("=")
        if part in ("bgr", "rgb"):
            bgr = part == "bgr"
            continue
        if part in ("0..1", "0..255") and plain is None and not values:
            plain = UNIT if part == "0..1" else BYTES
            continue
        current = name if equals else current
        try:
            values.setdefault(current, []).append(float(number))
        except ValueError as error:
            raise UsageError(f"--input does not take '{part}'", hint=_HINT) from error
    if plain is not None and not values:
        return InputFormat(plain.mean, plain.std, bgr)
    mean, std = values.pop("mean", [0.0]), values.pop("std", [])
    if plain is not None or values or not std or any(len(v) not in (1, _CHANNELS) for v in (mean, std)):
        raise UsageError(f"--input does not take '{text}'", hint=_HINT)
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise UsageError(f"--input: '{text}' has a std that is not above 0, or no finite number", hint=_HINT)
    unit = 255.0 if max(map(abs, [*mean, *std])) <= 1 else 1.0
    means, stds = (tuple(float(f"{unit * v:.9g}") for v in values) for values in (mean, std))  # as they are written
    return InputFormat(means, stds, bgr)


def input_format_of(metadata: Mapping[str, str]) -> InputFormat | None:
    """What a file's metadata say, or None. Raises InputError where that is damaged."""
    if INPUT_KEY not in metadata:
        return None
    try:
        return parse_input(metadata[INPUT_KEY])
    except UsageError as error:
        raise InputError(f"the metadata '{INPUT_KEY}' is damaged: '{metadata[INPUT_KEY][:80]}'") from error
