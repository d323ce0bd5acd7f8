"""How YOLO26's heads for other tasks and YOLOv8-ghost are put together (nano sizes)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from onnxslim_yolo.models.blocks_common import SPPF
from onnxslim_yolo.models.blocks_csp import C3Ghost, GhostConv
from onnxslim_yolo.models.container import Assembler, LayeredModel
from onnxslim_yolo.models.heads_dfl import Detect
from onnxslim_yolo.models.heads_tasks import OBB26, Pose26, Segment
from onnxslim_yolo.models.zoo.layouts import STRIDES, finish, pyramid, widths, yolo26_body


def _yolo26(head: Callable[..., nn.Module], nc: int, width: float, **kw: Any) -> LayeredModel:
    net, outputs = yolo26_body(width)
    if head is Segment:
        kw |= {"npr": net.width(256), "fused_levels": True}
    return finish(net, head, outputs, nc, STRIDES, reg_max=1, light=True, end2end=True, **kw)


def yolo26n_seg(nc: int, width: float) -> LayeredModel:
    """YOLO26n-seg: prototypes from all levels."""
    return _yolo26(Segment, nc, width)


def yolo26n_pose(nc: int, width: float) -> LayeredModel:
    """YOLO26n-pose, 17 key points."""
    return _yolo26(Pose26, nc, width)


def yolo26n_obb(nc: int, width: float) -> LayeredModel:
    """YOLO26n-obb."""
    return _yolo26(OBB26, nc, width)


def yolov8n_ghost(nc: int, width: float) -> LayeredModel:
    """YOLOv8n-ghost: half of the channels are made from the other half by a cheap depthwise convolution."""
    net = Assembler(widths(0.25 * width), depth=0.33)
    net.block(GhostConv, 64, 3, 2)
    for c, n in ((128, 3), (256, 6), (512, 6), (1024, 3)):
        net.block(GhostConv, c, 3, 2)
        net.block(C3Ghost, c, net.repeats(n))
    net.block(SPPF, 1024, 5)
    outputs = pyramid(net, (4, 6, 9), lambda c, _: net.block(C3Ghost, c, net.repeats(3)), GhostConv)
    return finish(net, Detect, outputs, nc, STRIDES)
