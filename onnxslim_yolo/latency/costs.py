"""What widths can be chosen by besides latency: multiply-accumulates and parameters, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

from onnxslim_yolo.latency.layers import Family
from onnxslim_yolo.latency.packing import lanes_of
from onnxslim_yolo.latency.table import Widths


class Costs(Protocol):
    """A cost that is the sum over layers. `LatencyTable` is one, in µs."""

    @property
    def lanes(self) -> int:
        """Channels in a register of the machine that widths are chosen for."""
        ...

    @property
    def name(self) -> str:
        """Where the costs come from, in words."""
        ...

    def lookup(self, family: Family, ins: Widths, outs: Widths) -> float:
        """The cost of a layer of a family with these widths."""
        ...


@dataclass(frozen=True)
class Multiplications:
    """Multiply-accumulates of one run, as `analysis.cost` counts them."""

    isa: str
    name: str = "counted"

    @property
    def lanes(self) -> int:
        """Channels in a register."""
        return lanes_of(self.isa)

    def lookup(self, family: Family, ins: Widths, outs: Widths) -> float:
        """Multiply-accumulates of a layer."""
        macs = weights_of(family, ins, outs) * family.area
        return macs / prod(family.stride) if family.kind == "deconv" else macs


@dataclass(frozen=True)
class Parameters:
    """Weights of convolutions and their biases. What else a graph stores is small and hardly depends on widths."""

    isa: str
    name: str = "counted"

    @property
    def lanes(self) -> int:
        """Channels in a register."""
        return lanes_of(self.isa)

    def lookup(self, family: Family, ins: Widths, outs: Widths) -> float:
        """Parameters of a layer."""
        weights = 0.0 if family.op == "maps" else weights_of(family, ins, outs)
        return weights + outs[0] if weights else 0.0


def weights_of(family: Family, ins: Widths, outs: Widths) -> float:
    """Weights of a layer: the multiply-accumulates at one position of its output."""
    if family.kind in ("conv", "group-conv", "deconv", "matmul"):
        return prod(family.kernel) * ins[0] * outs[0] / family.groups
    return float(prod(family.kernel) * outs[0]) if family.kind == "depthwise" else 0.0
