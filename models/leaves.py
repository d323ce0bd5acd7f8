"""Classes of `torch.nn` of whose arguments exporters lose some without a word, spelt so that none is lost.

AvgPool2d with `divisor_override` d   the mean over k₁·k₂ places, padding included, times k₁·k₂/d
Softplus                              x where β·x is above the threshold, else log(1 + exp(β·x))/β
LogSigmoid                            −softplus(−x); the logarithm of a sigmoid in float32 is −∞ or wrong below −18
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_NEGLIGIBLE = 16.0
"""From this threshold on, log(1 + exp(t)) is t in float32."""


class DividedAvgPool(nn.AvgPool2d):
    """`AvgPool2d` with `divisor_override`.

    Raises:
        ValueError: `ceil_mode` as well, where windows hang over the padding.
    """

    def __init__(self, *, divisor_override: int, ceil_mode: bool = False, **arguments: Any) -> None:
        if ceil_mode:
            raise ValueError("divisor_override with ceil_mode, which ONNX has no operator for")
        super().__init__(**{**arguments, "count_include_pad": True})
        size = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * 2
        self.factor = math.prod(size) / divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """Sum over the window, divided by the number given."""
        mean: Tensor = super().forward(input)
        return mean * self.factor


class ThresholdedSoftplus(nn.Softplus):
    """`Softplus` whose threshold is so low that it shows."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch's, the branch in the graph."""
        return torch.where(input * self.beta > self.threshold, input, super().forward(input))


class StableLogSigmoid(nn.LogSigmoid):
    """`LogSigmoid` over its whole range."""

    def forward(self, input: Tensor) -> Tensor:
        """−log(1 + exp(−x))."""
        return -nn.functional.softplus(-input)


def leaf_class(kind: str, arguments: dict[str, Any]) -> type[nn.Module]:
    """The class that stands for `torch.nn`'s of that name with these arguments."""
    if kind == "AvgPool2d" and arguments.get("divisor_override") is not None:
        return DividedAvgPool
    if kind == "Softplus" and arguments.get("threshold", 20.0) < _NEGLIGIBLE:
        return ThresholdedSoftplus
    if kind == "LogSigmoid":
        return StableLogSigmoid
    found: type[nn.Module] = getattr(nn, kind)
    return found
