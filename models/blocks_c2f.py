"""Blocks of YOLOv8, v10, 11, 12 and 26: C2f and its descendants, attention, and their downsampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import C3, Bottleneck, Conv, chain, split_for
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block


@register_block("C2f", "C3k2", "C2fCIB", "C2fPSA")
class C2f(Block):
    """cv1 x in two parts, `m` applied to the last in turn, all of it concatenated, cv2.

    (b, c1, h, w) → (b, c2, h, w). The parts are as wide as `m[0]` needs.
    """

    MEMBERS = ("cv1", "cv2", "m")
    cv1: Conv
    cv2: Unary
    m: nn.ModuleList

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        *,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        part: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv((2 + n) * c, c2)
        self.m = nn.ModuleList(
            part(c) if part is not None else Bottleneck(c, c, shortcut=shortcut, g=g, e=1.0) for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        first, last = split_for(self.cv1(x), self.m[0], self.cv1.conv.out_channels)
        return self.cv2(torch.cat([first, *chain(self.m, last)], 1))


class C3k2(C2f):
    """C2f whose parts are C3k (`c3k`), or a bottleneck and attention (`attn`), or bottlenecks."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        *,
        c3k: bool = False,
        e: float = 0.5,
        attn: bool = False,
        shortcut: bool = True,
        g: int = 1,
    ) -> None:
        def part(c: int) -> nn.Module:
            if attn:
                attention = PSABlock(c, attn_ratio=0.5, num_heads=max(c // 64, 1))
                return nn.Sequential(Bottleneck(c, c, shortcut=shortcut, g=g), attention)
            if c3k:
                return C3(c, c, 2, shortcut=shortcut, g=g, k=(3, 3))
            return Bottleneck(c, c, shortcut=shortcut, g=g)

        super().__init__(c1, c2, n, e=e, part=part)


class C2fCIB(C2f):
    """C2f whose parts are compact inverted blocks (YOLOv10)."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, *, shortcut: bool = False, lk: bool = False, e: float = 0.5
    ) -> None:
        super().__init__(c1, c2, n, e=e, part=lambda c: CIB(c, c, shortcut=shortcut, e=1.0, lk=lk))


@register_block()
class RepVGGDW(Block):
    """act(conv(x) + conv1(x)), depthwise 7×7 and 3×3: (b, c, h, w) → the same. `conv1` is None once merged."""

    MEMBERS = ("conv", "act")
    OPTIONAL = ("conv1",)
    conv: Unary
    conv1: Unary | None
    act: Unary

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = Conv(c, c, 7, g=c, act=False)
        self.conv1 = Conv(c, c, 3, g=c, act=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        y = self.conv(x)
        if self.conv1 is not None:
            y = y + self.conv1(x)
        return self.act(y)


@register_block()
class CIB(Block):
    """Compact inverted block: a Sequential `cv1`, plus x if `add`: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1",)
    ATTRIBUTES = allow(add=REQUIRED)
    cv1: Unary
    add: bool

    def __init__(self, c1: int, c2: int, *, shortcut: bool = True, e: float = 0.5, lk: bool = False) -> None:
        super().__init__()
        wide = 2 * int(c2 * e)
        middle: Block = RepVGGDW(wide) if lk else Conv(wide, wide, 3, g=wide)
        self.cv1 = nn.Sequential(Conv(c1, c1, 3, g=c1), Conv(c1, wide), middle, Conv(wide, c2), Conv(c2, c2, 3, g=c2))
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.cv1(x)
        return x + y if self.add else y


@register_block()
class SCDown(Block):
    """Pointwise `cv1`, then strided depthwise `cv2`: (b, c1, h, w) → (b, c2, h/s, w/s)."""

    MEMBERS = ("cv1", "cv2")
    cv1: Unary
    cv2: Unary

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 2) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2, k, s, g=c2, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        return self.cv2(self.cv1(x))


@register_block()
class Attention(Block):
    """Multi-head attention over positions with a depthwise positional term: (b, c, h, w) → the same.

    qkv → (b, num_heads, 2·key_dim + head_dim, h·w), split; v · softmax(qᵀk·scale)ᵀ + pe(v); proj.
    """

    MEMBERS = ("qkv", "proj", "pe")
    ATTRIBUTES = allow(num_heads=REQUIRED, key_dim=REQUIRED, head_dim=REQUIRED, scale=REQUIRED)
    qkv: Unary
    proj: Unary
    pe: Unary
    num_heads: int
    key_dim: int
    head_dim: int
    scale: float

    def __init__(self, dim: int, num_heads: int = 8, attn_ratio: float = 0.5) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.key_dim = int(self.head_dim * attn_ratio)
        self.scale = self.key_dim**-0.5
        self.qkv = Conv(dim, dim + 2 * self.key_dim * num_heads, act=False)
        self.proj = Conv(dim, dim, act=False)
        self.pe = Conv(dim, dim, 3, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        b, _, h, w = x.shape
        c = self.num_heads * self.head_dim
        qkv = self.qkv(x).view(b, self.num_heads, 2 * self.key_dim + self.head_dim, h * w)
        q, k, v = qkv.split_with_sizes((self.key_dim, self.key_dim, self.head_dim), dim=2)
        weights = (q.transpose(-2, -1) @ k * self.scale).softmax(dim=-1)
        mixed = (v @ weights.transpose(-2, -1)).view(b, c, h, w)
        return self.proj(mixed + self.pe(v.reshape(b, c, h, w)))


@register_block()
class PSABlock(Block):
    """Attention, then a feed-forward net, each with a shortcut if `add`: (b, c, h, w) → the same."""

    MEMBERS = ("attn", "ffn")
    ATTRIBUTES = allow(add=True)
    attn: Unary
    ffn: Unary
    add: bool

    def __init__(self, c: int, attn_ratio: float = 0.5, num_heads: int = 4, *, shortcut: bool = True) -> None:
        super().__init__()
        self.attn = Attention(c, num_heads, attn_ratio)
        self.ffn = nn.Sequential(Conv(c, 2 * c), Conv(2 * c, c, act=False))
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        x = x + self.attn(x) if self.add else self.attn(x)
        return x + self.ffn(x) if self.add else self.ffn(x)


@register_block()
class PSA(Block):
    """YOLOv10's partial self-attention on the second half of cv1's output: (b, c, h, w) → the same."""

    MEMBERS = ("cv1", "cv2", "attn", "ffn")
    cv1: Conv
    cv2: Unary
    attn: Attention
    ffn: Unary

    def __init__(self, c: int, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c * e)
        self.cv1 = Conv(c, 2 * c_)
        self.cv2 = Conv(2 * c_, c)
        self.attn = Attention(c_, max(c_ // 64, 1), 0.5)
        self.ffn = nn.Sequential(Conv(c_, 2 * c_), Conv(2 * c_, c_, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        a, b = split_for(self.cv1(x), self.attn, self.cv1.conv.out_channels)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


@register_block()
class C2PSA(Block):
    """cv1's halves a, b; cv2(cat(a, m(b))) with `m` a chain of PSABlocks: (b, c, h, w) → the same."""

    MEMBERS = ("cv1", "cv2", "m")
    cv1: Conv
    cv2: Unary
    m: nn.Sequential

    def __init__(self, c: int, n: int = 1, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c * e)
        self.cv1 = Conv(c, 2 * c_)
        self.cv2 = Conv(2 * c_, c)
        self.m = nn.Sequential(*(PSABlock(c_, 0.5, max(c_ // 64, 1)) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        a, b = split_for(self.cv1(x), self.m, self.cv1.conv.out_channels)
        return self.cv2(torch.cat((a, self.m(b)), 1))
