"""Further cross-stage blocks that model yamls name: C1, C2, C3f, RepC3, BottleneckCSP, and the ghost blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import C3, Bottleneck, Conv, batch_norm, chain, dw_conv, split_for
from onnxslim_yolo.models.blocks_rep import RepConv
from onnxslim_yolo.models.registry import Block, Unary, register_block


def _bottlenecks(c: int, n: int, *, shortcut: bool) -> list[nn.Module]:
    return [Bottleneck(c, c, shortcut=shortcut, k=(3, 3), e=1.0) for _ in range(n)]


@register_block()
class C1(Block):
    """y + m(y), y = cv1(x): (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "m")
    cv1: Unary
    m: Unary

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.m = nn.Sequential(*(Conv(c2, c2, 3) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.cv1(x)
        return self.m(y) + y


@register_block()
class C2(Block):
    """cv1's halves a, b; cv2(cat(m(a), b)): (b, c1, h, w) → (b, c2, h, w). The parts are as wide as `m` needs."""

    MEMBERS = ("cv1", "cv2", "m")
    cv1: Conv
    cv2: Unary
    m: nn.Sequential

    def __init__(self, c1: int, c2: int, n: int = 1, *, shortcut: bool = True, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, 2 * c_)
        self.cv2 = Conv(2 * c_, c2)
        self.m = nn.Sequential(*_bottlenecks(c_, n, shortcut=shortcut))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        a, b = split_for(self.cv1(x), self.m, self.cv1.conv.out_channels, first=True)
        return self.cv2(torch.cat((self.m(a), b), 1))


@register_block()
class C3f(Block):
    """cv3 of cv2 x, cv1 x, and of `m` applied to the last in turn: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "cv3", "m")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    m: nn.ModuleList

    def __init__(self, c1: int, c2: int, n: int = 1, *, shortcut: bool = False, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c1, c_)
        self.cv3 = Conv((2 + n) * c_, c2)
        self.m = nn.ModuleList(_bottlenecks(c_, n, shortcut=shortcut))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return self.cv3(torch.cat([self.cv2(x), *chain(self.m, self.cv1(x))], 1))


@register_block()
class RepC3(Block):
    """cv3(m(cv1 x) + cv2 x), `m` a chain of RepConvs (RT-DETR): (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "cv3", "m")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    m: Unary

    def __init__(self, c1: int, c2: int, n: int = 3, e: float = 1.0) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c1, c_)
        self.m = nn.Sequential(*(RepConv(c_, c_) for _ in range(n)))
        self.cv3 = Conv(c_, c2) if c_ != c2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return self.cv3(self.m(self.cv1(x)) + self.cv2(x))


@register_block()
class BottleneckCSP(Block):
    """cv4(act(bn(cat(cv3(m(cv1 x)), cv2 x)))), cv2 and cv3 plain convolutions: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "cv3", "cv4", "bn", "act", "m")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    cv4: Unary
    bn: Unary
    act: Unary
    m: Unary

    def __init__(self, c1: int, c2: int, n: int = 1, *, shortcut: bool = True, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = nn.Conv2d(c1, c_, 1, bias=False)
        self.cv3 = nn.Conv2d(c_, c_, 1, bias=False)
        self.cv4 = Conv(2 * c_, c2)
        self.bn = batch_norm(2 * c_)
        self.act = nn.SiLU()
        self.m = nn.Sequential(*(Bottleneck(c_, c_, shortcut=shortcut, k=(1, 3), e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return self.cv4(self.act(self.bn(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))))


@register_block()
class GhostConv(Block):
    """Half of the channels from `cv1`, the other half from the depthwise 5×5 `cv2` on these.

    (b, c1, h, w) → (b, c2, h/s, w/s).
    """

    MEMBERS = ("cv1", "cv2")
    cv1: Unary
    cv2: Unary

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, *, act: bool = True) -> None:
        super().__init__()
        c_ = c2 // 2
        self.cv1 = Conv(c1, c_, k, s, g=g, act=act)
        self.cv2 = Conv(c_, c_, 5, 1, g=c_, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


@register_block()
class GhostBottleneck(Block):
    """conv(x) + shortcut(x), `conv` two ghost convolutions: (b, c1, h, w) → (b, c2, h/s, w/s)."""

    MEMBERS = ("conv", "shortcut")
    conv: Unary
    shortcut: Unary

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        c_ = c2 // 2
        middle = dw_conv(c_, c_, k, s, act=False) if s == 2 else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, c_), middle, GhostConv(c_, c2, act=False))
        around = (dw_conv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))
        self.shortcut = nn.Sequential(*around) if s == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        return self.conv(x) + self.shortcut(x)


class C3Ghost(C3):
    """A C3 whose bottlenecks are ghost bottlenecks."""

    def __init__(self, c1: int, c2: int, n: int = 1, *, e: float = 0.5) -> None:
        super().__init__(c1, c2, 0, e=e)
        c_ = int(c2 * e)
        self.m = nn.Sequential(*(GhostBottleneck(c_, c_) for _ in range(n)))
