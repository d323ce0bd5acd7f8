"""pad-pool: a constant Pad goes into the convolution or pooling behind it.

1. Conv: pads with zeros itself, so a zero Pad adds to its `pads`.
2. AveragePool: likewise with `count_include_pad`, if the pool had no padding of its own that it did not count.
3. MaxPool pads with -∞, a Pad of -∞ adds to it; and a zero Pad does where the input is non-negative. (Elsewhere it
   stays a Pad, which ncnn runs as it is; what onnxruntime needs there is seen to in `runtime.onnx_pads`.)

Declines: other modes, negative pads (crops), padded batch or channels, a value or size that is not constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.padding import Padding, fits, padding_of, take_in, widened
from onnxslim_yolo.analysis.sign import is_nonnegative
from onnxslim_yolo.analysis.window import ceil_mode_matters, set_windows, windows_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
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
class PadToPool:
    """Fold constant Pads into the convolutions and poolings behind them."""

    name: ClassVar[str] = "pad-pool"

    def run(self, model: Model) -> int:
        """Fold; return how many layers took in a Pad."""
        graph, namer, rewrites = model.graph, Namer(model.graph), 0
        for node in nodes_of(graph, "Pad"):
            padding = padding_of(node)
            for reader in consumers(node.outputs[0]) if padding is not None else []:
                fold = next((into for asked, into in _FOLD if asked(reader)), None)
                if padding is not None and fold is not None and reader.inputs[0] is node.outputs[0]:
                    rewrites += fold(graph, node, reader, padding, namer)
        if rewrites:
            sweep(graph)
            graph.nodes = toposort(graph)
        return rewrites


def _into_conv(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    weight = input_constant(node, 1)
    windows = None if weight is None else windows_of(node, weight.shape[2:])
    if windows is None or padding.value != 0 or pad.outputs[0] is node.inputs[1]:
        return False
    set_windows(node, widened(windows, padding))
    set_input(node, 0, pad.inputs[0])
    return True


def _into_average_pool(graph: gs.Graph, pad: Node, node: Node, padding: Padding, namer: Namer) -> bool:
    windows = windows_of(node, node.attrs["kernel_shape"])
    if windows is None or padding.value != 0 or ceil_mode_matters(node, windows):
        return False
    if any(w.is_padded for w in windows) and not attribute(node, "count_include_pad"):
        return False
    wide = widened(windows, padding)
    if not fits(wide):
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
    dtype, wide = np.dtype(source.dtype), widened(windows, padding)
    if dtype.kind != "f" or not fits(wide) or ceil_mode_matters(node, windows):
        return False
    if padding.value > np.finfo(dtype).min and (padding.value != 0 or not is_nonnegative(source)):
        return False
    take_in(node, wide, pad)
    return True


_Fold = Callable[[gs.Graph, Node, Node, Padding, Namer], bool]
_FOLD: tuple[tuple[Question, _Fold], ...] = (
    (is_conv, _into_conv),
    (is_average_pool, _into_average_pool),
    (is_max_pool, _into_max_pool),
)
