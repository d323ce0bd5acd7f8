"""Normalisations: values are scaled by statistics of their neighbours, or of a training set. One row an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxslim_yolo.ir.attributes import attribute, softmax_axes
from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.ops.question import one_of


@dataclass(frozen=True)
class Norm:
    """One normalisation.

    Attributes:
        over: the axes whose values are normalised together, given node, rank and opset.
        per_channel: the inputs that hold one value a channel.
        floor: no value is below this; None where there is no such bound.
        by_channel: whether no channel sees another one.
    """

    over: Callable[[Node, int, int], list[int]]
    per_channel: tuple[int, ...] = ()
    floor: float | None = None
    by_channel: bool = False


def _from_axis(node: Node, rank: int, opset: int) -> list[int]:
    return list(range(int(attribute(node, "axis")) % rank, rank))


def _own_axis(node: Node, rank: int, opset: int) -> list[int]:
    return [int(attribute(node, "axis")) % rank]


NORMS: dict[str, Norm] = {
    "BatchNormalization": Norm(lambda node, rank, opset: [], (1, 2, 3, 4), by_channel=True),
    "InstanceNormalization": Norm(lambda node, rank, opset: list(range(2, rank)), (1, 2), by_channel=True),
    "GroupNormalization": Norm(lambda node, rank, opset: list(range(1, rank)), (1, 2)),
    "LayerNormalization": Norm(_from_axis),
    "RMSNormalization": Norm(_from_axis),
    "MeanVarianceNormalization": Norm(lambda node, rank, opset: [int(axis) for axis in attribute(node, "axes")]),
    "LpNormalization": Norm(_own_axis),
    "LRN": Norm(lambda node, rank, opset: [1]),
    "Softmax": Norm(softmax_axes, floor=0),
    "LogSoftmax": Norm(softmax_axes),
    "Hardmax": Norm(softmax_axes, floor=0),
}
"""Operator → what it is."""

is_softmax = one_of("Softmax")
is_batch_norm = one_of("BatchNormalization")
"""An affine map per channel: its statistics are stored."""

is_norm_by_channel = one_of(*(op for op, row in NORMS.items() if row.by_channel))
"""Its inputs 1 and 2 scale and shift each channel, whatever the others hold."""

SOFTMAXES = ("Softmax", "LogSoftmax", "Hardmax")
