"""The data set `digits`: scikit-learn's hand-written digits, pasted on its sample photographs. Made on the spot.

1,797 digits of 8×8 pixels (Alpaydin and Kaynak, UCI ML repository, CC BY 4.0) and two photographs (china.jpg,
flower.jpg, CC BY). Train and val share neither digits nor halves of the photographs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.images import resize_bilinear

SIDES = (28, 84)
"""Smallest and largest side of a digit, pixels at 192; log-uniform."""
MOST = 5
"""At most so many digits a picture."""


def write_digits(folder: Path, *, size: int = 192, train: int = 480, val: int = 120, seed: int = 0) -> Path:
    """Write the data set in YOLO's format and return its data.yaml. The same arguments write the same pixels.

    Raises:
        InputError: scikit-learn is not installed.
    """
    digits, labels, photographs = _sources()
    random = np.random.default_rng(seed)
    order = random.permutation(len(digits))
    cut = len(digits) * 4 // 5
    for split, count, chosen, half in (("train", train, order[:cut], 0), ("val", val, order[cut:], 1)):
        grounds = [photo[:, _half(photo, half)] for photo in photographs]
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture, rows = _scene(grounds, digits[chosen], labels[chosen], size, random)
            Image.fromarray(picture).save(folder / "images" / split / f"{number:05d}.png")
            (folder / "labels" / split / f"{number:05d}.txt").write_text("".join(rows), encoding="utf-8")
    names = ", ".join(f"{digit}: '{digit}'" for digit in range(10))
    file = folder / "data.yaml"
    file.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {{{names}}}\n", encoding="utf-8")
    return file


def _sources() -> tuple[Array, Array, list[Array]]:
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise InputError("the data set 'digits' needs scikit-learn", hint="pip install scikit-learn") from error
    bunch: Any = load_digits()
    return (
        np.asarray(bunch.images) / 16.0,
        np.asarray(bunch.target),
        [np.asarray(p) for p in load_sample_images().images],
    )


def _half(photo: Array, half: int) -> slice:
    middle = photo.shape[1] * 3 // 5
    return slice(0, middle) if half == 0 else slice(middle, None)


def _scene(
    grounds: list[Array], digits: Array, labels: Array, size: int, random: np.random.Generator
) -> tuple[Array, list[str]]:
    """One picture (size, size, 3) uint8 and its label lines."""
    picture = _ground(grounds[random.integers(len(grounds))], size, random)
    taken: list[tuple[int, int, int]] = []
    rows: list[str] = []
    for _ in range(int(random.integers(1, MOST + 1))):
        low, high = (side * size / 192 for side in SIDES)
        side = int(np.exp(random.uniform(np.log(low), np.log(high))))
        x, y = (int(v) for v in random.integers(0, size - side, 2))
        if any(
            abs(2 * x + side - 2 * u - s) < side + s and abs(2 * y + side - 2 * v - s) < side + s for u, v, s in taken
        ):
            continue  # no room here: a picture with fewer digits
        index = int(random.integers(len(digits)))
        box = _paste(picture, digits[index], x, y, side, random)
        taken.append((x, y, side))
        centre = ((box[0] + box[2]) / 2 / size, (box[1] + box[3]) / 2 / size)
        width, height = (box[2] - box[0]) / size, (box[3] - box[1]) / size
        rows.append(f"{labels[index]} {centre[0]:.5f} {centre[1]:.5f} {width:.5f} {height:.5f}\n")
    return picture.astype(np.uint8), rows


def _ground(photo: Array, size: int, random: np.random.Generator) -> Array:
    """A random square of a photograph, resized; float32."""
    side = int(random.integers(min(photo.shape[:2]) // 3, min(photo.shape[:2])))
    y = int(random.integers(0, photo.shape[0] - side + 1))
    x = int(random.integers(0, photo.shape[1] - side + 1))
    crop = photo[y : y + side, x : x + side]
    if random.random() < 0.5:
        crop = crop[:, ::-1]
    return resize_bilinear(np.ascontiguousarray(crop), (size, size)).astype(np.float32)


def _paste(
    picture: Array, digit: Array, x: int, y: int, side: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a digit in a light colour on a darkened patch, like a number plate; returns the ink's box xyxy."""
    grey = (digit * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    ink = resize_bilinear(grey, (side, side))[..., :1] / np.float32(255)
    behind = picture[y : y + side, x : x + side] * np.float32(random.uniform(0.2, 0.6))
    colour = random.uniform(150, 255, 3).astype(np.float32)
    picture[y : y + side, x : x + side] = behind * (1 - ink) + colour * ink
    rows, columns = np.nonzero(ink[..., 0].max(1) > 0.25)[0], np.nonzero(ink[..., 0].max(0) > 0.25)[0]
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1
