"""How YOLOv4-tiny, v7, v9, v12 and YOLOv5-Lite are put together, one function an architecture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from onnxslim_yolo.models.blocks_area import A2C2f
from onnxslim_yolo.models.blocks_c2f import C3k2
from onnxslim_yolo.models.blocks_common import ADD, C3, Conv, dw_conv
from onnxslim_yolo.models.blocks_elan import (
    ELAN1,
    MP,
    SP,
    SPPCSPC,
    SPPELAN,
    AConv,
    RepNCSPELAN4,
)
from onnxslim_yolo.models.blocks_lite import ConvBnReluMaxpool, Dense, DWConvBlock, LCBlock, ShuffleBlock
from onnxslim_yolo.models.blocks_rep import RepVGGBlock
from onnxslim_yolo.models.container import Assembler, LayeredModel
from onnxslim_yolo.models.heads import AnchorDetect
from onnxslim_yolo.models.heads_dfl import Detect
from onnxslim_yolo.models.registry import Block
from onnxslim_yolo.models.zoo.layouts import ANCHORS, ANCHORS_TINY, STRIDES, finish, pyramid, widths

ANCHORS_V7 = ((12, 16, 19, 36, 40, 28), (36, 75, 76, 55, 72, 146), (142, 110, 192, 243, 459, 401))


class SecondHalf(Block):
    """The second half of the channels, Darknet's `route groups=2`: (b, c, h, w) → (b, c/2, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c/2, h, w)."""
        return x[:, x.shape[1] // 2 :]


def yolov4_tiny(nc: int, width: float) -> LayeredModel:
    """YOLOv4-tiny (CSP with half-routes, leaky ReLU), with YOLOv5's decoding."""
    net = Assembler(widths(width))
    conv = partial(Conv, act=nn.LeakyReLU(0.1))
    net.block(conv, 32, 3, 2)
    net.block(conv, 64, 3, 2)
    for c in (64, 128, 256):
        net.block(conv, c, 3, 1)
        start = len(net.layers) - 1
        net.add(SecondHalf(), net.width(c) // 2)
        net.block(conv, c // 2, 3, 1)
        net.block(conv, c // 2, 3, 1)
        net.concat(-1, -2)
        net.block(conv, c, 1, 1)
        route = len(net.layers) - 1
        net.concat(start, -1)
        net.add(nn.MaxPool2d(2, 2))
    net.block(conv, 512, 3, 1)
    net.block(conv, 256, 1, 1)
    neck = len(net.layers) - 1
    net.block(conv, 512, 3, 1)
    deep = len(net.layers) - 1
    net.block(conv, 128, 1, 1, f=neck)
    net.upsample()
    net.concat(-1, route)
    net.block(conv, 256, 3, 1)
    return finish(net, AnchorDetect, (len(net.layers) - 1, deep), nc, ANCHORS_TINY, (16.0, 32.0))


def _tiny_elan(net: Assembler, c: int) -> int:
    """YOLOv7-tiny's aggregation of four branches of c channels into 2c; returns its index."""
    conv = partial(Conv, act=nn.LeakyReLU(0.1))
    net.block(conv, c, 1, 1)
    net.block(conv, c, 1, 1, f=-2)
    net.block(conv, c, 3, 1)
    net.block(conv, c, 3, 1)
    net.concat(-1, -2, -3, -4)
    net.block(conv, 2 * c, 1, 1)
    return len(net.layers) - 1


def yolov7_tiny(nc: int, width: float) -> LayeredModel:
    """YOLOv7-tiny with IDetect."""
    net = Assembler(widths(width))
    conv = partial(Conv, act=nn.LeakyReLU(0.1))
    net.block(conv, 32, 3, 2)
    net.block(conv, 64, 3, 2)
    levels = []
    for c in (32, 64, 128, 256):
        if c > 32:
            net.add(MP())
        levels.append(_tiny_elan(net, c))
    net.block(conv, 256, 1, 1)
    net.block(conv, 256, 1, 1, f=-2)
    for i, k in enumerate((5, 9, 13)):
        net.add(SP(k), net.c(-1 - i), -1 - i)
    net.concat(-1, -2, -3, -4)
    net.block(conv, 256, 1, 1)
    net.concat(-1, -7)
    net.block(conv, 256, 1, 1)
    p5 = len(net.layers) - 1
    tops = []
    for c, level in ((64, levels[2]), (32, levels[1])):
        net.block(conv, 2 * c, 1, 1)
        net.upsample()
        net.block(conv, 2 * c, 1, 1, f=level)
        net.concat(-1, -2)
        tops.append(_tiny_elan(net, c))
    outputs = [tops[1]]
    for c, level in ((64, tops[0]), (128, p5)):
        net.block(conv, 2 * c, 3, 2)
        net.concat(-1, level)
        outputs.append(_tiny_elan(net, c))
    for c, level in zip((128, 256, 512), outputs, strict=True):
        net.block(conv, c, 3, 1, f=level)
    last = len(net.layers)
    return finish(net, AnchorDetect, range(last - 3, last), nc, ANCHORS_V7, STRIDES, implicit=True)


def _elan(net: Assembler, c: int, c2: int, *, neck: bool = False) -> int:
    """YOLOv7's aggregation: two pointwise branches, four 3×3 in a row; every second kept, in the neck all."""
    wide = 2 * c if neck else c
    net.block(Conv, wide, 1, 1)
    net.block(Conv, wide, 1, 1, f=-2)
    for _ in range(4):
        net.block(Conv, c, 3, 1)
    net.concat(*((-1, -2, -3, -4, -5, -6) if neck else (-1, -3, -5, -6)))
    net.block(Conv, c2, 1, 1)
    return len(net.layers) - 1


def _transition(net: Assembler, c: int, *routes: int) -> None:
    """YOLOv7's downsampling: a pooled and a strided branch of c channels, and what is routed in."""
    net.add(MP())
    net.block(Conv, c, 1, 1)
    net.block(Conv, c, 1, 1, f=-3)
    net.block(Conv, c, 3, 2)
    net.concat(-1, -3, *routes)


def yolov7_rep(nc: int, width: float) -> LayeredModel:
    """YOLOv7 (SPPCSPC, RepConv in training form, IDetect) at a quarter of its width."""
    net = Assembler(widths(0.25 * width))
    for c, s in ((32, 1), (64, 2), (64, 1), (128, 2)):
        net.block(Conv, c, 3, s)
    levels = [_elan(net, 64, 256)]
    for c, down, c2 in ((128, 128, 512), (256, 256, 1024), (256, 512, 1024)):
        _transition(net, down)
        levels.append(_elan(net, c, c2))
    net.block(SPPCSPC, 512)
    p5 = len(net.layers) - 1
    tops = []
    for c, level in ((256, levels[2]), (128, levels[1])):
        net.block(Conv, c, 1, 1)
        net.upsample()
        net.block(Conv, c, 1, 1, f=level)
        net.concat(-1, -2)
        tops.append(_elan(net, c // 2, c, neck=True))
    outputs = [tops[1]]
    for c, level in ((128, tops[0]), (256, p5)):
        _transition(net, c, level)
        outputs.append(_elan(net, c, 2 * c, neck=True))
    for c, level in zip((256, 512, 1024), outputs, strict=True):
        net.block(partial(RepVGGBlock, act=nn.SiLU(), v7=True), c, f=level)
    last = len(net.layers)
    return finish(net, AnchorDetect, range(last - 3, last), nc, ANCHORS_V7, STRIDES, implicit=True)


def yolov9t(nc: int, width: float) -> LayeredModel:
    """YOLOv9t."""
    net = Assembler(widths(width))

    def gelan(c: int) -> None:
        wide = net.width(c)
        net.block(partial(RepNCSPELAN4, c3=wide, c4=net.width(c // 2), n=3), c)

    net.block(Conv, 16, 3, 2)
    net.block(Conv, 32, 3, 2)
    net.block(partial(ELAN1, c3=net.width(32), c4=net.width(16)), 32)
    for c in (64, 96, 128):
        net.block(AConv, c)
        gelan(c)
    net.block(partial(SPPELAN, c3=net.width(64)), 128)
    tops = []
    for c, level in ((96, 6), (64, 4)):
        net.upsample()
        net.concat(-1, level)
        gelan(c)
        tops.append(len(net.layers) - 1)
    outputs = [tops[1]]
    for c, down, level in ((96, 48, tops[0]), (128, 64, 9)):
        net.block(AConv, down)
        net.concat(-1, level)
        gelan(c)
        outputs.append(len(net.layers) - 1)
    return finish(net, Detect, outputs, nc, STRIDES)


def yolo12n(nc: int, width: float) -> LayeredModel:
    """YOLO12n: area attention in the last two stages."""
    net = Assembler(widths(0.25 * width), depth=0.5)
    net.block(Conv, 64, 3, 2)
    for c, c2 in ((128, 256), (256, 512)):
        net.block(Conv, c, 3, 2)
        net.block(C3k2, c2, net.repeats(2), e=0.25)
    for c, area in ((512, 4), (1024, 1)):
        net.block(Conv, c, 3, 2)
        net.block(A2C2f, c, net.repeats(4), area=area)

    def stage(c: int, _: int) -> None:
        if c == 1024:
            net.block(C3k2, c, net.repeats(2), c3k=True)
        else:
            net.block(A2C2f, c, net.repeats(2))

    outputs = pyramid(net, (4, 6, 8), stage)
    return finish(net, Detect, outputs, nc, STRIDES, light=True)


def _shuffle_backbone(width: float, stages: Sequence[int], repeats: Sequence[int]) -> Assembler:
    net = Assembler(widths(width, divisor=4))
    net.block(ConvBnReluMaxpool, 32)
    for c, n in zip(stages, repeats, strict=True):
        net.block(ShuffleBlock, c, 2)
        wide = net.c()
        net.add(nn.Sequential(*(ShuffleBlock(wide, wide, 1) for _ in range(n))))
    return net


def _lite_neck(net: Assembler, p3: int, p4: int, channels: tuple[int, int, int]) -> list[int]:
    """YOLOv5-Lite-s's small PAN; `channels` of the three outputs."""
    c3, c4, c5 = channels
    reduced, outputs = [], []
    for c, level in ((c4, p4), (c3, p3)):
        net.block(Conv, c, 1, 1)
        reduced.append(len(net.layers) - 1)
        net.upsample()
        net.concat(-1, level)
        net.block(C3, c, 1, shortcut=False)
    outputs.append(len(net.layers) - 1)
    for c, c2, level in ((c3, c4, reduced[1]), (c4, c5, reduced[0])):
        net.block(Conv, c, 3, 2)
        net.concat(-1, level)
        net.block(C3, c2, 1, shortcut=False)
        outputs.append(len(net.layers) - 1)
    return outputs


def v5lite_s(nc: int, width: float) -> LayeredModel:
    """YOLOv5-Lite-s: ShuffleNetV2 backbone, C3 neck."""
    net = _shuffle_backbone(width, (120, 232, 464), (3, 7, 3))
    outputs = _lite_neck(net, 2, 4, (64, 128, 256))
    return finish(net, AnchorDetect, outputs, nc, ANCHORS, STRIDES)


def v5lite_e(nc: int, width: float) -> LayeredModel:
    """YOLOv5-Lite-e: ShuffleNetV2 backbone, depthwise neck that adds instead of concatenating."""
    net = _shuffle_backbone(width, (116, 232, 464), (3, 7, 1))
    laterals, tops = [], []
    for level in (4, 2):
        net.block(Conv, 96, 1, 1)
        laterals.append(len(net.layers) - 1)
        net.upsample()
        net.concat(-1, level)
        net.block(DWConvBlock, 96, 3, 1)
        tops.append(len(net.layers) - 1)
    outputs = [tops[1]]
    for lateral in reversed(laterals):
        net.block(DWConvBlock, 96, 3, 2)
        net.add(ADD(1.0), net.c(), [-1, lateral])
        net.block(DWConvBlock, 96, 3, 1)
        outputs.append(len(net.layers) - 1)
    return finish(net, AnchorDetect, outputs, nc, ANCHORS, STRIDES)


def v5lite_c(nc: int, width: float) -> LayeredModel:
    """YOLOv5-Lite-c: PP-LCNet backbone (half its width), C3 neck."""
    net = Assembler(widths(0.5 * width))
    net.block(partial(Conv, act=nn.Hardswish()), 32, 3, 2)
    levels = []
    for c, n, k in ((64, 1, 3), (128, 2, 3), (256, 3, 3), (512, 4, 5)):
        for i in range(n):
            net.block(partial(LCBlock, se=k == 5 and i > 1), c, 2 if i == 0 else 1, k)
        levels.append(len(net.layers) - 1)
    net.block(Dense, 512)
    outputs = _lite_neck(net, levels[1], levels[2], (128, 256, 512))
    return finish(net, AnchorDetect, outputs, nc, ANCHORS, STRIDES)


def v5lite_g(nc: int, width: float) -> LayeredModel:
    """YOLOv5-Lite-g: RepVGG backbone in training form, C3 neck, at a quarter of its width."""
    net = Assembler(widths(0.25 * width))
    block = partial(RepVGGBlock, act=nn.SiLU())
    net.block(block, 64, 2)
    levels = []
    for c, n in ((128, 1), (256, 2), (512, 3), (1024, 1)):
        net.block(block, c, 2)
        wide = net.c()
        net.add(nn.Sequential(*(RepVGGBlock(wide, wide, act=nn.SiLU()) for _ in range(n))))
        levels.append(len(net.layers) - 1)
    net.block(dw_conv, 1024, 3, 1)
    outputs = _lite_neck(net, levels[1], levels[2], (256, 512, 1024))
    return finish(net, AnchorDetect, outputs, nc, ANCHORS, STRIDES)
