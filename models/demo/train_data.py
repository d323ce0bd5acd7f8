"""Training images: cached as uint8, placed at random, coloured at random, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onnxslim_yolo.runtime.dataset import Dataset
from onnxslim_yolo.runtime.images import PAD_VALUE, letterbox, read_image

GREY = PAD_VALUE / 255
MIN_VISIBLE = 0.3
"""An object of which less than this share remains in the picture is no target."""


@dataclass(frozen=True)
class Augmentation:
    """How training images vary.

    Attributes:
        scale: factor in [1 / (1 + scale), 1 + scale], log-uniform.
        shift: of the picture, as a share of the canvas.
        brightness, contrast: factors in [1 − x, 1 + x], per image; `colour` the same per channel.
        flip_x, flip_y: probabilities of mirroring.
    """

    scale: float = 0.25
    shift: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2
    colour: float = 0.05
    flip_x: float = 0.5
    flip_y: float = 0.5


@dataclass(frozen=True)
class Images:
    """Letterboxed images and their objects, in memory.

    Attributes:
        pixels: (n, 3, H, W) uint8 RGB.
        boxes: per image (m, 4) xyxy in pixels of the canvas.
        labels: per image (m,) class numbers.
    """

    pixels: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.boxes)


def cache(dataset: Dataset, size: tuple[int, int]) -> Images:
    """Read a whole dataset, letterboxed to `size` (H, W)."""
    pixels, boxes, labels = [], [], []
    for path in dataset.images:
        classes, relative = dataset.labels(path)
        canvas, placement = letterbox(read_image(path), size)
        height, width = placement.source
        placed = placement.apply(relative * np.array([width, height, width, height]))
        pixels.append(torch.from_numpy(canvas).permute(2, 0, 1))
        boxes.append(torch.from_numpy(np.ascontiguousarray(placed)).float().view(-1, 4))
        labels.append(torch.from_numpy(np.asarray(classes)).long())
    return Images(torch.stack(pixels).contiguous(), tuple(boxes), tuple(labels))


def batches(
    images: Images, batch: int, how: Augmentation, random: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch in random order: images (b, 3, H, W) in [0, 1], boxes (b, m, 4) xyxy pixels, labels (b, m), -1 padded.

    An incomplete last batch is left out, since BatchNorm would weigh its few images like many.
    """
    order = torch.randperm(len(images), generator=random)
    for start in range(0, max(len(order) - batch + 1, 1), batch):
        chosen = order[start : start + batch]
        pixels = images.pixels[chosen].float() / 255 - GREY
        factor, shift = _placements(len(chosen), how, random, pixels.shape[-2:])
        pixels = _colour(_place(pixels, factor, shift), how, random)
        placed = [
            _move(images.boxes[int(i)], images.labels[int(i)], factor[k], shift[k], pixels.shape[-2:])
            for k, i in enumerate(chosen)
        ]
        boxes, labels = _pad(placed)
        yield pixels, boxes, labels


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)


def _placements(n: int, how: Augmentation, random: torch.Generator, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Per image (x, y): the factor about the middle, negative when mirrored, and the shift in pixels."""
    limit = math.log1p(how.scale)
    zoom = _uniform(n, -limit, limit, random).exp()
    mirror = torch.stack([1 - 2 * (torch.rand(n, generator=random) < p).float() for p in (how.flip_x, how.flip_y)], 1)
    share = torch.stack([_uniform(n, -how.shift, how.shift, random) for _ in range(2)], 1)
    return zoom.unsqueeze(1) * mirror, share * torch.tensor([float(size[1]), float(size[0])])


def _place(pixels: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Resample about the middle; what comes from outside is grey (zero here)."""
    height, width = pixels.shape[-2:]
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / factor[:, 0], 1 / factor[:, 1]
    theta[:, 0, 2] = -shift[:, 0] * 2 / width / factor[:, 0]
    theta[:, 1, 2] = -shift[:, 1] * 2 / height / factor[:, 1]
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _colour(pixels: Tensor, how: Augmentation, random: torch.Generator) -> Tensor:
    n = len(pixels)
    contrast = _uniform(n, 1 - how.contrast, 1 + how.contrast, random).view(n, 1, 1, 1)
    tint = _uniform(3 * n, 1 - how.colour, 1 + how.colour, random).view(n, 3, 1, 1)
    brightness = _uniform(n, 1 - how.brightness, 1 + how.brightness, random).view(n, 1, 1, 1)
    return ((pixels * contrast + GREY) * brightness * tint).clamp(0, 1)


def _move(boxes: Tensor, labels: Tensor, factor: Tensor, shift: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Boxes as `_place` moves their pixels, cut at the border; those that are hardly visible dropped."""
    sides = torch.tensor([float(size[1]), float(size[0])])
    corners = (boxes.view(-1, 2, 2) - sides / 2) * factor + sides / 2 + shift
    low, high = corners.amin(1), corners.amax(1)
    whole = (high - low).prod(1)
    low, high = low.clamp(min=0).minimum(sides), high.clamp(min=0).minimum(sides)
    stay = (high - low).prod(1) > MIN_VISIBLE * whole
    return torch.cat((low, high), 1)[stay], labels[stay]


def _pad(placed: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    most = max(len(labels) for _, labels in placed)
    boxes, labels = torch.zeros(len(placed), most, 4), torch.full((len(placed), most), -1)
    for row, (some_boxes, some_labels) in enumerate(placed):
        boxes[row, : len(some_labels)] = some_boxes
        labels[row, : len(some_labels)] = some_labels
    return boxes, labels
