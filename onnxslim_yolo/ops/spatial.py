"""Operators over a map's positions, channel by channel: pools, resizing, padding, sampling. One row a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ops.question import one_of


@dataclass(frozen=True)
class Pool:
    """One pool.

    Attributes:
        kind: "max", "average" or "lp": what becomes of a window.
        whole: whether the window is the whole map.
    """

    kind: str
    whole: bool = False

    @property
    def steady(self) -> bool:
        """Whether of equal values under a window comes that value."""
        return self.kind != "lp"


POOLS: dict[str, Pool] = {
    "MaxPool": Pool("max"),
    "AveragePool": Pool("average"),
    "LpPool": Pool("lp"),
    "GlobalMaxPool": Pool("max", whole=True),
    "GlobalAveragePool": Pool("average", whole=True),
    "GlobalLpPool": Pool("lp", whole=True),
}
"""Operator → what it is."""

RESIZES = ("Resize", "Upsample")
is_resize = one_of(*RESIZES)
is_max_pool = one_of("MaxPool")
is_average_pool = one_of("AveragePool")

SAMPLERS = ("GridSample", "RoiAlign")
"""Operators that read a map at positions which another input says."""


def may_pad(node: Node) -> bool:
    """Whether a convolution or a pooling may pad."""
    auto = attribute(node, "auto_pad")
    return auto not in ("NOTSET", "VALID", None) or (auto != "VALID" and any(node.attrs.get("pads") or ()))


def sampled_at(
    transform: str, before: int, after: int, scale: float, kind: type[np.floating[Any]] = np.float32
) -> Array | None:
    """Where along an axis of its input each pixel of a Resize samples, by the formulas of the operator (section
    "coordinate_transformation_mode"); None by those that are not told here.

    Args:
        before, after: pixels of the input and of the output. scale: out per in.
        kind: the precision. Runtimes' is single, which decides where a pixel is to be had whole (8 / (16 / 14) is
            6.9999995).
    """
    x: Array = np.arange(after, dtype=kind)
    step: Any = kind(scale)
    found: Array | None = None
    if transform == "asymmetric":
        found = x / step
    elif transform == "align_corners":
        found = x * (before - 1) / max(after - 1, 1)
    elif transform == "half_pixel" or (transform == "pytorch_half_pixel" and after > 1):
        found = (x + 0.5) / step - 0.5
    elif transform == "pytorch_half_pixel":
        found = x * 0
    return found


def nearest_pixel(rounding: str, where: Array, before: int) -> Array:
    """The pixel of an axis of so many that a Resize of mode "nearest" takes there, by its attribute `nearest_mode`."""
    rounded: dict[str, Array] = {
        "floor": np.floor(where),
        "ceil": np.ceil(where),
        "round_prefer_floor": np.ceil(where - 0.5),
        "round_prefer_ceil": np.floor(where + 0.5),
    }
    return rounded[rounding].clip(0, before - 1)


def same_pads(auto: str, size: int, extent: int, stride: int) -> tuple[int, int]:
    """Padding in front and behind that `auto_pad` SAME_UPPER or SAME_LOWER asks for along an axis: what it takes for
    ⌈size / stride⌉ outputs of windows of this extent, the odd one behind or in front."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    less = total // 2
    return (less, total - less) if auto == "SAME_UPPER" else (total - less, less)
