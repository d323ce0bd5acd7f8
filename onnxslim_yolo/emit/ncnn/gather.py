"""Gather with constant indices: a crop, a shuffle, a stride, or pieces put together again."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Param, Weight
from onnxslim_yolo.emit.ncnn.layout import dim_of_axis
from onnxslim_yolo.emit.ncnn.lower import Lowering, Value, normal_axis, unsupported
from onnxslim_yolo.emit.ncnn.slice import crop, subsample
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, input_constant

MAX_PIECES = 12


def gather(low: Lowering, node: Node) -> None:
    """Gather along one axis. Computed indices are refused."""
    indices = input_constant(node, 1)
    if indices is None:
        raise unsupported(node, "its indices are computed")
    source = low.input(node, 0)
    axis = normal_axis(node, int(attribute(node, "axis")), len(source.shape))
    size = source.shape[axis]
    picks = np.where(indices < 0, indices + size, indices).reshape(-1).astype(np.int64)
    if picks.size == 0 or picks.min() < 0 or picks.max() >= size:
        raise unsupported(node, f"indices outside an axis of {size}")
    first, output = int(picks[0]), node.outputs[0]
    steps = set(np.diff(picks).tolist())
    if not steps or steps == {1}:
        crop(low, node, source, {axis: (first, first + picks.size)}, to=output)
        return
    groups = shuffle_groups(picks, size)
    dim = dim_of_axis(source.shape, source.dims, axis)
    if groups is not None and dim == 0 and len(source.dims) >= 3:
        per_group = size // groups
        params: dict[int, Param] = {0: groups} if groups <= per_group else {0: per_group, 1: 1}
        low.emit(node, "ShuffleChannel", [source], source.dims, params, to=output)
        return
    if len(steps) == 1 and (step := steps.pop()) > 1:
        part = crop(low, node, source, {axis: (first, int(picks[-1]) + 1)}, to=None, suffix="/crop")
        subsample(low, node, part, {axis: step}, output)
        return
    _pieces(low, node, source, axis, picks)


def shuffle_groups(picks: Array, size: int) -> int | None:
    """The g for which the indices are a (g, size/g) matrix read column by column, or None."""
    if picks.size != size or size < 4 or picks[0] != 0 or picks[1] <= 1 or size % picks[1]:
        return None
    groups = size // int(picks[1])
    expected = np.arange(size).reshape(groups, -1).T.reshape(-1)
    return groups if np.array_equal(picks, expected) else None


def _pieces(low: Lowering, node: Node, source: Value, axis: int, picks: Array) -> None:
    breaks = np.flatnonzero(np.diff(picks) != 1) + 1
    runs = np.split(picks, breaks)
    if len(runs) > MAX_PIECES:
        _selection(low, node, source, axis, picks)
        return
    source, where = low.showing(node, source, [axis])
    parts = [
        crop(low, node, source, {axis: (int(run[0]), int(run[-1]) + 1)}, to=None, suffix=f"/piece{index}")
        for index, run in enumerate(runs)
    ]
    dims = list(source.dims)
    dims[where[axis]] = picks.size
    low.emit(node, "Concat", parts, tuple(dims), {0: where[axis]}, to=node.outputs[0])


def _selection(low: Lowering, node: Node, source: Value, axis: int, picks: Array) -> None:
    """Many single channels: a 1×1 convolution with a 0/1 matrix, which is exact."""
    if axis != 1 or source.shape[0] != 1:
        raise unsupported(node, f"{picks.size} scattered indices along axis {axis}")
    size = source.shape[1]
    matrix = np.zeros((picks.size, size), np.float32)
    matrix[np.arange(picks.size), picks] = 1.0
    rest = source.shape[2:]
    dims = (size, *rest) if len(rest) == 2 else (size, 1, int(np.prod(rest, dtype=np.int64)))
    params: dict[int, Param] = {0: picks.size, 1: 1, 6: matrix.size}
    view = low.view(source, dims)
    weights = [Weight(matrix, tagged=True)]
    low.emit(node, "Convolution", [view], (picks.size, *dims[1:]), params, weights, to=node.outputs[0])
