"""YOLOv6, release 3: bidirectional fusion in the neck, and the blocks of its larger and quantisation-aware variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onnxslim_yolo.models.blocks_common import Conv, batch_norm, input_width
from onnxslim_yolo.models.blocks_rep import RepBlock, RepVGGBlock, conv_norm
from onnxslim_yolo.models.registry import Block, Unary, allow, register_block
from onnxslim_yolo.models.yolov6 import Detect, EfficientRep, Levels, Transpose, YOLOv6, _relu


@register_block()
class CSPSPPFModule(Block):
    """cv7(cat(cv2 x, cv6(cv5(cat(y, three chained pools of y))))), y = cv4(cv3(cv1 x)).

    (b, c1, h, w) → (b, c2, h, w).
    """

    MEMBERS = ("cv1", "cv2", "cv3", "cv4", "m", "cv5", "cv6", "cv7")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    cv4: Unary
    cv5: Unary
    cv6: Unary
    cv7: Unary
    m: Unary

    def __init__(self, c1: int, c2: int, k: int = 5, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1, self.cv2 = _relu(c1, c_), _relu(c1, c_)
        self.cv3, self.cv4 = _relu(c_, c_, 3), _relu(c_, c_)
        self.m = nn.MaxPool2d(k, 1, k // 2)
        self.cv5, self.cv6 = _relu(4 * c_, c_), _relu(c_, c_, 3)
        self.cv7 = _relu(2 * c_, c2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        parts = [self.cv4(self.cv3(self.cv1(x)))]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv7(torch.cat((self.cv2(x), self.cv6(self.cv5(torch.cat(parts, 1)))), 1))


@register_block()
class BiFusion(Block):
    """cv3 of three levels: x[0] upsampled, cv1 x[1], and cv2 x[2] downsampled.

    (b, c, h/2, w/2), (b, c1, h, w), (b, c2, 2h, 2w) → (b, c, h, w).
    """

    MEMBERS = ("cv1", "cv2", "cv3", "upsample", "downsample")
    cv1: Unary
    cv2: Unary
    cv3: Unary
    upsample: Unary
    downsample: Unary

    def __init__(self, c1: int, c2: int, c: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = _relu(c1, c), _relu(c2, c), _relu(3 * c, c)
        self.upsample = Transpose(c, c)
        self.downsample = _relu(c, c, 3, 2)

    def forward(self, x: Levels) -> Tensor:
        """Three maps, coarse to fine → one at the middle one's size."""
        coarse, middle, fine = x
        parts = (self.upsample(coarse), self.cv1(middle), self.downsample(self.cv2(fine)))
        return self.cv3(torch.cat(parts, 1))


@register_block("RepBiFPANNeck", "CSPRepBiFPANNeck")
class RepBiFPANNeck(Block):
    """Top-down with BiFusion, then bottom-up: maps at strides 4, 8, 16, 32 → at 8, 16, 32."""

    MEMBERS = (
        *("reduce_layer0", "Bifusion0", "Rep_p4", "reduce_layer1", "Bifusion1", "Rep_p3"),
        *("downsample2", "Rep_n3", "downsample1", "Rep_n4"),
    )
    reduce_layer0: Unary
    reduce_layer1: Unary
    Bifusion0: nn.Module
    Bifusion1: nn.Module
    Rep_p4: Unary
    Rep_p3: Unary
    Rep_n3: Unary
    Rep_n4: Unary
    downsample1: Unary
    downsample2: Unary

    def __init__(self, channels: Sequence[int], wide: Sequence[int], n: int) -> None:
        """`channels` of the four inputs; `wide`: of P4, P3, down 2, N3, down 1, N4."""
        super().__init__()
        c2, c3, c4, c5 = channels
        p4, p3, d2, n3, d1, n4 = wide
        self.reduce_layer0, self.reduce_layer1 = _relu(c5, p4), _relu(p4, p3)
        self.Bifusion0, self.Bifusion1 = BiFusion(c4, c3, p4), BiFusion(c3, c2, p3)
        self.Rep_p4, self.Rep_p3 = RepBlock(p4, p4, n), RepBlock(p3, p3, n)
        self.downsample2, self.Rep_n3 = _relu(p3, d2, 3, 2), RepBlock(p3 + d2, n3, n)
        self.downsample1, self.Rep_n4 = _relu(n3, d1, 3, 2), RepBlock(p4 + d1, n4, n)

    def forward(self, x: Levels) -> tuple[Tensor, ...]:
        """Maps at strides 4, 8, 16, 32 → at 8, 16, 32."""
        p2, p3, p4, p5 = x
        top = self.reduce_layer0(p5)
        middle = self.Rep_p4(self.Bifusion0((top, p4, p3)))
        reduced = self.reduce_layer1(middle)
        out3 = self.Rep_p3(self.Bifusion1((reduced, p3, p2)))
        out4 = self.Rep_n3(torch.cat((self.downsample2(out3), reduced), 1))
        out5 = self.Rep_n4(torch.cat((self.downsample1(out4), top), 1))
        return out3, out4, out5


