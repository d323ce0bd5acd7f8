"""Blocks of YOLOv7 (SPPCSPC, MP, SP) and YOLOv9 (GELAN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.blocks_common import Conv, split_for
from onnxslim_yolo.models.blocks_rep import RepCSP
from onnxslim_yolo.models.registry import Block, Unary, register_block


@register_block()
class MP(Block):
    """Max-pool that halves the sides: (b, c, h, w) → (b, c, h/2, w/2)."""

    MEMBERS = ("m",)
    m: Unary

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.m = nn.MaxPool2d(k, k)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h/2, w/2)."""
        return self.m(x)


@register_block()
class SP(MP):
    """Max-pool that keeps the sides: (b, c, h, w) → the same."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.m = nn.MaxPool2d(k, 1, k // 2)


@register_block()
class SPPCSPC(Block):
    """cv7(cat(cv6(cv5(cat(y, pools of y))), cv2 x)), y = cv4(cv3(cv1 x)): (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "cv3", "cv4", "m", "cv5", "cv6", "cv7")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    cv4: Unary
    cv5: Unary
    cv6: Unary
    cv7: Unary
    m: nn.ModuleList

    def __init__(self, c1: int, c2: int, e: float = 0.5, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        c_ = int(2 * c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c1, c_)
        self.cv3 = Conv(c_, c_, 3)
        self.cv4 = Conv(c_, c_)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in k)
        self.cv5 = Conv(c_ * (len(k) + 1), c_)
        self.cv6 = Conv(c_, c_, 3)
        self.cv7 = Conv(2 * c_, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(torch.cat([y, *(pool(y) for pool in self.m)], 1)))
        return self.cv7(torch.cat((y, self.cv2(x)), 1))


@register_block()
class RepNCSPELAN4(Block):
    """GELAN: cv1 x in two parts, cv2 on the last, cv3 on that, all four concatenated, cv4.

    (b, c1, h, w) → (b, c2, h, w). The parts are as wide as cv2 needs.
    """

    MEMBERS = ("cv1", "cv2", "cv3", "cv4")
    cv1: Conv
    cv2: nn.Module
    cv3: Unary
    cv4: Unary

    def __init__(self, c1: int, c2: int, c3: int, c4: int, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c3)
        self.cv2 = nn.Sequential(RepCSP(c3 // 2, c4, n), Conv(c4, c4, 3))
        self.cv3 = nn.Sequential(RepCSP(c4, c4, n), Conv(c4, c4, 3))
        self.cv4 = Conv(c3 + 2 * c4, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        first, last = split_for(self.cv1(x), self.cv2, self.cv1.conv.out_channels)
        y = self.cv2(last)
        return self.cv4(torch.cat((first, last, y, self.cv3(y)), 1))


@register_block()
class ELAN1(RepNCSPELAN4):
    """GELAN with plain 3×3 convolutions."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int) -> None:
        Block.__init__(self)
        self.cv1 = Conv(c1, c3)
        self.cv2 = Conv(c3 // 2, c4, 3)
        self.cv3 = Conv(c4, c4, 3)
        self.cv4 = Conv(c3 + 2 * c4, c2)


@register_block()
class AConv(Block):
    """2×2 mean at stride 1, then `cv1` 3×3 at stride 2: (b, c1, h, w) → (b, c2, h/2, w/2)."""

    MEMBERS = ("cv1",)
    cv1: Unary

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/2, w/2)."""
        return self.cv1(functional.avg_pool2d(x, 2, 1, 0))


@register_block()
class ADown(Block):
    """2×2 mean, then one half through a strided 3×3, the other through a pool and a 1×1.

    (b, c1, h, w) → (b, c2, h/2, w/2).
    """

    MEMBERS = ("cv1", "cv2")
    cv1: nn.Module
    cv2: nn.Module

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = Conv(c1 // 2, c2 // 2, 3, 2)
        self.cv2 = Conv(c1 // 2, c2 // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/2, w/2)."""
        mean = functional.avg_pool2d(x, 2, 1, 0)
        first, last = split_for(mean, self.cv2, int(mean.shape[1]))
        return torch.cat((self.cv1(first), self.cv2(functional.max_pool2d(last, 3, 2, 1))), 1)


@register_block()
class SPPELAN(Block):
    """cv5 of cv1's output and of three chained pools cv2, cv3, cv4: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "cv3", "cv4", "cv5")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    cv4: Unary
    cv5: Unary

    def __init__(self, c1: int, c2: int, c3: int, k: int = 5) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c3)
        self.cv2, self.cv3, self.cv4 = (nn.MaxPool2d(k, 1, k // 2) for _ in range(3))
        self.cv5 = Conv(4 * c3, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        parts = [self.cv1(x)]
        for pool in (self.cv2, self.cv3, self.cv4):
            parts.append(pool(parts[-1]))
        return self.cv5(torch.cat(parts, 1))
