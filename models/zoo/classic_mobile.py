"""Mobile backbones: MobileNetV2/V3, EfficientNet-, GhostNet-, MobileOne- and RepVGG-like.

All map (b, 3, H, W) → (b, nc) logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_rep import RepVGGBlock
from onnxslim_yolo.models.registry import Block, Unary


def rounded(c: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one."""
    return max(int(c + divisor / 2) // divisor * divisor, divisor)


def conv_bn_act(c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    """Conv → BatchNorm [→ act]."""
    layers: list[nn.Module] = [nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2)]
    return nn.Sequential(*layers) if act is None else nn.Sequential(*layers, act)


class SqueezeExcite(Block):
    """x · gate(fc2(act(fc1(mean x)))): (b, c, h, w) → the same."""

    act: Unary
    gate: Unary

    def __init__(self, c: int, inner: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c, inner, 1)
        self.fc2 = nn.Conv2d(inner, c, 1)
        self.act, self.gate = act, gate

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.fc2(self.act(self.fc1(mean))))


class InvertedResidual(Block):
    """Expand, depthwise, [squeeze-excitation], project, + x where shapes allow.

    (b, c1, h, w) → (b, c2, h/s, w/s).
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        s: int,
        *,
        wide: int,
        k: int = 3,
        act: Callable[[], nn.Module] = nn.ReLU6,
        se: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if wide == c1 else [conv_bn_act(c1, wide, act=act())]
        layers.append(conv_bn_act(wide, wide, k, s, wide, act()))
        if se is not None:
            layers.append(se)
        layers.append(conv_bn_act(wide, c2))
        self.body = nn.Sequential(*layers)
        self.add = s == 1 and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y: Tensor = self.body(x)
        return x + y if self.add else y


class Classifier(Block):
    """features, last, mean over positions, fc: (b, 3, H, W) → (b, nc)."""

    def __init__(self, features: Sequence[nn.Module], c: int, nc: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.last = nn.Identity() if last is None else last
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c, nc)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, nc)."""
        y: Tensor = self.fc(self.pool(self.last(self.features(x))).flatten(1))
        return y


def mobilenetv2(nc: int, width: float = 1.0) -> Classifier:
    """MobileNetV2 (half its width, fewer repeats)."""
    c = rounded(16 * width)
    layers: list[nn.Module] = [conv_bn_act(3, c, 3, 2, act=nn.ReLU6())]
    for t, nominal, n, s in ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 2, 2), (6, 32, 2, 2), (6, 48, 2, 1), (6, 80, 1, 2)):
        for i in range(n):
            c2 = rounded(nominal * width)
            layers.append(InvertedResidual(c, c2, s if i == 0 else 1, wide=c * t))
            c = c2
    return Classifier(layers, 4 * c, nc, conv_bn_act(c, 4 * c, act=nn.ReLU6()))


def mobilenetv3(nc: int, width: float = 1.0) -> Classifier:
    """MobileNetV3-small-like: squeeze-excitation with hard-sigmoid, hard-swish."""
    c = rounded(16 * width)
    layers: list[nn.Module] = [conv_bn_act(3, c, 3, 2, act=nn.Hardswish())]
    early = ((16, 16, 2, 3, True, False), (72, 24, 2, 3, False, False), (88, 24, 1, 3, False, False))
    late = ((96, 40, 2, 5, True, True), (240, 40, 1, 5, True, True), (288, 96, 2, 5, True, True))
    for wide, c2, s, k, gated, hard in early + late:
        wide, c2 = rounded(wide * width), rounded(c2 * width)
        se = SqueezeExcite(wide, rounded(wide / 4), nn.ReLU(), nn.Hardsigmoid()) if gated else None
        layers.append(InvertedResidual(c, c2, s, wide=wide, k=k, act=nn.Hardswish if hard else nn.ReLU, se=se))
        c = c2
    return Classifier(layers, 4 * c, nc, conv_bn_act(c, 4 * c, act=nn.Hardswish()))


