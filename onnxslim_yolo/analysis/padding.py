"""Constant padding in front of a layer: how wide it is, and what windows become that take it in."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim_yolo.analysis.movement import CannotMoveError, pad_value, pad_widths
from onnxslim_yolo.analysis.window import Window, set_windows
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node, set_input


@dataclass(frozen=True)
class Padding:
    """A constant Pad: elements before and after each spatial axis, and their value."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float


def padding_of(node: Node) -> Padding | None:
    """A Pad's padding; None where it is of another mode, negative, of batch or channels, or not constant."""
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


def widened(windows: tuple[Window, ...], padding: Padding) -> tuple[Window, ...]:
    """The windows over the padded map, as windows over the map."""
    return tuple(
        Window(w.stride, w.first - begin, w.step, w.taps, w.slack + begin + end)
        for w, begin, end in zip(windows, padding.begins, padding.ends, strict=True)
    )


def fits(windows: tuple[Window, ...]) -> bool:
    """Whether a pooling may have these pads: the runtimes want them smaller than the kernel."""
    return all(max(w.pads) < w.taps and w.step == 1 for w in windows)


def take_in(node: Node, windows: tuple[Window, ...], pad: Node) -> None:
    """Give a pooling these windows over what the Pad reads."""
    set_windows(node, windows)
    node.attrs.pop("ceil_mode", None)
    set_input(node, 0, pad.inputs[0])
