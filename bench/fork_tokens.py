"""Blocks over tokens: attention of every spelling, mixers, recurrent layers. See `fork_blocks.py`."""

from __future__ import annotations

import torch
from fork_parts import Block, Fn, Weight, attention, cba, heads, image, seq, tokens
from torch import Tensor, nn
from torch.nn import functional as F


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


def _topk(x: Tensor, o: nn.Module) -> Tensor:
    best = x.flatten(2).topk(4, 2)[0].mean(2)[..., None, None]
    return o(x * best.sigmoid())


def _lstm(x: Tensor, m: nn.Module, o: nn.Module) -> Tensor:
    y, _ = m(tokens(x))
    return image(o(y), x)


def _gru(x: Tensor, m: nn.Module, o: nn.Module) -> Tensor:
    y, _ = m(tokens(x))
    return image(o(y), x)


def _shifted(x: Tensor, qkv: nn.Module) -> Tensor:
    return torch.roll(_window(torch.roll(x, (-1, -1), (2, 3)), qkv), (1, 1), (2, 3))


def _norm_mlp(x: Tensor, n: nn.Module, m: nn.Module) -> Tensor:
    t = x.permute(0, 2, 3, 1)
    return (t + m(n(t))).permute(0, 3, 1, 2)


def _glu(x: Tensor, n: nn.Module, a: nn.Module, d: nn.Module, o: nn.Module) -> Tensor:
    p, q = a(n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).chunk(2, 1)
    return x + o(F.gelu(d(p)) * q)


def _area(x: Tensor, qkv: nn.Module, o: nn.Module) -> Tensor:
    b, c, h, w = x.shape
    t = qkv(x).flatten(2).transpose(1, 2).reshape(b * 4, h * w // 4, 3 * c)
    q, k, v = t.view(b * 4, h * w // 4, 2, 3 * c // 2).permute(0, 2, 3, 1).split([c // 2, c // 2, c // 2], 2)
    y = v @ ((q.transpose(-2, -1) @ k) * (c // 2) ** -0.5).softmax(-1).transpose(-2, -1)
    return x + o(y.permute(0, 3, 1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2))


def _additive(x: Tensor, q: nn.Module, k: nn.Module, w: Weight, o: nn.Module) -> Tensor:
    a, b = F.normalize(q(tokens(x)), dim=-1), F.normalize(k(tokens(x)), dim=-1)
    scores = (a @ w()).softmax(1)
    return x + image(o((scores * a).sum(1, keepdim=True) * b) + a, x)


def _pooled_attention(x: Tensor, q: nn.Module, kv: nn.Module, o: nn.Module) -> Tensor:
    a = heads(tokens(q(x)), 2)
    k, v = (heads(t, 2) for t in kv(tokens(F.avg_pool2d(x, 2))).chunk(2, -1))
    return x + image(o(attention(a, k, v).transpose(1, 2).flatten(2)), x)


TOKENS: dict[str, Block] = {
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
    "mixer": lambda c: Fn(_mixer, t=nn.Linear(64, 64), c=seq(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))),
    "token-matrix": lambda c: Fn(_token_matrix, w=Weight(64, 64)),
    "left-matrix": lambda c: Fn(_left_matrix, w=Weight(c, c), b=nn.BatchNorm2d(c)),
    "class-token": lambda c: Fn(_class_token, c=Weight(1, 1, c), m=seq(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c))),
    "lstm": lambda c: Fn(_lstm, m=nn.LSTM(c, 8, batch_first=True), o=nn.Linear(8, c)),
    "top-k": lambda c: Fn(_topk, o=cba(c, c)),
    "gru": lambda c: Fn(_gru, m=nn.GRU(c, 8, batch_first=True, bidirectional=True), o=nn.Linear(16, c)),
    "shifted-window": lambda c: Fn(_shifted, qkv=nn.Linear(c, 3 * c)),
    "norm-mlp": lambda c: Fn(_norm_mlp, n=nn.LayerNorm(c), m=seq(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))),
    "glu": lambda c: Fn(
        _glu,
        n=nn.LayerNorm(c),
        a=nn.Conv2d(c, 2 * c, 1),
        d=nn.Conv2d(c, c, 3, padding=1, groups=c),
        o=nn.Conv2d(c, c, 1),
    ),
    "area-attention": lambda c: Fn(_area, qkv=cba(c, 3 * c), o=cba(c, c)),
    "additive-attention": lambda c: Fn(
        _additive, q=nn.Linear(c, c), k=nn.Linear(c, c), w=Weight(c, 1), o=nn.Linear(c, c)
    ),
    "pooled-attention": lambda c: Fn(_pooled_attention, q=cba(c, c), kv=nn.Linear(c, 2 * c), o=nn.Linear(c, c)),
    "pool-mixer": lambda c: Fn(
        lambda x, n, m: (lambda y: y + m(y))(x + F.avg_pool2d(n(x), 3, 1, 1, count_include_pad=False) - n(x)),
        n=nn.GroupNorm(1, c),
        m=seq(nn.Conv2d(c, 2 * c, 1), nn.GELU(), nn.Conv2d(2 * c, c, 1)),
    ),
}
