"""Windows of poolings: whether `ceil_mode` gives one more output, and constant padding in front of them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.padding import Padding, fits, padding_of, widened
from onnxslim_yolo.analysis.window import Window, ceil_mode_matters


def pool(size: tuple[int, int] | None, output: tuple[int, int] | None, stride: int, ceil: int) -> gs.Node:
    shapes = [None if one is None else [1, 4, *one] for one in (size, output)]
    ends = [gs.Variable(name, np.float32, shape) for name, shape in zip("xy", shapes, strict=True)]
    return gs.Node("MaxPool", "p", {"ceil_mode": ceil, "strides": [stride] * 2}, ends[:1], ends[1:])


@pytest.mark.parametrize(
    ("size", "output", "stride", "ceil", "matters"),
    [
        ((8, 8), (4, 4), 2, 1, False),  # 2×2 windows: nothing is left over
        ((9, 8), (5, 4), 2, 1, True),
        ((8, 9), (4, 5), 2, 1, True),
        ((9, 9), (4, 4), 2, 0, False),
        (None, None, 2, 1, True),  # not known: it may
        (None, None, 1, 1, False),
        (None, None, 2, 0, False),
    ],
)
def test_ceil_mode(
    size: tuple[int, int] | None, output: tuple[int, int] | None, stride: int, ceil: int, matters: bool
) -> None:
    windows = (Window.of(2, stride, 1, 0, 0),) * 2
    assert ceil_mode_matters(pool(size, output, stride, ceil), windows) == matters


def pad(widths: list[int], mode: str = "constant", value: float | None = None) -> gs.Node:
    inputs = [gs.Variable("x", np.float32, [1, 4, 8, 8]), gs.Constant("pads", np.array(widths, np.int64))]
    inputs += [] if value is None else [gs.Constant("value", np.array(value, np.float32))]
    return gs.Node("Pad", "pad", {"mode": mode}, inputs, [gs.Variable("y", np.float32)])


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (pad([0, 0, 1, 2, 0, 0, 3, 4]), Padding((1, 2), (3, 4), 0.0)),
        (pad([0, 0, 1, 0, 0, 0, 0, 0], value=-1.5), Padding((1, 0), (0, 0), -1.5)),
        (pad([0, 0, 0, 0, 0, 0, 0, 1]), Padding((0, 0), (0, 1), 0.0)),
        (pad([0, 1, 1, 1, 0, 0, 1, 1]), None),  # of channels
        (pad([0, 0, 1, 1, 0, 1, 1, 1]), None),
        (pad([1, 0, 1, 1, 0, 0, 1, 1]), None),  # of the batch
        (pad([0, 0, -1, 1, 0, 0, 1, 1]), None),
        (pad([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"), None),
    ],
)
def test_padding(node: gs.Node, found: Padding | None) -> None:
    assert padding_of(node) == found


def test_windows_over_a_padded_map() -> None:
    windows = (Window.of(3, 2, 1, 0, 0), Window.of(3, 1, 1, 1, 1))
    wide = widened(windows, Padding((1, 0), (2, 1), 0.0))
    assert [w.pads for w in wide] == [(1, 2), (1, 2)]
    assert fits(wide) and not fits(widened(windows, Padding((3, 0), (0, 0), 0.0)))
    assert not fits((Window.of(3, 1, 2, 1, 1),))  # dilated
