"""A 6×6 convolution with stride 2 over an image as a 3×3 one with stride 1, for which ncnn has Winograd's algorithm.

    Conv(x; W, stride 2, pads P) = Conv(S(x); W′, stride 1, pads P/2)
    W′[o, 2C·i + C·j + c, u, v] = W[o, c, 2u + i, 2v + j]

S puts the four phases x[…, i::2, j::2] behind each other, as Focus and SpaceToDepth do. It is said as a 2×2 convolution
with stride 2, whose weights are a one per output, and which fills up to 16 channels with zeros: ncnn's Reorg copies
element by element, and leaves 12 channels, which lie in packs of 4. The same products are summed.

`bench/results/ncnn_stem.md`: faster than the plain convolution for every number of outputs, and than Reorg for most;
other kernels are not, because none but 3×3 has Winograd's algorithm.

Declined: more than four channels, odd pads before an axis (the phases would change places), groups, dilations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.window import Window, set_windows, windows_of
from onnxslim_yolo.emit.ncnn.prepare import shape_of
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, input_constant, static_shape
from onnxslim_yolo.ops.linear import groups_of, is_conv

KERNELS = frozenset({6})
PHASES = 4
CHANNELS = 16
"""Channels that the phases are filled up to: whole packs for every instruction set."""


def split_stems(graph: gs.Graph) -> int:
    """Rewrite every such convolution, in place. Returns how many."""
    return sum(_split(graph, node) for node in list(graph.nodes) if is_conv(node))


def becomes_phases(channels: int, kernel: Sequence[int]) -> bool:
    """Whether a convolution of so many channels with stride 2 is rewritten, as far as its padding allows."""
    return set(kernel) <= KERNELS and PHASES * channels <= CHANNELS


def _split(graph: gs.Graph, conv: Node) -> bool:
    weight = input_constant(conv, 1)
    windows = windows_of(conv, weight.shape[2:]) if weight is not None else None
    shape = static_shape(conv.inputs[0])
    if weight is None or windows is None or shape is None or len(windows) != 2 or groups_of(conv) != 1:
        return False
    if not becomes_phases(weight.shape[1], weight.shape[2:]):
        return False
    halves = [_half(window, size) for window, size in zip(windows, shape[2:], strict=True)]
    if any(each is None for each in halves):
        return False
    namer = Namer(graph)
    phases = _phases(graph, conv, namer)
    constant = gs.Constant(namer(f"{conv.inputs[1].name}__phases"), by_phase(weight))
    set_windows(conv, [each for each in halves if each is not None])
    conv.inputs = [phases, constant, *conv.inputs[2:]]
    return True


def _half(window: Window, size: int) -> Window | None:
    """The window over the phases that sees what this one sees, or None."""
    before, after = window.pads
    if (window.stride, window.step) != (2, 1) or before % 2 or min(before, after) < 0:
        return None
    count, taps, half = (size + window.slack) // 2 + 1, window.taps // 2, -(-size // 2)
    behind = count - 1 + taps - before // 2 - half
    return Window.of(taps, 1, 1, before // 2, behind) if behind >= 0 else None


def by_phase(weight: Array) -> Array:
    """(O, C, 2m, 2m) → (O, 16, m, m): the phases' weights behind each other, then zeros."""
    outputs, channels, high, wide = weight.shape
    split = weight.reshape(outputs, channels, high // 2, 2, wide // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    found = np.zeros((outputs, CHANNELS, high // 2, wide // 2), weight.dtype)
    found[:, : PHASES * channels] = split.reshape(outputs, PHASES * channels, high // 2, wide // 2)
    return found


def _phases(graph: gs.Graph, conv: Node, namer: Namer) -> Tensor:
    """S of the convolution's input. An odd size gets a row of zeros behind it, which is the padding's."""
    source = conv.inputs[0]
    _, channels, *sizes = shape_of(source)
    halves = [-(-size // 2) for size in sizes]
    pick = np.eye(PHASES * channels, CHANNELS, dtype=np.float32).reshape(2, 2, channels, CHANNELS)
    constant = gs.Constant(namer(f"{conv.name}.phases"), np.ascontiguousarray(pick.transpose(3, 2, 0, 1)))
    found = gs.Variable(namer(f"{source.name}_phases"), source.dtype, [1, CHANNELS, *halves])
    behind = [2 * half - size for half, size in zip(halves, sizes, strict=True)]
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, *behind]}
    graph.nodes.append(gs.Node("Conv", namer(f"{conv.name}_phases"), attrs, [source, constant], [found]))
    return found
