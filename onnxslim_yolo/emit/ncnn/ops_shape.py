"""Data movement: reshapes, permutations, slices, concatenations, padding and resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Param
from onnxslim_yolo.emit.ncnn.gather import gather
from onnxslim_yolo.emit.ncnn.layout import (
    MAX_DIMS,
    Dims,
    composed,
    dim_of_axis,
    dim_of_outer_factor,
    dims_showing,
    merged,
    order_of_dims,
    padded,
    permutation_of,
    permute_order,
)
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, Value, int_list, normal_axis, unsupported
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.emit.ncnn.resize import resize
from onnxslim_yolo.emit.ncnn.slice import crop, slice_, split
from onnxslim_yolo.ir.attributes import attribute, is_computed, operand, permutation
from onnxslim_yolo.ir.graph import Node


def reshape(low: Lowering, node: Node) -> None:
    """Reshape, Squeeze, Unsqueeze, Flatten, Identity: another shape for the same blob."""
    low.alias(node.outputs[0], low.input(node, 0), node)


def transpose(low: Lowering, node: Node) -> None:
    """Permute, or ShuffleChannel, PixelShuffle and Reorg where the blob's dims make it one.

    Axes of extent 1 and neighbours that stay neighbours do not count: (1, g, C/g, H, W) → (1, C/g, g, H, W) is three
    groups, and with the blob still lying in (C, H, W) exactly ncnn's ShuffleChannel.
    """
    source, rank = low.input(node, 0), len(low.input(node, 0).shape)
    perm = permutation(node, rank)
    source, sizes, order = _past_permutes(low, source, *merged(source.shape, perm))
    if order == sorted(order):
        low.alias(node.outputs[0], source, node)
        return
    if _shuffle(low, node, source, sizes, order) or _pixel_shuffle(low, node, source, sizes, order):
        return
    whole = order_of_dims(source.dims, sizes, order)
    if whole is not None:
        sizes, order = list(source.dims), whole
    emit_permute(low, node, source, sizes, order)


def _past_permutes(
    low: Lowering, source: Value, sizes: list[int], order: list[int]
) -> tuple[Value, list[int], list[int]]:
    """Where the source is itself permuted, and perhaps reshaped since: both permutations as one."""
    while (layer := low.producer(source)).type == "Permute":
        before = low.dims[layer.inputs[0]]
        code = layer.params[0]
        assert isinstance(code, int)
        both = composed(before, permutation_of(code, len(before)), sizes, order)
        if both is None or len(both[0]) > MAX_DIMS:
            break
        source, (sizes, order) = low.named(layer.inputs[0], before), both
    return source, sizes, order


def emit_permute(low: Lowering, node: Node, source: Value, sizes: list[int], order: list[int]) -> None:
    """Permute groups of any number: beyond four, group after group is brought to its place."""
    if len(sizes) <= MAX_DIMS:
        view = low.view(source, tuple(sizes))
        dims = tuple(sizes[index] for index in order)
        low.emit(node, "Permute", [view], dims, {0: permute_order(order)}, to=node.outputs[0])
        return
    present, done, step = list(range(len(sizes))), 0, source
    while present != order:
        place = present.index(order[done])
        if place != done:
            blocks = [present[:done], present[done:place], [order[done]], present[place + 1 :]]
            dims = tuple(prod(sizes[index] for index in block) for block in blocks)
            present = [*blocks[0], *blocks[2], *blocks[1], *blocks[3]]
            swapped = (dims[0], dims[2], dims[1], dims[3])
            last = node.outputs[0] if present == order else None
            view = low.view(step, dims)
            step = low.emit(
                node, "Permute", [view], swapped, {0: permute_order((0, 2, 1, 3))}, to=last, suffix=f"/{done}"
            )
        done += 1


def _shuffle(low: Lowering, node: Node, source: Value, sizes: Sequence[int], order: Sequence[int]) -> bool:
    if list(order) != [1, 0, 2] or len(source.dims) < 3 or source.dims[0] != sizes[0] * sizes[1]:
        return False
    emit_shuffle(low, node, source, sizes[0], sizes[1])
    return True


def emit_shuffle(low: Lowering, node: Node, source: Value, groups: int, size: int) -> None:
    """Channels as a (groups, size) matrix, transposed. ncnn is told the smaller factor."""
    params: dict[int, Param] = {0: groups} if groups <= size else {0: size, 1: 1}
    low.emit(node, "ShuffleChannel", [source], source.dims, params, to=node.outputs[0])


_PIXEL_ORDERS: dict[tuple[int, ...], tuple[str, int]] = {
    (0, 3, 1, 4, 2): ("PixelShuffle", 0),  # (c, s, s, H, W) -> (c, H, s, W, s)
    (2, 3, 0, 4, 1): ("PixelShuffle", 1),  # (s, s, c, H, W) -> (c, H, s, W, s)
    (0, 2, 4, 1, 3): ("Reorg", 0),  # (c, H, s, W, s) -> (c, s, s, H, W)
    (2, 4, 0, 1, 3): ("Reorg", 1),  # (c, H, s, W, s) -> (s, s, c, H, W)
}
"""Permutations of five groups that are one ncnn layer, with its mode."""


def _pixel_shuffle(low: Lowering, node: Node, source: Value, sizes: Sequence[int], order: Sequence[int]) -> bool:
    known = _PIXEL_ORDERS.get(tuple(order))
    if known is None or len(source.dims) != 3:
        return False
    kind, mode = known
    moved = [sizes[index] for index in order]
    small = sizes if kind == "PixelShuffle" else moved  # the side with the channels gathered
    large = moved if kind == "PixelShuffle" else sizes
    scales = (large[2], large[4])
    deep = (prod(small[:3]), small[3], small[4])
    wide = (large[0], large[1] * large[2], large[3] * large[4])
    if scales[0] != scales[1] or source.dims != (deep if kind == "PixelShuffle" else wide):
        return False
    dims = wide if kind == "PixelShuffle" else deep
    low.emit(node, kind, [source], dims, {0: scales[0], 1: mode}, to=node.outputs[0])
    return True


def depth_to_space(low: Lowering, node: Node) -> None:
    """PixelShuffle; DCR is ncnn's mode 1, CRD its mode 0."""
    mode = attribute(node, "mode")
    _rearranged(low, node, "PixelShuffle", 0 if mode == "CRD" else 1)


