"""Images without labels as batches, varied at random: mirrored, moved, scaled, and lit otherwise.

Drawn from a generator of its own: the same images and seed give the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime.images import PAD_VALUE

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Variation:
    """How images are varied.

    Attributes:
        flip: the share that is mirrored from left to right.
        scale: the most by which one is made larger or smaller, as a logarithm. shift: the most it is moved, of a side.
        light: the most by which brightness, contrast and each colour change.
    """

    flip: float = 0.5
    scale: float = 0.35
    shift: float = 0.1
    light: float = 0.25


PLAIN = Variation(0.0, 0.0, 0.0, 0.0)


def batches(images: CalibrationImages, size: int, how: Variation, random: Generator) -> Iterator[Tensor]:
    """Every image once, in random order, as the network is fed it: (b, 3, h, w). A last batch may be smaller."""
    import torch

    order = torch.randperm(len(images), generator=random).tolist() if how != PLAIN else list(range(len(images)))
    for start in range(0, len(order), size):
        yield fed(images, order[start : start + size], how, random)


def fed(images: CalibrationImages, numbers: Sequence[int], how: Variation, random: Generator) -> Tensor:
    """Some of the images, varied, as one batch."""
    import torch

    canvases = np.stack([images.canvas(number) for number in numbers])
    pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2).float() / 255
    if how != PLAIN:
        pixels = lit(moved(pixels, how, random), how, random)
    return torch.from_numpy(images.feed(pixels.numpy()))


def moved(pixels: Tensor, how: Variation, random: Generator) -> Tensor:
    """Mirrored, scaled and moved, each image in its own way; what comes in from outside is grey."""
    import torch
    from torch.nn import functional

    count = len(pixels)
    mirror = torch.where(torch.rand(count, generator=random) < how.flip, -1.0, 1.0)
    scale = torch.exp((2 * torch.rand(count, generator=random) - 1) * how.scale)
    shift = (2 * torch.rand(count, 2, generator=random) - 1) * 2 * how.shift
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirror * scale, scale, shift
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    grey = PAD_VALUE / 255
    placed = functional.grid_sample(pixels - grey, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return placed + grey


def lit(pixels: Tensor, how: Variation, random: Generator) -> Tensor:
    """Brighter or darker, in contrast and in each colour."""
    import torch

    def factors(channels: int) -> Tensor:
        return 1 + (2 * torch.rand(len(pixels), channels, 1, 1, generator=random) - 1) * how.light

    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    contrasted = middle + (pixels - middle) * factors(1)
    return (contrasted * factors(1) * (1 + (factors(3) - 1) * 0.3)).clamp(0, 1)
