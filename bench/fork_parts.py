"""Parts that the blocks of forks share. See `fork_blocks.py`."""

from __future__ import annotations

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


def seq(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts)


class Res(nn.Module):
    """x + m(x)."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.m = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.m(x)
