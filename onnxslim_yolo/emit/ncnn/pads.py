"""Padding that was worked into other layers for onnxruntime's sake, as the plain Padding that ncnn runs faster.

Floor   Max(MaxPool(x; P), E) = MaxPool(Padᵥ(x; p); P − p), where E is v wherever a window touches one of the p elements
        of the padding P, and the lowest number elsewhere. `pad-pool` writes the left side, because
        onnxruntime fuses a zero Pad into MaxPool wrongly; ncnn pays for the constant and the second layer. Any p that
        has this E will do: a maximum shows its padding in no other way. Taken is the largest, which leaves the pooling
        least to pad.
Ones    a depthwise 1×1 convolution of ones with pads = Pad₀. It is what `pad-pool` writes where the size is open.

Declined are a floor that is no such E, and whatever else reads the pooled tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.window import Window, ceil_mode_matters, set_windows, windows_of
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    become,
    constant_of,
    input_constant,
    is_empty,
    sole_producer,
    static_shape,
)
from onnxslim_yolo.ops.arithmetic import is_greatest
from onnxslim_yolo.ops.linear import groups_of, is_conv

Sides = tuple[int, int]
"""Elements before and after an axis."""
FAR = 1 << 30


def restore_pads(graph: gs.Graph) -> int:
    """Rewrite both, in place. Returns how many."""
    return sum(_unfloor(graph, node) or _unconvolve(graph, node) for node in list(graph.nodes))


def _unfloor(graph: gs.Graph, node: Node) -> bool:
    pool, floor = _floored_pool(graph, node)
    if pool is None or floor is None or any(not is_empty(tensor) for tensor in pool.outputs[1:]):
        return False
    shape = static_shape(pool.inputs[0])
    windows = windows_of(pool, pool.attrs["kernel_shape"])
    if shape is None or windows is None or ceil_mode_matters(pool, windows):
        return False
    value, touched = _value_and_place(floor, len(windows))
    sides = _sides(windows, shape[2:], touched) if touched is not None else None
    if sides is None or value is None:
        return False
    output = node.outputs[0]
    padded = _pad(graph, pool.inputs[0], sides, value, f"{pool.name}_pad")
    set_windows(pool, [_without(window, each) for window, each in zip(windows, sides, strict=True)])
    pool.attrs.pop("ceil_mode", None)
    node.outputs, node.inputs = [], []
    pool.inputs, pool.outputs = [padded], [output]
    return True


def _floored_pool(graph: gs.Graph, node: Node) -> tuple[Node | None, Array | None]:
    """The MaxPool and the constant whose maximum this node is."""
    if not is_greatest(node) or len(node.inputs) != 2:
        return None, None
    for pooled, other in (node.inputs, node.inputs[::-1]):
        floor = constant_of(other)
        if floor is not None:
            return sole_producer(graph, pooled, "MaxPool"), floor
    return None, None


def _value_and_place(floor: Array, rank: int) -> tuple[float | None, Array | None]:
    """The one value of a floor that is not the lowest number, and where it is; None where it is no such floor."""
    lead = floor.ndim - rank
    if floor.dtype.kind != "f" or lead < 0 or any(extent != 1 for extent in floor.shape[:lead]):
        return None, None
    plane = floor.reshape(floor.shape[lead:])
    touched = plane > np.finfo(floor.dtype).min
    values = np.unique(plane[touched])
    return (float(values[0]), touched) if values.size == 1 and np.isfinite(values[0]) else (None, None)


def _sides(windows: Sequence[Window], size: Sequence[int], touched: Array) -> list[Sides] | None:
    """The padding of each axis that exactly these windows touch, or None."""
    counts = tuple((extent + window.slack) // window.stride + 1 for window, extent in zip(windows, size, strict=True))
    if touched.shape != counts:
        return None
    axes = range(len(counts))
    lines = [np.asarray(touched.all(tuple(other for other in axes if other != axis))) for axis in axes]
    found = [_side(window, extent, line) for window, extent, line in zip(windows, size, lines, strict=True)]
    seen = np.zeros(counts, bool)
    for axis, (_, line) in enumerate(found):
        seen |= line.reshape([-1 if other == axis else 1 for other in axes])
    return [sides for sides, _ in found] if (seen == touched).all() else None


def _side(window: Window, extent: int, wanted: Array) -> tuple[Sides, Array]:
    """The most padding of an axis that none but the wanted windows touch, and the windows that do."""
    first = np.arange(len(wanted))[:, None] * window.stride + window.first
    taps = first + np.arange(window.taps) * window.step
    depths = [np.where(beyond >= 0, beyond + 1, FAR).min(1) for beyond in (-1 - taps, taps - extent)]
    before, after = (int(min([most, *(depth[~wanted] - 1)])) for most, depth in zip(window.pads, depths, strict=True))
    return (before, after), (depths[0] <= before) | (depths[1] <= after)


def _without(window: Window, sides: Sides) -> Window:
    before, after = sides
    return Window(window.stride, window.first + before, window.step, window.taps, window.slack - before - after)


def _unconvolve(graph: gs.Graph, node: Node) -> bool:
    weight = input_constant(node, 1) if is_conv(node) and len(node.inputs) == 2 else None
    windows = windows_of(node, weight.shape[2:]) if weight is not None else None
    if weight is None or windows is None or groups_of(node) != weight.shape[0]:
        return False
    if weight.shape[1] != 1 or (weight != 1).any() or any((w.taps, w.stride) != (1, 1) for w in windows):
        return False
    if static_shape(node.inputs[0]) is None or not any(w.is_padded for w in windows):
        return False
    become(node, "Pad", _pad_attributes([w.pads for w in windows], 0.0), [node.inputs[0]])
    return True


def _pad(graph: gs.Graph, source: Tensor, sides: Sequence[Sides], value: float, name: str) -> Tensor:
    namer, shape = Namer(graph), shape_of(source)
    sizes = [extent + sum(each) for extent, each in zip(shape[2:], sides, strict=True)]
    padded = gs.Variable(namer(f"{source.name}_padded"), source.dtype, [*shape[:2], *sizes])
    graph.nodes.append(gs.Node("Pad", namer(name), _pad_attributes(sides, value), [source], [padded]))
    return padded


def _pad_attributes(sides: Sequence[Sides], value: float) -> dict[str, object]:
    """As before opset 11: the lowering takes both spellings."""
    return {"pads": [0, 0, *(before for before, _ in sides), 0, 0, *(after for _, after in sides)], "value": value}