def efficientnet(nc: int, width: float = 1.0) -> Classifier:
    """EfficientNet-like: inverted residuals with SiLU, squeeze-excitation with a sigmoid gate."""
    c = rounded(32 * width)
    layers: list[nn.Module] = [conv_bn_act(3, c, 3, 2, act=nn.SiLU())]
    for t, nominal, n, s, k in (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 2, 2, 3),
        (6, 112, 1, 2, 5),
    ):
        for i in range(n):
            c2, wide = rounded(nominal * width), c * t
            se = SqueezeExcite(wide, max(c // 4, 4), nn.SiLU(), nn.Sigmoid())
            layers.append(InvertedResidual(c, c2, s if i == 0 else 1, wide=wide, k=k, act=nn.SiLU, se=se))
            c = c2
    return Classifier(layers, 4 * c, nc, conv_bn_act(c, 4 * c, act=nn.SiLU()))


class GhostModule(Block):
    """A pointwise half and a cheap depthwise half made from it, concatenated: (b, c1, h, w) → (b, c2, h, w)."""

    def __init__(self, c1: int, c2: int, *, relu: bool = True) -> None:
        super().__init__()
        half = c2 // 2
        self.primary = conv_bn_act(c1, half, act=nn.ReLU() if relu else None)
        self.cheap = conv_bn_act(half, half, 3, 1, half, nn.ReLU() if relu else None)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.primary(x)
        return torch.cat((y, self.cheap(y)), 1)


class GhostBottleneck(Block):
    """Ghost expand, [strided depthwise], [se], ghost project, plus a shortcut: (b, c1, h, w) → (b, c2, h/s, w/s)."""

    def __init__(self, c1: int, c2: int, s: int, wide: int, *, se: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [GhostModule(c1, wide)]
        if s > 1:
            layers.append(conv_bn_act(wide, wide, 3, s, wide))
        if se:
            layers.append(SqueezeExcite(wide, rounded(wide / 4), nn.ReLU(), nn.Hardsigmoid()))
        layers.append(GhostModule(wide, c2, relu=False))
        self.body = nn.Sequential(*layers)
        self.shortcut = (
            nn.Identity() if s == 1 and c1 == c2 else nn.Sequential(conv_bn_act(c1, c1, 3, s, c1), conv_bn_act(c1, c2))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def ghostnet(nc: int, width: float = 1.0) -> Classifier:
    """GhostNet-like."""
    c = rounded(16 * width)
    layers: list[nn.Module] = [conv_bn_act(3, c, 3, 2, act=nn.ReLU())]
    rows = ((16, 16, 1, False), (48, 24, 2, False), (72, 24, 1, False), (72, 40, 2, True), (120, 40, 1, True))
    for wide, nominal, s, se in (*rows, (240, 80, 2, False), (480, 112, 2, True)):
        c2 = rounded(nominal * width)
        layers.append(GhostBottleneck(c, c2, s, rounded(wide * width), se=se))
        c = c2
    return Classifier(layers, 4 * c, nc, conv_bn_act(c, 4 * c, act=nn.ReLU()))


class MobileOneBlock(Block):
    """act(Σ rbr_conv_i(x) + rbr_scale(x) + rbr_skip(x)): (b, c1, h, w) → (b, c2, h/s, w/s)."""

    def __init__(self, c1: int, c2: int, k: int, s: int = 1, g: int = 1, branches: int = 2) -> None:
        super().__init__()
        self.rbr_conv = nn.ModuleList(conv_bn_act(c1, c2, k, s, g) for _ in range(branches))
        self.rbr_scale = conv_bn_act(c1, c2, 1, s, g) if k > 1 else None
        self.rbr_skip = nn.BatchNorm2d(c1) if c1 == c2 and s == 1 else None
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        branches = [*self.rbr_conv, self.rbr_scale, self.rbr_skip]
        outputs = [branch(x) for branch in branches if branch is not None]
        y: Tensor = self.activation(sum(outputs[1:], outputs[0]))
        return y


def mobileone(nc: int, width: float = 1.0) -> Classifier:
    """MobileOne-like, in training form: depthwise and pointwise blocks with several branches."""
    c = rounded(32 * width)
    layers: list[nn.Module] = [MobileOneBlock(3, c, 3, 2)]
    for nominal, n in ((32, 2), (64, 2), (128, 3), (256, 1)):
        for i in range(n):
            c2 = rounded(nominal * width)
            layers += [MobileOneBlock(c, c, 3, 2 if i == 0 else 1, c), MobileOneBlock(c, c2, 1)]
            c = c2
    return Classifier(layers, c, nc)


def repvgg(nc: int, width: float = 1.0) -> Classifier:
    """RepVGG-A0-like, in training form; the third stage has grouped convolutions."""
    c = rounded(32 * width)
    layers: list[nn.Module] = [RepVGGBlock(3, c, 2)]
    for nominal, n, g in ((32, 2, 1), (64, 2, 1), (128, 3, 2), (256, 1, 1)):
        for i in range(n):
            c2 = rounded(nominal * width)
            layers.append(RepVGGBlock(c, c2, 2 if i == 0 else 1, g))
            c = c2
    return Classifier(layers, c, nc)
