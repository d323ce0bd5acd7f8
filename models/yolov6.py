"""YOLOv6: EfficientRep, RepPAN and an anchor-free decoupled head, in a container of its own.

Release 2; what release 3 adds is in `yolov6_r3`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import SPPF, Conv
from onnxslim_yolo.models.blocks_rep import RepBlock, RepVGGBlock
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.registry import REQUIRED, Block, Unary, allow, register_block

Levels = Sequence[Tensor]


def _relu(c1: int, c2: int, k: int = 1, s: int = 1) -> Conv:
    return Conv(c1, c2, k, s, act=nn.ReLU())


@register_block("ConvBNReLU", "ConvBNSiLU", "ConvBNHS", "ConvBN", "SimSPPF", "SPPF", "CSPSPPF", "SimCSPSPPF")
class Wrapped(Block):
    """A named shell around one module, `block`, `sppf` or `cspsppf`: it passes its input on."""

    MEMBERS = ("block|sppf|cspsppf",)
    OPTIONAL = ("block", "sppf", "cspsppf")
    block: Unary | None
    sppf: Unary | None
    cspsppf: Unary | None

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the module inside does."""
        inner = next((each for each in (self.block, self.sppf, self.cspsppf) if each is not None), None)
        return x if inner is None else inner(x)


@register_block("Transpose")
class Transpose(Block):
    """Learnt upsampling by 2: (b, c1, h, w) → (b, c2, 2h, 2w)."""

    MEMBERS = ("upsample_transpose",)
    upsample_transpose: Unary

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(c1, c2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, 2h, 2w)."""
        return self.upsample_transpose(x)


@register_block("EfficientRep", "EfficientRep6", "CSPBepBackbone", "CSPBepBackbone_P6")
class EfficientRep(Block):
    """Backbone: (b, 3, H, W) → maps at strides 8, 16, 32 (4 before with `fuse_P2`, 64 behind with `ERBlock_6`)."""

    MEMBERS = ("stem", "ERBlock_2", "ERBlock_3", "ERBlock_4", "ERBlock_5")
    OPTIONAL = ("ERBlock_6",)
    ATTRIBUTES = allow(fuse_P2=False)
    stem: Unary
    ERBlock_2: Unary
    ERBlock_3: Unary
    ERBlock_4: Unary
    ERBlock_5: Unary
    ERBlock_6: Unary | None
    fuse_P2: bool  # noqa: N815  the checkpoint's name

    def __init__(self, channels: Sequence[int], repeats: Sequence[int]) -> None:
        super().__init__()
        self.fuse_P2, self.ERBlock_6 = False, None
        self.stem = RepVGGBlock(3, channels[0], 2)
        for i, (c1, c2, n) in enumerate(zip(channels, channels[1:], repeats, strict=False), 2):
            parts: list[nn.Module] = [RepVGGBlock(c1, c2, 2), RepBlock(c2, c2, n)]
            if i == 5:
                pool = SPPF(c2, c2)
                pool.cv1, pool.cv2 = _relu(c2, c2 // 2), _relu(2 * c2, c2)
                parts.append(pool)
            setattr(self, f"ERBlock_{i}", nn.Sequential(*parts))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, H, W) → one map a level, finest first."""
        p2 = self.ERBlock_2(self.stem(x))
        p3 = self.ERBlock_3(p2)
        p4 = self.ERBlock_4(p3)
        p5 = self.ERBlock_5(p4)
        maps = (p3, p4, p5) if self.ERBlock_6 is None else (p3, p4, p5, self.ERBlock_6(p5))
        return (p2, *maps) if self.fuse_P2 else maps


