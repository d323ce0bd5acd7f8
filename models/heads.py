"""Detection heads. Every head has `output`: "decoded" (the ecosystem's exported layout) or "raw" (maps per level).

Grids are computed from the feature maps' sizes. With `dynamic` they stay symbolic in a trace; without, the sizes are
read as Python integers and the grids become constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block

ROUNDED = 0.01
"""By how much anchors stored in float16, as cells and as pixels, may differ."""


def as_floats(values: Tensor | Sequence[float]) -> tuple[float, ...]:
    """Numbers of a tensor or sequence as Python floats, which a trace treats as constants."""
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().flatten().tolist()
    return tuple(float(value) for value in values)


class Head(Block):
    """What all heads share: `stride` in pixels per level, `output`, `dynamic`."""

    DESCRIBING: ClassVar[tuple[str, ...]] = ("output",)
    stride: tuple[float, ...]
    output: str = "decoded"
    dynamic: bool = False

    def settle(self) -> None:
        """Strides become Python floats."""
        self.stride = as_floats(self.stride)

    def require(self, **expected: Any) -> None:
        """Refuses a head of which an attribute says something else than what is computed here.

        Raises:
            UnsupportedError: names the first.
        """
        for name, value in expected.items():
            if (held := getattr(self, name)) != value:
                raise UnsupportedError(
                    f"the head says {name} = {str(held)[:40]}, where the rest of it means {value}: what it computes is "
                    "not known here",
                    hint="export the model with its own code and compile that file",
                )

    def size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of a feature map, as constants unless `dynamic`."""
        h, w = x.shape[-2:]
        return (h, w) if self.dynamic else (int(h), int(w))

    def grid(self, x: Tensor, offset: float) -> Tensor:
        """(1, 2, h, w) x and y coordinates of a map's cells, plus `offset`."""
        h, w = self.size(x)
        col = torch.arange(w, device=x.device).to(x.dtype) + offset
        row = torch.arange(h, device=x.device).to(x.dtype) + offset
        return torch.stack((col.view(1, -1).expand(h, w), row.view(-1, 1).expand(h, w))).unsqueeze(0)


