"""Cutting pieces out of a blob: Slice, Split and what Gather needs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from onnxslim_yolo.emit.ncnn.format import Param
from onnxslim_yolo.emit.ncnn.layout import dim_of_axis, dim_of_outer_factor
from onnxslim_yolo.emit.ncnn.lower import Lowering, Value, int_list, normal_axis, unsupported
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.attributes import attribute, is_computed, operand
from onnxslim_yolo.ir.graph import Node, Tensor, is_empty

FAR = 1 << 30


def crop(
    low: Lowering,
    node: Node,
    source: Value,
    ranges: Mapping[int, tuple[int, int]],
    *,
    to: Tensor | None,
    suffix: str = "",
) -> Value:
    """The half-open ranges of these axes, as a Crop (or nothing if they are whole). Returns the cropped value."""
    cut = {axis: span for axis, span in ranges.items() if span != (0, source.shape[axis])}
    shape = tuple(ranges[axis][1] - ranges[axis][0] if axis in ranges else n for axis, n in enumerate(source.shape))
    if any(extent <= 0 for extent in shape):
        raise unsupported(node, f"nothing is left of a tensor of shape {source.shape}")
    if not cut:
        if to is not None:
            low.alias(to, source, node)
        return source
    source, places = _placed(low, node, source, list(cut))
    dims, starts, ends = list(source.dims), [], []
    for axis, (start, end) in cut.items():
        dim, inner = places[axis]
        starts.append(start * inner)
        ends.append(end * inner)
        dims[dim] = (end - start) * inner
    params: dict[int, Param] = {9: starts, 10: ends, 11: [places[axis][0] for axis in cut]}
    return low.emit(node, "Crop", [source], tuple(dims), params, to=to, suffix=suffix, shape=shape)


def _placed(low: Lowering, node: Node, source: Value, axes: Sequence[int]) -> tuple[Value, dict[int, tuple[int, int]]]:
    """A blob where each axis is a dim, or the outer factor of one; per axis the dim and how much lies within."""
    places: dict[int, tuple[int, int]] = {}
    for axis in axes:
        dim = dim_of_axis(source.shape, source.dims, axis)
        if dim is None and source.shape[axis] > 1:
            dim = dim_of_outer_factor(source.shape, source.dims, axis)
        if dim is not None:
            places[axis] = (dim, source.dims[dim] // source.shape[axis])
    if len(places) == len(axes) and len({dim for dim, _ in places.values()}) == len(axes):
        return source, places
    source, where = low.showing(node, source, axes)
    return source, {axis: (where[axis], 1) for axis in axes}


def slice_(low: Lowering, node: Node) -> None:
    """Slice with constant bounds: a Crop, and a 1×1 pooling with that stride for a step."""
    source = low.input(node, 0)
    ranges, steps = _bounds(node, source.shape)
    stepped = {axis: step for axis, step in steps.items() if step > 1 and ranges[axis][1] - ranges[axis][0] > 1}
    to = node.outputs[0]
    cropped = crop(low, node, source, ranges, to=None if stepped else to, suffix="/crop" if stepped else "")
    if stepped:
        subsample(low, node, cropped, stepped, to)


def subsample(low: Lowering, node: Node, source: Value, steps: Mapping[int, int], to: Tensor) -> None:
    """Every step-th element along some axes, from the first on."""
    rank = len(source.shape)
    pending = dict(steps)
    while pending:
        both = rank >= 2 and set(pending) == {rank - 2, rank - 1}
        axis = rank - 2 if both else next(iter(pending))
        shape = source.shape
        before, middle, after = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
        step, across = pending.pop(axis), pending.pop(rank - 1) if both else 1
        dims = (before, (middle - 1) // step + 1, (after - 1) // across + 1)
        params: dict[int, Param] = {0: 0, 1: 1, 11: 1, 2: across, 12: step, 5: 1}
        smaller = [*shape]
        smaller[axis] = dims[1]
        if both:
            smaller[rank - 1] = dims[2]
        view = low.view(source, (before, middle, after))
        last = to if not pending else None
        source = low.emit(node, "Pooling", [view], dims, params, to=last, suffix=f"/step{axis}", shape=tuple(smaller))


def _bounds(node: Node, shape: Sequence[int]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    names = ("starts", "ends", "axes", "steps")
    if any(is_computed(node, name) for name in names):
        raise unsupported(node, "its bounds are computed")
    starts, ends, axes, steps = (None if v is None else int_list(v) for v in (operand(node, name) for name in names))
    if starts is None or ends is None:
        raise unsupported(node, "it has no bounds")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    ranges: dict[int, tuple[int, int]] = {}
    by_axis: dict[int, int] = {}
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = normal_axis(node, given, len(shape))
        if step < 1:
            raise unsupported(node, f"step {step}")
        first, last, _ = slice(max(min(start, FAR), -FAR), max(min(end, FAR), -FAR)).indices(shape[axis])
        count = max(0, -(-(last - first) // step))
        ranges[axis], by_axis[axis] = (first, first + (count - 1) * step + 1 if count else first), step
    return ranges, by_axis


def split(low: Lowering, node: Node) -> None:
    """Slice layer; a Crop where only one piece is used."""
    source = low.input(node, 0)
    axis = normal_axis(node, int(attribute(node, "axis")), len(source.shape))
    sizes = [shape_of(tensor, node)[axis] for tensor in node.outputs if not is_empty(tensor)]
    if len(sizes) != len(node.outputs):
        raise unsupported(node, "an output of the split is omitted")
    emit_split(low, node, source, axis, sizes, node.outputs)


def emit_split(
    low: Lowering, node: Node, source: Value, axis: int, sizes: Sequence[int], outputs: Sequence[Tensor]
) -> None:
    """Cut an axis into pieces of these sizes."""
    if len(sizes) == 1:
        low.alias(outputs[0], source, node)
        return
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    used = [index for index, tensor in enumerate(outputs) if low.is_used(tensor)]
    if len(used) == 1:
        start = offsets[used[0]]
        crop(low, node, source, {axis: (start, start + sizes[used[0]])}, to=outputs[used[0]])
        return
    source, places = _placed(low, node, source, [axis])
    dim, inner = places[axis]
    scaled = [size * inner for size in sizes]
    pieces = [(*source.dims[:dim], size, *source.dims[dim + 1 :]) for size in scaled]
    low.emit_many(node, "Slice", source, pieces, {0: scaled, 1: dim}, outputs)
