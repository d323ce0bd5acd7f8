"""spp-to-sppf: parallel max-pools of one input become a chain of small ones.

Max-pools of stride 1 that keep the size read, per axis, the window [-p, q] around each position, p + q = K - 1. Pooling
with [-p1, q1] and then with [-p2, q2] is pooling with [-(p1+p2), q1+q2]: padding is -∞ and so never wins, and every
element in reach of the sum is reached over a position on the map (both windows contain 0, so go from the output towards
the element). Hence the pool of the next larger window may read the smaller's result with the difference of both:
5, 9, 13 become 5∘5∘5, with 75 instead of 275 comparisons per output. Every output is the same to the bit.

Declines: strides, dilations, pools that change the size, windows of which none contains the other, `Indices` outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from onnxslim_yolo.analysis.window import Window, set_windows, windows_of
from onnxslim_yolo.ir.graph import Node, is_empty, set_input, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.spatial import is_max_pool

Windows = tuple[Window, ...]


@dataclass(frozen=True)
class SppToSppf:
    """Chain parallel max-pools of one input, smallest first."""

    name: ClassVar[str] = "spp-to-sppf"

    def run(self, model: Model) -> int:
        """Chain; return how many pools read a smaller one instead."""
        pools: dict[int, list[tuple[Node, Windows]]] = {}
        for node in model.graph.nodes:
            windows = _keeping_size(node)
            if windows is not None:
                pools.setdefault(id(node.inputs[0]), []).append((node, windows))
        rewrites = sum(_chain(group) for group in pools.values())
        if rewrites:
            model.graph.nodes = toposort(model.graph)
        return rewrites


def _keeping_size(node: Node) -> Windows | None:
    """The windows of a max-pool of stride 1 whose output is as large as its input; None for any other node."""
    if not is_max_pool(node) or any(not is_empty(tensor) for tensor in node.outputs[1:]):
        return None
    windows = windows_of(node, node.attrs["kernel_shape"])
    if windows is None or any((w.stride, w.step, w.slack) != (1, 1, -1) for w in windows):
        return None
    return windows


def _chain(group: list[tuple[Node, Windows]]) -> int:
    rewrites = 0
    ordered = sorted(group, key=lambda pool: prod(window.taps for window in pool[1]))
    (before, small), *larger = ordered
    for node, windows in larger:
        rest = tuple(_difference(one, other) for one, other in zip(windows, small, strict=True))
        if any(min(w.pads) < 0 for w in rest) or all(w.taps == 1 for w in rest):
            continue
        set_input(node, 0, before.outputs[0])
        set_windows(node, rest)
        before, small, rewrites = node, windows, rewrites + 1
    return rewrites


def _difference(large: Window, small: Window) -> Window:
    """The window that makes `small` as wide as `large`. Its padding is negative where it cannot."""
    begin, end = large.pads[0] - small.pads[0], large.pads[1] - small.pads[1]
    return Window.of(begin + end + 1, 1, 1, begin, end)
