"""Sliding windows along one axis: the arithmetic of kernel, stride, dilation and padding.

An operator of kernel K, stride s, dilation d and padding (p, q) reads, for output index o, the input positions

    s·o + first + step·k,   k = 0 … taps-1      with first = -p, step = d, taps = K

and has floor((H + slack) / s) + 1 outputs on an axis of H elements, where slack = p + q - (d·(K-1) + 1). Positions
outside [0, H) hold the padding. In these four numbers windows compose and unite without regard to how they were spelt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd

from onnxslim_yolo.ir.attributes import attribute, per_axis
from onnxslim_yolo.ir.graph import Node, static_shape
from onnxslim_yolo.ops.spatial import same_pads


@dataclass(frozen=True)
class Window:
    """One axis of a convolution or pooling, see the module's docstring."""

    stride: int
    first: int
    step: int
    taps: int
    slack: int

    @classmethod
    def of(cls, kernel: int, stride: int, dilation: int, pad_begin: int, pad_end: int) -> Window:
        """The window of an operator as ONNX spells it."""
        return cls(stride, -pad_begin, dilation, kernel, pad_begin + pad_end - (dilation * (kernel - 1) + 1))

    @property
    def last(self) -> int:
        """Offset of the last tap."""
        return self.first + self.step * (self.taps - 1)

    @property
    def pads(self) -> tuple[int, int]:
        """Padding before and after the axis."""
        return -self.first, self.slack + self.last + 1

    @property
    def is_padded(self) -> bool:
        """Whether any output reads beyond the axis."""
        return self.pads != (0, 0)

    @property
    def is_point(self) -> bool:
        """Whether every output reads exactly one element, never a padded one."""
        return self.taps == 1 and not self.is_padded


def compose(first: Window, second: Window) -> Window:
    """The window of `second` applied to the output of `first`.

    s1·(s2·o + f2 + d2·k2) + f1 + d1·k1 has stride s1·s2 and first tap s1·f2 + f1; the nested floors of the two output
    sizes give slack1 + s1·(1 + slack2).
    """
    low = first.stride * second.first + first.first
    high = first.stride * second.last + first.last
    step = _common_step([(second.taps, first.stride * second.step), (first.taps, first.step)], [])
    return Window(
        stride=first.stride * second.stride,
        first=low,
        step=step,
        taps=(high - low) // step + 1,
        slack=first.slack + first.stride * (1 + second.slack),
    )


def unite(windows: Sequence[Window]) -> Window | None:
    """The smallest window that covers all of them, on the coarsest common lattice.

    None where strides differ, or where slacks differ, so that outputs could differ in size.
    """
    head = windows[0]
    if any((w.stride, w.slack) != (head.stride, head.slack) for w in windows):
        return None
    low, high = min(w.first for w in windows), max(w.last for w in windows)
    step = _common_step([(w.taps, w.step) for w in windows], [w.first - low for w in windows])
    return Window(head.stride, low, step, (high - low) // step + 1, head.slack)


def _common_step(lattices: Iterable[tuple[int, int]], distances: Iterable[int]) -> int:
    step = gcd(*(step for taps, step in lattices if taps > 1), *distances)
    return step or 1


def windows_of(node: Node, kernel: Sequence[int]) -> tuple[Window, ...] | None:
    """The windows of a Conv, MaxPool or AveragePool of the given kernel, one per spatial axis.

    None where `auto_pad` makes the padding depend on a size that is not known.
    """
    rank = len(kernel)
    strides = per_axis(node, "strides", rank)
    dilations = per_axis(node, "dilations", rank)
    pads = explicit_pads(node, kernel, strides, dilations)
    if pads is None:
        return None
    return tuple(
        Window.of(int(kernel[axis]), strides[axis], dilations[axis], pads[axis], pads[axis + rank])
        for axis in range(rank)
    )


def explicit_pads(
    node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int] | None:
    """Padding as [begin…, end…], with `auto_pad` resolved; None where that needs a size that is not known."""
    rank = len(kernel)
    auto = attribute(node, "auto_pad")
    if auto == "NOTSET":
        return per_axis(node, "pads", rank)
    if auto == "VALID":
        return [0] * (2 * rank)
    begins, ends = [], []
    shape = node.inputs[0].shape
    for axis in range(rank):
        size = None if shape is None else shape[axis + 2]
        if not isinstance(size, int) and strides[axis] != 1:
            return None
        extent = dilations[axis] * (int(kernel[axis]) - 1) + 1
        begin, end = same_pads(auto, size if isinstance(size, int) else 1, extent, strides[axis])
        begins.append(begin)
        ends.append(end)
    return begins + ends


def set_windows(node: Node, windows: Sequence[Window]) -> None:
    """Write the windows into a node's attributes."""
    node.attrs["kernel_shape"] = [w.taps for w in windows]
    node.attrs["strides"] = [w.stride for w in windows]
    node.attrs["pads"] = [w.pads[0] for w in windows] + [w.pads[1] for w in windows]
    node.attrs.pop("auto_pad", None)
    node.attrs.pop("dilations", None)  # older pools have no such attribute
    if any(w.step != 1 for w in windows):
        node.attrs["dilations"] = [w.step for w in windows]


def ceil_mode_matters(node: Node, windows: Sequence[Window]) -> bool:
    """Whether a pooling's `ceil_mode` may give it more outputs than its windows say."""
    if not attribute(node, "ceil_mode"):
        return False
    source, output = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if source is None or output is None:
        return any(w.stride != 1 for w in windows)
    sizes = [(source[axis + 2] + w.slack) // w.stride + 1 for axis, w in enumerate(windows)]
    return sizes != list(output[2:])
