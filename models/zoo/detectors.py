"""Detectors outside the YOLO container: YOLOX-, NanoDet- and RT-DETR-like, small. They test that rules are general."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.models.blocks_common import C3, SPP, Conv, Focus
from onnxslim_yolo.models.blocks_lite import ShuffleBlock
from onnxslim_yolo.models.blocks_rep import RepCSP
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.registry import Block
from onnxslim_yolo.models.zoo.classic_mobile import conv_bn_act, rounded

STRIDES = (8.0, 16.0, 32.0)


class YOLOXHead(Head):
    """Decoupled head: (b, n, 5 + nc) with xy = (p + cell)·stride, wh = exp(p)·stride; raw: maps (b, 5 + nc, h, w)."""

    def __init__(self, ch: Sequence[int], nc: int, hidden: int) -> None:
        super().__init__()
        self.stride = STRIDES
        self.stems = nn.ModuleList(Conv(c, hidden) for c in ch)
        self.cls_convs = nn.ModuleList(nn.Sequential(Conv(hidden, hidden, 3), Conv(hidden, hidden, 3)) for _ in ch)
        self.reg_convs = nn.ModuleList(nn.Sequential(Conv(hidden, hidden, 3), Conv(hidden, hidden, 3)) for _ in ch)
        self.cls_preds = nn.ModuleList(nn.Conv2d(hidden, nc, 1) for _ in ch)
        self.reg_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in ch)
        self.obj_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in ch)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → decoded or raw."""
        raw = [self._level(i, level) for i, level in enumerate(x)]
        if self.output == "raw":
            return tuple(raw)
        decoded = []
        for level, stride in zip(raw, self.stride, strict=True):
            b, no = level.shape[:2]
            xy, wh, scores = level.split_with_sizes((2, 2, int(no) - 4), 1)
            xy = (xy + self.grid(level, 0.0)) * stride
            y = torch.cat((xy, wh.exp() * stride, scores.sigmoid()), 1)
            decoded.append(y.view(b, no, -1))
        return torch.cat(decoded, 2).transpose(1, 2)

    def _level(self, i: int, x: Tensor) -> Tensor:
        y = self.stems[i](x)
        reg = self.reg_convs[i](y)
        return torch.cat((self.reg_preds[i](reg), self.obj_preds[i](reg), self.cls_preds[i](self.cls_convs[i](y))), 1)


class YOLOX(Block):
    """YOLOX-nano-like: CSPDarknet with Focus and SPP, PAN, decoupled head: (b, 3, H, W) → the head's output."""

    def __init__(self, nc: int, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = (rounded(0.25 * width * n) for n in (64, 128, 256, 512, 1024))
        self.stem = Focus(3, a, 3)
        self.dark2 = nn.Sequential(Conv(a, b, 3, 2), C3(b, b))
        self.dark3 = nn.Sequential(Conv(b, c, 3, 2), C3(c, c, 2))
        self.dark4 = nn.Sequential(Conv(c, d, 3, 2), C3(d, d, 2))
        self.dark5 = nn.Sequential(Conv(d, e, 3, 2), SPP(e, e), C3(e, e, shortcut=False))
        self.lateral_conv0, self.reduce_conv1 = Conv(e, d), Conv(d, c)
        self.c3_p4, self.c3_p3 = C3(2 * d, d, shortcut=False), C3(2 * c, c, shortcut=False)
        self.bu_conv2, self.bu_conv1 = Conv(c, c, 3, 2), Conv(d, d, 3, 2)
        self.c3_n3, self.c3_n4 = C3(2 * c, d, shortcut=False), C3(2 * d, e, shortcut=False)
        self.head = YOLOXHead((c, d, e), nc, c)

    def forward(self, x: Tensor) -> Any:
        """(b, 3, H, W) → the head's output."""
        p3 = self.dark3(self.dark2(self.stem(x)))
        p4 = self.dark4(p3)
        top = self.lateral_conv0(self.dark5(p4))
        middle = self.c3_p4(torch.cat((_twice(top), p4), 1))
        reduced = self.reduce_conv1(middle)
        out3 = self.c3_p3(torch.cat((_twice(reduced), p3), 1))
        out4 = self.c3_n3(torch.cat((self.bu_conv2(out3), reduced), 1))
        out5 = self.c3_n4(torch.cat((self.bu_conv1(out4), top), 1))
        return self.head((out3, out4, out5))


def _twice(x: Tensor, mode: str = "nearest") -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode=mode)


