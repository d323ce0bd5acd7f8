"""Blocks that weigh channels or places by what they hold, and normalisations. See `fork_blocks.py`."""

from __future__ import annotations

import math

import torch
from fork_parts import Block, Fn, Res, Weight, cba, seq, shuffle, up
from torch import Tensor, nn
from torch.nn import functional as F


def _cbam(x: Tensor, a: nn.Module, b: nn.Module, s: nn.Module) -> Tensor:
    gate = (b(a(F.adaptive_avg_pool2d(x, 1)).relu()) + b(a(F.adaptive_max_pool2d(x, 1)).relu())).sigmoid()
    x = x * gate
    both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * s(both).sigmoid()


def _mean_gate(x: Tensor, s: nn.Module) -> Tensor:
    return x * s(x.mean(1, keepdim=True)).sigmoid()


def _eca(x: Tensor, k: nn.Module) -> Tensor:
    y = x.mean((2, 3)).unsqueeze(1)
    return x * k(y).sigmoid().transpose(1, 2).unsqueeze(-1)


def _simam(x: Tensor) -> Tensor:
    d = (x - x.mean((2, 3), keepdim=True)) ** 2
    return x * (d / (4 * (d.mean((2, 3), keepdim=True) + 1e-2)) + 0.5).sigmoid()


def _coordinate(x: Tensor, a: nn.Module, p: nn.Module, q: nn.Module) -> Tensor:
    h, w = x.shape[2:]
    y = a(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2))
    first, second = y.split([h, w], 2)
    return x * p(first).sigmoid() * q(second.transpose(2, 3)).sigmoid()


def _lsk(x: Tensor, a: nn.Module, b: nn.Module, p: nn.Module, q: nn.Module, s: nn.Module, o: nn.Module) -> Tensor:
    first = a(x)
    second = b(first)
    one, two = p(first), q(second)
    both = torch.cat([one, two], 1)
    gate = s(torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], 1)).sigmoid()
    return x * o(one * gate[:, 0].unsqueeze(1) + two * gate[:, 1].unsqueeze(1))


def _sk(x: Tensor, a: nn.Module, b: nn.Module, f: nn.Module, g: nn.Module) -> Tensor:
    u = torch.stack([a(x), b(x)], 1)
    s = g(f(u.sum(1).mean((2, 3)))).view(x.shape[0], 2, x.shape[1], 1, 1).softmax(1)
    return (u * s).sum(1)


