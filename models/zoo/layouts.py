"""How YOLOv3-tiny, v5, v8, v9, v10, 11, 12 and 26 are put together (nano sizes), one function an architecture.

Channel numbers are the published nominal ones; `Assembler.width` scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from onnxslim_yolo.models.blocks_c2f import C2PSA, PSA, C2f, C2fCIB, C3k2, SCDown
from onnxslim_yolo.models.blocks_common import C3, SPP, SPPF, Conv, Focus
from onnxslim_yolo.models.container import Assembler, LayeredModel
from onnxslim_yolo.models.heads import AnchorDetect
from onnxslim_yolo.models.heads_dfl import Classify, Detect
from onnxslim_yolo.models.heads_tasks import OBB, Pose, Segment

STRIDES = (8.0, 16.0, 32.0)
ANCHORS = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)
ANCHORS_TINY = ((10, 14, 23, 27, 37, 58), (81, 82, 135, 169, 344, 319))


def widths(multiple: float, limit: int = 1024, divisor: int = 8) -> Callable[[int], int]:
    """min(c, limit)·multiple, rounded up to a multiple of `divisor`."""
    return lambda c: max(int(-(-min(c, limit) * multiple // divisor)) * divisor, divisor)


def finish(
    net: Assembler, head: Callable[..., nn.Module], levels: Sequence[int], *args: Any, **kw: Any
) -> LayeredModel:
    """Append a head on `levels` and return the model."""
    net.add(head([net.c(level) for level in levels], *args, **kw), 0, list(levels))
    return net.finish()


def _c3(net: Assembler, c2: int, n: int, *, shortcut: bool = True) -> None:
    net.block(C3, c2, net.repeats(n), shortcut=shortcut)


def yolov3_tiny(nc: int, width: float) -> LayeredModel:
    """YOLOv3-tiny with YOLOv5's head; strides 16 and 32."""
    net = Assembler(widths(width))
    for c in (16, 32, 64, 128, 256):
        net.block(Conv, c, 3, 1)
        net.add(nn.MaxPool2d(2, 2, 0))
    net.block(Conv, 512, 3, 1)
    net.add(nn.ZeroPad2d((0, 1, 0, 1)))
    net.add(nn.MaxPool2d(2, 1, 0))
    net.block(Conv, 1024, 3, 1)
    net.block(Conv, 256, 1, 1)
    net.block(Conv, 512, 3, 1)
    net.add(Conv(net.c(-2), net.width(128), 1, 1), net.width(128), -2)
    net.upsample()
    net.concat(-1, 8)
    net.block(Conv, 256, 3, 1)
    return finish(net, AnchorDetect, (19, 15), nc, ANCHORS_TINY, (16.0, 32.0))


def _yolov5_body(width: float, *, focus: bool) -> Assembler:
    net = Assembler(widths(0.25 * width), depth=0.33)
    net.block(Focus, 64, 3) if focus else net.block(Conv, 64, 6, 2, 2)
    for c, n in ((128, 3), (256, 9 if focus else 6), (512, 9)):
        net.block(Conv, c, 3, 2)
        _c3(net, c, n)
    net.block(Conv, 1024, 3, 2)
    if focus:
        net.block(SPP, 1024)
        _c3(net, 1024, 3, shortcut=False)
    else:
        _c3(net, 1024, 3)
        net.block(SPPF, 1024, 5)
    for c, level in ((512, 6), (256, 4)):
        net.block(Conv, c, 1, 1)
        net.upsample()
        net.concat(-1, level)
        _c3(net, c, 3, shortcut=False)
    for c, level, wide in ((256, 14, 512), (512, 10, 1024)):
        net.block(Conv, c, 3, 2)
        net.concat(-1, level)
        _c3(net, wide, 3, shortcut=False)
    return net


def yolov5n(nc: int, width: float) -> LayeredModel:
    """YOLOv5n, release 6 and later."""
    return finish(_yolov5_body(width, focus=False), AnchorDetect, (17, 20, 23), nc, ANCHORS, STRIDES)


def yolov5n_focus(nc: int, width: float) -> LayeredModel:
    """YOLOv5, release 5: Focus and SPP, at nano width."""
    return finish(_yolov5_body(width, focus=True), AnchorDetect, (17, 20, 23), nc, ANCHORS, STRIDES)


def yolov5n_seg(nc: int, width: float) -> LayeredModel:
    """YOLOv5n-seg: 32 masks."""
    net = _yolov5_body(width, focus=False)
    return finish(net, AnchorDetect, (17, 20, 23), nc, ANCHORS, STRIDES, nm=32, npr=net.width(256))