class NanoDet(Block):
    """NanoDet-like: ShuffleNetV2, a PAN that adds (bilinear resizing), a depthwise head shared by no level.

    (b, 3, H, W) → (b, n, nc + 4·bins): scores, then box bins; raw: per level (b, nc + 4·bins, h, w).
    """

    output: str = "decoded"

    def __init__(self, nc: int, width: float = 1.0, bins: int = 8) -> None:
        super().__init__()
        c2, c3, c4, c5, c = (rounded(n * width) for n in (24, 64, 128, 256, 64))
        self.nc, self.bins = nc, bins
        self.stem = nn.Sequential(conv_bn_act(3, c2, 3, 2, act=nn.LeakyReLU(0.1)), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList(
            nn.Sequential(ShuffleBlock(a, b, 2), *(ShuffleBlock(b, b, 1) for _ in range(2)))
            for a, b in ((c2, c3), (c3, c4), (c4, c5))
        )
        self.lateral = nn.ModuleList(conv_bn_act(n, c, act=nn.LeakyReLU(0.1)) for n in (c3, c4, c5))
        self.towers = nn.ModuleList(
            nn.Sequential(conv_bn_act(c, c, 5, 1, c, nn.LeakyReLU(0.1)), conv_bn_act(c, c, act=nn.LeakyReLU(0.1)))
            for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Conv2d(c, nc + 4 * bins, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        """(b, 3, H, W) → decoded or raw."""
        y = self.stem(x)
        laterals = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            y = stage(y)
            laterals.append(lateral(y))
        p3, p4, p5 = laterals
        p4 = p4 + _twice(p5, "bilinear")
        p3 = p3 + _twice(p4, "bilinear")
        p4 = p4 + functional.max_pool2d(p3, 2)
        p5 = p5 + functional.max_pool2d(p4, 2)
        levels = zip(self.heads, self.towers, (p3, p4, p5), strict=True)
        raw = tuple(head(tower(level)) for head, tower, level in levels)
        if self.output == "raw":
            return raw
        flat = torch.cat([level.view(level.shape[0], self.nc + 4 * self.bins, -1) for level in raw], 2)
        scores, boxes = flat.split_with_sizes((self.nc, 4 * self.bins), 1)
        return torch.cat((scores.sigmoid(), boxes), 1).transpose(1, 2)


class SelfAttention(Block):
    """Multi-head attention with separate projections: queries (b, n, c), keys and values (b, m, c) → (b, n, c)."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(b, n, c), (b, m, c), (b, m, c) → (b, n, c)."""
        c = int(query.shape[2])

        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], -1, self.heads, c // self.heads).transpose(1, 2)

        q, k, v = split(self.q(query)), split(self.k(key)), split(self.v(value))
        weights = (q @ k.transpose(2, 3) * (c // self.heads) ** -0.5).softmax(3)
        mixed = (weights @ v).transpose(1, 2).reshape(query.shape[0], -1, c)
        y: Tensor = self.out(mixed)
        return y


class TransformerLayer(Block):
    """Self- or cross-attention, then a feed-forward net, each added and normalised: (b, n, c) → the same."""

    def __init__(self, c: int, heads: int = 2) -> None:
        super().__init__()
        self.attn = SelfAttention(c, heads)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.fc1, self.fc2 = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """(b, n, c), and memory (b, m, c) to attend to instead of x."""
        source = x if memory is None else memory
        x = self.norm1(x + self.attn(x, source, source))
        y: Tensor = self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        return y


class RTDETR(Block):
    """RT-DETR-like: CSP backbone, attention on the coarsest map, a PAN of RepC3, top-k queries, two decoder layers.

    (b, 3, H, W) → (b, k, 4 + nc): boxes as shares of the image, scores; k = min(queries, positions).
    """

    def __init__(self, nc: int, width: float = 1.0, queries: int = 30) -> None:
        super().__init__()
        a, b, c, d = (rounded(n * width) for n in (32, 64, 128, 256))
        self.queries, self.hidden = queries, rounded(64 * width)
        h = self.hidden
        self.stem = nn.Sequential(Conv(3, a, 3, 2), Conv(a, a, 3, 2), C3(a, a))
        self.stages = nn.ModuleList(nn.Sequential(Conv(p, q, 3, 2), C3(q, q)) for p, q in ((a, b), (b, c), (c, d)))
        self.input_proj = nn.ModuleList(conv_bn_act(n, h) for n in (b, c, d))
        self.aifi = TransformerLayer(h)
        self.fpn = nn.ModuleList(RepCSP(2 * h, h) for _ in range(2))
        self.down = nn.ModuleList(Conv(h, h, 3, 2) for _ in range(2))
        self.pan = nn.ModuleList(RepCSP(2 * h, h) for _ in range(2))
        self.enc_output = nn.Sequential(nn.Linear(h, h), nn.LayerNorm(h))
        self.enc_score, self.enc_box = nn.Linear(h, nc), nn.Linear(h, 4)
        self.self_attn = nn.ModuleList(TransformerLayer(h) for _ in range(2))
        self.cross_attn = nn.ModuleList(TransformerLayer(h) for _ in range(2))
        self.dec_score, self.dec_box = nn.Linear(h, nc), nn.Linear(h, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, H, W) → (b, k, 4 + nc)."""
        memory = torch.cat([level.flatten(2) for level in self.encode(x)], 2).transpose(1, 2)
        encoded = self.enc_output(memory)
        k = min(self.queries, int(memory.shape[1]))
        best = self.enc_score(encoded).amax(2).topk(k)[1].unsqueeze(2)
        target = encoded.gather(1, best.expand(-1, -1, self.hidden))
        reference = self.enc_box(encoded).gather(1, best.expand(-1, -1, 4))
        for own, cross in zip(self.self_attn, self.cross_attn, strict=True):
            target = cross(own(target), memory)
        return torch.cat(((reference + self.dec_box(target)).sigmoid(), self.dec_score(target).sigmoid()), 2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, H, W) → maps at strides 8, 16, 32."""
        y = self.stem(x)
        levels = []
        for stage, project in zip(self.stages, self.input_proj, strict=True):
            y = stage(y)
            levels.append(project(y))
        p3, p4, p5 = levels
        p5 = self.aifi(p5.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(p5.shape)
        p4 = self.fpn[0](torch.cat((_twice(p5), p4), 1))
        p3 = self.fpn[1](torch.cat((_twice(p4), p3), 1))
        p4 = self.pan[0](torch.cat((self.down[0](p3), p4), 1))
        p5 = self.pan[1](torch.cat((self.down[1](p4), p5), 1))
        return p3, p4, p5
