"""Operators over a map's positions, channel by channel: pools, resizing, padding, sampling. One row a pool."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node
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