def space_to_depth(low: Lowering, node: Node) -> None:
    """Reorg mode 1: the block's position is the slow part of the channel."""
    _rearranged(low, node, "Reorg", 1)


def _rearranged(low: Lowering, node: Node, kind: str, mode: int) -> None:
    source, out_shape = low.input(node, 0), shape_of(node.outputs[0], node)
    if len(source.shape) != 4 or source.shape[0] != 1:
        raise unsupported(node, f"the input has the shape {source.shape}, expected (1, C, H, W)")
    view = low.view(source, source.shape[1:])
    params: dict[int, Param] = {0: int(node.attrs["blocksize"]), 1: mode}
    low.emit(node, kind, [view], out_shape[1:], params, to=node.outputs[0])


def concat(low: Lowering, node: Node) -> None:
    """Concat along the dim that is the axis (or starts with it) in every operand's blob."""
    values = [low.value(tensor) for tensor in node.inputs if prod(shape_of(tensor, node)) > 0]
    axis = normal_axis(node, int(node.attrs["axis"]), len(values[0].shape))
    if len(values) == 1:
        low.alias(node.outputs[0], values[0], node)
        return
    dim = _common_dim(values, axis)
    if dim is None:
        shown = [dims_showing(value.shape, [axis]) for value in values]
        if any(each is None for each in shown):
            raise unsupported(node, f"axis {axis} of tensors of shape {values[0].shape} does not fit 4 dimensions")
        values = [low.view(value, each[0]) for value, each in zip(values, shown, strict=True) if each is not None]
        dim = next(each[1][axis] for each in shown if each is not None)
    dims = list(values[0].dims)
    dims[dim] = sum(value.dims[dim] for value in values)
    low.emit(node, "Concat", values, tuple(dims), {0: dim}, to=node.outputs[0])


