"""Blocks of YOLOv7 (SPPCSPC, MP, SP) and YOLOv9 (GELAN), and of YOLO12 (area attention)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.blocks_common import C3, Conv, split_for
from onnxslim_yolo.models.blocks_rep import RepCSP
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block


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


@register_block()
class AAttn(Block):
    """Attention within `area` horizontal strips, plus a depthwise positional term: (b, c, h, w) → the same.

    h·w must be a multiple of `area`.
    """

    MEMBERS = ("qkv", "proj", "pe")
    ATTRIBUTES = allow(area=REQUIRED, num_heads=REQUIRED, head_dim=REQUIRED)
    qkv: Unary
    proj: Unary
    pe: Unary
    area: int
    num_heads: int
    head_dim: int

    def __init__(self, dim: int, num_heads: int, area: int = 1) -> None:
        super().__init__()
        self.area, self.num_heads, self.head_dim = area, num_heads, dim // num_heads
        wide = num_heads * self.head_dim
        self.qkv = Conv(dim, 3 * wide, act=False)
        self.proj = Conv(wide, dim, act=False)
        self.pe = Conv(wide, dim, 7, g=wide, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        b, _, h, w = x.shape
        c, d = self.num_heads * self.head_dim, self.head_dim
        strips = b * self.area
        qkv = self.qkv(x).view(b, 3 * c, h * w).transpose(1, 2).reshape(strips, h * w // self.area, 3 * c)
        heads = qkv.view(strips, h * w // self.area, self.num_heads, 3 * d).permute(0, 2, 3, 1)
        q, k, v = heads.split_with_sizes((d, d, d), 2)
        weights = ((q.transpose(-2, -1) @ k) * d**-0.5).softmax(-1)
        mixed = self._image(v @ weights.transpose(-2, -1), b, h, w)
        return self.proj(mixed + self.pe(self._image(v, b, h, w)))

    def _image(self, y: Tensor, b: int, h: int, w: int) -> Tensor:
        """(b·area, heads, d, n) → (b, c, h, w)."""
        return y.permute(0, 3, 1, 2).reshape(b, h, w, self.num_heads * self.head_dim).permute(0, 3, 1, 2)


@register_block("AAttn")
class SplitAAttn(Block):
    """Area attention as YOLO12's authors first published it: `qk` and `v` are convolutions of their own.

    `qk` gives all of q's channels, then all of k's; heads are consecutive channels. Otherwise as AAttn.
    """

    MEMBERS = ("qk", "v", "proj", "pe")
    ATTRIBUTES = allow(area=REQUIRED, num_heads=REQUIRED, head_dim=REQUIRED)
    qk: Unary
    v: Unary
    proj: Unary
    pe: Unary
    area: int
    num_heads: int
    head_dim: int

    def __init__(self, dim: int, num_heads: int, area: int = 1) -> None:
        super().__init__()
        self.area, self.num_heads, self.head_dim = area, num_heads, dim // num_heads
        wide = num_heads * self.head_dim
        self.qk, self.v = Conv(dim, 2 * wide, act=False), Conv(dim, wide, act=False)
        self.proj = Conv(wide, dim, act=False)
        self.pe = Conv(wide, dim, 5, g=wide, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        b, _, h, w = x.shape
        c = self.num_heads * self.head_dim
        value = self.v(x)
        queries, keys = self.qk(x).split_with_sizes((c, c), 1)
        q, k, v = (self._heads(part, b, h * w) for part in (queries, keys, value))
        weights = ((q.transpose(-2, -1) @ k) * self.head_dim**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).permute(0, 3, 1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.proj(mixed + self.pe(value))

    def _heads(self, y: Tensor, b: int, n: int) -> Tensor:
        """(b, c, h, w) → (b·area, heads, d, n/area)."""
        strips = y.flatten(2).transpose(1, 2).reshape(b * self.area, n // self.area, self.num_heads, self.head_dim)
        return strips.permute(0, 2, 3, 1)


@register_block()
class ABlock(Block):
    """x + attn(x), then x + mlp(x): (b, c, h, w) → the same."""

    MEMBERS = ("attn", "mlp")
    attn: Unary
    mlp: Unary

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 2.0, area: int = 1) -> None:
        super().__init__()
        self.attn = AAttn(dim, num_heads, area)
        wide = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(Conv(dim, wide), Conv(wide, dim, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        x = x + self.attn(x)
        return x + self.mlp(x)


@register_block()
class A2C2f(Block):
    """cv1 x, `m` applied in turn, all of it concatenated, cv2; with `gamma`, x + gamma·that.

    (b, c1, h, w) → (b, c2, h, w).
    """

    MEMBERS = ("cv1", "cv2", "m")
    OPTIONAL = ("gamma",)
    cv1: Unary
    cv2: Unary
    m: nn.ModuleList
    gamma: Tensor | None

    def __init__(
        self, c1: int, c2: int, n: int = 1, *, area: int | None = None, residual: bool = False, e: float = 0.5
    ) -> None:
        """`area` None: parts are C3k, otherwise pairs of area-attention blocks."""
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv((1 + n) * c_, c2)
        self.m = nn.ModuleList(
            C3(c_, c_, 2, k=(3, 3))
            if area is None
            else nn.Sequential(*(ABlock(c_, max(c_ // 32, 1), 2.0, area) for _ in range(2)))
            for _ in range(n)
        )
        self.gamma = nn.Parameter(0.01 * torch.ones(c2)) if area is not None and residual else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        parts = [self.cv1(x)]
        for part in self.m:
            parts.append(part(parts[-1]))
        y = self.cv2(torch.cat(parts, 1))
        return y if self.gamma is None else x + self.gamma.view(1, -1, 1, 1) * y
