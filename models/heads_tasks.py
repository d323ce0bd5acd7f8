"""The heads of YOLOv8 to YOLO26 that find more than boxes: masks, key points, rotated boxes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.heads import Proto
from onnxslim_yolo.models.heads_dfl import Detect, flatten_map, tower
from onnxslim_yolo.models.registry import Block, Unary, allow, register_block


class WithExtra(Detect):
    """A head with a third tower `cv4` of numbers a cell, which stand behind a box's scores.

    With one-to-one towers they stand behind score and class: (b, k, 6 + extra).
    """

    COUNT: ClassVar[str] = ""
    """The attribute that says how many numbers the tower gives."""

    RUNNING = (*Detect.RUNNING, "cv4")
    MEMBERS = (*Detect.MEMBERS, "cv4|one2one_cv4")
    OPTIONAL = (*Detect.OPTIONAL, "cv4", "one2one_cv4")
    cv4: nn.ModuleList | None
    one2one_cv4: nn.ModuleList | None

    def settle(self) -> None:
        """Refuses a head of which some towers are one-to-one and others are not: their numbers do not fit together."""
        super().settle()
        self._check_count()
        copies = {name: getattr(self, f"one2one_{name}") is not None for name in self.RUNNING}
        if len(set(copies.values())) > 1:
            lacking = ", ".join(name for name, there in copies.items() if not there)
            raise UnsupportedError(
                f"a {type(self).__name__} head has one-to-one towers, but no one-to-one copy of {lacking}",
                hint="export the model to ONNX with its own code and compile that file",
            )

    def _check_count(self) -> None:
        """The numbers a cell that the tower gives are as many as the head says."""
        last = [each for part in self.tower("cv4") for each in part.modules() if isinstance(each, nn.Conv2d)][-1:]
        if self.COUNT and last:
            self.require(**{self.COUNT: last[0].out_channels})

    def _towers(self, ch: Sequence[int], make: Callable[[int], nn.Module], *, end2end: bool, name: str = "cv4") -> None:
        towers = nn.ModuleList(make(c) for c in ch)
        setattr(self, name, towers)
        setattr(self, f"one2one_{name}", copy.deepcopy(towers) if end2end else None)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → (b, 4 + nc + e, n), or raw maps and (b, e, n) as the tower gives them."""
        extra, raw = self.extra(x), self.levels(x)
        return (*raw, extra) if self.output == "raw" else self.decode(raw, extra)

    def extra(self, x: Sequence[Tensor]) -> Tensor:
        """(b, e, n)."""
        towers = self.tower("cv4")
        return torch.cat([flatten_map(towers[i](level)) for i, level in enumerate(x)], 2)


