"""Detectors with anchors outside the YOLO container: SSD- and EfficientDet-like, small.

They bring what no YOLO has: normalisation by the length over channels, scores with a background class under a softmax,
features fused by learnt weights, and one head whose convolutions serve all levels while each level has BatchNorms of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.registry import Block
from onnxslim_yolo.models.zoo.classic_mobile import InvertedResidual, SqueezeExcite, conv_bn_act, rounded

Sizes = Sequence[tuple[float, float]]


class AnchorHead(Head):
    """Boxes relative to anchors: `anchors` holds each level's widths and heights in pixels."""

    anchors: Sequence[Sizes]

    def boxes(self, offsets: Tensor, levels: Sequence[Tensor], variances: tuple[float, float]) -> Tensor:
        """Offsets (b, n, 4) from the anchors of all levels → corners in pixels (b, n, 4).

        Centre = anchor's centre + v₀·offset·anchor's size, size = anchor's size·exp(v₁·offset) (SSD, section 2.2), with
        the exponent limited to 4, so that nothing overflows.
        """
        priors = torch.cat([self.priors(i, level) for i, level in enumerate(levels)]).unsqueeze(0)
        (centre, size), (move, grow) = priors.split_with_sizes((2, 2), 2), offsets.split_with_sizes((2, 2), 2)
        centre, half = centre + variances[0] * move * size, size * (grow * variances[1]).clamp(max=4).exp() / 2
        return torch.cat((centre - half, centre + half), 2)

    def priors(self, i: int, level: Tensor) -> Tensor:
        """The anchors of a level, (h·w·a, 4): centre, width and height in pixels."""
        h, w = self.size(level)
        centres = (self.grid(level, 0.5) * self.stride[i]).permute(2, 3, 0, 1)  # (h, w, 1, 2)
        sizes = torch.tensor(self.anchors[i], dtype=level.dtype, device=level.device)
        count = len(self.anchors[i])
        pairs = torch.cat((centres.expand(h, w, count, 2), sizes.view(1, 1, count, 2).expand(h, w, count, 2)), 3)
        return pairs.reshape(-1, 4)


def rows(level: Tensor, columns: int) -> Tensor:
    """(b, a·columns, h, w) → (b, h·w·a, columns)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, columns)


class SSDHead(AnchorHead):
    """Per level a 3×3 convolution for offsets and one for scores, the background first.

    Levels → corners in pixels (b, n, 4) and shares (b, n, 1 + nc); raw: per level (b, 4a, h, w), (b, a·(1 + nc), h, w).
    """

    def __init__(self, ch: Sequence[int], nc: int, stride: Sequence[float]) -> None:
        super().__init__()
        self.stride, self.nc = tuple(stride), nc
        self.anchors = [[(3 * s, 3 * s), (4 * s, 2 * s), (2 * s, 4 * s), (5 * s, 5 * s)] for s in self.stride]
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * len(a), 3, padding=1) for c, a in zip(ch, self.anchors, strict=True))
        self.conf = nn.ModuleList(
            nn.Conv2d(c, (1 + nc) * len(a), 3, padding=1) for c, a in zip(ch, self.anchors, strict=True)
        )

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels → decoded or raw, see the class."""
        offsets = [loc(level) for loc, level in zip(self.loc, x, strict=True)]
        scores = [conf(level) for conf, level in zip(self.conf, x, strict=True)]
        if self.output == "raw":
            return (*offsets, *scores)
        shares = torch.cat([rows(level, 1 + self.nc) for level in scores], 1).softmax(2)
        return self.boxes(torch.cat([rows(level, 4) for level in offsets], 1), x, (0.1, 0.2)), shares


