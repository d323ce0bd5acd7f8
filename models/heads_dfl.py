"""The anchor-free detection head of YOLOv8 to YOLO26, and the classification head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import Conv, dw_conv
from onnxslim_yolo.models.heads import DFL, Head
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block

MAX_DETECTIONS = 300


def flatten_map(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, c, h·w)."""
    return x.view(x.shape[0], x.shape[1], -1)


def tower(c1: int, c_: int, c2: int) -> nn.Sequential:
    """Two 3×3 convolutions and a 1×1: (b, c1, h, w) → (b, c2, h, w)."""
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
    (v10, 26) only these run, and the decoded output is (b, min(300, n), 6): xyxy, score, class, best first; unless
    `_end2end` is False, as Ultralytics' validation leaves it from 8.4 on: then only `cv2` and `cv3` run. Fused
    checkpoints have lost the towers that do not.
    """

    RUNNING: ClassVar[tuple[str, ...]] = ("cv2", "cv3")
    """The towers that run, and so have a one-to-one copy all or none."""

    MEMBERS: ClassVar[tuple[str, ...]] = ("cv2|one2one_cv2", "cv3|one2one_cv3")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("cv2", "cv3", "one2one_cv2", "one2one_cv3", "dfl")
    ATTRIBUTES = allow(
        nc=REQUIRED,
        nl=REQUIRED,
        reg_max=16,
        no=REQUIRED,
        stride=REQUIRED,
        end2end=True,
        _end2end=True,
        max_det=MAX_DETECTIONS,
        agnostic_nms=False,
        xyxy=False,
    )
    DESCRIBING: ClassVar[tuple[str, ...]] = (*Head.DESCRIBING, "anchors")  # the cells' centres, as last computed
    cv2: nn.ModuleList  # None in a fused checkpoint that has one-to-one towers
    cv3: nn.ModuleList
    one2one_cv2: nn.ModuleList | None
    one2one_cv3: nn.ModuleList | None
    dfl: Unary | None
    nc: int
    nl: int
    no: int
    reg_max: int
    end2end: bool = True
    _end2end: bool = True
    max_det: int = MAX_DETECTIONS
    agnostic_nms: bool = False
    xyxy: bool = False

    def settle(self) -> None:
        """Refuses a head whose counts are not its towers', or that is set to give another table than this one."""
        super().settle()
        self.require(nl=len(self.tower("cv2")), no=self.nc + 4 * self.reg_max, xyxy=False)
        self.require(_end2end=bool(self._end2end))
        if self.one2one_cv2 is not None:
            self.require(end2end=True)
        if self.one_to_one:
            self.require(agnostic_nms=False)

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
        self.cv2 = nn.ModuleList(tower(c, c2, 4 * reg_max) for c in ch)
        self.cv3 = nn.ModuleList((_light_tower if light else tower)(c, c3, nc) for c in ch)
        self.dfl = DFL(reg_max) if reg_max > 1 else nn.Identity()
        self.one2one_cv2 = copy.deepcopy(self.cv2) if end2end else None
        self.one2one_cv3 = copy.deepcopy(self.cv3) if end2end else None

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels (b, c_i, h_i, w_i) → decoded or raw, see the class."""
        raw = self.levels(x)
        return tuple(raw) if self.output == "raw" else self.decode(raw)

    @property
    def one_to_one(self) -> bool:
        """Whether one-to-one towers run; then only they do, and the best boxes are chosen in the graph."""
        return self.one2one_cv2 is not None and (self._end2end or self.cv2 is None)

    def idle(self) -> tuple[str, ...]:
        """Of the towers that there are twice, those that do not run."""
        copies = tuple(f"one2one_{name}" for name in self.RUNNING)
        return (*self.IDLE, *(self.RUNNING if self.one_to_one else copies))

    def tower(self, name: str) -> nn.ModuleList:
        """The towers `name` (cv2, cv3 …) that run: the one-to-one copy where that does."""
        copied = getattr(self, f"one2one_{name}", None) if self.one_to_one else None
        towers: nn.ModuleList = getattr(self, name) if copied is None else copied
        return towers

    def levels(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Per level (b, 4·reg_max + nc, h_i, w_i)."""
        boxes, scores = self.tower("cv2"), self.tower("cv3")
        return [torch.cat((boxes[i](level), scores[i](level)), 1) for i, level in enumerate(x)]

    def decode(self, raw: Sequence[Tensor], extra: Tensor | None = None) -> Tensor:
        """(b, 4 + nc + e, n), or (b, k, 6 + e) with one-to-one towers; `extra` is (b, e, n)."""
        box, scores = self.split(raw)
        return self.table(self.boxes(self.sides(box), *self.cells(raw)), scores, extra)

    def split(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps → (b, 4·reg_max, n) and (b, nc, n)."""
        flat = torch.cat([flatten_map(level) for level in raw], 2)
        box, scores = flat.split_with_sizes((4 * self.reg_max, self.nc), 1)
        return box, scores

    def table(self, boxes: Tensor, scores: Tensor, extra: Tensor | None) -> Tensor:
        """Boxes (b, 4, n), logits (b, nc, n), extra (b, e, n) → the head's output."""
        y = torch.cat((boxes, scores.sigmoid()), 1)
        y = y if extra is None else torch.cat((y, extra), 1)
        return self.best(y) if self.one_to_one else y

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
        if not self.one_to_one:
            return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), 1) * stride
        return torch.cat((top_left, bottom_right), 1) * stride

    def best(self, y: Tensor) -> Tensor:
        """(b, 4 + nc + e, n) → (b, k, 6 + e): the k best (position, class) pairs among the k best positions."""
        extra = int(y.shape[1]) - 4 - self.nc
        columns = y.transpose(1, 2)
        if extra:
            boxes, scores, rest = columns.split_with_sizes((4, self.nc, extra), 2)
            boxes = torch.cat((boxes, rest), 2)
        else:
            boxes, scores = columns.split_with_sizes((4, self.nc), 2)
        k = min(self.max_det if self.max_det > 0 else MAX_DETECTIONS, int(scores.shape[1]))
        positions = scores.amax(2).topk(k)[1].unsqueeze(2)
        boxes = boxes.gather(1, positions.expand(-1, -1, 4 + extra))
        scores = scores.gather(1, positions.expand(-1, -1, self.nc))
        score, index = scores.reshape(scores.shape[0], -1).topk(k)
        row = torch.div(index, self.nc, rounding_mode="floor").unsqueeze(2)
        label = (index - row.squeeze(2) * self.nc).unsqueeze(2).to(y.dtype)
        boxes = boxes.gather(1, row.expand(-1, -1, 4 + extra))
        if not extra:
            return torch.cat((boxes, score.unsqueeze(2), label), 2)
        boxes, rest = boxes.split_with_sizes((4, extra), 2)
        return torch.cat((boxes, score.unsqueeze(2), label, rest), 2)


@register_block()
class Classify(Block):
    """conv, global pool, linear: (b, c1, h, w) or a list of such → (b, nc) probabilities, or raw: logits."""

    MEMBERS = ("conv", "linear")
    OPTIONAL = ("pool", "drop")
    DESCRIBING: ClassVar[tuple[str, ...]] = ("output",)
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
