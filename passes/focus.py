"""focus-to-conv: a space-to-depth in front of a convolution becomes a strided convolution.

Let z[n, p] = x[c_n, b·p + r_n], 0 ≤ r_n < b, and y[o] = Σ_{n,k} W[n, k]·z[n, S·o - P + k]. Then

    y[o] = Σ_{n,k} W[n, k]·x[c_n, bS·o - bP + (b·k + r_n)]

is a convolution of x with kernel b·K, stride b·S, padding b·P and weight W'[c_n, b·k + r_n] = W[n, k]. Position j of z
is padding (j < 0 or j ≥ H/b) exactly where b·j + r_n is padding of x, as b divides H; output sizes agree for the same
reason. So YOLOv5 v5.0's Focus with a 3×3 is a 6×6 of stride 2, as published for v6.0.

Declines: dilated or grouped convolutions; blocks that show only a part of the pixels (W' would hold zeros that cost);
a space-to-depth that something else reads; sizes that b does not provably divide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.phases import Phases, phases_of
from onnxslim_yolo.analysis.window import Window, set_windows, windows_of
from onnxslim_yolo.ir.graph import Array, Node, input_constant, replace_constant, set_input, sole_consumer, sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import Made, moved, origin_of
from onnxslim_yolo.ops.linear import groups_of, is_conv


@dataclass(frozen=True)
class FocusToConv:
    """Fuse every space-to-depth (Focus, reorg, pixel_unshuffle) with the convolution that alone reads it."""

    name: ClassVar[str] = "focus-to-conv"

    def run(self, model: Model) -> int:
        """Fuse; return how many convolutions took in a space-to-depth."""
        rewrites = sum(_fuse(model.graph, node) for node in list(model.graph.nodes) if is_conv(node))
        if rewrites:
            sweep(model.graph)
        return rewrites


def _fuse(graph: gs.Graph, node: Node) -> bool:
    weight = input_constant(node, 1)
    if weight is None or groups_of(node) != 1 or sole_consumer(graph, node.inputs[0]) is None:
        return False
    phases, windows = phases_of(graph, node.inputs[0]), windows_of(node, weight.shape[2:])
    if phases is None or windows is None or not phases.is_complete or max(phases.block) < 2:
        return False
    if any(window.step != 1 for window in windows):
        return False
    spread = moved(origin_of(node.inputs[1]), weight.shape, lambda numbers: _spread(numbers, phases))
    replace_constant(node, 1, _spread(weight, phases), origin=Made((spread,)))
    set_input(node, 0, phases.base)
    set_windows(node, [_widened(window, size) for window, size in zip(windows, phases.block, strict=True)])
    return True


def _widened(window: Window, block: int) -> Window:
    return Window(window.stride * block, window.first * block, 1, window.taps * block, window.slack * block)


def _spread(weight: Array, phases: Phases) -> Array:
    """W'[o, c_n, b·k + r_n] = W[o, n, k]; weight is (Cout, n, *K), the result (Cout, C, *b·K)."""
    kernel = [taps * block for taps, block in zip(weight.shape[2:], phases.block, strict=True)]
    wide = np.zeros((weight.shape[0], int(phases.taps[:, 0].max()) + 1, *kernel), weight.dtype)
    for index, (channel, *starts) in enumerate(phases.taps.tolist()):
        places = tuple(slice(start, None, block) for start, block in zip(starts, phases.block, strict=True))
        view = wide[:, channel]
        view[(...,) + places] = weight[:, index]  # noqa: RUF005 (a star here is an index of Python 3.11)
    return wide
