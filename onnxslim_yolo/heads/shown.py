"""How many classes a graph shows, where its outputs are maps that hold boxes, objectness and classes side by side.

From a map of 85 channels nothing tells whether these are 4 + 1 + 80 or 4 + 81. But YOLOX joins them from three
branches: Concat(4 channels, σ(1 channel), σ(n channels)), and the graph of an export still has that.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Tensor, producer
from onnxslim_yolo.ops.functions import is_sigmoid
from onnxslim_yolo.ops.linear import LinearLayer, is_conv
from onnxslim_yolo.ops.movement import is_join


def classes_shown(graph: gs.Graph) -> int | None:
    """The n that all outputs share, or None."""
    found = {_classes(output) for output in graph.outputs}
    return found.pop() if len(found) == 1 and len(graph.outputs) > 1 else None


def _classes(output: Tensor) -> int | None:
    join = producer(output)
    if not is_join(join) or len(join.inputs) != 3 or int(attribute(join, "axis")) not in (1, -3):
        return None
    makers = [producer(tensor) for tensor in join.inputs[1:]]
    if not all(is_sigmoid(maker) for maker in makers):
        return None
    widths = [_channels(tensor) for tensor in join.inputs]
    return widths[2] if widths[:2] == [4, 1] else None


def _channels(tensor: Tensor) -> int | None:
    """A map's channels: as declared, or as the convolution in front of a function has filters."""
    if tensor.shape is not None and len(tensor.shape) == 4 and isinstance(tensor.shape[1], int):
        return int(tensor.shape[1])
    node = producer(tensor)
    if is_sigmoid(node):
        return _channels(node.inputs[0])
    layer = LinearLayer.of(node) if is_conv(node) else None
    return None if layer is None else layer.outputs
