"""The anchor-free heads of YOLOv8 to YOLO26: detection, masks, key points, rotated boxes; and classification."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.models.blocks_common import Conv, dw_conv
from onnxslim_yolo.models.heads import DFL, Head, Proto
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block

MAX_DETECTIONS = 300


def flatten_map(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, c, h·w)."""
    return x.view(x.shape[0], x.shape[1], -1)


def _tower(c1: int, c_: int, c2: int) -> nn.Sequential:
    return nn.Sequential(Conv(c1, c_, 3), Conv(c_, c_, 3), nn.Conv2d(c_, c2, 1))


def _light_tower(c1: int, c_: int, c2: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(dw_conv(c1, c1, 3), Conv(c1, c_)),
        nn.Sequential(dw_conv(c_, c_, 3), Conv(c_, c_)),
        nn.Conv2d(c_, c2, 1),
    )


@register_block("Detect", "v10Detect")
class Detect(Head):
    """YOLOv8's head: per level `cv2` (4·reg_max box bins) and `cv3` (nc scores).

    Levels (b, c_i, h_i, w_i) → (b, 4 + nc, n), n = Σ h_i·w_i: xywh in pixels, then scores; raw: per level
    (b, 4·reg_max + nc, h_i, w_i). A box is its cell's centre ∓ (left, top, right, bottom), times the stride; each
    side the expectation over `reg_max` bins (`dfl`), or the number itself if reg_max is 1. With `one2one_cv2/3`
    (v10, 26) only these run, and the decoded output is (b, min(300, n), 6): xyxy, score, class, best first.
    """

    MEMBERS: ClassVar[tuple[str, ...]] = ("cv2", "cv3")
    OPTIONAL = ("one2one_cv2", "one2one_cv3", "dfl")
    ATTRIBUTES = allow(nc=REQUIRED, nl=REQUIRED, reg_max=16, no=REQUIRED, stride=REQUIRED)
    cv2: nn.ModuleList
    cv3: nn.ModuleList
    one2one_cv2: nn.ModuleList | None
    one2one_cv3: nn.ModuleList | None
    dfl: Unary | None
    nc: int
    nl: int
    no: int
    reg_max: int

    def __init__(
        self,
        ch: Sequence[int],
        nc: int,
        stride: Sequence[float],
        *,
        reg_max: int = 16,
        light: bool = False,
        end2end: bool = False,
    ) -> None:
        """`light`: depthwise class towers (v10 and later); `end2end`: with one-to-one towers."""
        super().__init__()
        self.nc, self.nl, self.reg_max = nc, len(ch), reg_max
        self.no = nc + 4 * reg_max
        self.stride = tuple(stride)
        c2 = max(16, ch[0] // 4, 4 * reg_max)
        c3 = max(ch[0], min(nc, 100))
        self.cv2 = nn.ModuleList(_tower(c, c2, 4 * reg_max) for c in ch)
        self.cv3 = nn.ModuleList((_light_tower if light else _tower)(c, c3, nc) for c in ch)
        self.dfl = DFL(reg_max) if reg_max > 1 else nn.Identity()
        self.one2one_cv2 = copy.deepcopy(self.cv2) if end2end else None
        self.one2one_cv3 = copy.deepcopy(self.cv3) if end2end else None

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels (b, c_i, h_i, w_i) → decoded or raw, see the class."""
        raw = self.levels(x)
        return tuple(raw) if self.output == "raw" else self.decode(raw)

    def levels(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Per level (b, 4·reg_max + nc, h_i, w_i)."""
        boxes = self.cv2 if self.one2one_cv2 is None else self.one2one_cv2
        scores = self.cv3 if self.one2one_cv3 is None else self.one2one_cv3
        return [torch.cat((boxes[i](level), scores[i](level)), 1) for i, level in enumerate(x)]

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        """(b, 4 + nc, n), or (b, k, 6) with one-to-one towers."""
        flat = torch.cat([flatten_map(level) for level in raw], 2)
        box, scores = flat.split_with_sizes((4 * self.reg_max, self.nc), 1)
        boxes = self.boxes(self.sides(box), *self.cells(raw))
        y = torch.cat((boxes, scores.sigmoid()), 1)
        return y if self.one2one_cv2 is None else self.best(y)

    def sides(self, box: Tensor) -> Tensor:
        """(b, 4·reg_max, n) → (b, 4, n) distances in cells."""
        return box if self.reg_max == 1 or self.dfl is None else self.dfl(box)

    def cells(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Centres (1, 2, n) in cells, and strides (1, 1, n) in pixels."""
        grids = [self.grid(level, 0.5).view(1, 2, -1) for level in raw]
        strides = [torch.full_like(grid[:, :1], s) for grid, s in zip(grids, self.stride, strict=True)]
        return torch.cat(grids, 2), torch.cat(strides, 2)

    def boxes(self, sides: Tensor, centre: Tensor, stride: Tensor) -> Tensor:
        """(b, 4, n) in pixels: xywh, or xyxy with one-to-one towers."""
        low, high = sides.split_with_sizes((2, 2), 1)
        top_left, bottom_right = centre - low, centre + high
        if self.one2one_cv2 is None:
            return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), 1) * stride
        return torch.cat((top_left, bottom_right), 1) * stride

    def best(self, y: Tensor) -> Tensor:
        """(b, 4 + nc, n) → (b, k, 6): the k best (position, class) pairs among the k best positions."""
        boxes, scores = y.transpose(1, 2).split_with_sizes((4, self.nc), 2)
        k = min(MAX_DETECTIONS, int(scores.shape[1]))
        positions = scores.amax(2).topk(k)[1].unsqueeze(2)
        boxes = boxes.gather(1, positions.expand(-1, -1, 4))
        scores = scores.gather(1, positions.expand(-1, -1, self.nc))
        score, index = scores.reshape(scores.shape[0], -1).topk(k)
        row = torch.div(index, self.nc, rounding_mode="floor").unsqueeze(2)
        label = (index - row.squeeze(2) * self.nc).unsqueeze(2).to(y.dtype)
        return torch.cat((boxes.gather(1, row.expand(-1, -1, 4)), score.unsqueeze(2), label), 2)


class _WithExtra(Detect):
    """A head with a third tower `cv4` of `extra` numbers a cell, appended to the decoded boxes."""

    cv4: nn.ModuleList

    def settle(self) -> None:
        """Refuses one-to-one towers, for which only plain detection is known here."""
        super().settle()
        if self.one2one_cv2 is not None:
            raise UnsupportedError(
                f"a {type(self).__name__} head with one-to-one towers (end to end) cannot be rebuilt",
                hint="export the model to ONNX with its own code and compile that file",
            )

    def _towers(self, ch: Sequence[int], extra: int) -> nn.ModuleList:
        c4 = max(ch[0] // 4, extra)
        return nn.ModuleList(_tower(c, c4, extra) for c in ch)

    def extra(self, x: Sequence[Tensor]) -> Tensor:
        """(b, extra, n)."""
        return torch.cat([flatten_map(self.cv4[i](level)) for i, level in enumerate(x)], 2)


@register_block("Segment")
class Segment(_WithExtra):
    """Detect plus `nm` mask coefficients a box and prototypes: (b, 4 + nc + nm, n) and (b, nm, 2h, 2w)."""

    MEMBERS = ("cv2", "cv3", "cv4", "proto")
    ATTRIBUTES = allow(**Detect.ATTRIBUTES, nm=32)
    proto: Unary
    nm: int

    def __init__(
        self, ch: Sequence[int], nc: int, stride: Sequence[float], *, nm: int = 32, npr: int = 256, light: bool = False
    ) -> None:
        super().__init__(ch, nc, stride, light=light)
        self.nm = nm
        self.proto = Proto(ch[0], npr, nm)
        self.cv4 = self._towers(ch, nm)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → (boxes with coefficients, prototypes), or raw maps, coefficients, prototypes."""
        proto, masks, raw = self.proto(x[0]), self.extra(x), self.levels(x)
        if self.output == "raw":
            return (*raw, masks, proto)
        return torch.cat((self.decode(raw), masks), 1), proto


@register_block("Pose")
class Pose(_WithExtra):
    """Detect plus key points: (b, 4 + nc + points·dims, n); x, y in pixels, a third dimension is σ(visibility)."""

    MEMBERS = ("cv2", "cv3", "cv4")
    ATTRIBUTES = allow(**Detect.ATTRIBUTES, kpt_shape=REQUIRED, nk=REQUIRED)
    kpt_shape: tuple[int, int]
    nk: int

    def __init__(
        self,
        ch: Sequence[int],
        nc: int,
        stride: Sequence[float],
        *,
        kpt_shape: tuple[int, int] = (17, 3),
        light: bool = False,
    ) -> None:
        super().__init__(ch, nc, stride, light=light)
        self.kpt_shape = kpt_shape
        self.nk = kpt_shape[0] * kpt_shape[1]
        self.cv4 = self._towers(ch, self.nk)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → (b, 4 + nc + nk, n), or raw maps and (b, nk, n)."""
        points, raw = self.extra(x), self.levels(x)
        if self.output == "raw":
            return (*raw, points)
        centre, stride = self.cells(raw)
        y = points.view(points.shape[0], self.kpt_shape[0], self.kpt_shape[1], -1)
        xy = (y[:, :, :2] * 2 + (centre - 0.5).unsqueeze(1)) * stride.unsqueeze(1)
        parts = (xy, y[:, :, 2:].sigmoid()) if self.kpt_shape[1] == 3 else (xy,)
        return torch.cat((self.decode(raw), torch.cat(parts, 2).view(points.shape[0], self.nk, -1)), 1)


@register_block("OBB")
class OBB(_WithExtra):
    """Detect with rotated boxes: (b, 4 + nc + ne, n); the angle is (σ − 0.25)·π, the centre's offset rotated by it."""

    MEMBERS = ("cv2", "cv3", "cv4")
    ATTRIBUTES = allow(**Detect.ATTRIBUTES, ne=1)
    ne: int

    def __init__(
        self, ch: Sequence[int], nc: int, stride: Sequence[float], *, ne: int = 1, light: bool = False
    ) -> None:
        super().__init__(ch, nc, stride, light=light)
        self.ne = ne
        self.cv4 = self._towers(ch, ne)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → (b, 4 + nc + ne, n), or raw maps and the angles before σ (b, ne, n)."""
        angle, raw = self.extra(x), self.levels(x)
        if self.output == "raw":
            return (*raw, angle)
        angle = (angle.sigmoid() - 0.25) * math.pi
        flat = torch.cat([flatten_map(level) for level in raw], 2)
        box, scores = flat.split_with_sizes((4 * self.reg_max, self.nc), 1)
        centre, stride = self.cells(raw)
        low, high = self.sides(box).split_with_sizes((2, 2), 1)
        x_off, y_off = ((high - low) / 2).split_with_sizes((1, 1), 1)
        cos, sin = angle.cos(), angle.sin()
        rotated = torch.cat((x_off * cos - y_off * sin, x_off * sin + y_off * cos), 1)
        boxes = torch.cat((rotated + centre, low + high), 1) * stride
        return torch.cat((boxes, scores.sigmoid(), angle), 1)


@register_block()
class Classify(Block):
    """conv, global pool, linear: (b, c1, h, w) or a list of such → (b, nc) probabilities, or raw: logits."""

    MEMBERS = ("conv", "linear")
    OPTIONAL = ("pool", "drop")
    conv: Unary
    pool: Unary | None
    linear: Unary
    output: str = "decoded"

    def __init__(self, c1: int, nc: int, hidden: int = 1280) -> None:
        super().__init__()
        self.conv = Conv(c1, hidden)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.0)
        self.linear = nn.Linear(hidden, nc)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """(b, c1, h, w) → (b, nc)."""
        whole = x if isinstance(x, Tensor) else torch.cat(tuple(x), 1)
        y = self.conv(whole).mean((2, 3), keepdim=True) if self.pool is None else self.pool(self.conv(whole))
        y = self.linear(y.flatten(1))
        return y if self.output == "raw" else y.softmax(1)