@register_block("RepPANNeck", "CSPRepPANNeck")
class RepPANNeck(Block):
    """Top-down with learnt upsampling, then bottom-up: maps at strides 8, 16, 32 → the same."""

    MEMBERS = (
        *("Rep_p4", "Rep_p3", "Rep_n3", "Rep_n4"),
        *("reduce_layer0", "upsample0", "reduce_layer1", "upsample1", "downsample2", "downsample1"),
    )
    Rep_p4: Unary
    Rep_p3: Unary
    Rep_n3: Unary
    Rep_n4: Unary
    reduce_layer0: Unary
    reduce_layer1: Unary
    upsample0: Unary
    upsample1: Unary
    downsample1: Unary
    downsample2: Unary

    def __init__(self, channels: Sequence[int], wide: Sequence[int], n: int) -> None:
        """`channels` of the three inputs; `wide`: of P4, P3, down 2, N3, down 1, N4."""
        super().__init__()
        c3, c4, c5 = channels
        p4, p3, d2, n3, d1, n4 = wide
        self.Rep_p4 = RepBlock(c4 + p4, p4, n)
        self.Rep_p3 = RepBlock(c3 + p3, p3, n)
        self.Rep_n3 = RepBlock(d2 + p3, n3, n)
        self.Rep_n4 = RepBlock(d1 + p4, n4, n)
        self.reduce_layer0, self.upsample0 = _relu(c5, p4), Transpose(p4, p4)
        self.reduce_layer1, self.upsample1 = _relu(p4, p3), Transpose(p3, p3)
        self.downsample2, self.downsample1 = _relu(p3, d2, 3, 2), _relu(n3, d1, 3, 2)

    def forward(self, x: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at strides 8, 16, 32 → the same strides."""
        p3, p4, p5 = x
        top = self.reduce_layer0(p5)
        middle = self.Rep_p4(torch.cat((self.upsample0(top), p4), 1))
        reduced = self.reduce_layer1(middle)
        out3 = self.Rep_p3(torch.cat((self.upsample1(reduced), p3), 1))
        out4 = self.Rep_n3(torch.cat((self.downsample2(out3), reduced), 1))
        out5 = self.Rep_n4(torch.cat((self.downsample1(out4), top), 1))
        return out3, out4, out5


@register_block("Detect")
class Detect(Head):
    """Per level a stem, then class and box branches. Branches that only help training (`*_ab`, `*_dist`) do not run.

    Levels (b, c_i, h_i, w_i) → (b, n, 5 + nc): xywh in pixels, 1, scores; raw: per level (b, 4·(reg_max + 1) + nc,
    h_i, w_i). Box sides are direct numbers, or expectations over reg_max + 1 bins (`proj_conv`); which, the number of
    channels tells: a self-distilled head is trained with bins and runs without.
    """

    MEMBERS: ClassVar[tuple[str, ...]] = ("stems", "cls_convs", "reg_convs", "cls_preds", "reg_preds")
    OPTIONAL = ("proj_conv",)
    IDLE = ("proj", "proj_conv", "*_ab", "*_dist")
    ATTRIBUTES = allow(nc=REQUIRED, nl=REQUIRED, stride=REQUIRED, grid_cell_offset=0.5, use_dfl=True)
    DESCRIBING: ClassVar[tuple[str, ...]] = (
        *(*Head.DESCRIBING, "no", "na", "anchors", "anchors_init", "iou_type", "grid_cell_size"),
        "reg_max",  # told by the number of channels
    )
    stems: nn.ModuleList
    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList
    cls_preds: nn.ModuleList
    reg_preds: nn.ModuleList
    proj_conv: Unary | None
    nc: int
    nl: int
    grid_cell_offset: float = 0.5
    use_dfl: bool = True

    def settle(self) -> None:
        """Refuses a head of as many levels as it does not say, or of bins that it says it does not use."""
        super().settle()
        self.require(nl=len(self.stems))
        if any(getattr(part, "out_channels", 4) > 4 for part in self.reg_preds):
            self.require(use_dfl=True)

    def __init__(self, ch: Sequence[int], nc: int, stride: Sequence[float]) -> None:
        super().__init__()
        self.nc, self.nl, self.stride = nc, len(ch), tuple(stride)
        self.proj_conv = None

        def each(make: Callable[[int], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(make(c) for c in ch)

        self.stems = each(lambda c: Conv(c, c))
        self.cls_convs = each(lambda c: Conv(c, c, 3))
        self.reg_convs = each(lambda c: Conv(c, c, 3))
        self.cls_preds = each(lambda c: nn.Conv2d(c, nc, 1))
        self.reg_preds = each(lambda c: nn.Conv2d(c, 4, 1))

    def forward(self, x: Levels) -> Any:
        """Levels → decoded or raw, see the class."""
        stems = [stem(level) for stem, level in zip(self.stems, x, strict=True)]
        boxes = [p(c(y)) for p, c, y in zip(self.reg_preds, self.reg_convs, stems, strict=True)]
        scores = [p(c(y)) for p, c, y in zip(self.cls_preds, self.cls_convs, stems, strict=True)]
        if self.output == "raw":
            return tuple(torch.cat(pair, 1) for pair in zip(boxes, scores, strict=True))
        flat = [self._decode(i, box, score) for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
        return torch.cat(flat, 1)

    def _decode(self, i: int, box: Tensor, score: Tensor) -> Tensor:
        b, bins_a_side = box.shape[0], int(box.shape[1]) // 4
        if bins_a_side > 1 and self.proj_conv is not None:
            bins = box.view(b, 4, bins_a_side, -1).transpose(1, 2)
            sides = self.proj_conv(bins.softmax(1)).view(b, 4, -1)
        else:
            sides = box.view(b, 4, -1)
        centre = self.grid(box, self.grid_cell_offset).view(1, 2, -1)
        low, high = sides.split_with_sizes((2, 2), 1)
        top_left, bottom_right = centre - low, centre + high
        boxes = torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), 1) * self.stride[i]
        scores = score.view(b, self.nc, -1).sigmoid()
        return torch.cat((boxes, torch.ones_like(scores[:, :1]), scores), 1).transpose(1, 2)


@register_block("Model")
class YOLOv6(Block):
    """backbone → neck → detect: (b, 3, H, W) → the head's output."""

    MEMBERS = ("backbone", "neck", "detect")
    backbone: Callable[[Tensor], Levels]
    neck: Callable[[Levels], Levels]
    detect: Callable[[Levels], Any]

    def __init__(self, nc: int, width: float = 1.0, depth: float = 0.33) -> None:
        super().__init__()

        def wide(c: int) -> int:
            return max(int(-(-c * 0.25 * width // 8) * 8), 8)

        channels = [wide(c) for c in (64, 128, 256, 512, 1024)]
        self.backbone = EfficientRep(channels, [max(round(n * depth), 1) for n in (6, 12, 18, 6)])
        neck = [wide(c) for c in (256, 128, 128, 256, 256, 512)]
        self.neck = RepPANNeck(channels[2:], neck, max(round(12 * depth), 1))
        self.detect = Detect((neck[1], neck[3], neck[5]), nc, (8.0, 16.0, 32.0))

    def forward(self, x: Tensor) -> Any:
        """(b, 3, H, W) → the head's output."""
        return self.detect(self.neck(self.backbone(x)))
