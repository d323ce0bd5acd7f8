"""Views of an image: what makes a few calibration images go further.

Few images have few large objects, and what is fitted to those alone takes channels for redundant that are not. An image
mirrored, and cut-outs of it magnified, show the network other objects, other sizes and other places at no cost in data.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.graph import Array

VIEWS = 4
"""Views of an image at most."""

ENOUGH_IMAGES = 112
"""With so many images, each is seen once."""


def views_for(images: int) -> int:
    """How many views make up for there being so few images."""
    return max(1, min(VIEWS, -(-ENOUGH_IMAGES // max(images, 1))))


def view_of(image: Array, view: int, seed: int = 0) -> Array:
    """One view of an input (1, c, h, w): 0 itself, 1 mirrored, 2 a cut-out magnified, 3 another one mirrored.

    A cut-out has half to four fifths of each side; `seed` tells which.
    """
    if view >= 2:
        image = _magnified(image, np.random.default_rng((seed, view)))
    return np.ascontiguousarray(image[..., ::-1]) if view % 2 else image


def _magnified(image: Array, rng: np.random.Generator) -> Array:
    """A random cut-out, brought back to full size bilinearly (pixel centres at +½)."""
    height, width = image.shape[2:]
    share = rng.uniform(0.5, 0.8)
    found = image
    for axis, side in ((2, height), (3, width)):
        inner = max(int(side * share), 1)
        start = int(rng.integers(0, side - inner + 1))
        where = start + ((np.arange(side) + 0.5) * inner / side - 0.5).clip(0, inner - 1)
        low = where.astype(np.int64)
        high = np.minimum(low + 1, start + inner - 1)
        shape = [-1 if k == axis else 1 for k in range(4)]
        part = (where - low).astype(image.dtype).reshape(shape)
        found = found.take(low, axis) * (1 - part) + found.take(high, axis) * part
    return np.asarray(found, dtype=image.dtype)
