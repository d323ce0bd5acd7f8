"""Blocks with parallel branches that merge into one convolution: RepVGG, YOLOv6, YOLOv7, Ultralytics' RepConv."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import C3, Bottleneck, Conv, batch_norm
from onnxslim_yolo.models.registry import Block, Unary, allow, register_block


def conv_norm(c1: int, c2: int, k: int, s: int = 1, g: int = 1, *, named: bool = True) -> nn.Sequential:
    """Conv → BatchNorm, its children called `conv`, `bn`, or `0`, `1`."""
    conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
    pair = nn.Sequential()
    pair.add_module("conv" if named else "0", conv)
    pair.add_module("bn" if named else "1", batch_norm(c2))
    return pair


@register_block("RepVGGBlock", "RepConv", "RepConv_OREPA")
class RepVGGBlock(Block):
    """act(rbr_dense(x) + rbr_1x1(x) + rbr_identity(x)): (b, c1, h, w) → (b, c2, h/s, w/s).

    `rbr_identity` is a BatchNorm, or None where shapes change. Deployed, `rbr_reparam` is all there is. The
    activation is called `nonlinearity` (RepVGG, YOLOv6, Lite) or `act` (YOLOv7).
    """

    MEMBERS: ClassVar[tuple[str, ...]] = ("rbr_dense|rbr_reparam",)
    OPTIONAL = ("rbr_dense", "rbr_1x1", "rbr_identity", "rbr_reparam", "nonlinearity", "act", "se")
    SAYS = ("nonlinearity", "act")
    rbr_dense: Unary | None
    rbr_1x1: Unary | None
    rbr_identity: Unary | None
    rbr_reparam: Unary | None
    nonlinearity: Unary | None
    act: Unary | None
    se: Unary | None

    def __init__(
        self, c1: int, c2: int, s: int = 1, g: int = 1, *, act: nn.Module | None = None, v7: bool = False
    ) -> None:
        """`v7`: YOLOv7's names, `act` and numbered branches."""
        super().__init__()
        self.rbr_identity = batch_norm(c1) if c1 == c2 and s == 1 else None
        self.rbr_dense = conv_norm(c1, c2, 3, s, g, named=not v7)
        self.rbr_1x1 = conv_norm(c1, c2, 1, s, g, named=not v7)
        chosen = nn.ReLU() if act is None else act
        self.nonlinearity, self.act = (None, chosen) if v7 else (chosen, None)
        self.rbr_reparam = self.se = None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        branches = (self.rbr_reparam,) if self.rbr_reparam else (self.rbr_dense, self.rbr_1x1, self.rbr_identity)
        outputs = [branch(x) for branch in branches if branch is not None]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        y = self.merge(y)
        act = self.nonlinearity or self.act
        return y if act is None else act(y)

    def idle(self) -> tuple[str, ...]:
        """The branches, where their sum is there as one convolution."""
        return ("rbr_dense", "rbr_1x1", "rbr_identity") if self.rbr_reparam else ()

    def merge(self, y: Tensor) -> Tensor:
        """What happens to the branches' sum before the activation."""
        return y if self.se is None else self.se(y)


@register_block("RepConv", "RepConvN")
class RepConv(Block):
    """Ultralytics' and YOLOv9's: act(conv1(x) + conv2(x) + bn(x)); fused, act(conv(x)). `bn` is usually None.

    (b, c1, h, w) → (b, c2, h/s, w/s).
    """

    MEMBERS = ("conv1|conv", "act")
    OPTIONAL = ("conv1", "conv2", "bn", "conv")
    conv1: Unary | None
    conv2: Unary | None
    bn: Unary | None
    conv: Unary | None
    act: Unary

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, *, bn: bool = False) -> None:
        super().__init__()
        self.conv1 = Conv(c1, c2, k, s, g=g, act=False)
        self.conv2 = Conv(c1, c2, 1, s, g=g, act=False)
        self.bn = batch_norm(c1) if bn and c1 == c2 and s == 1 else None
        self.conv = None
        self.act = nn.SiLU()

    def idle(self) -> tuple[str, ...]:
        """The branches, where their sum is there as one convolution."""
        return ("conv1", "conv2", "bn") if self.conv is not None else ()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        if self.conv is not None:
            return self.act(self.conv(x))
        outputs = [branch(x) for branch in (self.conv1, self.conv2, self.bn) if branch is not None]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        return self.act(y)


@register_block()
class BottleRep(Block):
    """conv2(conv1(x)) + alpha·x if `shortcut` (YOLOv6): (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("conv1", "conv2")
    ATTRIBUTES = allow(shortcut=False, alpha=1.0)
    conv1: Unary
    conv2: Unary
    shortcut: bool
    alpha: float | Tensor

    def __init__(self, c1: int, c2: int, *, weight: bool = False) -> None:
        super().__init__()
        self.conv1 = RepVGGBlock(c1, c2)
        self.conv2 = RepVGGBlock(c2, c2)
        self.shortcut = c1 == c2
        self.alpha = nn.Parameter(torch.ones(1)) if weight else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.conv2(self.conv1(x))
        return y + self.alpha * x if self.shortcut else y


@register_block()
class RepBlock(Block):
    """conv1, then the chain `block`, which may be None (YOLOv6): (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("conv1",)
    OPTIONAL = ("block",)
    conv1: Unary
    block: Unary | None

    def __init__(self, c1: int, c2: int, n: int = 1, *, bottle: bool = False) -> None:
        super().__init__()
        if bottle:
            self.conv1 = BottleRep(c1, c2, weight=True)
            rest: list[nn.Module] = [BottleRep(c2, c2, weight=True) for _ in range(n // 2 - 1)]
        else:
            self.conv1 = RepVGGBlock(c1, c2)
            rest = [RepVGGBlock(c2, c2) for _ in range(n - 1)]
        self.block = nn.Sequential(*rest) if rest else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.conv1(x)
        return y if self.block is None else self.block(y)


class RepBottleneck(Bottleneck):
    """A bottleneck whose first convolution is a RepConv (YOLOv9)."""

    def __init__(self, c1: int, c2: int, *, shortcut: bool = True) -> None:
        super().__init__(c1, c2, shortcut=shortcut, e=1.0, cv1=RepConv(c1, c2))


class RepCSP(C3):
    """A C3 whose bottlenecks start with a RepConv (YOLOv9)."""

    def __init__(self, c1: int, c2: int, n: int = 1, *, shortcut: bool = True, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, e=e)
        c_ = int(c2 * e)
        self.m = nn.Sequential(*(RepBottleneck(c_, c_, shortcut=shortcut) for _ in range(n)))
