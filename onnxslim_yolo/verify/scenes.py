"""Made-up photographs: what detectors are shown where the user gives no images.

The *dead leaves* model (Matheron 1968; Lee, Mumford, Huang 2001, "Occlusion models for natural images"): opaque shapes
of power-law sizes that occlude each other. Its images share edges, flat surfaces, occlusion and the 1/f spectrum with
photographs, so that a trained detector's layers work in the range that they were trained for, and some scores fire.
Shapes are ellipses and boxes, turned and shaded; the same arguments give the same pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.onnx_run import Feeds, as_fed, image_like
from onnxslim_yolo.runtime.progress import counted

SHAPES = 400
"""Leaves an image."""

SMALLEST, LARGEST = 0.02, 0.45
"""Half the side of a leaf, as a share of the image's smaller side."""

SIDES_LIMIT = 4096
"""An input larger than this is no image that leaves are worth drawing for."""


def scene_feeds(model: Model, count: int, seed: int = 0) -> list[Feeds]:
    """`count` inputs of the model: scenes for what looks like an image, noise for anything else."""
    rng = np.random.default_rng(seed)
    return [
        {tensor.name: as_fed(model, _input(tensor.shape, tensor.dtype, rng)) for tensor in model.graph.inputs}
        for _ in counted("made-up photographs", range(count), count)
    ]


def _input(shape: Any, dtype: Any, rng: np.random.Generator) -> Array:
    dims = [int(d) if isinstance(d, (int, np.integer)) and d > 0 else 1 for d in shape or ()]
    image = len(dims) == 4 and dims[1] in (1, 3) and min(dims[2:]) >= 16 and max(dims[2:]) <= SIDES_LIMIT
    if not image:
        return image_like(shape, rng, dtype)
    kind = np.dtype(np.float32 if dtype is None else dtype)
    made = np.stack([scene(dims[1], (dims[2], dims[3]), rng) for _ in range(dims[0])])
    return np.ascontiguousarray(made * 255 if kind.kind in "iu" else made, dtype=kind)


def scene(channels: int, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """One scene, (channels, h, w) in [0, 1]."""
    height, width = size
    side = min(size)
    canvas = np.empty((channels, height, width))
    canvas[:] = rng.random((channels, 1, 1))
    for _ in range(SHAPES):
        # Radii of density r⁻³: as many pixels are covered at every scale.
        radius = side * min(SMALLEST / np.sqrt(1 - rng.random() * (1 - (SMALLEST / LARGEST) ** 2)), LARGEST)
        _leaf(canvas, (rng.random() * height, rng.random() * width), radius, rng)
    canvas += rng.normal(0, 0.02, canvas.shape)
    blurred = (canvas + np.roll(canvas, 1, 1) + np.roll(canvas, 1, 2) + np.roll(canvas, (1, 1), (1, 2))) / 4
    return np.asarray(blurred.clip(0, 1))


def _leaf(canvas: Array, centre: tuple[float, float], radius: float, rng: np.random.Generator) -> None:
    """Paint one shape: a superellipse (an ellipse, or nearly a box), turned, of one colour and a linear shade."""
    turn, flat, power = rng.random() * np.pi, rng.uniform(0.5, 1), rng.choice([2, 2, 8])
    colour, shade = rng.random((canvas.shape[0], 1)), rng.random()
    reach = int(radius * 1.5) + 1
    top, left = (max(int(c) - reach, 0) for c in centre)
    part = canvas[:, top : int(centre[0]) + reach, left : int(centre[1]) + reach]
    y, x = np.mgrid[: part.shape[1], : part.shape[2]]
    y, x = y + (top - centre[0]), x + (left - centre[1])
    u = (x * np.cos(turn) + y * np.sin(turn)) / radius
    v = (y * np.cos(turn) - x * np.sin(turn)) / (radius * flat)
    inside = np.abs(u) ** power + np.abs(v) ** power < 1
    part[:, inside] = colour * (1 - 0.5 * shade * ((u + v + 1) / 2).clip(0, 1)[inside])
