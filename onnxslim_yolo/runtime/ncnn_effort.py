"""How much work running an NCNN pair is, by its `.param` alone and before ncnn starts, in `analysis.effort`'s units.

1. A blob is known by its (channels, height, width), or by how many elements it has. A layer without a rule makes as
   much as it reads; so does a product of what has no known shape.
2. A convolution takes its outputs times the weights that each reads, a pooling its outputs times its taps (at most what
   the map has), a product its outputs times what is summed; anything else counts by the element.

An input whose size neither the file nor the caller says counts nothing: such a pair is held by memory and time alone,
as every pair is besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from onnxslim_yolo.analysis.effort import ELEMENT, NODE, POOL_TAP, QUICK_ELEMENT, Effort
from onnxslim_yolo.analysis.limits import Asked, limits_of
from onnxslim_yolo.runtime.ncnn_reader import NcnnLayer, NcnnNet, read_ncnn

CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Convolution1D", "ConvolutionDepthWise1D", "DeformableConv2D")
DECONVOLUTIONS = ("Deconvolution", "DeconvolutionDepthWise", "Deconvolution1D", "DeconvolutionDepthWise1D")
QUICK = ("ReLU", "Sigmoid", "Swish", "HardSwish", "HardSigmoid", "BatchNorm", "Clip", "BinaryOp", "Eltwise", "Concat")
SAME_SHAPE = (
    *(*QUICK[:-1], "Split", "PReLU", "Softmax", "UnaryOp", "GELU", "Mish", "ShuffleChannel"),
    *("TanH", "ELU", "Dropout", "Scale"),
)
MOST = 1e18
"""Elements beyond which nothing is told apart."""
UNSAID = -233
"""What ncnn takes for a number that a `.param` leaves out."""

Shape = tuple[float, float, float]


@dataclass(frozen=True)
class Map:
    """A blob: elements at most, and (channels, height, width) where they are known."""

    elements: float
    shape: Shape | None = None

    @classmethod
    def of(cls, channels: float, height: float, width: float) -> Map:
        """A map of known sides; none is below one."""
        shape = (max(channels, 1), max(height, 1), max(width, 1))
        return cls(min(prod(shape), MOST), shape)


def work_of_pair(net: NcnnNet, size: tuple[int, int] | None = None) -> tuple[float, str]:
    """Multiply-adds of a validated network with an image of `size` (h, w), and the layer with the greatest part."""
    maps: dict[str, Map] = {}
    work, most, greatest = 0.0, -1.0, ""
    for layer in net.layers:
        read = [maps[blob] for blob in layer.inputs]
        made = _input(layer, size) if layer.type == "Input" else _RULES.get(layer.type, _like_its_input)(layer, read)
        parts = _parts(layer, read[0]) if layer.type == "Slice" else [made] * len(layer.outputs)
        maps.update(zip(layer.outputs, parts, strict=True))
        one = max(_work(layer, read, made), NODE)
        work += one
        if one > most:
            most, greatest = one, f"{layer.name} ({layer.type})"
    return work, greatest


def require_affordable_pair(param: Path, weights: Path, size: tuple[int, int] | None, asked: Asked) -> None:
    """Raises InputError where one run of a pair is more work than is allowed, with the layer that is most of it.

    Args:
        param, weights: the files. size: (h, w) of the input; None: what the file says.
        asked: the user's limits; without one of work, it is by the weights that the `.bin` has room for.
    """
    work, layer = work_of_pair(read_ncnn(param, weights), size)
    stored = weights.stat().st_size // 2
    limits_of(stored, stored, math.inf, asked.work).hold(Effort(0, "", int(work), layer), param)


def _input(layer: NcnnLayer, size: tuple[int, int] | None) -> Map:
    sides = size or (layer.integer(1), layer.integer(0))
    return Map.of(layer.integer(2) or 3, *sides) if all(sides) else Map(0)


def _like_its_input(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    """As large as all that is read; of the same shape where that is known of the layer. Two that are combined by
    broadcasting make at most the largest of each side."""
    shapes = [each.shape for each in read if each.shape is not None]
    if layer.type in SAME_SHAPE and shapes and len(shapes) == len(read):
        return Map.of(*(max(sides) for sides in zip(*shapes, strict=True)))
    if layer.type in SAME_SHAPE:
        return max(read, key=lambda each: each.elements)
    return Map(min(sum(each.elements for each in read), MOST))


def _parts(layer: NcnnLayer, whole: Map) -> list[Map]:
    """A Slice's outputs: as long as it says, what it leaves open in equal parts."""
    said, count = layer.params.get(0), len(layer.outputs)
    sizes = [float(size) for size in said] if isinstance(said, tuple) and len(said) == count else [UNSAID] * count
    axis = layer.integer(1) % 3
    if whole.shape is None:
        known = min(sizes) > 0
        return [Map(whole.elements * (size / sum(sizes) if known else 1 / count)) for size in sizes]
    side = whole.shape[axis]
    rest = max(side - sum(size for size in sizes if size > 0), 0) / max(sum(size <= 0 for size in sizes), 1)
    lengths = [min(size, side) if size > 0 else rest for size in sizes]
    return [Map.of(*(length if k == axis else s for k, s in enumerate(whole.shape))) for length in lengths]


