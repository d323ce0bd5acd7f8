"""Blocks of YOLOv5-Lite: ShuffleNetV2 (s, e), PP-LCNet (c) and RepVGG (g) parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block


def conv_bn(c1: int, c2: int, k: int, s: int = 1, g: int = 1, *, relu: bool = True) -> list[nn.Module]:
    """Conv, BatchNorm (PyTorch's own ε), and ReLU if wanted."""
    layers: list[nn.Module] = [nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2)]
    return [*layers, nn.ReLU()] if relu else layers


@register_block("conv_bn_relu_maxpool")
class ConvBnReluMaxpool(Block):
    """Strided conv, bn, relu, then a strided pool: (b, c1, h, w) → (b, c2, h/4, w/4)."""

    MEMBERS = ("conv", "maxpool")
    conv: Unary
    maxpool: Unary

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*conv_bn(c1, c2, 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/4, w/4)."""
        return self.maxpool(self.conv(x))


@register_block("Shuffle_Block")
class ShuffleBlock(Block):
    """ShuffleNetV2 unit: (b, c1, h, w) → (b, c2, h/s, w/s).

    `stride` 1: the first half of the channels is left alone; 2: it goes through `branch1`. Then a shuffle of 2.
    """

    MEMBERS = ("branch2",)
    OPTIONAL = ("branch1",)
    ATTRIBUTES = allow(stride=REQUIRED, groups=2)
    branch1: Unary | None
    branch2: Unary
    stride: int
    groups: int = 2

    def settle(self) -> None:
        """Refuses a shuffle of another number of groups: which of a block's groups that counts cannot be known."""
        if self.groups != 2 or self.stride not in (1, 2):
            raise ValueError(f"a stride of {self.stride} and {self.groups} groups; known are 1 or 2, and 2 groups")

    def __init__(self, c1: int, c2: int, stride: int) -> None:
        super().__init__()
        half = c2 // 2
        inner = c1 if stride > 1 else half
        self.stride = stride
        self.branch1 = (
            nn.Sequential(*conv_bn(c1, c1, 3, stride, c1, relu=False), *conv_bn(c1, half, 1))
            if stride > 1
            else nn.Sequential()
        )
        self.branch2 = nn.Sequential(
            *conv_bn(inner, half, 1),
            *conv_bn(half, half, 3, stride, half, relu=False),
            *conv_bn(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        if self.stride == 1:
            kept, x = x.split_with_sizes((x.shape[1] // 2, x.shape[1] // 2), 1)
        else:
            kept = x if self.branch1 is None else self.branch1(x)
        y = torch.cat((kept, self.branch2(x)), 1)
        b, c, h, w = y.shape
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@register_block("DWConvblock")
class DWConvBlock(Block):
    """Depthwise conv, bn, act1, pointwise conv, bn, act2: (b, c1, h, w) → (b, c2, h/s, w/s).

    YOLOv5-Lite applies ReLU without holding it; forks hold `act1` and `act2`.
    """

    MEMBERS = ("conv1", "bn1", "conv2", "bn2")
    OPTIONAL = ("act1", "act2")
    conv1: Unary
    bn1: Unary
    act1: Unary | None
    conv2: Unary
    bn2: Unary
    act2: Unary | None

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c1, c1, k, s, k // 2, groups=c1, bias=False)
        self.bn1 = nn.BatchNorm2d(c1)
        self.conv2 = nn.Conv2d(c1, c2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c2)
        self.act1 = self.act2 = None

    def settle(self) -> None:
        """Refuses one activation without the other: what stands in the other's place cannot be known."""
        if (self.act1 is None) != (self.act2 is None):
            raise ValueError("it holds one of act1 and act2 without the other")

    def assumed(self) -> str:
        """ReLU, unless the checkpoint holds activations."""
        return "ReLU" if self.act1 is None else ""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        first, second = self.act1 or torch.relu, self.act2 or torch.relu
        return second(self.bn2(self.conv2(first(self.bn1(self.conv1(x))))))


@register_block("LC_SEModule")
class LCSEModule(Block):
    """x · SiLU(conv2(relu(conv1(mean x)))): (b, c, h, w) → the same. Its members say which activations these are."""

    MEMBERS = ("conv1", "conv2")
    OPTIONAL = ("avg_pool", "relu", "SiLU")
    avg_pool: Unary | None
    conv1: Unary
    relu: Unary | None
    conv2: Unary
    SiLU: Unary | None

    def __init__(self, c: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = nn.Conv2d(c, c // reduction, 1)
        self.conv2 = nn.Conv2d(c // reduction, c, 1)
        self.relu, self.SiLU = nn.ReLU(), nn.SiLU()

    def assumed(self) -> str:
        """Those that the checkpoint does not hold."""
        return " and ".join(name for name, held in (("ReLU", self.relu), ("SiLU", self.SiLU)) if held is None)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        mean = x.mean((2, 3), keepdim=True) if self.avg_pool is None else self.avg_pool(x)
        inner, gate = self.relu or torch.relu, self.SiLU or nn.functional.silu
        return x * gate(self.conv2(inner(self.conv1(mean))))


@register_block("LC_Block")
class LCBlock(Block):
    """PP-LCNet unit: depthwise, squeeze-excitation `se` if there is one, pointwise.

    (b, c1, h, w) → (b, c2, h/s, w/s).
    """

    MEMBERS = ("dw_conv", "pw_conv")
    OPTIONAL = ("se",)
    dw_conv: Unary
    se: Unary | None
    pw_conv: Unary

    def __init__(self, c1: int, c2: int, s: int, k: int, *, se: bool = False) -> None:
        super().__init__()
        self.dw_conv = Conv(c1, c1, k, s, g=c1, act=nn.Hardswish())
        self.se = LCSEModule(c1) if se else None
        self.pw_conv = Conv(c1, c2, act=nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y = self.dw_conv(x)
        return self.pw_conv(y if self.se is None else self.se(y))


@register_block()
class Dense(Block):
    """Pointwise convolution without bn, hardswish, dropout: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("dense_conv",)
    OPTIONAL = ("hardswish", "dropout")
    dense_conv: Unary
    hardswish: Unary | None

    def __init__(self, c1: int, c2: int, p: float = 0.2) -> None:
        super().__init__()
        self.dense_conv = nn.Conv2d(c1, c2, 1, bias=False)
        self.hardswish = nn.Hardswish()
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return (self.hardswish or nn.functional.hardswish)(self.dense_conv(x))

    def assumed(self) -> str:
        """Hardswish, unless the checkpoint holds an activation."""
        return "Hardswish" if self.hardswish is None else ""
