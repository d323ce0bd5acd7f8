"""Blocks shared by YOLOv3 to YOLO26: convolutions, CSP bottlenecks, spatial pyramids, routing.

Shapes: a feature map is (b, c, h, w). `c1` and `c2` are input and output channels, `c_` the hidden ones.
Split sizes are read from the sub-modules' widths, never from a stored number: a pruned checkpoint stores the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block

Kernel: TypeAlias = int | tuple[int, int]

BN_EPS = 1e-3
BN_MOMENTUM = 0.03


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm with the YOLO ecosystem's ε and momentum."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def activation(act: bool | nn.Module) -> nn.Module:
    """SiLU for True, the identity for False, a module as it is."""
    if isinstance(act, nn.Module):
        return act
    return nn.SiLU(inplace=False) if act else nn.Identity()


def chain(modules: nn.Module, x: Tensor) -> list[Tensor]:
    """`x`, then the output of every module of a list applied to the previous one's."""
    outputs = [x]
    for module in modules.children():
        outputs.append(module(outputs[-1]))
    return outputs


def input_width(module: nn.Module) -> int:
    """Channels a module expects: those of the first convolution in it.

    First in registration order, which in every block here is the order of computation.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
        if isinstance(part, nn.BatchNorm2d):
            return part.num_features
    raise TypeError(f"{type(module).__name__} has no convolution to tell its width")


def split_for(x: Tensor, module: nn.Module, total: int, *, first: bool = False) -> tuple[Tensor, Tensor]:
    """Split (b, total, h, w) so that the second part (the `first`, if so) has the width that `module` expects.

    An identity, which stands where a block was taken out, takes any: the code that it was taken out of halves.
    """
    wide = total // 2 if isinstance(module, nn.Identity) else input_width(module)
    sizes = (wide, total - wide) if first else (total - wide, wide)
    left, right = x.split_with_sizes(sizes, dim=1)
    return left, right


@register_block("Conv", "DWConv", "CBH", "SimConv", "ConvModule", "Conv_C3")
class Conv(Block):
    """conv → bn → act: (b, c1, h, w) → (b, c2, h/s, w/s). `bn` is None in a checkpoint that was fused.

    YOLOv5-Lite's CBH calls its activation `hardswish`; YOLOv6's ConvModule may have none, and says so.
    """

    MEMBERS = ("conv",)
    OPTIONAL = ("bn", "act", "hardswish")
    SAYS = ("act", "hardswish", "activation_type")
    conv: nn.Conv2d
    bn: nn.BatchNorm2d | None
    act: Unary | None
    hardswish: Unary | None

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Kernel = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        padding: Kernel
        if p is not None:
            padding = p
        elif isinstance(k, int):
            padding = d * (k - 1) // 2
        else:
            padding = (d * (k[0] - 1) // 2, d * (k[1] - 1) // 2)
        self.conv = nn.Conv2d(c1, c2, k, s, padding, groups=g, dilation=d, bias=False)
        self.bn = batch_norm(c2)
        self.act = activation(act)
        self.hardswish = None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/s, w/s)."""
        y: Tensor = self.conv(x)
        if self.bn is not None:
            y = self.bn(y)
        act = self.act if self.act is not None else self.hardswish
        return y if act is None else act(y)

    def settle(self) -> None:
        """Refuses two activations, and parts in another order: which one comes first cannot be known."""
        if self.act is not None and self.hardswish is not None:
            raise ValueError("it holds two activations, act and hardswish")
        held = [name for name, part in self.named_children() if name in ("conv", "bn", "act", "hardswish")]
        if held[:1] != ["conv"] or held[1:] not in ([], ["bn"], ["bn", held[-1]], ["act"], ["hardswish"]):
            raise ValueError(f"it holds {', '.join(held)} in this order: a class that lists them so runs them so")


def dw_conv(c1: int, c2: int, k: int = 1, s: int = 1, act: bool | nn.Module = True) -> Conv:
    """The ecosystem's DWConv: a Conv whose groups are gcd(c1, c2)."""
    return Conv(c1, c2, k, s, g=_gcd(c1, c2), act=act)


def _gcd(a: int, b: int) -> int:
    return a if b == 0 else _gcd(b, a % b)


