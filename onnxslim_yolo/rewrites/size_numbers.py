"""Numbers that a graph computes with and that may be of its image's size, as exporters write them down."""

from __future__ import annotations

from math import sqrt

import numpy as np

from onnxslim_yolo.ir.graph import Node, constant_of, is_empty
from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.rewrites.size_factors import OneSizeError

LARGE = 8
"""Smaller extents are numbers like others."""

MOST = 64
"""Longer constants are weights, or values for every position."""

_OF_BYTES = 255.0
"""What bytes are divided by, whatever has 256 rows."""


class Numbers:
    """What could be a number of the old size: a side, an area, and what is commonly made of them."""

    def __init__(self) -> None:
        self._made_of: dict[float, str] = {}

    def note(self, rows: int, columns: int, channels: int, what: str) -> None:
        """Take in a map, or the image, whose size changes."""
        area = rows * columns
        for count, said in (
            (rows, f"a side of {what}"),
            (columns, f"a side of {what}"),
            (area, f"the number of positions of {what}"),
            (area * channels, f"the number of values of {what}"),
        ):
            if count < LARGE:
                continue
            for value in (count, count - 1, sqrt(count), sqrt(count - 1), count / 2, (count - 1) / 2):
                if value >= LARGE - 1 and value != _OF_BYTES:
                    self._made_of.setdefault(float(value), said)
            self._made_of.setdefault(count / (count - 1), said)  # a variance of a sample

    def require(self, node: Node) -> None:
        """Raises OneSizeError where a node computes with such a number, or with nothing but such."""
        if node.op not in ELEMENTWISE:
            return
        values = [constant_of(tensor) for tensor in node.inputs if not is_empty(tensor)]
        values += [np.asarray(node.attrs[name]) for name in ("min", "max") if name in node.attrs]
        for value in values:
            if value is None or value.dtype.kind not in "fiu" or not 0 < value.size <= MOST:
                continue
            numbers = [
                number for number in np.unique(np.abs(value.astype(np.float64))).tolist() if number not in (0, 1)
            ]
            found = [self._what(number) for number in numbers]
            if numbers and all(found):
                raise OneSizeError(f"it computes with {numbers[0]:.6g}, which may be of {found[0]}", node.name)

    def _what(self, number: float) -> str | None:
        for value, what in self._made_of.items():
            for one in (value, 1 / value):
                if abs(number / one - 1) < 3e-7 or number == float(np.float16(min(one, 65504))):
                    return what
        return None
