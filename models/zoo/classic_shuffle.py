"""Backbones built on channel shuffles: ShuffleNet v1 (grouped 1×1 convolutions) and v2 (channel split)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.registry import Block, Unary


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave `groups` equal parts of the channels: (b, c, h, w) → the same."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def conv_bn(c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Conv → BatchNorm [→ ReLU] as a Sequential."""
    layers: list[nn.Module] = [nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class ShuffleV2Unit(Block):
    """ShuffleNetV2 unit: (b, c1, h, w) → (b, c2, h/s, w/s); stride 1 leaves half the channels alone."""

    def __init__(self, c1: int, c2: int, s: int) -> None:
        super().__init__()
        half = c2 // 2
        inner = c1 if s == 2 else half
        self.stride = s
        self.branch1 = nn.Sequential(*conv_bn(c1, c1, 3, s, c1, relu=False), *conv_bn(c1, half)) if s == 2 else None
        self.branch2 = nn.Sequential(
            *conv_bn(inner, half), *conv_bn(half, half, 3, s, half, relu=False), *conv_bn(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        if self.branch1 is None:
            kept, x = x.chunk(2, 1)
        else:
            kept = self.branch1(x)
        return channel_shuffle(torch.cat((kept, self.branch2(x)), 1), 2)


class ShuffleV1Unit(Block):
    """ShuffleNet unit: grouped 1×1, shuffle, depthwise, grouped 1×1; added, or concatenated with a pool at stride 2."""

    pool: Unary | None

    def __init__(self, c1: int, c2: int, s: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        outer = c2 - c1 if s == 2 else c2
        inner = c2 // 4
        self.reduce = conv_bn(c1, inner, g=groups)
        self.depthwise = conv_bn(inner, inner, 3, s, inner, relu=False)
        self.expand = conv_bn(inner, outer, g=groups, relu=False)
        self.pool = nn.AvgPool2d(3, 2, 1) if s == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        return torch.relu(x + y if self.pool is None else torch.cat((self.pool(x), y), 1))


class ShuffleNetV2(Block):
    """(b, 3, H, W) → (b, nc) logits. Stages of 48, 96, 192 channels (0.5×), times `width`."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        stages = [max(int(c * width) // 8 * 8, 8) for c in (24, 48, 96, 192)]
        self.stem = conv_bn(3, stages[0], 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        units: list[nn.Module] = []
        for c1, c2, n in zip(stages, stages[1:], (4, 8, 4), strict=False):
            units += [ShuffleV2Unit(c1, c2, 2), *(ShuffleV2Unit(c2, c2, 1) for _ in range(n - 1))]
        self.units = nn.Sequential(*units)
        self.last = conv_bn(stages[-1], 4 * stages[-1])
        self.fc = nn.Linear(4 * stages[-1], nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.last(self.units(self.pool(self.stem(x)))).mean((2, 3)))
        return y


class ShuffleNetV1(Block):
    """(b, 3, H, W) → (b, nc) logits, `groups` groups."""

    def __init__(self, nc: int, width: float = 1.0, groups: int = 2) -> None:
        super().__init__()
        unit = 8 * groups
        stages = [max(int(c * width) // unit * unit, unit) * factor for c, factor in ((48, 1), (48, 2), (48, 4))]
        self.stem = conv_bn(3, stages[0] // 2, 3, 2)
        units: list[nn.Module] = []
        for c1, c2 in zip((stages[0] // 2, *stages), stages, strict=False):
            units += [ShuffleV1Unit(c1, c2, 2, groups), ShuffleV1Unit(c2, c2, 1, groups)]
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(stages[-1], nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.units(self.stem(x)).mean((2, 3)))
        return y
