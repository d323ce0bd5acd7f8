"""Blocks of the forks people train, written anew and small: what `random_graphs.py` strings together.

Every block maps (b, c, h, w) to the same shape (c a multiple of 8, h and w even). Architectures are facts; nothing is
copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Block = Callable[[int], nn.Module]


def cba(i: int, o: int, k: int = 1, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.SiLU) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    parts: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*parts, *([act()] if act else []))


class Fn(nn.Module):
    """A block of some layers and a function of them."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.names = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function of the input and the layers by name."""
        return self.function(x, **{name: getattr(self, name) for name in self.names})


class Weight(nn.Module):
    """A parameter of its own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape) * 0.5 + 0.5)

    def forward(self) -> Tensor:
        """The parameter."""
        return self.w


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d)·v."""
    return ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """ShuffleNet's."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def up(x: Tensor) -> Tensor:
    """Twice as large."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def spd(x: Tensor) -> Tensor:
    """Space to depth by slices."""
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def tokens(x: Tensor) -> Tensor:
    """(b, n, c)."""
    return x.flatten(2).transpose(1, 2)


def image(t: Tensor, like: Tensor) -> Tensor:
    """Tokens as a map again."""
    return t.transpose(1, 2).reshape(like.shape)


def heads(t: Tensor, n: int) -> Tensor:
    """(b, n, positions, d)."""
    return t.reshape(t.shape[0], t.shape[1], n, t.shape[2] // n).transpose(1, 2)


def _chunked(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    p, q = a(x).chunk(2, 1)
    return b(torch.cat([p, q * p.sigmoid()], 1))


def _split3(x: Tensor, a: nn.Module, m: nn.Module, b: nn.Module) -> Tensor:
    c = x.shape[1]
    p, q, r = a(x).split([c // 2, c // 4, c // 4], 1)
    return b(torch.cat([m(p), r, q], 1))


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


def _xca(x: Tensor, qkv: nn.Module, o: nn.Module) -> Tensor:
    q, k, v = (heads(t, 2).transpose(-1, -2) for t in qkv(tokens(x)).chunk(3, -1))
    y = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)).softmax(-1) @ v
    return image(o(y.permute(0, 3, 1, 2).flatten(2)), x)


def _mhsa(x: Tensor, qkv: nn.Module, o: nn.Module) -> Tensor:
    b, n, c = x.shape[0], x.shape[2] * x.shape[3], x.shape[1]
    q, k, v = qkv(tokens(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    return x + image(o(attention(q, k, v).transpose(1, 2).reshape(b, n, c)), x)


def _sdpa(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    a, b, c = (heads(tokens(f(x)), 2) for f in (q, k, v))
    y = F.scaled_dot_product_attention(a, b, c)
    return x + image(y.transpose(1, 2).flatten(2), x)


def _conv_attention(x: Tensor, qkv: nn.Module, pe: nn.Module, o: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = qkv(x).view(b, 2, c // 8 * 2 + c // 2, h * w).split([c // 8, c // 8, c // 2], 2)
    y = (v @ ((q.transpose(-2, -1) @ k) * (c // 8) ** -0.5).softmax(-1).transpose(-2, -1)).view(b, c, h, w)
    return x + o(y + pe(v.reshape(b, c, h, w)))


def _nonlocal(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, o: nn.Module) -> Tensor:
    b, _, h, w = x.shape
    a = (q(x).view(b, -1, h * w).transpose(1, 2) @ k(x).view(b, -1, h * w)).softmax(-1)
    return x + o((a @ v(x).view(b, -1, h * w).transpose(1, 2)).transpose(1, 2).reshape(b, -1, h, w))


def _linear_attention(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    a, b, c = q(x).flatten(2).relu(), k(x).flatten(2).relu(), v(x).flatten(2)
    return x + ((c @ b.transpose(1, 2)) @ a / a.shape[-1]).view(x.shape)


def _external(x: Tensor, m: nn.Module, n: nn.Module) -> Tensor:
    return x + image(n(m(tokens(x)).softmax(1)), x)


def _mixer(x: Tensor, t: nn.Module, c: nn.Module) -> Tensor:
    y = x + t(x.flatten(2)).view(x.shape)
    return y + image(c(tokens(y)), x)


def _token_matrix(x: Tensor, w: Weight) -> Tensor:
    n = x.shape[2] * x.shape[3]
    return image(w()[:n, :n] @ tokens(x), x)


def _left_matrix(x: Tensor, w: Weight, b: nn.Module) -> Tensor:
    return b((w() @ x.flatten(2)).view(x.shape))


def _class_token(x: Tensor, c: Weight, m: nn.Module) -> Tensor:
    t = torch.cat([c().expand(x.shape[0], -1, -1), tokens(x)], 1)
    return image(m(t)[:, 1:], x)


def _window(x: Tensor, qkv: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    t = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    q, k, v = qkv(t).chunk(3, -1)
    y = attention(q, k, v).view(b, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4)
    return x + y.reshape(b, c, h, w)


def _dysample(x: Tensor, o: nn.Module) -> Tensor:
    h, w = x.shape[2:]
    offset = F.pixel_shuffle(o(x), 2).tanh().permute(0, 2, 3, 1) * 0.1
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 2 * h), torch.linspace(-1, 1, 2 * w), indexing="ij")
    grid = torch.stack([xs, ys], -1).unsqueeze(0) + offset
    return F.avg_pool2d(F.grid_sample(x, grid, align_corners=True), 2)


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


def _bifpn(x: Tensor, w: Weight, a: nn.Module, b: nn.Module, d: nn.Module) -> Tensor:
    weights = w().relu()
    weights = weights / (weights.sum() + 1e-3)
    low = d(x)
    return b(weights[0] * a(x) + weights[1] * up(low))


def _asff(x: Tensor, d: nn.Module, p: nn.Module, q: nn.Module, m: nn.Module) -> Tensor:
    low = up(d(x))
    gates = m(torch.cat([p(x), q(low)], 1)).softmax(1)
    return x * gates[:, 0:1] + low * gates[:, 1:2]


def _psa(x: Tensor, a: nn.Module, b: nn.Module, g: nn.Module) -> Tensor:
    parts = torch.stack([a(x), b(x)], 1)
    gates = torch.stack([g(parts[:, 0].mean((2, 3))), g(parts[:, 1].mean((2, 3)))], 1).softmax(1)
    return (parts * gates[..., None, None]).sum(1)


def _gather_excite(x: Tensor, w: nn.Module) -> Tensor:
    return x * F.interpolate(w(F.avg_pool2d(x, 2)), size=x.shape[2:], mode="bilinear", align_corners=False).sigmoid()


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


def _scalar_gate(x: Tensor, g: nn.Module) -> Tensor:
    y = g(x).sigmoid()
    return x * y[:, 0].unsqueeze(1) + y[:, 1:2]


def _topk(x: Tensor, o: nn.Module) -> Tensor:
    best = x.flatten(2).topk(4, 2)[0].mean(2)[..., None, None]
    return o(x * best.sigmoid())


def _res2(x: Tensor, a: nn.Module, b: nn.Module, o: nn.Module) -> Tensor:
    p, q, r, s = a(x).chunk(4, 1)
    q = b(q)
    r = b(q + r)
    return o(torch.cat([p, q, r, s], 1)) + x


def _rfb(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, o: nn.Module) -> Tensor:
    return (o(torch.cat([a(x), b(x), c(x)], 1)) * 0.5 + x).relu()


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


def _centre(x: Tensor, o: nn.Module) -> Tensor:
    return o(F.pad(F.pad(x, (-1, -1, -1, -1)), (1, 1, 1, 1), mode="reflect"))


def _rows(x: Tensor, border: Weight, o: nn.Module) -> Tensor:
    return o(torch.cat([border().expand(x.shape[0], -1, -1, x.shape[3]), x], 2)[:, :, 1:])


def _lstm(x: Tensor, m: nn.Module, o: nn.Module) -> Tensor:
    y, _ = m(tokens(x))
    return image(o(y), x)


def _seq(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


class Res(nn.Module):
    """x + m(x)."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.m = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.m(x)


def _se(act: type[nn.Module]) -> Block:
    def block(c: int) -> nn.Module:
        gate = _seq(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), act())
        return Fn(lambda x, g: x * g(x), g=gate)

    return block


def _fc_se(x: Tensor, f: nn.Module) -> Tensor:
    return x * f(x.mean((2, 3))).view(x.shape[0], -1, 1, 1).expand_as(x)


BLOCKS: dict[str, Block] = {
    "plain": lambda c: cba(c, c, 3),
    "bottleneck": lambda c: Res(cba(c, c // 2), cba(c // 2, c, 3)),
    "basic": lambda c: _seq(Res(cba(c, c, 3, act=nn.ReLU), cba(c, c, 3, act=None)), nn.ReLU()),
    "inverted": lambda c: Res(cba(c, 2 * c), cba(2 * c, 2 * c, 3, g=2 * c), cba(2 * c, c, act=None)),
    "mobile-hs": lambda c: Res(cba(c, c, 3, g=c, act=nn.Hardswish), _se(nn.Hardsigmoid)(c), cba(c, c, act=None)),
    "grouped": lambda c: cba(c, c, 3, g=4),
    "resnext": lambda c: Res(cba(c, c), cba(c, c, 3, g=2), cba(c, c, act=None)),
    "se-sigmoid": _se(nn.Sigmoid),
    "se-hard": _se(nn.Hardsigmoid),
    "se-tanh": _se(nn.Tanh),
    "se-linear": lambda c: Fn(_fc_se, f=_seq(nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c), nn.Sigmoid())),
    "cbam": lambda c: Fn(
        _cbam, a=nn.Conv2d(c, c // 4, 1), b=nn.Conv2d(c // 4, c, 1), s=nn.Conv2d(2, 1, 7, padding=3, bias=False)
    ),
    "mean-gate": lambda c: Fn(_mean_gate, s=nn.Conv2d(1, 1, 3, padding=1)),
    "eca": lambda c: Fn(_eca, k=nn.Conv1d(1, 1, 3, padding=1, bias=False)),
    "simam": lambda c: Fn(_simam),
    "coordinate": lambda c: Fn(_coordinate, a=cba(c, 8), p=nn.Conv2d(8, c, 1), q=nn.Conv2d(8, c, 1)),
    "spd": lambda c: Fn(lambda x, o: up(o(spd(x))), o=cba(4 * c, c, 3)),
    "focus-down": lambda c: Fn(lambda x, o: up(o(F.pixel_unshuffle(x, 2))), o=cba(4 * c, c)),
    "carafe": lambda c: _seq(Fn(_carafe_like, k=cba(c, 16), o=cba(c, c)), nn.AvgPool2d(2)),
    "carafe-unfold": lambda c: _seq(Fn(_carafe, k=cba(c, 36), o=cba(c, c)), nn.MaxPool2d(2)),
    "dysample": lambda c: Fn(_dysample, o=nn.Conv2d(c, 8, 1)),
    "involution": lambda c: Fn(_involution, r=cba(c, c // 4), s=nn.Conv2d(c // 4, 18, 1)),
    "gsconv": lambda c: Fn(
        lambda x, a, b: shuffle(_ghost(x, a, b)), a=cba(c, c // 2), b=cba(c // 2, c // 2, 5, g=c // 2)
    ),
    "ghost": lambda c: Fn(_ghost, a=cba(c, c // 2), b=cba(c // 2, c // 2, 3, g=c // 2)),
    "shuffle-unit": lambda c: Fn(
        lambda x, m: shuffle(torch.cat([x.chunk(2, 1)[0], m(x.chunk(2, 1)[1])], 1)),
        m=_seq(cba(c // 2, c // 2), cba(c // 2, c // 2, 3, g=c // 2, act=None), cba(c // 2, c // 2)),
    ),
    "shuffle-grouped": lambda c: Fn(lambda x, a, b: b(shuffle(a(x), 4)), a=cba(c, c, g=4), b=cba(c, c, g=2)),
    "shuffle-attention": lambda c: Fn(
        _shuffle_attention, s=Weight(1, c // 4, 1, 1), t=Weight(1, c // 4, 1, 1), gn=nn.GroupNorm(c // 4, c // 4)
    ),
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
    "bifpn": lambda c: Fn(_bifpn, w=Weight(2), a=cba(c, c), b=cba(c, c, 3), d=cba(c, c, 3, 2)),
    "asff": lambda c: Fn(_asff, d=cba(c, c, 3, 2), p=cba(c, 4), q=cba(c, 4), m=nn.Conv2d(8, 2, 1)),
    "xca": lambda c: Fn(_xca, qkv=nn.Linear(c, 3 * c), o=nn.Linear(c, c)),
    "mhsa": lambda c: Fn(_mhsa, qkv=nn.Linear(c, 3 * c), o=nn.Linear(c, c)),
    "sdpa": lambda c: Fn(_sdpa, q=cba(c, c), k=cba(c, c), v=cba(c, c)),
    "psa-yolo10": lambda c: Fn(
        _conv_attention, qkv=cba(c, 2 * (c // 8 * 2 + c // 2)), pe=cba(c, c, 3, g=c), o=cba(c, c)
    ),
    "nonlocal": lambda c: Fn(_nonlocal, q=nn.Conv2d(c, c // 2, 1), k=nn.Conv2d(c, c // 2, 1), v=cba(c, c), o=cba(c, c)),
    "linear-attention": lambda c: Fn(_linear_attention, q=cba(c, c), k=cba(c, c), v=cba(c, c)),
    "external-attention": lambda c: Fn(_external, m=nn.Linear(c, 8), n=nn.Linear(8, c)),
    "window-attention": lambda c: Fn(_window, qkv=nn.Linear(c, 3 * c)),
    "mixer": lambda c: Fn(_mixer, t=nn.Linear(64, 64), c=_seq(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))),
    "token-matrix": lambda c: Fn(_token_matrix, w=Weight(64, 64)),
    "left-matrix": lambda c: Fn(_left_matrix, w=Weight(c, c), b=nn.BatchNorm2d(c)),
    "class-token": lambda c: Fn(_class_token, c=Weight(1, 1, c), m=_seq(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))),
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
        b=_seq(cba(c, c // 4), nn.Conv2d(c // 4, c // 4, 3, padding=3, dilation=3)),
        c=_seq(cba(c, c // 4), cba(c // 4, c // 4, 3)),
        o=cba(3 * (c // 4), c, act=None),
    ),
    "pad-shortcut": lambda c: Fn(_pad_shortcut, a=cba(c, c + 8, 3, act=None), o=cba(c + 8, c)),
    "pixel-view": lambda c: _seq(Fn(_pixel_view, o=cba(c // 4, c, 3)), nn.AvgPool2d(2)),
    "pixel-shuffle": lambda c: _seq(nn.PixelShuffle(2), cba(c // 4, c, 3, 2)),
    "unshuffle-view": lambda c: Fn(_unshuffle_view, o=cba(4 * c, c)),
    "scalar-gate": lambda c: Fn(_scalar_gate, g=nn.Conv2d(c, 2, 1)),
    "top-k": lambda c: Fn(_topk, o=cba(c, c)),
    "frelu": lambda c: Fn(_frelu, d=cba(c, c, 3, g=c, act=None)),
    "acon": lambda c: Fn(_acon, p=Weight(1, c, 1, 1), q=Weight(1, c, 1, 1)),
    "prelu": lambda c: _seq(cba(c, c, 3, act=None), nn.PReLU(c)),
    "layer-scale": lambda c: Fn(_layer_scale, m=cba(c, c, 3), g=Weight(c, 1, 1)),
    "grn": lambda c: Fn(_grn, g=Weight(1, c, 1, 1), b=Weight(1, c, 1, 1)),
    "group-norm": lambda c: Res(nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(4, c), nn.SiLU()),
    "instance-norm": lambda c: Fn(_instance, n=_seq(cba(c, c), nn.InstanceNorm2d(c, affine=True))),
    "convnext": lambda c: Res(cba(c, c, 7, g=c, act=None), nn.Conv2d(c, 2 * c, 1), nn.GELU(), nn.Conv2d(2 * c, c, 1)),
    "repvgg": lambda c: Fn(
        lambda x, a, b, n: (a(x) + b(x) + n(x)).relu(),
        a=cba(c, c, 3, act=None),
        b=cba(c, c, act=None),
        n=nn.BatchNorm2d(c),
    ),
    "transpose": lambda c: _seq(cba(c, c, 3, 2), nn.ConvTranspose2d(c, c, 2, 2), nn.BatchNorm2d(c), nn.ReLU()),
    "resize-cat": lambda c: Fn(lambda x, d, o: o(torch.cat([x, up(d(x))], 1)), d=cba(c, c, 3, 2), o=cba(2 * c, c)),
    "bilinear": lambda c: Fn(
        lambda x, d, o: o(x + F.interpolate(d(x), size=(8, 8), mode="bilinear", align_corners=False)),
        d=cba(c, c, 3, 2),
        o=cba(c, c),
    ),
    "reflect": lambda c: Fn(_centre, o=cba(c, c, 3)),
    "border-rows": lambda c: Fn(_rows, border=Weight(1, c, 1, 1), o=cba(c, c, 3)),
    "lstm": lambda c: Fn(_lstm, m=nn.LSTM(c, 8, batch_first=True), o=nn.Linear(8, c)),
    "depth-separable": lambda c: _seq(cba(c, c, 5, g=c), cba(c, c)),
    "dense": lambda c: Fn(lambda x, a, o: o(torch.cat([x, a(x)], 1)), a=cba(c, 8, 3), o=cba(c + 8, c)),
    "norm-attention": lambda c: Fn(lambda x, n: x * torch.sigmoid(n(x)), n=nn.BatchNorm2d(c)),
    "soft-pool": lambda c: Fn(
        lambda x, o: o(up(F.avg_pool2d(x * x.sigmoid().exp(), 2) / F.avg_pool2d(x.sigmoid().exp(), 2))), o=cba(c, c)
    ),
    "sqrt-norm": lambda c: Fn(lambda x: x / torch.sqrt((x * x).mean((2, 3), keepdim=True) + 1.0 / math.e)),
}
"""Name → block of so many channels."""
