"""What onnxruntime up to 1.31.1 needs (mended in 1.32): no zero Pad in front of a MaxPool whose input may be negative.

It fuses the two as if the input were non-negative, so that Darknet's and YOLOv3-tiny's ZeroPad2d → MaxPool gives other
results with optimisations on than off. On a private copy of what is written, and of what is run,

    MaxPool(Pad0(x)) = Max(MaxPool(x; pads), E)

with a constant E of shape (1, 1, H, W): 0 where a window touches the padding, the lowest number elsewhere. Where the
map's size is not known, or the padding is wider than MaxPool takes, a depthwise 1×1 convolution of ones with that
padding takes the place of the Pad: the same, element for element. Neither has anything to fuse; both are right in every
version.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.padding import Padding, fits, padding_of, take_in, widened
from onnxslim_yolo.analysis.window import Window, ceil_mode_matters, windows_of
from onnxslim_yolo.ir.graph import Array, Namer, Node, consumers, is_empty, nodes_of, set_input, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.spatial import is_max_pool


def fit_for_onnxruntime(model: Model) -> Model:
    """The model, or a copy of it in which every such Pad is written otherwise; the Pads stay, perhaps unread."""
    if not _fused_wrongly(model.graph):
        return model
    work = model.copy()
    name = Namer(work.graph)
    for pad, pool in _fused_wrongly(work.graph):
        padding = padding_of(pad)
        if padding is not None:
            _rewrite(work.graph, pad, pool, padding, name)
    work.graph.nodes = toposort(work.graph)
    return work


def _fused_wrongly(graph: gs.Graph) -> list[tuple[Node, Node]]:
    return [
        (pad, pool)
        for pad in nodes_of(graph, "Pad")
        for pool in consumers(pad.outputs[0])
        if is_max_pool(pool) and _is_of_zeros(pad) and all(is_empty(tensor) for tensor in pool.outputs[1:])
    ]


def _is_of_zeros(pad: Node) -> bool:
    padding, kind = padding_of(pad), pad.inputs[0].dtype
    return padding is not None and padding.value == 0 and kind is not None and np.dtype(kind).kind == "f"


def _rewrite(graph: gs.Graph, pad: Node, pool: Node, padding: Padding, name: Namer) -> None:
    source, windows = pad.inputs[0], windows_of(pool, pool.attrs["kernel_shape"])
    wide = None if windows is None else widened(windows, padding)
    simple = windows is not None and wide is not None and fits(wide) and not ceil_mode_matters(pool, windows)
    floor = _floor(source.shape, wide, padding, np.dtype(source.dtype)) if simple and wide is not None else None
    if floor is None or wide is None:
        _pad_by_convolution(graph, pad, pool, padding, name)
        return
    output = pool.outputs[0]
    pooled = gs.Variable(name(f"{output.name}_pooled"), output.dtype, output.shape)
    take_in(pool, wide, pad)
    pool.outputs = [pooled]
    constant = gs.Constant(name(f"{output.name}_floor"), floor)
    graph.nodes.append(gs.Node("Max", name(f"{pool.name}_max"), inputs=[pooled, constant], outputs=[output]))


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


def _pad_by_convolution(graph: gs.Graph, pad: Node, node: Node, padding: Padding, name: Namer) -> None:
    """Another node than Pad that pads with zeros: onnxruntime fuses only the latter."""
    source, padded = pad.inputs[0], pad.outputs[0]
    channels = source.shape[1]
    if not isinstance(channels, int):
        return
    output = gs.Variable(name(f"{padded.name}_zeros"), padded.dtype, padded.shape)
    ones = np.ones((channels, 1, *(1,) * len(padding.begins)), np.dtype(source.dtype))
    weight = gs.Constant(name(f"{pad.name}.ones"), ones)
    attrs = {"kernel_shape": list(ones.shape[2:]), "group": channels, "pads": [*padding.begins, *padding.ends]}
    graph.nodes.append(gs.Node("Conv", name(f"{pad.name}_conv"), attrs, [source, weight], [output]))
    set_input(node, 0, output)
