"""Area attention, the blocks of YOLO12."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import C3, Conv
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block


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