def pyramid(
    net: Assembler,
    levels: tuple[int, int, int],
    block: Callable[[int, int], None],
    down: Callable[..., nn.Module] = Conv,
) -> list[int]:
    """Top-down, then bottom-up (PAN) through `down`. `block(c2, position)` appends a stage; returns the three outputs'
    indices."""
    p3, p4, p5 = levels
    outputs: list[int] = []
    for c, level in ((512, p4), (256, p3)):
        net.upsample()
        net.concat(-1, level)
        block(c, len(outputs))
        outputs.append(len(net.layers) - 1)
    top, last = outputs
    result = [last]
    for c, level in ((512, top), (1024, p5)):
        separable = c == 1024 and any(isinstance(layer, SCDown) for layer in net.layers)
        net.block(SCDown if separable else down, c // 2, 3, 2)
        net.concat(-1, level)
        block(c, len(result) + 1)
        result.append(len(net.layers) - 1)
    return result


def _yolov8_backbone(width: float, *, pool: bool = True) -> Assembler:
    net = Assembler(widths(0.25 * width), depth=0.33)
    net.block(Conv, 64, 3, 2)
    for c, n in ((128, 3), (256, 6), (512, 6), (1024, 3)):
        net.block(Conv, c, 3, 2)
        net.block(C2f, c, net.repeats(n), shortcut=True)
    if pool:
        net.block(SPPF, 1024, 5)
    return net


def _yolov8(head: Callable[..., nn.Module], nc: int, width: float, **kw: Any) -> LayeredModel:
    net = _yolov8_backbone(width)
    outputs = pyramid(net, (4, 6, 9), lambda c, _: net.block(C2f, c, net.repeats(3)))
    if head is Segment:
        kw["npr"] = net.width(256)
    return finish(net, head, outputs, nc, STRIDES, **kw)


def yolov8n(nc: int, width: float) -> LayeredModel:
    """YOLOv8n."""
    return _yolov8(Detect, nc, width)


def yolov8n_seg(nc: int, width: float) -> LayeredModel:
    """YOLOv8n-seg."""
    return _yolov8(Segment, nc, width)


def yolov8n_pose(nc: int, width: float) -> LayeredModel:
    """YOLOv8n-pose, 17 key points."""
    return _yolov8(Pose, nc, width)


def yolov8n_obb(nc: int, width: float) -> LayeredModel:
    """YOLOv8n-obb."""
    return _yolov8(OBB, nc, width)


def yolov8n_cls(nc: int, width: float) -> LayeredModel:
    """YOLOv8n-cls."""
    net = _yolov8_backbone(width, pool=False)
    net.add(Classify(net.c(), nc), nc)
    return net.finish()


def yolov10n(nc: int, width: float) -> LayeredModel:
    """YOLOv10n with its two heads; the one-to-one head runs."""
    net = Assembler(widths(0.25 * width), depth=0.33)
    net.block(Conv, 64, 3, 2)
    for down, c, n in ((Conv, 128, 3), (Conv, 256, 6), (SCDown, 512, 6), (SCDown, 1024, 3)):
        net.block(down, c, 3, 2)
        net.block(C2f, c, net.repeats(n), shortcut=True)
    net.block(SPPF, 1024, 5)
    net.add(PSA(net.c()))

    def stage(c: int, _: int) -> None:
        if c == 1024:
            net.block(C2fCIB, c, net.repeats(3), shortcut=True, lk=True)
        else:
            net.block(C2f, c, net.repeats(3))

    outputs = pyramid(net, (4, 6, 10), stage)
    return finish(net, Detect, outputs, nc, STRIDES, light=True, end2end=True)


def _yolo11_backbone(width: float) -> Assembler:
    net = Assembler(widths(0.25 * width), depth=0.5)
    net.block(Conv, 64, 3, 2)
    for c, c2, c3k in ((128, 256, False), (256, 512, False), (512, 512, True), (1024, 1024, True)):
        net.block(Conv, c, 3, 2)
        net.block(C3k2, c2, net.repeats(2), c3k=c3k, e=0.5 if c3k else 0.25)
    return net


def yolo11n(nc: int, width: float) -> LayeredModel:
    """YOLO11n."""
    net = _yolo11_backbone(width)
    net.block(SPPF, 1024, 5)
    net.add(C2PSA(net.c(), net.repeats(2)))
    outputs = pyramid(net, (4, 6, 10), lambda c, _: net.block(C3k2, c, net.repeats(2), c3k=c == 1024))
    return finish(net, Detect, outputs, nc, STRIDES, light=True)


def yolo26_body(width: float) -> tuple[Assembler, list[int]]:
    """YOLO26n without its head, and the three outputs' indices."""
    net = _yolo11_backbone(width)
    net.block(SPPF, 1024, 5, shortcut=True, act=False)
    net.add(C2PSA(net.c(), net.repeats(2)))

    def stage(c: int, _: int) -> None:
        net.block(C3k2, c, 1 if c == 1024 else net.repeats(2), c3k=True, attn=c == 1024)

    return net, pyramid(net, (4, 6, 10), stage)


def yolo26n(nc: int, width: float) -> LayeredModel:
    """YOLO26n: no DFL, one-to-one head, attention in the last stage."""
    net, outputs = yolo26_body(width)
    return finish(net, Detect, outputs, nc, STRIDES, reg_max=1, light=True, end2end=True)
