"""Blocks of convolutions: bottlenecks, splits, shuffles, and ways down and up. See `fork_blocks.py`."""

from __future__ import annotations

import torch
from fork_parts import Block, Fn, Res, Weight, cba, seq, shuffle, spd, up
from torch import Tensor, nn
from torch.nn import functional as F


def _chunked(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    p, q = a(x).chunk(2, 1)
    return b(torch.cat([p, q * p.sigmoid()], 1))


def _split3(x: Tensor, a: nn.Module, m: nn.Module, b: nn.Module) -> Tensor:
    c = x.shape[1]
    p, q, r = a(x).split([c // 2, c // 4, c // 4], 1)
    return b(torch.cat([m(p), r, q], 1))


def _carafe(x: Tensor, k: nn.Module, o: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    weights = F.pixel_shuffle(k(x), 2).softmax(1)
    patches = F.unfold(x, 3, padding=1).view(b, c * 9, h, w)
    patches = up(patches).view(b, c, 9, 2 * h, 2 * w)
    return o((patches * weights.unsqueeze(1)).sum(2))


def _carafe_like(x: Tensor, k: nn.Module, o: nn.Module) -> Tensor:
    weights = F.pixel_shuffle(k(x), 2).softmax(1)
    moved = [torch.roll(x, (i, j), (2, 3)) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return o(sum(up(m) * weights[:, i : i + 1] for i, m in enumerate(moved)))


def _involution(x: Tensor, r: nn.Module, s: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    kernel = s(r(x)).view(b, 2, 9, h, w).unsqueeze(2)
    pad = F.pad(x, (1, 1, 1, 1))
    taps = torch.stack([pad[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], 2)
    return (kernel * taps.view(b, 2, c // 2, 9, h, w)).sum(3).view(b, c, h, w)


def _dysample(x: Tensor, o: nn.Module) -> Tensor:
    h, w = x.shape[2:]
    offset = F.pixel_shuffle(o(x), 2).tanh().permute(0, 2, 3, 1) * 0.1
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 2 * h), torch.linspace(-1, 1, 2 * w), indexing="ij")
    grid = torch.stack([xs, ys], -1).unsqueeze(0) + offset
    return F.avg_pool2d(F.grid_sample(x, grid, align_corners=True), 2)


def _bifpn(x: Tensor, w: Weight, a: nn.Module, b: nn.Module, d: nn.Module) -> Tensor:
    weights = w().relu()
    weights = weights / (weights.sum() + 1e-3)
    low = d(x)
    return b(weights[0] * a(x) + weights[1] * up(low))


def _asff(x: Tensor, d: nn.Module, p: nn.Module, q: nn.Module, m: nn.Module) -> Tensor:
    low = up(d(x))
    gates = m(torch.cat([p(x), q(low)], 1)).softmax(1)
    return x * gates[:, 0:1] + low * gates[:, 1:2]


def _ghost(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = a(x)
    return torch.cat([y, b(y)], 1)


def _sppf(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = [a(x)]
    for _ in range(3):
        y.append(F.max_pool2d(y[-1], 3, 1, 1))
    return b(torch.cat(y, 1))


def _elan(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module, o: nn.Module) -> Tensor:
    p, q = a(x), b(x)
    r = c(q)
    return o(torch.cat([p, q, r, d(r)], 1))


def _pad_shortcut(x: Tensor, a: nn.Module, o: nn.Module) -> Tensor:
    y = a(x)
    return o((F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y).relu())


def _pixel_view(x: Tensor, o: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    y = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)
    return o(y)


def _unshuffle_view(x: Tensor, o: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    return up(o(x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)))


def _res2(x: Tensor, a: nn.Module, b: nn.Module, o: nn.Module) -> Tensor:
    p, q, r, s = a(x).chunk(4, 1)
    q = b(q)
    r = b(q + r)
    return o(torch.cat([p, q, r, s], 1)) + x


def _rfb(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, o: nn.Module) -> Tensor:
    return (o(torch.cat([a(x), b(x), c(x)], 1)) * 0.5 + x).relu()


def _centre(x: Tensor, o: nn.Module) -> Tensor:
    return o(F.pad(F.pad(x, (-1, -1, -1, -1)), (1, 1, 1, 1), mode="reflect"))


def _rows(x: Tensor, border: Weight, o: nn.Module) -> Tensor:
    return o(torch.cat([border().expand(x.shape[0], -1, -1, x.shape[3]), x], 2)[:, :, 1:])


def _partial(x: Tensor, p: nn.Module, m: nn.Module) -> Tensor:
    n = x.shape[1] // 4
    return x + m(torch.cat([p(x[:, :n]), x[:, n:]], 1))


def _dynamic(x: Tensor, w: Weight, g: nn.Module) -> Tensor:
    _b, _c, _h, _wide = x.shape
    gates = g(x.mean((2, 3))).softmax(1)
    y = torch.stack([F.conv2d(x, w()[k], padding=1) for k in range(2)], 1)
    return (y * gates.view(-1, 2, 1, 1, 1)).sum(1)


def _haar(x: Tensor, o: nn.Module) -> Tensor:
    a, b, c, d = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
    return up(o(torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2))


def _sandwich(x: Tensor, a: nn.Module, b: nn.Module, o: nn.Module) -> Tensor:
    n = x.shape[1] // 2
    return o(torch.stack([a(x), b(x)], 2).flatten(1, 2)[:, : 2 * n])


def _split_space(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    top, bottom = x.split(4, 2)
    return torch.cat([a(top), b(bottom)], 2)


def _csp(x: Tensor, a: nn.Module, b: nn.Module, m: nn.Module, n: nn.Module, o: nn.Module) -> Tensor:
    return o(F.leaky_relu(n(torch.cat([m(a(x)), b(x)], 1)), 0.1))


def _tiled(x: Tensor, o: nn.Module) -> Tensor:
    return o(torch.cat([x, x.mean((2, 3), keepdim=True).repeat(1, 2, 8, 8)], 1))


CONVOLUTIONS: dict[str, Block] = {
    "plain": lambda c: cba(c, c, 3),
    "bottleneck": lambda c: Res(cba(c, c // 2), cba(c // 2, c, 3)),
    "basic": lambda c: seq(Res(cba(c, c, 3, act=nn.ReLU), cba(c, c, 3, act=None)), nn.ReLU()),
    "inverted": lambda c: Res(cba(c, 2 * c), cba(2 * c, 2 * c, 3, g=2 * c), cba(2 * c, c, act=None)),
    "grouped": lambda c: cba(c, c, 3, g=4),
    "resnext": lambda c: Res(cba(c, c), cba(c, c, 3, g=2), cba(c, c, act=None)),
    "spd": lambda c: Fn(lambda x, o: up(o(spd(x))), o=cba(4 * c, c, 3)),
    "focus-down": lambda c: Fn(lambda x, o: up(o(F.pixel_unshuffle(x, 2))), o=cba(4 * c, c)),
    "carafe": lambda c: seq(Fn(_carafe_like, k=cba(c, 16), o=cba(c, c)), nn.AvgPool2d(2)),
    "carafe-unfold": lambda c: seq(Fn(_carafe, k=cba(c, 36), o=cba(c, c)), nn.MaxPool2d(2)),
    "dysample": lambda c: Fn(_dysample, o=nn.Conv2d(c, 8, 1)),
    "involution": lambda c: Fn(_involution, r=cba(c, c // 4), s=nn.Conv2d(c // 4, 18, 1)),
    "gsconv": lambda c: Fn(
        lambda x, a, b: shuffle(_ghost(x, a, b)), a=cba(c, c // 2), b=cba(c // 2, c // 2, 5, g=c // 2)
    ),
    "ghost": lambda c: Fn(_ghost, a=cba(c, c // 2), b=cba(c // 2, c // 2, 3, g=c // 2)),
    "shuffle-unit": lambda c: Fn(
        lambda x, m: shuffle(torch.cat([x.chunk(2, 1)[0], m(x.chunk(2, 1)[1])], 1)),
        m=seq(cba(c // 2, c // 2), cba(c // 2, c // 2, 3, g=c // 2, act=None), cba(c // 2, c // 2)),
    ),
    "shuffle-grouped": lambda c: Fn(lambda x, a, b: b(shuffle(a(x), 4)), a=cba(c, c, g=4), b=cba(c, c, g=2)),
    "bifpn": lambda c: Fn(_bifpn, w=Weight(2), a=cba(c, c), b=cba(c, c, 3), d=cba(c, c, 3, 2)),
    "asff": lambda c: Fn(_asff, d=cba(c, c, 3, 2), p=cba(c, 4), q=cba(c, 4), m=nn.Conv2d(8, 2, 1)),
    "sppf": lambda c: Fn(_sppf, a=cba(c, c // 2), b=cba(2 * c, c)),
    "elan": lambda c: Fn(
        _elan, a=cba(c, c // 2), b=cba(c, c // 2), c=cba(c // 2, c // 2, 3), d=cba(c // 2, c // 2, 3), o=cba(2 * c, c)
    ),
    "c2f": lambda c: Fn(_split3, a=cba(c, c), m=Res(cba(c // 2, c // 2, 3)), b=cba(c, c)),
    "chunk-gate": lambda c: Fn(_chunked, a=cba(c, c), b=cba(c, c, 3)),
    "res2": lambda c: Fn(_res2, a=cba(c, c), b=cba(c // 4, c // 4, 3), o=cba(c, c)),
    "rfb": lambda c: Fn(
        _rfb,
        a=cba(c, c // 4),
        b=seq(cba(c, c // 4), nn.Conv2d(c // 4, c // 4, 3, padding=3, dilation=3)),
        c=seq(cba(c, c // 4), cba(c // 4, c // 4, 3)),
        o=cba(3 * (c // 4), c, act=None),
    ),
    "pad-shortcut": lambda c: Fn(_pad_shortcut, a=cba(c, c + 8, 3, act=None), o=cba(c + 8, c)),
    "pixel-view": lambda c: seq(Fn(_pixel_view, o=cba(c // 4, c, 3)), nn.AvgPool2d(2)),
    "pixel-shuffle": lambda c: seq(nn.PixelShuffle(2), cba(c // 4, c, 3, 2)),
    "unshuffle-view": lambda c: Fn(_unshuffle_view, o=cba(4 * c, c)),
    "convnext": lambda c: Res(cba(c, c, 7, g=c, act=None), nn.Conv2d(c, 2 * c, 1), nn.GELU(), nn.Conv2d(2 * c, c, 1)),
    "repvgg": lambda c: Fn(
        lambda x, a, b, n: (a(x) + b(x) + n(x)).relu(),
        a=cba(c, c, 3, act=None),
        b=cba(c, c, act=None),
        n=nn.BatchNorm2d(c),
    ),
    "transpose": lambda c: seq(cba(c, c, 3, 2), nn.ConvTranspose2d(c, c, 2, 2), nn.BatchNorm2d(c), nn.ReLU()),
    "resize-cat": lambda c: Fn(lambda x, d, o: o(torch.cat([x, up(d(x))], 1)), d=cba(c, c, 3, 2), o=cba(2 * c, c)),
    "bilinear": lambda c: Fn(
        lambda x, d, o: o(x + F.interpolate(d(x), size=(8, 8), mode="bilinear", align_corners=False)),
        d=cba(c, c, 3, 2),
        o=cba(c, c),
    ),
    "reflect": lambda c: Fn(_centre, o=cba(c, c, 3)),
    "border-rows": lambda c: Fn(_rows, border=Weight(1, c, 1, 1), o=cba(c, c, 3)),
    "depth-separable": lambda c: seq(cba(c, c, 5, g=c), cba(c, c)),
    "dense": lambda c: Fn(lambda x, a, o: o(torch.cat([x, a(x)], 1)), a=cba(c, 8, 3), o=cba(c + 8, c)),
    "partial": lambda c: Fn(
        _partial, p=nn.Conv2d(c // 4, c // 4, 3, padding=1), m=seq(cba(c, 2 * c), nn.Conv2d(2 * c, c, 1))
    ),
    "dynamic-convolution": lambda c: Fn(_dynamic, w=Weight(2, c, c, 3, 3), g=nn.Linear(c, 2)),
    "haar-down": lambda c: Fn(_haar, o=cba(4 * c, c)),
    "interleaved": lambda c: Fn(_sandwich, a=cba(c, c), b=cba(c, c, 3), o=cba(c, c)),
    "split-space": lambda c: Fn(_split_space, a=cba(c, c, 3), b=cba(c, c)),
    "csp": lambda c: Fn(
        _csp,
        a=cba(c, c // 2),
        b=nn.Conv2d(c, c // 2, 1, bias=False),
        m=Res(cba(c // 2, c // 2, 3)),
        n=nn.BatchNorm2d(c),
        o=cba(c, c),
    ),
    "tiled-context": lambda c: Fn(_tiled, o=cba(3 * c, c)),
    "star": lambda c: Fn(
        lambda x, d, a, b, o: x + o(a(d(x)).clamp(0, 6) * b(d(x))),
        d=cba(c, c, 7, g=c, act=None),
        a=nn.Conv2d(c, 2 * c, 1),
        b=nn.Conv2d(c, 2 * c, 1),
        o=cba(2 * c, c, act=None),
    ),
    "max-down": lambda c: Fn(
        lambda x, a, b, o: up(o(torch.cat([F.max_pool2d(a(x), 2), b(x)], 1))),
        a=cba(c, c // 2),
        b=cba(c, c // 2, 3, 2),
        o=cba(c, c),
    ),
}
