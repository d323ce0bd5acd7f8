"""pad-pool: a constant Pad goes into the convolution or pooling behind it.

1. Conv: pads with zeros itself, so a zero Pad adds to its `pads`.
2. AveragePool: likewise with `count_include_pad`, if the pool had no padding of its own that it did not count.
3. MaxPool pads with -∞, a Pad of -∞ adds to it. A zero Pad does so only where the input is non-negative. Elsewhere

       MaxPool(Pad0(x)) = Max(MaxPool(x; pads), E)

   with a constant E of shape (1, 1, H, W): 0 where a window touches the padding, the lowest number elsewhere. Where the
   map's size is not known, or the padding is wider than MaxPool takes, a depthwise 1×1 convolution of ones with that
   padding takes the place of the Pad: the same, element for element.

Case 3 is about correctness: onnxruntime (up to 1.31.1; mended in 1.32) fuses a zero Pad into MaxPool as if the input
were non-negative, so that Darknet's and YOLOv3-tiny's ZeroPad2d → MaxPool gives other results with optimisations on
than off. What this pass writes has nothing to fuse, and is right either way.

Declines: other modes, negative pads (crops), padded batch or channels, a value or size that is not constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import CannotMoveError, pad_value, pad_widths
from onnxslim_yolo.analysis.sign import is_nonnegative
from onnxslim_yolo.analysis.window import Window, ceil_mode_matters, set_windows, windows_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    consumers,
    input_constant,
    is_empty,
    nodes_of,
    set_input,
    sweep,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import is_conv
from onnxslim_yolo.ops.question import Question
from onnxslim_yolo.ops.spatial import is_average_pool, is_max_pool


@dataclass(frozen=True)
class Padding:
    """A constant Pad: elements before and after each spatial axis, and their value."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class PadToPool:
    """Fold constant Pads into the convolutions and poolings behind them, so that optimisers cannot do it wrongly."""

    name: ClassVar[str] = "pad-pool"

    def run(self, model: Model) -> int:
        """Fold; return how many layers took in a Pad."""
        graph, namer, rewrites = model.graph, Namer(model.graph), 0
        for node in nodes_of(graph, "Pad"):
            padding = _padding_of(node)
            for reader in consumers(node.outputs[0]) if padding is not None else []:
                fold = next((into for asked, into in _FOLD if asked(reader)), None)
                if padding is not None and fold is not None and reader.inputs[0] is node.outputs[0]:
                    rewrites += fold(graph, node, reader, padding, namer)
        if rewrites:
            sweep(graph)
            graph.nodes = toposort(graph)
        return rewrites


def _padding_of(node: Node) -> Padding | None:
    shape = node.inputs[0].shape
    if attribute(node, "mode") != "constant" or shape is None:
        return None
    try:
        widths, value = pad_widths(node, len(shape)), pad_value(node)
    except CannotMoveError:
        return None
    begins, ends = zip(*widths, strict=True)
    if value is None or min(begins + ends) < 0 or any(begins[:2] + ends[:2]):
        return None
    return Padding(tuple(begins[2:]), tuple(ends[2:]), value)


def _widened(windows: tuple[Window, ...], padding: Padding) -> tuple[Window, ...]:
    return tuple(
        Window(w.stride, w.first - begin, w.step, w.taps, w.slack + begin + end)
        for w, begin, end in zip(windows, padding.begins, padding.ends, strict=True)
    )