@register_block("RepBiFPANNeck6", "CSPRepBiFPANNeck_P6")
class RepBiFPANNeck6(Block):
    """Top-down with BiFusion, then bottom-up, one level more: maps at strides 4 to 64 → at 8 to 64."""

    MEMBERS = (
        *("reduce_layer0", "Bifusion0", "Rep_p5", "reduce_layer1", "Bifusion1", "Rep_p4"),
        *("reduce_layer2", "Bifusion2", "Rep_p3", "downsample2", "Rep_n4", "downsample1", "Rep_n5"),
        *("downsample0", "Rep_n6"),
    )

    def forward(self, x: Levels) -> tuple[Tensor, ...]:
        """Maps at strides 4, 8, 16, 32, 64 → at 8, 16, 32, 64."""
        levels, y = list(x[:-1]), x[-1]
        reduced: list[Tensor] = []
        for i, name in enumerate(("Rep_p5", "Rep_p4", "Rep_p3")):
            reduced.append(self.run(f"reduce_layer{i}", y))
            y = self.run(name, self.run(f"Bifusion{i}", (reduced[-1], levels[-1 - i], levels[-2 - i])))
        outputs = [y]
        for i, name in zip((2, 1, 0), ("Rep_n4", "Rep_n5", "Rep_n6"), strict=True):
            down = self.run(f"downsample{i}", outputs[-1])
            outputs.append(self.run(name, torch.cat((down, reduced[i]), 1)))
        return tuple(outputs)

    def run(self, name: str, x: Tensor | Levels) -> Tensor:
        """What the sub-module `name` gives."""
        y: Tensor = self.get_submodule(name)(x)
        return y


@register_block()
class QARepVGGBlock(RepVGGBlock):
    """nonlinearity(bn(rbr_dense(x) + rbr_1x1(x) + x)): (b, c1, h, w) → (b, c2, h/s, w/s).

    `rbr_1x1` is a bare convolution, and the BatchNorm stands behind the sum (for quantisation).
    """

    MEMBERS = (*RepVGGBlock.MEMBERS, "bn")
    bn: Unary

    def __init__(self, c1: int, c2: int, s: int = 1) -> None:
        super().__init__(c1, c2, s)
        self.rbr_dense = conv_norm(c1, c2, 3, s)
        self.rbr_1x1 = nn.Conv2d(c1, c2, 1, s, bias=False)
        self.rbr_identity = nn.Identity() if c1 == c2 and s == 1 else None
        self.bn = batch_norm(c2)

    def merge(self, y: Tensor) -> Tensor:
        """The sum of the branches, normalised."""
        return self.bn(super().merge(y))


@register_block()
class BottleRep3(Block):
    """conv3(conv2(conv1(x))) + alpha·x if `shortcut`: (b, c1, h, w) → (b, c2, h, w)."""

    MEMBERS = ("conv1", "conv2", "conv3")
    ATTRIBUTES = allow(shortcut=False, alpha=1.0)
    conv1: Unary
    conv2: Unary
    conv3: Unary
    shortcut: bool
    alpha: float | Tensor

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = RepVGGBlock(c1, c2), RepVGGBlock(c2, c2), RepVGGBlock(c2, c2)
        self.shortcut, self.alpha = c1 == c2, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        y = self.conv3(self.conv2(self.conv1(x)))
        return y + self.alpha * x if self.shortcut else y


@register_block()
class MBLABlock(Block):
    """cv1 x in parts; chain `m[i]` on part i + 1; all parts and all links' outputs concatenated, cv2.

    (b, c1, h, w) → (b, c2, h, w). The parts are as wide as the chains need.
    """

    MEMBERS = ("cv1", "cv2", "m")
    cv1: Conv
    cv2: Unary
    m: nn.ModuleList

    def __init__(self, c1: int, c2: int, lengths: Sequence[int] = (1,), e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = _relu(c1, (len(lengths) + 1) * c_)
        self.cv2 = _relu((sum(lengths) + len(lengths) + 1) * c_, c2)
        self.m = nn.ModuleList(nn.Sequential(*(BottleRep3(c_, c_) for _ in range(n))) for n in lengths)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c1, h, w) → (b, c2, h, w)."""
        sizes = [input_width(links) for links in self.m]
        first, *parts = self.cv1(x).split_with_sizes([self.cv1.conv.out_channels - sum(sizes), *sizes], 1)
        outputs = [first]
        for part, links in zip(parts, self.m, strict=True):
            outputs.append(part)
            for link in links.children():
                outputs.append(link(outputs[-1]))
        return self.cv2(torch.cat(outputs, 1))


def yolov6_r3(nc: int, width: float = 1.0) -> YOLOv6:
    """YOLOv6-N, release 3."""

    def wide(c: int) -> int:
        return max(int(-(-c * 0.25 * width // 8) * 8), 8)

    model = YOLOv6(nc, width)
    channels = [wide(c) for c in (64, 128, 256, 512, 1024)]
    neck = [wide(c) for c in (256, 128, 128, 256, 256, 512)]
    backbone = EfficientRep(channels, [2, 4, 6, 2])
    backbone.fuse_P2 = True
    model.backbone, model.neck = backbone, RepBiFPANNeck(channels[1:], neck, 4)
    model.detect = Detect((neck[1], neck[3], neck[5]), nc, (8.0, 16.0, 32.0))
    return model
