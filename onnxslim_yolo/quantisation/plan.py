"""What int8 is: per tensor a range, per layer whole numbers for its weights.

A tensor's codes are c = clip(round(x / s) + z, 0, 255), halves to even, with s = (high − low) / 255 and a whole z for
which 0 has a code of its own (padding is exact). A weight's are w = clip(round(W / s_o), −127, 127), one s_o per output
channel, and a bias is a whole number of s · s_o.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxslim_yolo.ir.graph import Array

CODES = 255
"""The largest code of a tensor."""

LEAST_STEP = 1e-12
"""A range that is a point would have no step."""


@dataclass(frozen=True)
class Range:
    """What a tensor's codes reach: low ≤ 0 ≤ high."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """The range from one number to another, 0 in it."""
        return cls(min(float(low), 0.0), max(float(high), 0.0))

    @property
    def step(self) -> float:
        """What one code is, a float32."""
        return float(np.float32(max((self.high - self.low) / CODES, LEAST_STEP)))

    @property
    def zero(self) -> int:
        """The code of 0."""
        return int(np.clip(np.rint(-self.low / self.step), 0, CODES))

    @property
    def symmetric_step(self) -> float:
        """What one code is where codes are −127 … 127 and that of 0 is 0."""
        return float(np.float32(max(self.high, -self.low, LEAST_STEP) / 127))

    def rounded(self, values: Array) -> Array:
        """Values as their codes tell them."""
        codes = np.clip(np.rint(values / self.step) + self.zero, 0, CODES)
        return np.asarray((codes - self.zero) * self.step)


@dataclass(frozen=True)
class QuantisedLayer:
    """One layer's numbers.

    Attributes:
        name: of the node. reads, writes: the tensors whose codes it takes and makes.
        weight: int8, laid out as the node's weight. step: per output channel, float32.
        bias: per output channel: what its node adds, less what rounding the weights adds on average. α and β of a Gemm
            are in both.
        axis: of the weight, along which its outputs lie. adds: whether its node has a place for the bias.
    """

    name: str
    reads: str
    writes: str
    weight: Array
    step: Array
    bias: Array
    axis: int = 0
    adds: bool = True

    def bias_codes(self, step: float) -> Array:
        """The bias in whole numbers of the input's step times the weight's: int32."""
        limit = 2**31 - 1
        return np.clip(np.rint(self.bias / self.bias_step(step).astype(np.float64)), -limit, limit).astype(np.int32)

    def bias_step(self, step: float) -> Array:
        """What one of them is, float32."""
        return np.asarray(np.float32(step) * self.step, np.float32)


@dataclass(frozen=True)
class Link:
    """A layer and those that read its map.

    Attributes:
        writer, readers: names of nodes. tensors: of what the readers read. scale: per channel, s.
    """

    writer: str
    readers: tuple[str, ...]
    tensors: tuple[str, ...]
    scale: Array


@dataclass(frozen=True)
class Quantisation:
    """Everything that is int8 of a model, by the names of its nodes and tensors.

    Attributes:
        layers: those with weights, in the graph's order.
        ranges: per tensor that has codes.
        left: other layers with weights, and why they stay float.
        chosen: how the ranges were chosen. error: what is lost by the detector's error on calibration images
            (`pruning.head_error`); budget: what it was to stay within, where there was one.
        images: how many of them the ranges come from.
        links: by what channels' weights are to be scaled for it, and the way: `equalised` (see `equalise`).
    """

    layers: dict[str, QuantisedLayer]
    ranges: dict[str, Range]
    left: dict[str, str] = field(default_factory=dict)
    chosen: str = ""
    error: float | None = None
    budget: float | None = None
    images: int = 0
    links: tuple[Link, ...] = ()
    equalised: str = ""

    @property
    def largest_weight(self) -> int:
        """In whole numbers."""
        return max((int(np.abs(layer.weight.astype(int)).max(initial=0)) for layer in self.layers.values()), default=0)

    def as_json(self) -> dict[str, Any]:
        """What the report says of it."""
        return {
            "layers": list(self.layers),
            "float": [{"layer": name, "reason": why} for name, why in self.left.items()],
            "tensors": len(self.ranges),
            "ranges": self.chosen,
            "error": self.error,
            "budget": self.budget,
            "images": self.images,
            "equalised": {"way": self.equalised, "layers": [link.writer for link in self.links]},
        }


def reasons(left: Iterable[str]) -> dict[str, int]:
    """How many layers each reason keeps float, most first."""
    return dict(Counter(left).most_common())
