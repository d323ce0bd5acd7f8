"""Darknet's detection layers as ONNX: from the last convolution's map to boxes in pixels.

With (i, j) a cell's column and row, s the stride, (a_w, a_h) an anchor in pixels and σ the logistic function:

    [yolo]                cx = (α·σ(x) − (α−1)/2 + i)·s    w = a_w·exp(w)      α = scale_x_y
    [yolo] new_coords=1   cx = (α·x − (α−1)/2 + i)·s       w = a_w·(2w)²       the convolution before it is logistic
    [region]              as [yolo] with α = 1; anchors are given in cells, classes may be a softmax

(`get_yolo_box`, `forward_yolo_layer` and `get_region_box` in darknet.) The channels of a map are anchor-major, so that
rows come out in the order anchor, row, column and each row is (cx, cy, w, h, objectness, class probabilities).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.darknet_cfg import Section
from onnxslim_yolo.load.onnx_writer import Writer


@dataclass(frozen=True)
class Head:
    """One detection layer.

    Attributes:
        anchors: (na, 2), width and height in pixels of the network's input.
        classes: number of classes.
        stride: pixels per cell, (x, y).
        cells: (h, w) of the map.
        scale_xy: how far a centre may leave its cell; 1 keeps it inside.
        activated: the map is already logistic (`new_coords`).
        softmax: classes exclude each other.
    """

    anchors: Array
    classes: int
    stride: tuple[float, float]
    cells: tuple[int, int]
    scale_xy: float
    activated: bool
    softmax: bool


def read_head(section: Section, shape: tuple[int, int, int], imgsz: tuple[int, int]) -> Head:
    """Read a `[yolo]` or `[region]` section that follows a map of shape (c, h, w), for images of (h, w) pixels.

    Raises:
        InputError: anchors, mask, classes and channels do not fit each other.
    """
    channels, height, width = shape
    stride = (imgsz[1] / width, imgsz[0] / height)
    region = section.name == "region"
    section.refuse("softmax_tree", "tree", "map", "background")
    classes = section.integer("classes", 20, low=1, high=1 << 16)
    anchors = _anchors(section)
    if region:
        anchors = anchors * np.array(stride)
        if section.integer("coords", 4) != 4:
            section.fail("'coords' has to be 4")
    if channels != len(anchors) * (5 + classes):
        section.fail(
            f"{len(anchors)} anchors and {classes} classes need {len(anchors) * (5 + classes)} channels; "
            f"the layer before gives {channels}"
        )
    return Head(
        anchors=anchors,
        classes=classes,
        stride=stride,
        cells=(height, width),
        scale_xy=1.0 if region else section.number("scale_x_y", 1.0),
        activated=not region and section.integer("new_coords", 0) != 0,
        softmax=region and section.integer("softmax", 0) != 0,
    )


def write_head(writer: Writer, source: str, head: Head) -> str:
    """Decode a map (b, na·(5+nc), h, w) to rows (b, na·h·w, 5+nc). Returns the tensor's name."""
    count, (height, width) = len(head.anchors), head.cells
    cells = height * width
    split_shape = writer.ints("shape", [0, count, 5 + head.classes, cells])
    split = writer.node("Reshape", [source, split_shape])
    rows = writer.node("Transpose", [split], perm=[0, 1, 3, 2])
    xy, wh, rest = writer.split(rows, [2, 2, 1 + head.classes], axis=3)
    boxes = [_centres(writer, xy, head), _sizes(writer, wh, head)]
    table = writer.node("Concat", [*boxes, *_scores(writer, rest, head)], axis=3)
    return writer.node("Reshape", [table, writer.ints("rows", [0, count * cells, 5 + head.classes])])


def _anchors(section: Section) -> Array:
    flat = section.numbers("anchors")
    number = section.integer("num", 1, high=4096)
    mask = section.integers("mask") or list(range(number))
    if len(flat) < 2 * number or any(not 0 <= index < number for index in mask):
        section.fail(f"mask {mask} of {number} anchors (num), of which {len(flat) // 2} are given")
    return np.array(flat[: 2 * number], dtype=np.float64).reshape(number, 2)[mask]


def _centres(writer: Writer, xy: str, head: Head) -> str:
    height, width = head.cells
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(1, 1, -1, 2)
    stride = np.array(head.stride)
    activated = xy if head.activated else writer.node("Sigmoid", [xy])
    scaled = writer.node("Mul", [activated, writer.floats("scale", head.scale_xy * stride)])
    offset = (grid - 0.5 * (head.scale_xy - 1.0)) * stride
    return writer.node("Add", [scaled, writer.floats("grid", offset)])


def _sizes(writer: Writer, wh: str, head: Head) -> str:
    anchors = head.anchors.reshape(1, -1, 1, 2)
    if not head.activated:
        return writer.node("Mul", [writer.node("Exp", [wh]), writer.floats("anchors", anchors)])
    squared = writer.node("Mul", [wh, wh])
    return writer.node("Mul", [squared, writer.floats("anchors", 4.0 * anchors)])


def _scores(writer: Writer, rest: str, head: Head) -> list[str]:
    if head.activated:
        return [rest]
    if not head.softmax:
        return [writer.node("Sigmoid", [rest])]
    objectness, classes = writer.split(rest, [1, head.classes], axis=3)
    return [writer.node("Sigmoid", [objectness]), writer.node("Softmax", [classes], axis=3)]
