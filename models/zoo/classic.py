"""Classic backbones: ResNet, RegNet, DenseNet, GoogLeNet, ConvNeXt. All map (b, 3, H, W) → (b, nc) logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.registry import Block, Unary
from onnxslim_yolo.models.zoo.classic_shuffle import conv_bn


class Residual(Block):
    """relu(body(x) + shortcut(x)): (b, c1, h, w) → (b, c2, h/s, w/s); body basic (two 3×3) or a bottleneck."""

    shortcut: Unary

    def __init__(self, c1: int, c2: int, s: int, *, bottleneck: bool, groups: int = 1, e: float = 0.25) -> None:
        super().__init__()
        if bottleneck:
            c_ = max(int(c2 * e) // groups, 1) * groups
            parts = [conv_bn(c1, c_), conv_bn(c_, c_, 3, s, groups), conv_bn(c_, c2, relu=False)]
        else:
            parts = [conv_bn(c1, c2, 3, s), conv_bn(c2, c2, 3, relu=False)]
        self.body = nn.Sequential(*parts)
        self.shortcut = nn.Identity() if c1 == c2 and s == 1 else conv_bn(c1, c2, 1, s, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return y


class ResNet(Block):
    """ResNet-18-like (basic), ResNet-50-like (bottleneck), RegNet-like (bottleneck, e = 1, grouped)."""

    def __init__(
        self,
        nc: int,
        width: float = 1.0,
        *,
        bottleneck: bool = False,
        group_width: int | None = None,
        stages: tuple[int, ...] = (32, 64, 128, 256),
        depths: tuple[int, ...] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        wide = [max(int(c * width) // 8 * 8, 8) for c in stages]
        self.stem = nn.Sequential(*conv_bn(3, wide[0], 7, 2), nn.MaxPool2d(3, 2, 1))
        units: list[nn.Module] = []
        last = wide[0]
        for i, (c2, depth) in enumerate(zip(wide, depths, strict=True)):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                groups = 1 if group_width is None else max(c2 // group_width, 1)
                e = 0.25 if group_width is None else 1.0
                units.append(Residual(last, c2, stride, bottleneck=bottleneck, groups=groups, e=e))
                last = c2
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(last, nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.units(self.stem(x)).mean((2, 3)))
        return y


class DenseLayer(Block):
    """cat(x, conv2(relu(bn2(conv1(relu(bn1 x)))))): (b, c, h, w) → (b, c + growth, h, w). BatchNorm comes first."""

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = (
            nn.BatchNorm2d(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c + growth, h, w)."""
        y = self.conv1(torch.relu(self.bn1(x)))
        return torch.cat((x, self.conv2(torch.relu(self.bn2(y)))), 1)


class DenseNet(Block):
    """DenseNet: three dense stages with halving transitions."""

    def __init__(self, nc: int, width: float = 1.0, layers: tuple[int, ...] = (3, 4, 3)) -> None:
        super().__init__()
        growth = max(int(16 * width) // 4 * 4, 4)
        c = 2 * growth
        self.stem = nn.Sequential(*conv_bn(3, c, 7, 2), nn.MaxPool2d(3, 2, 1))
        parts: list[nn.Module] = []
        for i, n in enumerate(layers):
            for _ in range(n):
                parts.append(DenseLayer(c, growth))
                c += growth
            if i < len(layers) - 1:
                parts += [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
                c //= 2
        self.parts = nn.Sequential(*parts, nn.BatchNorm2d(c), nn.ReLU())
        self.fc = nn.Linear(c, nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.parts(self.stem(x)).mean((2, 3)))
        return y


class Inception(Block):
    """Four branches (1×1; 1×1, 3×3; 1×1, 3×3, 3×3; pool, 1×1), concatenated: (b, c1, h, w) → (b, 4·c, h, w)."""

    def __init__(self, c1: int, c: int) -> None:
        super().__init__()
        self.branch1 = conv_bn(c1, c)
        self.branch2 = nn.Sequential(conv_bn(c1, c), conv_bn(c, c, 3))
        self.branch3 = nn.Sequential(conv_bn(c1, c), conv_bn(c, c, 3), conv_bn(c, c, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(c1, c))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, 4·c, h, w)."""
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class GoogLeNet(Block):
    """GoogLeNet-like: inception blocks of three widths."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c = (max(int(n * width) // 8 * 8, 8) for n in (16, 32, 64))
        self.stem = nn.Sequential(*conv_bn(3, a, 7, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.parts = nn.Sequential(
            Inception(a, a),
            Inception(4 * a, a),
            nn.MaxPool2d(3, 2, 1),
            Inception(4 * a, b),
            Inception(4 * b, b),
            nn.MaxPool2d(3, 2, 1),
            Inception(4 * b, c),
        )
        self.fc = nn.Linear(4 * c, nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.parts(self.stem(x)).mean((2, 3)))
        return y


class ConvNeXtBlock(Block):
    """x + γ·pw2(gelu(pw1(norm(dw x)))), channels last inside: (b, c, h, w) → the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.full((c,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(y)))
        shortcut: Tensor = x + y.permute(0, 3, 1, 2)
        return shortcut


class ConvNeXt(Block):
    """ConvNeXt-like: no BatchNorm at all; LayerNorm over channels, layer scale."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        stages = [max(int(c * width) // 8 * 8, 8) for c in (40, 80, 160)]
        parts: list[nn.Module] = [nn.Conv2d(3, stages[0], 4, 4), ChannelNorm(stages[0])]
        for i, c in enumerate(stages):
            if i:
                parts += [ChannelNorm(stages[i - 1]), nn.Conv2d(stages[i - 1], c, 2, 2)]
            parts += [ConvNeXtBlock(c) for _ in range(2)]
        self.parts = nn.Sequential(*parts)
        self.norm = nn.LayerNorm(stages[-1], eps=1e-6)
        self.fc = nn.Linear(stages[-1], nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.norm(self.parts(x).mean((2, 3))))
        return y


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over axis 1 of (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