def _concat(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    """Maps side by side, along the channels."""
    shapes = [each.shape for each in read if each.shape is not None]
    if len(shapes) < len(read) or layer.integer(0) or len({shape[1:] for shape in shapes}) != 1:
        return Map(min(sum(each.elements for each in read), MOST))
    return Map.of(sum(shape[0] for shape in shapes), *shapes[0][1:])


def _convolution(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    outputs = max(layer.integer(0), 1)
    shape = read[0].shape
    if shape is None:
        taps = layer.integer(1, 1) * layer.integer(11, layer.integer(1, 1))
        inputs = layer.integer(6) / outputs / max(taps, 1) * max(layer.integer(7, 1), 1)
        return Map(min(read[0].elements / max(inputs, 1) * outputs, MOST))
    return Map.of(outputs, *_windows(layer, shape, (2, 12), (3, 13), (4, 15, 14, 16)))


def _pooling(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    shape = read[0].shape
    if shape is None or layer.integer(4):
        return read[0] if shape is None else Map.of(shape[0], 1, 1)
    if layer.integer(7):
        return Map.of(shape[0], layer.integer(18, layer.integer(8)), layer.integer(8))
    return Map.of(shape[0], *_windows(layer, shape, None, (2, 12), (3, 14, 13, 15)))


def _windows(
    layer: NcnnLayer,
    shape: Shape,
    dilations: tuple[int, int] | None,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> tuple[float, float]:
    """Height and width of what windows make, at most; `pads`: the keys of left, right, top, bottom."""
    left = layer.integer(pads[0])
    top = layer.integer(pads[2], left)
    ends = {"w": (left, layer.integer(pads[1], left)), "h": (top, layer.integer(pads[3], top))}
    sides = []
    for axis, side, second in (("h", shape[1], 1), ("w", shape[2], 0)):
        kernel, step, stride = (
            1 if keys is None else layer.integer(keys[second], layer.integer(keys[0], 1))
            for keys in ((1, 11), dilations, strides)
        )
        reach = step * (kernel - 1) + 1
        pad = reach - 1 if min(ends[axis]) < 0 else sum(ends[axis])
        sides.append(max(side + pad - reach, 0) // max(stride, 1) + 1)
    return sides[0], sides[1]


def _deconvolution(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    """Before it is cut to size."""
    shape = read[0].shape
    if shape is None:
        return Map(min(read[0].elements * max(layer.integer(6), 1), MOST))
    sides = []
    for side, key in ((shape[1], 1), (shape[2], 0)):
        kernel, step, stride = (
            layer.integer(10 + near, layer.integer(near, 1)) if key else layer.integer(near, 1) for near in (1, 2, 3)
        )
        sides.append((side - 1) * max(stride, 1) + step * (kernel - 1) + 1 + layer.integer(18 + key))
    return Map.of(layer.integer(0), *sides)


def _interp(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    height, width = layer.integer(3), layer.integer(4)
    by_h, by_w = (float(v) if isinstance(v := layer.params.get(key, 1.0), (int, float)) else 1.0 for key in (1, 2))
    if read[0].shape is None:
        return Map(min(read[0].elements * (height * width if height and width else max(by_h * by_w, 1)), MOST))
    channels, old_height, old_width = read[0].shape
    return Map.of(channels, height or old_height * by_h, width or old_width * by_w)


def _padding(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    top, bottom, left, right, front, behind = (max(layer.integer(key), 0) for key in (0, 1, 2, 3, 7, 8))
    if read[0].shape is None:
        return read[0]
    channels, height, width = read[0].shape
    return Map.of(channels + front + behind, height + top + bottom, width + left + right)


def _crop(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    """What is between starts and ends along axes, where these are said; else all of it."""
    starts, ends, axes = (layer.params.get(key) for key in (9, 10, 11))
    shape = read[0].shape
    if shape is None or not isinstance(starts, tuple) or not isinstance(ends, tuple) or not isinstance(axes, tuple):
        return read[0]
    sides = list(shape)
    for start, end, axis in zip(starts, ends, axes, strict=False):
        side = sides[int(axis) % 3]
        first, last = (min(max(at + side if at < 0 else at, 0), side) for at in (start, end))
        sides[int(axis) % 3] = last - first
    return Map.of(*sides)


def _tile(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    times = layer.params.get(2)
    count = prod(max(float(t), 1) for t in times) if isinstance(times, tuple) else float(layer.integer(1, 1))
    return Map(min(read[0].elements * max(count, 1), MOST))


def _reshape(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    total = read[0].elements
    sides = [float(layer.integer(key, UNSAID)) for key in (2, 1, 0)]
    if layer.integer(11, UNSAID) != UNSAID or 0 in sides or sides.count(-1) > 1 or min(sides[2:]) == UNSAID:
        return Map(total)
    sides = [1 if side == UNSAID else side for side in sides]
    rest = prod(side for side in sides if side > 0)
    channels, height, width = (total / rest if side < 0 else side for side in sides)
    return Map.of(channels, height, width) if channels * height * width <= total else Map(total)


def _product(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    if layer.type == "InnerProduct":
        rows = read[0].shape[1] if read[0].shape is not None and read[0].shape[0] == 1 else 1
        return Map.of(1, rows, layer.integer(0))
    if layer.type == "Embed":
        return Map(min(read[0].elements * max(layer.integer(0), 1), MOST))
    if layer.type == "MatMul" and len(read) == 2 and read[0].shape is not None and read[1].shape is not None:
        columns = read[1].shape[1 if layer.integer(0) else 2]
        return Map.of(max(read[0].shape[0], read[1].shape[0]), read[0].shape[1], columns)
    return Map(max([*(each.elements for each in read), float(layer.integer(7) * layer.integer(8))]))


def _permute(layer: NcnnLayer, read: Sequence[Map]) -> Map:
    if read[0].shape is None:
        return read[0]
    channels, height, width = read[0].shape
    orders = [
        (channels, height, width), (channels, width, height), (height, channels, width),
        (height, width, channels), (width, channels, height), (width, height, channels),
    ]  # fmt: skip
    return Map.of(*orders[layer.integer(0) % len(orders)])


_RULES: dict[str, Callable[[NcnnLayer, Sequence[Map]], Map]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(DECONVOLUTIONS, _deconvolution),
    **dict.fromkeys(("InnerProduct", "Embed", "MatMul", "Gemm"), _product),
    "Concat": _concat,
    "Crop": _crop,
    "Interp": _interp,
    "Padding": _padding,
    "Permute": _permute,
    "Pooling": _pooling,
    "Reshape": _reshape,
    "Tile": _tile,
}


def _work(layer: NcnnLayer, read: Sequence[Map], made: Map) -> float:
    first = read[0] if read else Map(0)
    plain = (QUICK_ELEMENT if layer.type in QUICK else ELEMENT) * max(made.elements, first.elements)
    if layer.type in (*CONVOLUTIONS, *DECONVOLUTIONS):
        size = first.elements if layer.type in DECONVOLUTIONS else made.elements
        return size * max(layer.integer(6) / max(layer.integer(0), 1), 1)
    if layer.type == "Pooling" and not layer.integer(4) and not layer.integer(7):
        wide, high = layer.integer(1, 1), layer.integer(11, layer.integer(1, 1))
        _, height, width = first.shape or (1, high, wide)
        return POOL_TAP * made.elements * max(min(wide, width), 1) * max(min(high, height), 1)
    if layer.type in ("MatMul", "Gemm") and first.shape is not None:
        return max(plain, made.elements * first.shape[2])
    return max(plain, layer.integer(2)) if layer.type == "InnerProduct" else plain
