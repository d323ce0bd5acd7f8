"""Blocks of other backbones and of auxiliary branches: PP-HGNet, ResNet, YOLOv9-E's CBNet, attention gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.blocks_common import Conv, activation, batch_norm, dw_conv
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block


@register_block()
class LightConv(Block):
    """A pointwise, then a depthwise convolution: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("conv1", "conv2")
    conv1: Unary
    conv2: Unary

    def __init__(self, c1: int, c2: int, k: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv(c1, c2, act=False)
        self.conv2 = dw_conv(c2, c2, k, act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return self.conv2(self.conv1(x))


@register_block()
class HGStem(Block):
    """PP-HGNetV2's stem, a pool beside two 2×2 convolutions: (b, c1, h, w) → (b, c2, h/4, w/4)."""

    MEMBERS = ("stem1", "stem2a", "stem2b", "stem3", "stem4", "pool")
    stem1: Unary
    stem2a: Unary
    stem2b: Unary
    stem3: Unary
    stem4: Unary
    pool: Unary

    def __init__(self, c1: int, cm: int, c2: int) -> None:
        super().__init__()

        def relu(a: int, b: int, k: int, s: int, p: int | None = None) -> Conv:
            return Conv(a, b, k, s, p, act=nn.ReLU())

        self.stem1 = relu(c1, cm, 3, 2)
        self.stem2a = relu(cm, cm // 2, 2, 1, 0)
        self.stem2b = relu(cm // 2, cm, 2, 1, 0)
        self.stem3 = relu(2 * cm, cm, 3, 2)
        self.stem4 = relu(cm, c2, 1, 1)
        self.pool = nn.MaxPool2d(2, 1, 0, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/4, w/4)."""
        margin = (0, 1, 0, 1)  # right and below
        x = functional.pad(self.stem1(x), margin)
        y = self.stem2b(functional.pad(self.stem2a(x), margin))
        return self.stem4(self.stem3(torch.cat((self.pool(x), y), 1)))


@register_block()
class HGBlock(Block):
    """ec(sc(x and the outputs of the chain `m`)), plus x if `add`: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("m", "sc", "ec")
    ATTRIBUTES = allow(add=REQUIRED)
    m: nn.ModuleList
    sc: Unary
    ec: Unary
    add: bool

    def __init__(
        self, c1: int, cm: int, c2: int, k: int = 3, n: int = 6, *, light: bool = False, shortcut: bool = False
    ) -> None:
        super().__init__()
        self.m = nn.ModuleList(
            LightConv(c1 if i == 0 else cm, cm, k) if light else Conv(c1 if i == 0 else cm, cm, k, act=nn.ReLU())
            for i in range(n)
        )
        self.sc = Conv(c1 + n * cm, c2 // 2, act=nn.ReLU())
        self.ec = Conv(c2 // 2, c2, act=nn.ReLU())
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        parts = [x]
        for part in self.m:
            parts.append(part(parts[-1]))
        y = self.ec(self.sc(torch.cat(parts, 1)))
        return y + x if self.add else y


@register_block()
class ResNetBlock(Block):
    """relu(cv3(cv2(cv1 x)) + shortcut(x)): (b, c1, h, w) → (b, e·c2, h/s, w/s)."""

    MEMBERS = ("cv1", "cv2", "cv3", "shortcut")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    shortcut: Unary

    def __init__(self, c1: int, c2: int, s: int = 1, e: int = 4) -> None:
        super().__init__()
        wide = e * c2
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2, 3, s)
        self.cv3 = Conv(c2, wide, act=False)
        same = s == 1 and c1 == wide
        self.shortcut = nn.Identity() if same else nn.Sequential(Conv(c1, wide, 1, s, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, e·c2, h/s, w/s)."""
        return functional.relu(self.cv3(self.cv2(self.cv1(x))) + self.shortcut(x))

    def assumed(self) -> str:
        """The activation of the sum, which no checkpoint holds."""
        return "ReLU"


@register_block()
class ResNetLayer(Block):
    """A stage of ResNet, the chain `layer`; the first one is a 7×7 convolution and a pool."""

    MEMBERS = ("layer",)
    layer: Unary

    def __init__(self, c1: int, c2: int, s: int = 1, *, first: bool = False, n: int = 1, e: int = 4) -> None:
        super().__init__()
        if first:
            self.layer = nn.Sequential(Conv(c1, c2, 7, 2), nn.MaxPool2d(3, 2, 1))
        else:
            rest = (ResNetBlock(e * c2, c2, 1, e) for _ in range(n - 1))
            self.layer = nn.Sequential(ResNetBlock(c1, c2, s, e), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c, h/s, w/s)."""
        return self.layer(x)


@register_block()
class CBLinear(Block):
    """A convolution whose output is handed on in parts `c2s` wide: (b, c1, h, w) → (b, c2s[i], h, w), …

    (YOLOv9-E, after CBNet.)
    """

    MEMBERS = ("conv",)
    ATTRIBUTES = allow(c2s=REQUIRED)
    conv: Unary
    c2s: Sequence[int]

    def __init__(self, c1: int, c2s: Sequence[int]) -> None:
        super().__init__()
        self.c2s = list(c2s)
        self.conv = nn.Conv2d(c1, sum(c2s), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(b, c1, h, w) → one map a part."""
        return self.conv(x).split_with_sizes(list(self.c2s), 1)


@register_block()
class CBFuse(Block):
    """Adds to the last input the parts `idx[i]` of the others (tuples), resized to it."""

    ATTRIBUTES = allow(idx=REQUIRED)
    idx: Sequence[int]

    def __init__(self, idx: Sequence[int]) -> None:
        super().__init__()
        self.idx = list(idx)

    def forward(self, x: Sequence[Tensor | Sequence[Tensor]]) -> Tensor:
        """Tuples of maps, and a map (b, c, h, w) → (b, c, h, w). Every map's sides divide or multiply the last's."""
        *others, total = x
        if not isinstance(total, Tensor):
            raise TypeError("the last input should be a feature map")
        for index, parts in zip(self.idx, others, strict=False):
            part = parts[index]
            scale = int(total.shape[-1]) / int(part.shape[-1])
            total = total + functional.interpolate(part, scale_factor=scale, mode="nearest")
        return total


@register_block()
class Conv2(Block):
    """act(bn(conv(x) + cv2(x))), a 1×1 beside the convolution: (b, c1, h, w) → (b, c2, h/s, w/s)."""

    MEMBERS = ("conv", "bn", "act")
    OPTIONAL = ("cv2",)
    conv: Unary
    cv2: Unary | None
    bn: Unary
    act: Unary

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = batch_norm(c2)
        self.act = activation(act)
        self.cv2 = nn.Conv2d(c1, c2, 1, s, groups=g, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y = self.conv(x)
        return self.act(self.bn(y if self.cv2 is None else y + self.cv2(x)))


@register_block()
class ConvTranspose(Block):
    """A transposed convolution, BatchNorm, activation: (b, c1, h, w) → (b, c2, s·h, s·w)."""

    MEMBERS = ("conv_transpose",)
    OPTIONAL = ("bn", "act")
    SAYS = ("act",)
    conv_transpose: Unary
    bn: Unary | None
    act: Unary | None

    def __init__(self, c1: int, c2: int, k: int = 2, s: int = 2) -> None:
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(c1, c2, k, s, bias=False)
        self.bn = batch_norm(c2)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, s·h, s·w)."""
        y = self.conv_transpose(x)
        y = y if self.bn is None else self.bn(y)
        return y if self.act is None else self.act(y)


@register_block()
class ChannelAttention(Block):
    """x · act(fc(pool(x))), one gate a channel: (b, c, h, w) → the same."""

    MEMBERS = ("pool", "fc", "act")
    pool: Unary
    fc: Unary
    act: Unary

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(c, c, 1)
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return x * self.act(self.fc(self.pool(x)))


@register_block()
class SpatialAttention(Block):
    """x · act(cv1(mean and maximum over channels)), one gate a position: (b, c, h, w) → the same."""

    MEMBERS = ("cv1", "act")
    cv1: Unary
    act: Unary

    def __init__(self, k: int = 7) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(2, 1, k, padding=k // 2, bias=False)
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        seen = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.act(self.cv1(seen))


@register_block()
class CBAM(Block):
    """Channel attention, then spatial attention: (b, c, h, w) → the same."""

    MEMBERS = ("channel_attention", "spatial_attention")
    channel_attention: Unary
    spatial_attention: Unary

    def __init__(self, c: int, k: int = 7) -> None:
        super().__init__()
        self.channel_attention = ChannelAttention(c)
        self.spatial_attention = SpatialAttention(k)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return self.spatial_attention(self.channel_attention(x))


@register_block()
class Index(Block):
    """One of several maps."""

    ATTRIBUTES = allow(index=REQUIRED)
    index: int

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Maps → the one at `index`."""
        return x[self.index]
