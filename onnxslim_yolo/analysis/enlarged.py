"""Pointwise convolutions that read what a Resize has enlarged, alone or beside others in a Concat.

Enlarging makes every value from values of the same channel, with weights that add up to 1; a 1×1 convolution makes
every value from those at the same position. So the two commute, bias and all:

    W·[up(a); b] + t  =  up(W_a·a) + (W_b·b + t)

and W_a·a takes only as many multiplications as the small map has positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.window import windows_of
from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    consumers,
    has_input,
    input_constant,
    is_constant,
    is_empty,
    is_graph_output,
)
from onnxslim_yolo.ops.linear import groups_of, is_conv
from onnxslim_yolo.ops.movement import is_join
from onnxslim_yolo.ops.spatial import is_resize

MODES = ("nearest", "linear", "cubic")


@dataclass(frozen=True)
class Enlarged:
    """Channels [start, stop) of a convolution's input, which `resize` has enlarged.

    Attributes:
        share: the positions of the small map, as a share of the large one's.
    """

    resize: Node
    start: int
    stop: int
    share: float


def enlarged_inputs(graph: gs.Graph) -> dict[int, list[Enlarged]]:
    """What each pointwise convolution reads enlarged, in the order of its channels, by the convolution's `id`.

    Only where nothing else reads the large map, nor the Concat that it is part of: else they have to be made anyway.
    """
    found: dict[int, list[Enlarged]] = defaultdict(list)
    for resize in graph.nodes:
        share = _share(resize)
        if share is None:
            continue
        for convolution, start, stop in _places(graph, resize.outputs[0]):
            found[id(convolution)].append(Enlarged(resize, start, stop, share))
    return {key: sorted(parts, key=lambda part: part.start) for key, parts in found.items()}


def beside(node: Node, parts: Sequence[Enlarged]) -> list[Tensor]:
    """What a convolution reads in its Concat besides these parts; nothing where it reads one of them alone."""
    source = node.inputs[0].inputs[0]
    large = {id(part.resize.outputs[0]) for part in parts}
    return [tensor for tensor in source.inputs if id(tensor) not in large] if is_join(source) else []


def _places(graph: gs.Graph, large: Tensor) -> list[tuple[Node, int, int]]:
    """Where the large map is read: convolution, first channel, end. Empty if not all of its readers will do."""
    if is_graph_output(graph, large):
        return []
    found: list[tuple[Node, int, int]] = []
    for reader in consumers(large):
        if is_join(reader):
            whole, spans = reader.outputs[0], _spans(reader, large)
            readers = consumers(whole)
        else:
            whole, spans, readers = large, [(0, _width(large))], [reader]
        if not spans or is_graph_output(graph, whole) or not all(_is_pointwise(node, whole) for node in readers):
            return []
        found += [(node, *span) for node in readers for span in spans]
    return found


def _spans(concat: Node, part: Tensor) -> list[tuple[int, int]]:
    """The channels of a Concat that are this part's, each time that it occurs; empty where that cannot be told."""
    rank = len(part.shape or ())
    if rank < 3 or int(attribute(concat, "axis")) % rank != 1:
        return []
    widths = [_width(tensor) for tensor in concat.inputs]
    if not all(widths):
        return []
    ends = np.cumsum([0, *widths]).tolist()
    return [(ends[i], ends[i + 1]) for i, tensor in enumerate(concat.inputs) if tensor is part]


def _width(tensor: Tensor) -> int:
    """Channels; 0 where they are not known."""
    shape = tensor.shape
    return int(shape[1]) if shape is not None and len(shape) > 1 and _is_number(shape[1]) else 0


def _is_pointwise(node: Node, source: Tensor) -> bool:
    """Whether a node is a dense 1×1 convolution with stride 1 of this tensor."""
    if not is_conv(node) or node.inputs[0] is not source or groups_of(node) != 1:
        return False
    weight = input_constant(node, 1)
    windows = None if weight is None else windows_of(node, weight.shape[2:])
    if windows is None or (has_input(node, 2) and input_constant(node, 2) is None):
        return False
    return all(window.is_point and window.stride == 1 for window in windows)


def _share(node: Node) -> float | None:
    """How many positions a Resize reads per position that it makes; None unless it enlarges maps, and only that."""
    if not is_resize(node) or is_constant(node.inputs[0]):
        return None
    if attribute(node, "mode") not in MODES:
        return None
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None  # beyond the map it makes up values
    if attribute(node, "keep_aspect_ratio_policy") not in ("stretch", None):
        return None
    if not all(is_constant(tensor) or is_empty(tensor) for tensor in node.inputs[1:]):
        return None
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after) or len(before) < 3:
        return None
    if not all(_is_number(n) for n in (before[1], after[1])) or before[1] != after[1]:
        return None
    if before[0] != after[0] and _is_number(before[0]) and _is_number(after[0]):
        return None  # a symbolic batch comes out of shape inference under another name
    if all(_is_number(n) for n in (*before[2:], *after[2:])):
        share = prod(before[2:]) / max(prod(after[2:]), 1)
    else:
        given = operand(node, "scales")
        share = 0.0 if given is None else 1 / max(prod(given.reshape(-1).tolist()), 1e-9)
    return float(share) if 0 < share < 1 else None


def _is_number(size: object) -> bool:
    return isinstance(size, (int, np.integer))