@register_block("Segment", "Segment26")
class Segment(WithExtra):
    """Detect plus `nm` mask coefficients a box and prototypes: (b, 4 + nc + nm, n) and (b, nm, 2h, 2w).

    The prototypes come from the first level, or, in YOLO26 (`Proto26`), from all of them.
    """

    MEMBERS = (*WithExtra.MEMBERS, "proto")
    ATTRIBUTES = allow(**Detect.ATTRIBUTES, nm=32)
    DESCRIBING: ClassVar[tuple[str, ...]] = (*Detect.DESCRIBING, "npr")
    COUNT = "nm"
    proto: nn.Module
    nm: int

    def __init__(
        self,
        ch: Sequence[int],
        nc: int,
        stride: Sequence[float],
        *,
        nm: int = 32,
        npr: int = 256,
        fused_levels: bool = False,
        **kw: Any,
    ) -> None:
        """`fused_levels`: YOLO26's prototypes; `kw` as in Detect."""
        super().__init__(ch, nc, stride, **kw)
        self.nm = nm
        self.proto = Proto26(ch, npr, nm, nc) if fused_levels else Proto(ch[0], npr, nm)
        wide = max(ch[0] // 4, nm)
        self._towers(ch, lambda c: tower(c, wide, nm), end2end=self.one_to_one)

    def forward(self, x: Sequence[Tensor]) -> Any:
        """Levels → (boxes with coefficients, prototypes), or raw maps, coefficients, prototypes."""
        proto = self.proto(x if isinstance(self.proto, Proto26) else x[0])
        masks, raw = self.extra(x), self.levels(x)
        return (*raw, masks, proto) if self.output == "raw" else (self.decode(raw, masks), proto)


@register_block()
class Proto26(Proto):
    """YOLO26's prototypes: the levels, resized to the finest and summed, through `feat_fuse`, then as in Proto.

    Levels (b, c_i, h_i, w_i) → (b, c2, 2h, 2w). `semseg` is trained beside it and does not run.
    """

    MEMBERS = (*Proto.MEMBERS, "feat_refine", "feat_fuse")
    OPTIONAL = ("semseg",)
    IDLE = ("semseg",)
    feat_refine: nn.ModuleList
    feat_fuse: Unary
    semseg: nn.Module | None

    def __init__(self, ch: Sequence[int], c_: int, c2: int, nc: int) -> None:
        super().__init__(c_, c_, c2)
        self.feat_refine = nn.ModuleList(Conv(c, ch[0]) for c in ch[1:])
        self.feat_fuse = Conv(ch[0], c_, 3)
        self.semseg = nn.Sequential(Conv(ch[0], c_, 3), Conv(c_, c_, 3), nn.Conv2d(c_, nc, 1))

    def forward(self, x: Any) -> Tensor:
        """Levels, finest first, each half the size of the one before → (b, c2, 2h, 2w)."""
        total = x[0]
        for i, (refine, level) in enumerate(zip(self.feat_refine, x[1:], strict=True), 1):
            total = total + functional.interpolate(refine(level), scale_factor=float(2**i), mode="nearest")
        return super().forward(self.feat_fuse(total))


@register_block("Pose")
class Pose(WithExtra):
    """Detect plus key points: (b, 4 + nc + points·dims, n); x, y in pixels, a third dimension is σ(visibility).

    A point is (2·p + cell)·stride, with the cell's corner.
    """

    ATTRIBUTES = allow(**Detect.ATTRIBUTES, kpt_shape=(17, 3))
    DESCRIBING: ClassVar[tuple[str, ...]] = (*Detect.DESCRIBING, "nk")
    kpt_shape: Sequence[int]

    def __init__(
        self, ch: Sequence[int], nc: int, stride: Sequence[float], *, kpt_shape: tuple[int, int] = (17, 3), **kw: Any
    ) -> None:
        super().__init__(ch, nc, stride, **kw)
        self.kpt_shape = kpt_shape
        numbers = kpt_shape[0] * kpt_shape[1]
        wide = max(ch[0] // 4, numbers)
        self._towers(ch, lambda c: tower(c, wide, numbers), end2end=self.one_to_one)

    def decode(self, raw: Sequence[Tensor], extra: Tensor | None = None) -> Tensor:
        """(b, 4 + nc + points·dims, n), or (b, k, 6 + points·dims)."""
        return super().decode(raw, None if extra is None else self._points(extra, *self.cells(raw)))

    def _points(self, points: Tensor, centre: Tensor, stride: Tensor) -> Tensor:
        y = points.view(points.shape[0], *self.kpt_shape, -1)
        xy = self.place(y[:, :, :2], centre.unsqueeze(1)) * stride.unsqueeze(1)
        parts = (xy, y[:, :, 2:].sigmoid()) if self.kpt_shape[1] == 3 else (xy,)
        return torch.cat(parts, 2).view(points.shape[0], self.kpt_shape[0] * self.kpt_shape[1], -1)

    def place(self, xy: Tensor, centre: Tensor) -> Tensor:
        """Offsets (b, points, 2, n) and cells' centres (1, 1, 2, n) → points in cells."""
        return xy * 2 + (centre - 0.5)


@register_block("Pose26")
class Pose26(Pose):
    """YOLO26's key points: `cv4` gives features and `cv4_kpts` the numbers; a point is (p + cell's centre)·stride.

    `cv4_sigma` and `flow_model` are for the training loss and do not run.
    """

    RUNNING = (*Pose.RUNNING, "cv4_kpts")
    MEMBERS = (*Pose.MEMBERS, "cv4_kpts|one2one_cv4_kpts")
    IDLE = ("cv4_sigma", "one2one_cv4_sigma", "flow_model")
    OPTIONAL = (
        *Pose.OPTIONAL,
        *("cv4_kpts", "one2one_cv4_kpts", "cv4_sigma", "one2one_cv4_sigma", "flow_model"),
    )

    def __init__(
        self, ch: Sequence[int], nc: int, stride: Sequence[float], *, kpt_shape: tuple[int, int] = (17, 3), **kw: Any
    ) -> None:
        super().__init__(ch, nc, stride, kpt_shape=kpt_shape, **kw)
        points, dims = kpt_shape
        wide = max(ch[0] // 4, points * (dims + 2))
        ends = self.one_to_one
        self._towers(ch, lambda c: nn.Sequential(Conv(c, wide, 3), Conv(wide, wide, 3)), end2end=ends)
        self._towers(ch, lambda _: nn.Conv2d(wide, points * dims, 1), end2end=ends, name="cv4_kpts")
        self._towers(ch, lambda _: nn.Conv2d(wide, points * 2, 1), end2end=ends, name="cv4_sigma")
        self.flow_model = RealNVP()

    def extra(self, x: Sequence[Tensor]) -> Tensor:
        """(b, points·dims, n)."""
        features, numbers = self.tower("cv4"), self.tower("cv4_kpts")
        return torch.cat([flatten_map(numbers[i](features[i](level))) for i, level in enumerate(x)], 2)

    def place(self, xy: Tensor, centre: Tensor) -> Tensor:
        """Offsets (b, points, 2, n) and cells' centres (1, 1, 2, n) → points in cells."""
        return xy + centre


@register_block()
class RealNVP(Block):
    """The normalising flow of YOLO26's key-point loss, six affine couplings of 2 numbers. It only holds its tensors."""

    MEMBERS = ("s", "t")
    OPTIONAL = ("loc", "cov", "mask")

    def __init__(self, wide: int = 64, layers: int = 6) -> None:
        super().__init__()

        def net(*last: nn.Module) -> nn.Sequential:
            hidden = (nn.Linear(2, wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU(), nn.Linear(wide, 2))
            return nn.Sequential(*hidden, *last)

        self.register_buffer("loc", torch.zeros(2))
        self.register_buffer("cov", torch.eye(2))
        self.register_buffer("mask", torch.tensor([[float(i % 2), float(1 - i % 2)] for i in range(layers)]))
        self.s = nn.ModuleList(net(nn.Tanh()) for _ in range(layers))
        self.t = nn.ModuleList(net() for _ in range(layers))


@register_block("OBB")
class OBB(WithExtra):
    """Detect with rotated boxes: (b, 4 + nc + ne, n): xywh, scores, angle; the centre's offset is rotated by it.

    The angle is (σ − 0.25)·π. With one-to-one towers (b, k, 6 + ne): xywh, score, class, angle.
    """

    ATTRIBUTES = allow(**Detect.ATTRIBUTES, ne=1)
    DESCRIBING: ClassVar[tuple[str, ...]] = (*Detect.DESCRIBING, "angle")  # as last computed
    COUNT = "ne"
    ne: int

    def __init__(self, ch: Sequence[int], nc: int, stride: Sequence[float], *, ne: int = 1, **kw: Any) -> None:
        super().__init__(ch, nc, stride, **kw)
        self.ne = ne
        wide = max(ch[0] // 4, ne)
        self._towers(ch, lambda c: tower(c, wide, ne), end2end=self.one_to_one)

    def angle(self, logits: Tensor) -> Tensor:
        """The tower's numbers → radians."""
        return (logits.sigmoid() - 0.25) * math.pi

    def decode(self, raw: Sequence[Tensor], extra: Tensor | None = None) -> Tensor:
        """(b, 4 + nc + ne, n), or (b, k, 6 + ne)."""
        box, scores = self.split(raw)
        centre, stride = self.cells(raw)
        if extra is None:
            return self.table(self.boxes(self.sides(box), centre, stride), scores, None)
        angle = self.angle(extra)
        low, high = self.sides(box).split_with_sizes((2, 2), 1)
        x_off, y_off = ((high - low) / 2).split_with_sizes((1, 1), 1)
        cos, sin = angle.cos(), angle.sin()
        rotated = torch.cat((x_off * cos - y_off * sin, x_off * sin + y_off * cos), 1)
        return self.table(torch.cat((rotated + centre, low + high), 1) * stride, scores, angle)


@register_block("OBB26")
class OBB26(OBB):
    """YOLO26's rotated boxes: the tower's number is the angle in radians."""

    def angle(self, logits: Tensor) -> Tensor:
        """The tower's numbers are radians."""
        return logits