def _shuffle_attention(x: Tensor, s: Weight, t: Weight, gn: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    y = x.reshape(b * 2, c // 2, h, w)
    p, q = y.chunk(2, 1)
    p = p * (s() * p.mean((2, 3), keepdim=True)).sigmoid()
    q = q * (t() * gn(q)).sigmoid()
    return shuffle(torch.cat([p, q], 1).reshape(b, c, h, w))


def _psa(x: Tensor, a: nn.Module, b: nn.Module, g: nn.Module) -> Tensor:
    parts = torch.stack([a(x), b(x)], 1)
    gates = torch.stack([g(parts[:, 0].mean((2, 3))), g(parts[:, 1].mean((2, 3)))], 1).softmax(1)
    return (parts * gates[..., None, None]).sum(1)


def _gather_excite(x: Tensor, w: nn.Module) -> Tensor:
    return x * F.interpolate(w(F.avg_pool2d(x, 2)), size=x.shape[2:], mode="bilinear", align_corners=False).sigmoid()


def _scalar_gate(x: Tensor, g: nn.Module) -> Tensor:
    y = g(x).sigmoid()
    return x * y[:, 0].unsqueeze(1) + y[:, 1:2]


def _frelu(x: Tensor, d: nn.Module) -> Tensor:
    return torch.maximum(x, d(x))


def _acon(x: Tensor, p: Weight, q: Weight) -> Tensor:
    d = (p() - q()) * x
    return d * d.sigmoid() + q() * x


def _layer_scale(x: Tensor, m: nn.Module, g: Weight) -> Tensor:
    return x + g() * m(x)


def _grn(x: Tensor, g: Weight, b: Weight) -> Tensor:
    n = x.norm(p=2, dim=(2, 3), keepdim=True)
    return g() * x * (n / (n.mean(1, keepdim=True) + 1e-3)) + b() + x


def _instance(x: Tensor, n: nn.Module) -> Tensor:
    return n(x) + x


def _se(act: type[nn.Module]) -> Block:
    def block(c: int) -> nn.Module:
        gate = seq(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), act())
        return Fn(lambda x, g: x * g(x), g=gate)

    return block


def _fc_se(x: Tensor, f: nn.Module) -> Tensor:
    return x * f(x.mean((2, 3))).view(x.shape[0], -1, 1, 1).expand_as(x)


def _ema(x: Tensor, gn: nn.Module, a: nn.Module, b: nn.Module) -> Tensor:
    n, c, h, w = x.shape
    g = x.reshape(n * 4, c // 4, h, w)
    rows, columns = a(torch.cat([g.mean(3, keepdim=True), g.mean(2, keepdim=True).transpose(2, 3)], 2)).split([h, w], 2)
    one = gn(g * rows.sigmoid() * columns.transpose(2, 3).sigmoid())
    two = b(g)
    first = one.mean((2, 3)).unsqueeze(1).softmax(-1) @ two.flatten(2)
    second = two.mean((2, 3)).unsqueeze(1).softmax(-1) @ one.flatten(2)
    return (g * (first + second).reshape(n * 4, 1, h, w).sigmoid()).reshape(n, c, h, w)


def _triplet(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    def pooled(t: Tensor) -> Tensor:
        return torch.cat([t.amax(1, keepdim=True), t.mean(1, keepdim=True)], 1)

    turned = x.permute(0, 2, 1, 3)
    turned = (turned * a(pooled(turned)).sigmoid()).permute(0, 2, 1, 3)
    return (turned + x * b(pooled(x)).sigmoid()) / 2


def _scconv(x: Tensor, n: nn.Module, w: Weight) -> Tensor:
    y = n(x)
    gate = (y * w()).sigmoid()
    kept = torch.where(gate > 0.5, x, torch.zeros_like(x))
    return kept + torch.where(gate > 0.5, torch.zeros_like(x), x) * gate


def _l1_gate(x: Tensor, f: nn.Module) -> Tensor:
    return x * f(x.abs().sum((2, 3), keepdim=True) / 64).sigmoid()


def _std_gate(x: Tensor, f: nn.Module) -> Tensor:
    return x * f(torch.cat([x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)], 1)).sigmoid()


def _self_calibrated(x: Tensor, a: nn.Module, b: nn.Module, o: nn.Module) -> Tensor:
    gate = F.interpolate(a(F.avg_pool2d(x, 4)), size=x.shape[2:])
    return o(b(x) * (x + gate).sigmoid())


def _frequency(x: Tensor, basis: Weight, f: nn.Module) -> Tensor:
    return x * f((x * basis()).sum((2, 3))).sigmoid()[:, :, None, None]


GATES: dict[str, Block] = {
    "se-sigmoid": _se(nn.Sigmoid),
    "se-hard": _se(nn.Hardsigmoid),
    "se-tanh": _se(nn.Tanh),
    "se-linear": lambda c: Fn(_fc_se, f=seq(nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c), nn.Sigmoid())),
    "cbam": lambda c: Fn(
        _cbam, a=nn.Conv2d(c, c // 4, 1), b=nn.Conv2d(c // 4, c, 1), s=nn.Conv2d(2, 1, 7, padding=3, bias=False)
    ),
    "mean-gate": lambda c: Fn(_mean_gate, s=nn.Conv2d(1, 1, 3, padding=1)),
    "eca": lambda c: Fn(_eca, k=nn.Conv1d(1, 1, 3, padding=1, bias=False)),
    "simam": lambda c: Fn(_simam),
    "coordinate": lambda c: Fn(_coordinate, a=cba(c, 8), p=nn.Conv2d(8, c, 1), q=nn.Conv2d(8, c, 1)),
    "lsk": lambda c: Fn(
        _lsk,
        a=nn.Conv2d(c, c, 5, padding=2, groups=c),
        b=nn.Conv2d(c, c, 5, padding=6, groups=c, dilation=3),
        p=nn.Conv2d(c, c // 2, 1),
        q=nn.Conv2d(c, c // 2, 1),
        s=nn.Conv2d(2, 2, 7, padding=3),
        o=nn.Conv2d(c // 2, c, 1),
    ),
    "sk": lambda c: Fn(_sk, a=cba(c, c, 3), b=cba(c, c, 5), f=nn.Linear(c, 8), g=nn.Linear(8, 2 * c)),
    "psa": lambda c: Fn(_psa, a=cba(c, c, 3), b=cba(c, c), g=nn.Linear(c, c)),
    "gather-excite": lambda c: Fn(_gather_excite, w=nn.Conv2d(c, c, 3, padding=1, groups=c)),
    "scalar-gate": lambda c: Fn(_scalar_gate, g=nn.Conv2d(c, 2, 1)),
    "acon": lambda c: Fn(_acon, p=Weight(1, c, 1, 1), q=Weight(1, c, 1, 1)),
    "prelu": lambda c: seq(cba(c, c, 3, act=None), nn.PReLU(c)),
    "frelu": lambda c: Fn(_frelu, d=cba(c, c, 3, g=c, act=None)),
    "layer-scale": lambda c: Fn(_layer_scale, m=cba(c, c, 3), g=Weight(c, 1, 1)),
    "grn": lambda c: Fn(_grn, g=Weight(1, c, 1, 1), b=Weight(1, c, 1, 1)),
    "group-norm": lambda c: Res(nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(4, c), nn.SiLU()),
    "instance-norm": lambda c: Fn(_instance, n=seq(cba(c, c), nn.InstanceNorm2d(c, affine=True))),
    "norm-attention": lambda c: Fn(lambda x, n: x * torch.sigmoid(n(x)), n=nn.BatchNorm2d(c)),
    "sqrt-norm": lambda c: Fn(lambda x: x / torch.sqrt((x * x).mean((2, 3), keepdim=True) + 1.0 / math.e)),
    "shuffle-attention": lambda c: Fn(
        _shuffle_attention, s=Weight(1, c // 4, 1, 1), t=Weight(1, c // 4, 1, 1), gn=nn.GroupNorm(c // 4, c // 4)
    ),
    "soft-pool": lambda c: Fn(
        lambda x, o: o(up(F.avg_pool2d(x * x.sigmoid().exp(), 2) / F.avg_pool2d(x.sigmoid().exp(), 2))), o=cba(c, c)
    ),
    "mobile-hs": lambda c: Res(cba(c, c, 3, g=c, act=nn.Hardswish), _se(nn.Hardsigmoid)(c), cba(c, c, act=None)),
    "ema": lambda c: Fn(
        _ema, gn=nn.GroupNorm(c // 4, c // 4), a=nn.Conv2d(c // 4, c // 4, 1), b=nn.Conv2d(c // 4, c // 4, 3, padding=1)
    ),
    "triplet": lambda c: Fn(_triplet, a=nn.Conv2d(2, 1, 7, padding=3), b=nn.Conv2d(2, 1, 7, padding=3)),
    "scconv": lambda c: Fn(_scconv, n=nn.GroupNorm(4, c), w=Weight(1, c, 1, 1)),
    "l1-gate": lambda c: Fn(_l1_gate, f=nn.Conv2d(c, c, 1)),
    "std-gate": lambda c: Fn(_std_gate, f=nn.Conv2d(2 * c, c, 1)),
    "self-calibrated": lambda c: Fn(_self_calibrated, a=cba(c, c, 3), b=cba(c, c, 3), o=cba(c, c, 3)),
    "frequency": lambda c: Fn(_frequency, basis=Weight(1, c, 8, 8), f=nn.Linear(c, c)),
    "batch-norm-twice": lambda c: seq(nn.BatchNorm2d(c), nn.Mish(), cba(c, c, 3, act=nn.LeakyReLU), nn.BatchNorm2d(c)),
}
