"""Classic convolutional backbones: ResNet, RegNet, DenseNet, MobileNets. All map (b, 3, H, W) → (b, nc) logits."""

from __future__ import annotations

from torch import Tensor, nn

from onnxslim_yolo.models.classic_shuffle import conv_bn
from onnxslim_yolo.models.registry import Block, Unary


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