class L2Norm(Block):
    """scale · x / ‖x‖ over channels (ParseNet): (b, c, h, w) → the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, c, 1, 1), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return functional.normalize(x) * self.scale


class SSD(Block):
    """SSD-like: VGG with BatchNorm, a dilated convolution, extra maps down to stride 64: (b, 3, H, W) → the head's."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = (rounded(n * width) for n in (16, 32, 64, 128, 256))

        def convs(c1: int, c2: int, n: int) -> list[nn.Module]:
            return [conv_bn_act(c1 if i == 0 else c2, c2, 3, act=nn.ReLU()) for i in range(n)]

        def pool() -> nn.Module:
            return nn.MaxPool2d(2, ceil_mode=True)

        early = (*convs(3, a, 2), pool(), *convs(a, b, 2), pool(), *convs(b, c, 3), pool(), *convs(c, d, 3))
        self.conv4, self.norm = nn.Sequential(*early), L2Norm(d)
        fc6 = (nn.Conv2d(d, e, 3, padding=3, dilation=3, bias=False), nn.BatchNorm2d(e), nn.ReLU())
        fc7 = conv_bn_act(e, e, act=nn.ReLU())
        self.conv7 = nn.Sequential(pool(), *convs(d, d, 3), nn.MaxPool2d(3, 1, 1), *fc6, fc7)
        self.extras = nn.ModuleList(
            nn.Sequential(conv_bn_act(c1, d // 2, act=nn.ReLU()), conv_bn_act(d // 2, d, 3, 2, act=nn.ReLU()))
            for c1 in (e, d)
        )
        self.head = SSDHead((d, e, d, d), nc, (8.0, 16.0, 32.0, 64.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, H, W) → the head's output."""
        y = self.conv4(x)
        levels = [self.norm(y), self.conv7(y)]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        decoded: tuple[Tensor, ...] = self.head(levels)
        return decoded


class SeparableConv(Block):
    """Depthwise 3×3, then pointwise: (b, c1, h, w) → (b, c2, h, w)."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c1, c1, 3, padding=1, groups=c1, bias=False)
        self.pointwise = nn.Conv2d(c1, c2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class Fuse(Block):
    """Σ wᵢxᵢ / (ε + Σ wᵢ) with wᵢ = relu(fusion) (EfficientDet, section 3.3), then SiLU, convolution and BatchNorm.

    n maps (b, c, h, w) → (b, c, h, w).
    """

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.fusion = nn.Parameter(torch.ones(n))
        self.conv, self.bn = SeparableConv(c, c), nn.BatchNorm2d(c)

    def forward(self, *x: Tensor) -> Tensor:
        """n maps (b, c, h, w) → (b, c, h, w)."""
        weights = self.fusion.relu()
        weights = weights / (weights.sum() + 1e-4)
        y = x[0] * weights[0]
        for i, other in enumerate(x[1:], 1):
            y = y + other * weights[i]
        fused: Tensor = self.bn(self.conv(functional.silu(y)))
        return fused


class BiFPN(Block):
    """Top-down, then bottom-up; between the ends, the way up sees the input once more. Maps → as many maps."""

    def __init__(self, c: int, levels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fuse(c, 2) for _ in range(levels - 1))
        self.up = nn.ModuleList(Fuse(c, 2 if i == levels - 2 else 3) for i in range(levels - 1))

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Maps, each about half as large as the one before → the same shapes."""
        middle = [x[-1]]
        for fuse, level in zip(self.down, reversed(x[:-1]), strict=True):
            middle.insert(0, fuse(level, functional.interpolate(middle[0], size=level.shape[-2:])))
        outputs = [middle[0]]
        for i, fuse in enumerate(self.up, 1):
            shrunk = functional.max_pool2d(outputs[-1], 3, 2, 1)
            outputs.append(fuse(x[i], shrunk) if i == len(x) - 1 else fuse(x[i], middle[i], shrunk))
        return outputs


class SharedTower(Block):
    """Convolutions that all levels share, each level with BatchNorms of its own: (b, c, h, w) → (b, out, h, w)."""

    def __init__(self, c: int, out: int, depth: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SeparableConv(c, c) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(c) for _ in range(depth)) for _ in range(levels))
        self.predict = SeparableConv(c, out)

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Levels (b, c, h_i, w_i) → (b, out, h_i, w_i)."""
        outputs = []
        for level, norms in zip(x, self.norms, strict=True):
            y = level
            for conv, norm in zip(self.convs, norms, strict=True):  # type: ignore[call-overload]
                y = functional.silu(norm(conv(y)))
            outputs.append(self.predict(y))
        return outputs


class EfficientDetHead(AnchorHead):
    """Towers shared by all levels: corners in pixels (b, n, 4), scores (b, n, nc); raw: maps 4a and a·nc wide."""

    def __init__(self, c: int, nc: int, stride: Sequence[float], depth: int = 2) -> None:
        super().__init__()
        self.stride, self.nc = tuple(stride), nc
        shapes = [(4 * 2 ** (k / 3), r) for k, r in product(range(3), (1.0, 1.4, 1 / 1.4))]
        self.anchors = [[(side * s * r, side * s / r) for side, r in shapes] for s in self.stride]
        self.regress = SharedTower(c, 4 * len(shapes), depth, len(self.stride))
        self.classify = SharedTower(c, nc * len(shapes), depth, len(self.stride))

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels → decoded or raw, see the class."""
        offsets, scores = self.regress(x), self.classify(x)
        if self.output == "raw":
            return (*offsets, *scores)
        boxes = self.boxes(torch.cat([rows(level, 4) for level in offsets], 1), x, (1.0, 1.0))
        return boxes, torch.cat([rows(level, self.nc) for level in scores], 1).sigmoid()


class EfficientDet(Block):
    """EfficientDet-like: EfficientNet, two BiFPNs over strides 8 to 128, a head shared by the levels.

    (b, 3, H, W) → the head's output.
    """

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        first, c = rounded(32 * width), rounded(64 * width)
        self.stem = conv_bn_act(3, first, 3, 2, act=nn.SiLU())
        self.stages, wide = nn.ModuleList(), [first]
        for t, nominal, n, s, k in (
            (1, 16, 1, 1, 3),
            (6, 24, 1, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 2, 2, 3),
            (6, 160, 1, 2, 5),
        ):
            wide.append(rounded(nominal * width))
            self.stages.append(nn.Sequential(*_stage(wide[-2], wide[-1], t, n, s, k)))
        self.lateral = nn.ModuleList(conv_bn_act(n, c) for n in (*wide[-3:], wide[-1]))
        self.fpn = nn.ModuleList(BiFPN(c, 5) for _ in range(2))
        self.head = EfficientDetHead(c, nc, (8.0, 16.0, 32.0, 64.0, 128.0))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, H, W) → the head's output."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        levels = [lateral(y) for lateral, y in zip(self.lateral, (*maps[-3:], maps[-1]), strict=True)]
        levels[3] = functional.max_pool2d(levels[3], 3, 2, 1)
        levels.append(functional.max_pool2d(levels[3], 3, 2, 1))
        for fpn in self.fpn:
            levels = fpn(levels)
        decoded: tuple[Tensor, ...] = self.head(levels)
        return decoded


def _stage(c1: int, c2: int, t: int, n: int, s: int, k: int) -> list[nn.Module]:
    """n inverted residuals, the first with stride s; t: how many times wider their inside is."""
    layers: list[nn.Module] = []
    for i in range(n):
        c, wide = (c1, c1 * t) if i == 0 else (c2, c2 * t)
        se = SqueezeExcite(wide, max(c // 4, 4), nn.SiLU(), nn.Sigmoid())
        layers.append(InvertedResidual(c, c2, s if i == 0 else 1, wide=wide, k=k, act=nn.SiLU, se=se))
    return layers