def _common_dim(values: Sequence[Value], axis: int) -> int | None:
    found = {dim_of_axis(value.shape, value.dims, axis) for value in values}
    if found == {None} or len(found) > 1:
        found = {dim_of_outer_factor(value.shape, value.dims, axis) for value in values}
    dim = found.pop()
    if found or dim is None:
        return None
    rest = {(*value.dims[:dim], *value.dims[dim + 1 :], len(value.dims)) for value in values}
    return dim if len(rest) == 1 else None


def tile(low: Lowering, node: Node) -> None:
    """Tile, or Expand as a tiling of its axes of extent 1."""
    source, out_shape = low.input(node, 0), shape_of(node.outputs[0], node)
    if prod(source.shape) == prod(out_shape):
        low.alias(node.outputs[0], source, node)
        return
    shape = padded(source.shape, len(out_shape))
    repeats = [outer // inner for outer, inner in zip(out_shape, shape, strict=True)]
    axes = [axis for axis, count in enumerate(repeats) if count > 1]
    shown = dims_showing(shape, axes)
    if shown is None:
        raise unsupported(node, f"repeating axes {axes} of a tensor of shape {shape} does not fit 4 dimensions")
    dims, where = shown
    counts = [1] * len(dims)
    for axis in axes:
        counts[where[axis]] = repeats[axis]
    tiled = tuple(extent * count for extent, count in zip(dims, counts, strict=True))
    low.emit(node, "Tile", [low.view(source, dims)], tiled, {2: counts}, to=node.outputs[0])


_PAD_MODES = {"constant": 0, "edge": 1, "reflect": 2}


def pad(low: Lowering, node: Node) -> None:
    """Padding; negative pads are a Crop."""
    source = low.input(node, 0)
    rank = len(source.shape)
    pads = _pads(node, rank)
    if any(count < 0 for pair in pads.values() for count in pair):
        if any(count > 0 for pair in pads.values() for count in pair):
            raise unsupported(node, "pads of both signs")
        ranges = {axis: (-before, source.shape[axis] + after) for axis, (before, after) in pads.items()}
        crop(low, node, source, ranges, to=node.outputs[0])
        return
    if not pads:
        low.alias(node.outputs[0], source, node)
        return
    mode = attribute(node, "mode")
    if mode not in _PAD_MODES:
        raise unsupported(node, f"mode '{mode}'")
    source, where = low.showing(node, source, list(pads))
    sides = _sides(node, source.dims, {where[axis]: pair for axis, pair in pads.items()})
    dims = list(source.dims)
    for axis, (before, after) in pads.items():
        dims[where[axis]] += before + after
    value = operand(node, "constant_value")
    fill = 0.0 if value is None else float(value.reshape(-1)[0])
    params: dict[int, Param] = {**sides, 4: _PAD_MODES[mode], 5: fill}
    low.emit(node, "Padding", [source], tuple(dims), params, to=node.outputs[0])


def _pads(node: Node, rank: int) -> dict[int, tuple[int, int]]:
    given, axes = operand(node, "pads"), operand(node, "axes")
    if given is None or is_computed(node, "constant_value"):
        raise unsupported(node, "its pads are computed")
    pads, half = int_list(given), np.asarray(given).size // 2
    which = range(rank) if axes is None else [normal_axis(node, axis, rank) for axis in int_list(axes)]
    pairs = {axis: (pads[index], pads[index + half]) for index, axis in enumerate(which)}
    return {axis: pair for axis, pair in pairs.items() if pair != (0, 0)}


def _sides(node: Node, dims: Dims, pads: Mapping[int, tuple[int, int]]) -> dict[int, Param]:
    """Padding's parameter ids: left/right for w, top/bottom for h, front/behind for the dim before."""
    ids = {1: (2, 3), 2: (0, 1), 3: (7, 8)}
    params: dict[int, Param] = {}
    for dim, (before, after) in pads.items():
        place = len(dims) - dim
        if place not in ids:
            raise unsupported(node, "padding the outermost of four dimensions")
        params.update(zip(ids[place], (before, after), strict=True))
    return params


SHAPE_OPS: dict[str, Lower] = {
    "Reshape": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Flatten": reshape,
    "Identity": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Tile": tile,
    "Expand": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Resize": resize,
    "Upsample": resize,
}