@register_block()
class Focus(Block):
    """Space to depth by slicing, in (row, col) order (0,0), (1,0), (0,1), (1,1), then `conv`.

    (b, c1, h, w) → (b, c2, h/2, w/2).
    """

    MEMBERS = ("conv",)
    conv: Unary

    def __init__(self, c1: int, c2: int, k: int = 1) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h/2, w/2)."""
        corners = [x[..., row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.conv(torch.cat(corners, 1))


@register_block("Bottleneck", "RepBottleneck", "BottleneckPruned", "RepNBottleneck", "CrossConv")
class Bottleneck(Block):
    """cv2(cv1(x)), plus x if `add`: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2")
    ATTRIBUTES = allow(add=REQUIRED)
    cv1: Unary
    cv2: Unary
    add: bool

    def __init__(
        self,
        c1: int,
        c2: int,
        *,
        shortcut: bool = True,
        g: int = 1,
        k: tuple[int, int] = (3, 3),
        e: float = 0.5,
        cv1: nn.Module | None = None,
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = cv1 if cv1 is not None else Conv(c1, c_, k[0], act=act)
        self.cv2 = Conv(c_, c2, k[1], g=g, act=act)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register_block("C3", "C3k", "C3Pruned", "RepCSP", "RepNCSP", "C3x", "C3SPP", "C3Ghost", "BepC3")
class C3(Block):
    """cv3(cat(m(cv1 x), cv2 x)): (b, c1, h, w) → (b, c2, h, w). All widths inside may differ (C3Pruned)."""

    MEMBERS = ("cv1", "cv2", "cv3", "m")
    ATTRIBUTES = allow(concat=True)
    cv1: Unary
    cv2: Unary
    cv3: Unary
    m: Unary
    concat: bool = True

    def settle(self) -> None:
        """Refuses YOLOv6's variant that leaves `cv2` out."""
        if self.concat is not True:
            raise ValueError("it does not concatenate cv2's output")

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        *,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        k: tuple[int, int] = (1, 3),
        act: bool | nn.Module = True,
    ) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_, act=act)
        self.cv2 = Conv(c1, c_, act=act)
        self.cv3 = Conv(2 * c_, c2, act=act)
        self.m = nn.Sequential(*(Bottleneck(c_, c_, shortcut=shortcut, g=g, k=k, e=1.0, act=act) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3Pruned(C3):
    """A C3 whose five widths are given one by one, as the published pruning scripts leave it.

    cv1: c1 → widths[0]; cv2: c1 → widths[1]; bottleneck i: its input → (inner, outer); cv3 → c2.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        widths: tuple[int, int],
        bottlenecks: Sequence[tuple[int, int]],
        *,
        shortcut: bool = True,
    ) -> None:
        Block.__init__(self)
        self.cv1 = Conv(c1, widths[0])
        self.cv2 = Conv(c1, widths[1])
        parts, last = [], widths[0]
        for inner, outer in bottlenecks:
            part = Bottleneck(last, outer, shortcut=shortcut, cv1=Conv(last, inner))
            part.cv2 = Conv(inner, outer, 3)
            parts.append(part)
            last = outer
        self.cv3 = Conv(last + widths[1], c2)
        self.m = nn.Sequential(*parts)


@register_block("SPP", "SPPPruned")
class SPP(Block):
    """cv2 of cv1's output and of its parallel pools: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "m")
    cv1: Unary
    cv2: Unary
    m: nn.ModuleList

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c_ * (len(k) + 1), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.cv1(x)
        return self.cv2(torch.cat([y, *(pool(y) for pool in self.m)], 1))


@register_block("SPPF", "SPPFPruned", "SimSPPF", "SPPFModule")
class SPPF(Block):
    """cv2 of cv1's output and of `n` chained pools, plus x if `add`: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("cv1", "cv2", "m")
    ATTRIBUTES = allow(n=None, add=False)
    cv1: Unary
    cv2: Unary
    m: Unary
    n: int | None
    add: bool

    def __init__(self, c1: int, c2: int, k: int = 5, n: int = 3, *, shortcut: bool = False, act: bool = True) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_, act=act)
        self.cv2 = Conv(c_ * (n + 1), c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)
        self.n = n
        self.add = shortcut and c1 == c2

    def settle(self) -> None:
        """The number of pools, which the widths say where no attribute does; refuses one that no network has."""
        if self.n is None:
            inner, outer = (part.conv if isinstance(part, Conv) else None for part in (self.cv1, self.cv2))
            self.n = outer.in_channels // inner.out_channels - 1 if inner is not None and outer is not None else 3
        if not isinstance(self.n, int) or not 0 <= self.n <= 64:
            raise ValueError(f"{self.n} pools")

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        parts = [self.cv1(x)]
        for _ in range(self.n or 0):
            parts.append(self.m(parts[-1]))
        y = self.cv2(torch.cat(parts, 1))
        return x + y if self.add else y


@register_block()
class Concat(Block):
    """Concatenate a list of tensors along axis `d`, which some forks call `dim`, `dimension` or `axis`."""

    ATTRIBUTES = allow(d=None, dim=None, dimension=None, axis=None)
    d: int
    dim: int | None = None
    dimension: int | None = None
    axis: int | None = None

    def settle(self) -> None:
        """One name for the axis; refuses several that differ."""
        known = {value for value in (self.d, self.dim, self.dimension, self.axis) if value is not None}
        if len(known) > 1 or any(type(value) is not int for value in known):
            raise ValueError(f"its axis is one of {', '.join(sorted(map(str, known)))}")
        self.d = known.pop() if known else 1
        self.dim = self.dimension = self.axis = None

    def __init__(self, d: int = 1) -> None:
        super().__init__()
        self.d = d

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Tensors equal in all axes but `d` → one tensor."""
        return torch.cat(tuple(x), self.d)


@register_block()
class ADD(Block):
    """x[0] + a·x[1] (YOLOv5-Lite-g)."""

    ATTRIBUTES = allow(a=1.0)
    a: float

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.a = alpha

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Two tensors of one shape → one tensor of it."""
        return x[0] + self.a * x[1]