def _into_conv(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    weight = input_constant(node, 1)
    windows = None if weight is None else windows_of(node, weight.shape[2:])
    if windows is None or padding.value != 0 or pad.outputs[0] is node.inputs[1]:
        return False
    set_windows(node, _widened(windows, padding))
    set_input(node, 0, pad.inputs[0])
    return True


def _into_average_pool(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    windows = windows_of(node, node.attrs["kernel_shape"])
    if windows is None or padding.value != 0 or ceil_mode_matters(node, windows):
        return False
    if any(w.is_padded for w in windows) and not attribute(node, "count_include_pad"):
        return False
    wide = _widened(windows, padding)
    if not _fits(wide):
        return False
    set_windows(node, wide)
    node.attrs["count_include_pad"] = 1
    node.attrs.pop("ceil_mode", None)  # it changes nothing here, and opsets before 10 do not know it
    set_input(node, 0, pad.inputs[0])
    return True


def _into_max_pool(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    source, windows = pad.inputs[0], windows_of(node, node.attrs["kernel_shape"])
    if windows is None or source.dtype is None or any(not is_empty(tensor) for tensor in node.outputs[1:]):
        return False
    dtype = np.dtype(source.dtype)
    if dtype.kind != "f":
        return False
    wide = _widened(windows, padding)
    simple = _fits(wide) and not ceil_mode_matters(node, windows)
    if simple and (padding.value <= np.finfo(dtype).min or (padding.value == 0 and is_nonnegative(source))):
        _set_max_pool(node, wide, pad)
        return True
    if padding.value != 0:
        return False
    floor = _floor(source.shape, wide, padding, dtype) if simple else None
    if floor is None:
        return _pad_by_convolution(graph, pad, node, padding, namer)
    output = node.outputs[0]
    pooled = gs.Variable(namer(f"{output.name}_pooled"), output.dtype, output.shape)
    _set_max_pool(node, wide, pad)
    node.outputs = [pooled]
    constant = gs.Constant(namer(f"{output.name}_floor"), floor)
    graph.nodes.append(gs.Node("Max", namer(f"{node.name}_max"), inputs=[pooled, constant], outputs=[output]))
    return True


def _set_max_pool(node: Node, windows: tuple[Window, ...], pad: Node) -> None:
    set_windows(node, windows)
    node.attrs.pop("ceil_mode", None)
    set_input(node, 0, pad.inputs[0])


def _floor(
    shape: list[int | str] | None, windows: tuple[Window, ...], padding: Padding, dtype: np.dtype[np.generic]
) -> Array | None:
    """0 where a window touches the padding (not MaxPool's own), the lowest number elsewhere; None for unknown sizes."""
    touches = np.zeros((1,) * (2 + len(windows)), bool)
    for axis, (window, begin, end) in enumerate(zip(windows, padding.begins, padding.ends, strict=True)):
        size = shape[axis + 2] if shape is not None else None
        if not isinstance(size, int):
            return None
        count = (size + window.slack) // window.stride + 1
        taps = np.arange(count)[:, None] * window.stride + window.first + np.arange(window.taps) * window.step
        hit = (((taps >= -begin) & (taps < 0)) | ((taps >= size) & (taps < size + end))).any(1)
        touches = touches | hit.reshape([-1 if other == axis + 2 else 1 for other in range(touches.ndim)])
    return np.where(touches, 0, np.finfo(dtype).min).astype(dtype)  # type: ignore[type-var]


def _pad_by_convolution(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    """Another node than Pad that pads with zeros: onnxruntime fuses only the latter."""
    source, padded = pad.inputs[0], pad.outputs[0]
    channels = source.shape[1]
    if not isinstance(channels, int):
        return False
    output = gs.Variable(namer(f"{padded.name}_zeros"), padded.dtype, padded.shape)
    ones = np.ones((channels, 1, *(1,) * len(padding.begins)), np.dtype(source.dtype))
    weight = gs.Constant(namer(f"{pad.name}.ones"), ones)
    attrs = {"kernel_shape": list(ones.shape[2:]), "group": channels, "pads": [*padding.begins, *padding.ends]}
    graph.nodes.append(gs.Node("Conv", namer(f"{pad.name}_conv"), attrs, [source, weight], [output]))
    set_input(node, 0, output)
    return True


def _fits(windows: tuple[Window, ...]) -> bool:
    """Whether a pooling may have these pads: the runtimes want them smaller than the kernel."""
    return all(max(w.pads) < w.taps and w.step == 1 for w in windows)


_Fold = Callable[[gs.Graph, Node, Node, Padding, Namer], bool]
_FOLD: tuple[tuple[Question, _Fold], ...] = (
    (is_conv, _into_conv),
    (is_average_pool, _into_average_pool),
    (is_max_pool, _into_max_pool),
)
