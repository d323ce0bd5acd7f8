"""Writes small Darknet networks with random weights, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

HEADER_V2 = struct.pack("<iiiQ", 0, 2, 5, 32013312)
HEADER_V1 = struct.pack("<iiiI", 0, 1, 0, 32013312)

TINY_YOLOV4 = """
[net]
width=64
height=96
channels=3
[convolutional]   # 0
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish
[route]           # 1: the second half, as in yolov4-tiny
layers=-1
groups=2
group_id=1
[convolutional]   # 2
batch_normalize=1
filters=8
groups=8
size=3
pad=1
activation=swish
[shortcut]        # 3
from=-2
activation=leaky
[route]           # 4
layers=-1,-4
[maxpool]         # 5
size=2
stride=2
[maxpool]         # 6: keeps the size
size=2
stride=1
[convolutional]   # 7
filters=16
size=1
activation=relu
[upsample]        # 8
stride=2
[route]           # 9
layers=8,0
[convolutional]   # 10
size=1
stride=4
filters=21
activation=linear
[yolo]            # 11
mask=1,2,3
anchors=10,14, 23,27, 37,58, 81,82
classes=2
num=4
scale_x_y=1.05
[route]           # 12
layers=7
[convolutional]   # 13
size=1
stride=1
filters=14
activation=logistic
[yolo]            # 14
mask=0,1
anchors=10,14, 23,27, 37,58, 81,82
classes=2
num=4
new_coords=1
scale_x_y=2.0
"""
"""Every layer of yolov4-tiny, on a map of 96 × 64."""

TINY_YOLOV4_CONVOLUTIONS = (
    (16, 3, 3, True),
    (8, 1, 3, True),
    (16, 24, 1, False),
    (21, 32, 1, False),
    (14, 16, 1, False),
)
"""Filters, channels per group, kernel size and whether there is a BatchNorm, in order."""


def random_weights(convolutions, rng: np.random.Generator, header: bytes = HEADER_V2) -> bytes:
    """A `.weights` file. BatchNorms have positive scales and variances around 1."""
    parts = []
    for filters, channels, size, normalised in convolutions:
        parts.append(rng.normal(0, 0.5, filters))
        if normalised:
            parts += [rng.uniform(0.5, 2, filters), rng.normal(0, 0.5, filters), rng.uniform(0.2, 2, filters)]
        fan_in = channels * size * size
        parts.append(rng.normal(0, fan_in**-0.5, filters * fan_in))
    return header + np.concatenate(parts).astype("<f4").tobytes()


def write_network(folder: Path, cfg: str, weights: bytes) -> Path:
    """Writes `net.cfg` and `net.weights`. Returns the `.cfg`."""
    path = folder / "net.cfg"
    path.write_text(cfg)
    path.with_suffix(".weights").write_bytes(weights)
    return path
