"""Images as detectors want them: read, letterboxed to a fixed size, RGB, NCHW float32 in [0, 1]; and boxes back.

The letterbox is the ecosystem's (Ultralytics' predictor): scale by r = min(H/h, W/w), resize bilinearly to
(round(w·r), round(h·r)), centre on a canvas of grey 114. Pillow decodes JPEGs to the very bytes that OpenCV does
(both bundle libjpeg-turbo). The resize is OpenCV's 8-bit `INTER_LINEAR` written with numpy: pixel centres at +½,
weights of 11 bits, the two truncating shifts of its fixed-point kernel. It differs from OpenCV 5 on x86 by one grey
level on about 0.1 % of the values. OpenCV itself is no dependency: it is 150 MB, and its headless wheel overwrites
the files of the `opencv-python` that Ultralytics installs.
"""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array

PAD_VALUE = 114
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What a file may hold, whatever it is called: other formats of Pillow's start programs (EPS) or are no photographs."""

MAX_PIXELS = 1 << 26
"""Pixels of an image that are decoded at most: 8192 by 8192, 450 MB on the way."""

EXACT_PIXELS = 1 << 24
"""JPEGs up to this size are decoded to the byte as other tools do; larger ones only as far as is needed."""

MAX_SCANNED = 64 * MAX_PIXELS
"""Pixels times scans of a progressive JPEG: each scan costs time, and few bytes."""

_BROKEN = (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError, MemoryError, struct.error)
"""What Pillow's readers raise on damaged files."""

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
    """An image file as (h, w, 3) uint8 RGB, turned upright as its EXIF says, transparency dropped; the first frame.

    Raises:
        InputError: the file is missing, no image of a known format, damaged, or larger than `MAX_PIXELS`.
    """
    return _read(path, None)[0]


def _read(path: Path, canvas: tuple[int, int] | None) -> tuple[Array, tuple[int, int]]:
    """An image's pixels, and its (h, w). Where it is huge and only a canvas is needed, pixels are fewer if its format
    can be decoded so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # limits on size are ours, and damaged EXIF is no matter of the user's
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if canvas is not None:
                    _decode_smaller(image, canvas)
                _limit(image, path)
                upright = ImageOps.exif_transpose(image)
                turned = (upright.width > upright.height) != (image.width > image.height)
                return _rgb(upright, path), (width, height) if turned else (height, width)
    except FileNotFoundError as error:
        raise InputError("no such image", file=path) from error
    except UnidentifiedImageError as error:
        hint = "replace or remove the file"
        raise InputError(f"is no image of a known format ({', '.join(FORMATS)})", file=path, hint=hint) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, "more than 178") from error
    except _BROKEN as error:
        raise InputError(
            f"cannot be read as an image: {error!s:.200}", file=path, hint="replace or remove the file"
        ) from error


def _decode_smaller(image: Image.Image, canvas: tuple[int, int]) -> None:
    """Huge JPEGs are decoded at a half, a quarter or an eighth of their size, as long as that suffices."""
    if image.format not in ("JPEG", "MPO") or image.width * image.height <= EXACT_PIXELS:
        return
    # Either orientation: its EXIF may turn the image.
    scale = max(min(canvas[0] / a, canvas[1] / b) for a, b in (image.size, image.size[::-1]))
    image.draft("RGB", (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _limit(image: Image.Image, path: Path) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height}, {pixels / 1e6:.0f}")
    if "progressive" in image.info and pixels * path.read_bytes().count(b"\xff\xda") > MAX_SCANNED:
        raise InputError("is a JPEG of unreasonably many scans", file=path, hint="save it again, or remove the file")


def _too_large(path: Path, size: str) -> InputError:
    return InputError(
        f"is too large an image: {size} million pixels; at most {MAX_PIXELS / 1e6:.0f} are read",
        file=path,
        hint="make it smaller, or remove the file",
    )


def _rgb(image: Image.Image, path: Path) -> Array:
    """(h, w, 3) uint8. Of 16 bits the high byte is kept, as OpenCV does; Pillow would clip."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in (None, "PNG")):
        grey = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise InputError(
            "holds samples of 32 bits, whose range is not known", file=path, hint="save it with 8 or 16 bits a sample"
        )
    return np.asarray(image.convert("RGB"))


def letterbox(image: Array, size: tuple[int, int], source: tuple[int, int] | None = None) -> tuple[Array, Letterbox]:
    """Place (h, w, 3) uint8 on a canvas of `size` (H, W): returns ((H, W, 3) uint8, the placement).

    `source` is the (h, w) that the image stands for, where it was decoded smaller than it is.
    """
    height, width = source or image.shape[:2]
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
    canvas, placement = load_canvas(path, size)
    return to_input(canvas), placement


def load_canvas(path: Path, size: tuple[int, int]) -> tuple[Array, Letterbox]:
    """An image file on a canvas (H, W, 3) uint8, and how it was placed. Raises InputError as `read_image`."""
    pixels, source = _read(path, size)
    return letterbox(pixels, size, source)


def resize_bilinear(image: Array, size: tuple[int, int]) -> Array:
    """(h, w, c) uint8 → (H, W, c) uint8, as OpenCV's 8-bit INTER_LINEAR (imgproc/resize.cpp: FixedPtCast, VResize)."""
    if image.shape[:2] == size:
        return image
    y0, y1, b0, b1 = _taps(image.shape[0], size[0])
    x0, x1, a0, a1 = _taps(image.shape[1], size[1])
    read, place = np.unique(np.concatenate((y0, y1)), return_inverse=True)  # of a large image few rows are read
    lines = image[read]
    rows = (lines[:, x0] * a0[:, None] + lines[:, x1] * a1[:, None]) >> 4
    upper = (rows[place[: len(y0)]] * b0[:, None, None]) >> 16
    lower = (rows[place[len(y0) :]] * b1[:, None, None]) >> 16
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
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            "is neither an image nor a text list of images", file=source, hint="a list is saved as UTF-8, a path a line"
        ) from error
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
