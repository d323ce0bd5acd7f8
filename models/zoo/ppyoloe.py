"""PP-YOLOE-like, small: CSPRepResNet, CustomCSPPAN, ET-head ("PP-YOLOE: An evolved version of YOLO", 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.heads import DFL, Head
from onnxslim_yolo.models.registry import Block
from onnxslim_yolo.models.zoo.classic_mobile import rounded

STRIDES = (8.0, 16.0, 32.0)


class ScaledRep(Block):
    """act(conv3×3(x) + alpha·conv1×1(x)), each with its BatchNorm: (b, c1, h, w) → (b, c2, h, w)."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(c1, c2, 3, act=False), Conv(c1, c2, 1, act=False)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return functional.silu(self.conv1(x) + self.alpha * self.conv2(x))


class RepResidual(Block):
    """x + rep(conv(x)), or without the shortcut: (b, c, h, w) → the same."""

    def __init__(self, c: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = Conv(c, c, 3), ScaledRep(c, c), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class ESE(Block):
    """x · hardsigmoid(fc(mean x)): (b, c, h, w) → the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return x * functional.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Pyramid(Block):
    """conv of x and its poolings concatenated: (b, c, h, w) → the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.conv = Conv(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        y: Tensor = self.conv(torch.cat((x, *(pool(x) for pool in self.pools)), 1))
        return y


class CSPStage(Block):
    """Half through blocks, half past them, concatenated [attended] and mixed: (b, c1, h, w) → (b, c2, h/s, w/s)."""

    def __init__(self, c1: int, c2: int, n: int, *, down: bool = False, spp: bool = False) -> None:
        """`down`: a backbone's stage, with stride 2, shortcuts and attention; else a neck's."""
        super().__init__()
        wide = (c1 + c2) // 2 if down else c1
        half = rounded((wide if down else c2) / 2)
        self.down = Conv(c1, wide, 3, 2) if down else nn.Identity()
        self.conv1, self.conv2 = Conv(wide, half), Conv(wide, half)
        blocks: list[nn.Module] = [RepResidual(half, shortcut=down) for _ in range(n)]
        if spp:
            blocks.insert((n + 1) // 2, Pyramid(half))
        self.blocks = nn.Sequential(*blocks)
        self.attn = ESE(2 * half) if down else nn.Identity()
        self.conv3 = Conv(2 * half, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        x = self.down(x)
        both = torch.cat((self.conv1(x), self.blocks(self.conv2(x))), 1)
        y: Tensor = self.conv3(self.attn(both))
        return y


class TaskAttention(Block):
    """conv(x · sigmoid(fc(mean x))): (b, c, h, w) → the same."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc, self.conv = nn.Conv2d(c, c, 1), Conv(c, c)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """(b, c, h, w), (b, c, 1, 1) → (b, c, h, w)."""
        y: Tensor = self.conv(x * self.fc(mean).sigmoid())
        return y


class ETHead(Head):
    """Levels (b, c_i, h_i, w_i) → corners in pixels (b, n, 4) and scores (b, nc, n).

    Each side of a box is the expectation over `bins` bins of its distance from the cell's centre, in strides. Raw: per
    level (b, 4·bins, h_i, w_i), then per level (b, nc, h_i, w_i).
    """

    def __init__(self, ch: Sequence[int], nc: int, bins: int = 17) -> None:
        super().__init__()
        self.stride, self.nc, self.bins = STRIDES, nc, bins
        self.stem_cls, self.stem_reg = (nn.ModuleList(TaskAttention(c) for c in ch) for _ in range(2))
        self.pred_cls = nn.ModuleList(nn.Conv2d(c, nc, 3, padding=1) for c in ch)
        self.pred_reg = nn.ModuleList(nn.Conv2d(c, 4 * bins, 3, padding=1) for c in ch)
        self.dfl = DFL(bins)

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels → decoded or raw, see the class."""
        sides, scores = [], []
        for i, level in enumerate(x):
            mean = functional.adaptive_avg_pool2d(level, 1)
            scores.append(self.pred_cls[i](self.stem_cls[i](level, mean) + level))
            sides.append(self.pred_reg[i](self.stem_reg[i](level, mean)))
        if self.output == "raw":
            return (*sides, *scores)
        strides = [torch.full_like(self.grid(y, 0.5)[:, :1], s) for y, s in zip(x, self.stride, strict=True)]
        stride = torch.cat([s.flatten(2) for s in strides], 2)
        centre = torch.cat([self.grid(level, 0.5).flatten(2) for level in x], 2)
        low, high = self.dfl(torch.cat([y.flatten(2) for y in sides], 2)).split_with_sizes((2, 2), 1)
        boxes = torch.cat((centre - low, centre + high), 1) * stride
        return boxes.transpose(1, 2), torch.cat([y.flatten(2) for y in scores], 2).sigmoid()


class PPYOLOE(Block):
    """PP-YOLOE-like: (b, 3, H, W) → the head's output."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        c = [rounded(0.25 * n * width) for n in (64, 128, 256, 512, 1024)]
        self.stem = nn.Sequential(Conv(3, c[0] // 2, 3, 2), Conv(c[0] // 2, c[0] // 2, 3), Conv(c[0] // 2, c[0], 3))
        self.stages = nn.ModuleList(
            CSPStage(c1, c2, n, down=True) for c1, c2, n in zip(c, c[1:], (1, 2, 2, 1), strict=False)
        )
        out = [rounded(0.25 * n * width) for n in (768, 384, 192)]
        self.fpn_stages = nn.ModuleList(
            CSPStage(c1, c2, 1, spp=i == 0)
            for i, (c1, c2) in enumerate(((c[4], out[0]), (c[3] + out[0] // 2, out[1]), (c[2] + out[1] // 2, out[2])))
        )
        self.fpn_routes = nn.ModuleList(Conv(n, n // 2) for n in out[:2])
        self.pan_routes = nn.ModuleList(Conv(n, n, 3, 2) for n in (out[2], out[1]))
        self.pan_stages = nn.ModuleList(
            CSPStage(sum(pair), pair[0], 1) for pair in ((out[1], out[2]), (out[0], out[1]))
        )
        self.head = ETHead(out[::-1], nc)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, H, W) → the head's output."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        down = [self.fpn_stages[0](maps[-1])]
        for route, stage, level in zip(self.fpn_routes, list(self.fpn_stages)[1:], (maps[-2], maps[-3]), strict=True):
            route_up = functional.interpolate(route(down[-1]), scale_factor=2.0, mode="nearest")
            down.append(stage(torch.cat((route_up, level), 1)))
        up = [down[-1]]
        for route, stage, level in zip(self.pan_routes, self.pan_stages, (down[1], down[0]), strict=True):
            up.append(stage(torch.cat((level, route(up[-1])), 1)))
        decoded: tuple[Tensor, ...] = self.head(up)
        return decoded
