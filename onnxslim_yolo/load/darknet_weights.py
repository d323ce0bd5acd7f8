"""Darknet's `.weights`: a header, then nothing but little-endian float32 in the order of the layers.

Header: int32 major, minor, revision; then the number of images seen, as uint64 from version 0.2 on and as uint32
before (`load_weights_upto` in darknet's parser.c). A version above 1000 marks transposed fully connected weights.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.ir.graph import Array


class WeightReader:
    """Hands out the file's floats in order, and knows when they run out.

    Raises:
        InputError: unreadable, or too short to hold a header.
        UnsupportedError: transposed weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_file(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", file=path, hint="name the weights with --weights FILE"
            ) from error
        start = _header_size(data, path)
        if len(data) < start or (len(data) - start) % 4:
            raise InputError(
                f"{len(data)} bytes are no header plus whole float32: truncated, or not Darknet weights", file=path
            )
        self._floats: Array = np.frombuffer(data, dtype="<f4", offset=start)
        self._position = 0

    def take(self, shape: tuple[int, ...], layer: str) -> Array:
        """The next floats as an array of this shape.

        Raises:
            InputError: the file ends before, or a value is not finite.
        """
        count = int(np.prod(shape, dtype=object))
        if count > self.remaining:
            raise InputError(
                f"the weights end here: {count} floats of shape {shape} are needed, {self.remaining} are left",
                file=self.path,
                node=layer,
                hint="the .weights belong to another .cfg, are cut short, or hold a backbone only",
            )
        values = self._floats[self._position : self._position + count]
        self._position += count
        if not np.isfinite(values).all():
            raise InputError(
                "a weight is not finite: the training diverged, or the .weights belong to another .cfg",
                file=self.path,
                node=layer,
            )
        return values.reshape(shape).astype(np.float32)

    @property
    def remaining(self) -> int:
        """How many floats have not been handed out."""
        return int(self._floats.size) - self._position

    def finish(self) -> None:
        """Check that every float was used.

        Raises:
            InputError: saying how many were not.
        """
        if self.remaining:
            raise InputError(
                f"{self.remaining} of {self._floats.size} floats are left over after the last layer",
                file=self.path,
                hint="the .weights belong to another .cfg",
            )


def _header_size(data: bytes, path: Path) -> int:
    if len(data) < 16:
        raise InputError(f"{len(data)} bytes are too few for Darknet weights", file=path)
    major, minor, _ = struct.unpack_from("<iii", data)
    if not (0 <= major <= 2000 and 0 <= minor <= 2000):
        raise InputError(f"no Darknet weights: the header gives version {major}.{minor}", file=path)
    if major > 1000 or minor > 1000:
        raise UnsupportedError("transposed weights (version above 1000) are not supported", file=path)
    return 20 if major * 10 + minor >= 2 else 16