@register_block("Detect", "IDetect", "IAuxDetect", "Segment")
class AnchorDetect(Head):
    """YOLOv5's head: per level a 1×1 conv to na·(5 + nc) channels, decoded with anchors.

    xy = (2σ − 0.5 + cell)·stride, wh = (2σ)²·anchor·stride. Levels (b, c_i, h_i, w_i) → (b, Σ na·h_i·w_i, 5 + nc),
    or raw: the convolutions' outputs (b, na·no, h_i, w_i). `anchors` is in units of the stride. YOLOv7's IDetect
    adds `ia` before and multiplies by `im` after the convolution. With masks (`proto`), (…, 5 + nc + nm) and the
    prototypes (b, nm, 4h, 4w) are returned.
    """

    MEMBERS = ("m", "anchors")
    OPTIONAL = ("ia", "im", "proto")
    IDLE = ("anchors", "anchor_grid", "stride", "m2")
    ATTRIBUTES = allow(nc=REQUIRED, no=REQUIRED, na=REQUIRED, nl=REQUIRED, nm=0, stride=REQUIRED, include_nms=False)
    DESCRIBING: ClassVar[tuple[str, ...]] = (
        *(*Head.DESCRIBING, "npr"),
        *("concat", "end2end"),  # YOLOv7's: in which form the same table is returned
    )
    m: nn.ModuleList
    ia: nn.ModuleList | None
    im: nn.ModuleList | None
    proto: Unary | None
    anchors: Tensor
    nc: int
    no: int
    na: int
    nl: int
    nm: int
    include_nms: bool = False

    def __init__(
        self,
        ch: Sequence[int],
        nc: int,
        anchors: Sequence[Sequence[float]],
        stride: Sequence[float],
        *,
        implicit: bool = False,
        nm: int = 0,
        npr: int = 256,
    ) -> None:
        """`anchors`: per level w, h, w, h, … in pixels; `stride` per level; `nm` masks of `npr` wide prototypes."""
        super().__init__()
        self.nc, self.nm = nc, nm
        self.no = 5 + nc + nm
        self.nl = len(anchors)
        self.na = len(anchors[0]) // 2
        self.stride = as_floats(stride)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(self.nl, self.na, 2)
        self.register_buffer("anchors", pixels / torch.tensor(self.stride).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, self.na * self.no, 1) for c in ch)
        self.ia = nn.ModuleList(ImplicitA(c) for c in ch) if implicit else None
        self.im = nn.ModuleList(ImplicitM(self.na * self.no) for _ in ch) if implicit else None
        self.proto = Proto(ch[0], npr, nm, resize=True) if nm else None
        self.settle()

    def settle(self) -> None:
        """Strides and anchors (in pixels, per level) become Python floats."""
        super().settle()
        self._check_columns()
        self.require(include_nms=False, nl=len(self.anchors), na=int(self.anchors.shape[1]))
        sizes = self.anchors.detach().float().cpu().tolist()
        self._pixels = [
            [[float(side) * stride for side in anchor] for anchor in level]
            for level, stride in zip(sizes, self.stride, strict=True)
        ]
        self._check_grid()

    def _check_grid(self) -> None:
        """Early heads decode by a second copy of the anchors, in pixels, which has to say the same."""
        grid = getattr(self, "anchor_grid", None)
        if not isinstance(grid, Tensor) or grid.numel() != self.anchors.numel():
            return  # not filled yet
        pixels = torch.tensor(self._pixels)
        if not torch.allclose(grid.detach().float().cpu().view_as(pixels), pixels, rtol=ROUNDED):
            raise UnsupportedError(
                "the head's anchor_grid is not its anchors times its stride: which of them decodes is not known",
                hint="export the model with its own code and compile that file",
            )

    def _check_columns(self) -> None:
        """An anchor has 5 + nc + nm numbers. Whatever has more is decoded in a way that is not known here."""
        expected = 5 + self.nc + self.nm
        widths = {part.out_channels for part in self.m.children() if isinstance(part, nn.Conv2d)}
        columns = {self.no, *(wide // self.na for wide in widths)}
        if columns == {expected} and widths <= {self.na * self.no}:
            return
        more = max(columns) - expected
        kind = " (a YOLOv5-face head has 10 more, for five landmarks)" if more == 10 else ""
        raise UnsupportedError(
            f"the head has {' or '.join(map(str, sorted(columns)))} columns an anchor, where box, objectness and "
            f"{self.nc} class(es){f' and {self.nm} mask coefficients' if self.nm else ''} make {expected}{kind}: "
            "how it is decoded is not known here",
            hint="export the model with its own code and compile that file",
        )

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels (b, c_i, h_i, w_i) → decoded or raw, see the class."""
        raw = [self._level(i, level) for i, level in enumerate(x[: self.nl])]  # IAuxDetect: auxiliary levels behind
        proto = None if self.proto is None else self.proto(x[0])
        if self.output == "raw":
            return tuple(raw) if proto is None else (*raw, proto)
        boxes = torch.cat([self._decode(i, level) for i, level in enumerate(raw)], 1)
        return boxes if proto is None else (boxes, proto)

    def _level(self, i: int, x: Tensor) -> Tensor:
        if self.ia is not None:
            x = self.ia[i](x)
        y: Tensor = self.m[i](x)
        return y if self.im is None else self.im[i](y)

    def _decode(self, i: int, x: Tensor) -> Tensor:
        h, w = self.size(x)
        y = x.view(x.shape[0], self.na, self.no, h, w).permute(0, 1, 3, 4, 2)
        masks = None
        if self.nm:
            y, masks = y.split_with_sizes((5 + self.nc, self.nm), 4)
        xy, wh, scores = y.sigmoid().split_with_sizes((2, 2, self.nc + 1), 4)
        cells = self.grid(x, -0.5).permute(0, 2, 3, 1).unsqueeze(1)
        anchor = torch.tensor(self._pixels[i], dtype=x.dtype, device=x.device).view(1, self.na, 1, 1, 2)
        xy = (xy * 2 + cells) * self.stride[i]
        wh = (wh * 2) ** 2 * anchor
        parts = (xy, wh, scores) if masks is None else (xy, wh, scores, masks)
        return torch.cat(parts, 4).view(x.shape[0], self.na * h * w, self.no)


@register_block()
class ImplicitA(Block):
    """x + implicit, per channel (YOLOv7): (b, c, h, w) → the same."""

    MEMBERS = ("implicit",)
    DESCRIBING = ("channel", "mean", "std")
    implicit: Tensor

    def __init__(self, c: int) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return x + self.implicit


@register_block()
class ImplicitM(Block):
    """x · implicit, per channel (YOLOv7): (b, c, h, w) → the same."""

    MEMBERS = ("implicit",)
    DESCRIBING = ("channel", "mean", "std")
    implicit: Tensor

    def __init__(self, c: int) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.ones(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return x * self.implicit


@register_block()
class DFL(Block):
    """Expectation over `c1` bins per side: (b, 4·c1, n) → (b, 4, n). `conv` holds 0 … c1 − 1 and is never pruned."""

    MEMBERS = ("conv",)
    ATTRIBUTES = allow(c1=REQUIRED)
    conv: Unary
    c1: int

    def __init__(self, c1: int = 16) -> None:
        super().__init__()
        conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        conv.weight.data[:] = torch.arange(c1, dtype=torch.float32).view(1, c1, 1, 1)
        self.conv = conv
        self.c1 = c1

    def forward(self, x: Tensor) -> Tensor:
        """(b, 4·c1, n) → (b, 4, n)."""
        bins = x.view(x.shape[0], 4, self.c1, -1).transpose(1, 2).softmax(1)
        return self.conv(bins).squeeze(1)


@register_block()
class Proto(Block):
    """Mask prototypes: (b, c1, h, w) → (b, c2, 2h, 2w); `upsample` is a transposed conv (v8) or a resize (v5)."""

    MEMBERS: ClassVar[tuple[str, ...]] = ("cv1", "upsample", "cv2", "cv3")
    cv1: Unary
    upsample: Unary
    cv2: Unary
    cv3: Unary

    def __init__(self, c1: int, c_: int, c2: int, *, resize: bool = False) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c_, 3)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest") if resize else nn.ConvTranspose2d(c_, c_, 2, 2)
        self.cv2 = Conv(c_, c_, 3)
        self.cv3 = Conv(c_, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, 2h, 2w)."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))
