"""Images as detectors want them: read, letterboxed to a fixed size, RGB, NCHW float32 in [0, 1]; and boxes back.

The letterbox is the ecosystem's (Ultralytics' predictor): scale by r = min(H/h, W/w), resize bilinearly to
(round(w·r), round(h·r)), centre on a canvas of grey 114. Pillow decodes JPEGs to the very bytes that OpenCV does
(both bundle libjpeg-turbo). The resize is OpenCV's 8-bit `INTER_LINEAR` written with numpy: pixel centres at +½,
weights of 11 bits, the two truncating shifts of its fixed-point kernel. It differs from OpenCV 5 on x86 by one grey
level on about 0.1 % of the values. OpenCV itself is no dependency: it is 150 MB, and its headless wheel overwrites
the files of the `opencv-python` that Ultralytics installs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.graph import Array

PAD_VALUE = 114
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_COEF_BITS = 11


@dataclass(frozen=True)
class Letterbox:
    """How an image was placed on its canvas.

    Attributes:
        scale: canvas pixels per image pixel.
        left, top: where the image begins on the canvas, pixels.
        source: (h, w) of the image.
    """

    scale: float
    left: int
    top: int
    source: tuple[int, int]

    def undo(self, boxes: Array) -> Array:
        """(n, 4) xyxy on the canvas → (n, 4) xyxy in the image, clipped to it."""
        height, width = self.source
        moved = (boxes - np.array([self.left, self.top, self.left, self.top], boxes.dtype)) / boxes.dtype.type(
            self.scale
        )
        limits = np.array([width, height, width, height], boxes.dtype)
        clipped: Array = np.clip(moved, 0, limits)
        return clipped

    def apply(self, boxes: Array) -> Array:
        """(n, 4) xyxy in the image → (n, 4) xyxy on the canvas."""
        placed: Array = boxes * self.scale + np.array([self.left, self.top, self.left, self.top])
        return placed


def read_image(path: Path) -> Array:
    """An image file as (h, w, 3) uint8 RGB, turned upright as its EXIF says, transparency dropped.

    Raises:
        InputError: the file is missing, no image, or damaged.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits where OpenCV keeps the high byte
                grey = (np.asarray(upright) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(upright.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError("no such image", file=path) from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise InputError(
            f"cannot be read as an image: {error}", file=path, hint="replace or remove the file"
        ) from error


def letterbox(image: Array, size: tuple[int, int]) -> tuple[Array, Letterbox]:
    """Place (h, w, 3) uint8 on a canvas of `size` (H, W): returns ((H, W, 3) uint8, the placement)."""
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new_h, new_w = max(round(height * scale), 1), max(round(width * scale), 1)
    # −0.1 decides where an odd number of grey rows goes: the larger half below and to the right.
    top, left = round((size[0] - new_h) / 2 - 0.1), round((size[1] - new_w) / 2 - 0.1)
    canvas = np.full((*size, 3), PAD_VALUE, np.uint8)
    canvas[top : top + new_h, left : left + new_w] = resize_bilinear(image, (new_h, new_w))
    return canvas, Letterbox(scale, left, top, (height, width))


def to_input(image: Array) -> Array:
    """(h, w, 3) uint8 → (1, 3, h, w) float32 in [0, 1], contiguous."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
    scaled: Array = planes / np.float32(255)
    return scaled


def load_input(path: Path, size: tuple[int, int]) -> tuple[Array, Letterbox]:
    """An image file as a model's input (1, 3, H, W), and how it was placed. Raises InputError as `read_image`."""
    canvas, placement = letterbox(read_image(path), size)
    return to_input(canvas), placement


def resize_bilinear(image: Array, size: tuple[int, int]) -> Array:
    """(h, w, c) uint8 → (H, W, c) uint8, as OpenCV's 8-bit INTER_LINEAR (imgproc/resize.cpp: FixedPtCast, VResize)."""
    if image.shape[:2] == size:
        return image
    y0, y1, b0, b1 = _taps(image.shape[0], size[0])
    x0, x1, a0, a1 = _taps(image.shape[1], size[1])
    wide = image.astype(np.int32)
    rows = (wide[:, x0] * a0[:, None] + wide[:, x1] * a1[:, None]) >> 4
    upper = (rows[y0] * b0[:, None, None]) >> 16
    lower = (rows[y1] * b1[:, None, None]) >> 16
    resized: Array = ((upper + lower + 2) >> 2).clip(0, 255).astype(np.uint8)
    return resized


def _taps(source: int, target: int) -> tuple[Array, Array, Array, Array]:
    """Per target pixel the two source pixels and their weights, in 1/2048."""
    position = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    weight = position - first.astype(np.float32)
    weight[(first < 0) | (first >= source - 1)] = 0
    first = first.clip(0, source - 1)
    one = np.float32(1 << _COEF_BITS)
    far, near = np.rint(weight * one).astype(np.int32), np.rint((1 - weight) * one).astype(np.int32)
    return first, np.minimum(first + 1, source - 1), near, far


def list_images(source: Path) -> tuple[Path, ...]:
    """The images of a folder (recursively, sorted), of a `.txt` list of paths (as listed), or the one image given.

    Paths in a list are relative to the list's folder.

    Raises:
        InputError: nothing there, a listed image is missing, there is no image at all, or the path is none.
    """
    try:
        return _listed(source)
    except (OSError, ValueError) as error:  # names that are too long, or hold a zero
        raise InputError(f"cannot be looked at: {getattr(error, 'strerror', None) or error}", file=source) from error


def _listed(source: Path) -> tuple[Path, ...]:
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not found:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise InputError("the folder holds no images", file=source, hint=f"known kinds: {kinds}")
        return tuple(found)
    if not source.is_file():
        raise InputError("no such folder or list of images", file=source)
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return (source,)
    return _read_list(source)


def _read_list(source: Path) -> tuple[Path, ...]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("is neither an image nor a text list of images", file=source) from error
    paths = [source.parent / line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise InputError("the list of images is empty", file=source)
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"lists an image that does not exist: {path}",
                file=source,
                hint="paths are relative to the list's own folder",
            )
    return tuple(paths)
