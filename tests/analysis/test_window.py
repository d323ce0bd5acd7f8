"""Windows of poolings: whether `ceil_mode` gives one more output, and constant padding in front of them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.padding import Padding, fits, padding_of, widened
from onnxslim_yolo.analysis.window import Window, ceil_mode_matters, explicit_pads, set_windows, windows_of
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build, run_onnx


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


def model_of(op: str, attributes: dict[str, object]) -> Model:
    """A convolution of ones or a pooling, 3 by 2, of one map of 9 by 8 pixels."""
    stated = [f'{name} = "{v}"' if isinstance(v, str) else f"{name} = {v}" for name, v in attributes.items()]
    if op == "Conv":
        call = f"Conv <{', '.join(stated)}> (x, w)"
    else:
        call = f"{op} <{', '.join(['kernel_shape = [3, 2]', *stated])}> (x)"
    weights = "float[1,1,3,2] w = {1, 1, 1, 1, 1, 1}"
    return build(onnx_text("float[1,1,9,8] x", "float[a,b,c,d] y", weights, f"y = {call}"))


LAYERS: list[dict[str, object]] = [
    {"strides": [1, 1]},
    {"strides": [2, 3]},
    {"dilations": [2, 1]},
    {"pads": [1, 0, 2, 1]},
    {"pads": [0, 1, 1, 0], "strides": [3, 2], "dilations": [1, 2]},
    {"auto_pad": "VALID", "strides": [2, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
]


@pytest.mark.parametrize("attributes", LAYERS, ids=str)
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_windows_read_what_onnxruntime_reads(op: str, attributes: dict[str, object]) -> None:
    """Which pixels an output is made of: told by windows, and by how outputs change with one pixel at a time."""
    if op == "AveragePool" and "dilations" in attributes:
        return
    model, sides, kernel = model_of(op, attributes), (9, 8), (3, 2)
    (node,) = model.graph.nodes
    windows = windows_of(node, kernel)
    assert windows is not None
    images = np.eye(72, dtype=np.float32).reshape(72, 1, 1, *sides)
    rows = [run_onnx(model, {"x": image})["y"][0, 0] != 0 for image in images]
    read = np.stack(rows).reshape(9, 8, *rows[0].shape)
    for axis, (window, side) in enumerate(zip(windows, sides, strict=True)):
        seen = read.any(axis=(1, 3) if axis == 0 else (0, 2))
        assert seen.shape[1] == (side + window.slack) // window.stride + 1
        for place in range(seen.shape[1]):
            taps = {place * window.stride + window.first + k * window.step for k in range(window.taps)}
            assert set(np.flatnonzero(seen[:, place])) == {t for t in taps if 0 <= t < side}
    given = attributes.get("dilations")
    set_windows(node, windows)
    assert windows_of(node, kernel) == windows and "auto_pad" not in node.attrs
    assert node.attrs.get("dilations") == given
    assert list(node.attrs["kernel_shape"]) == list(kernel)


@pytest.mark.parametrize("stride, known", [(1, True), (2, False)])
def test_same_padding_of_an_unknown_size(stride: int, known: bool) -> None:
    """Where nothing is skipped it goes by the kernel alone."""
    for shape in (None, [1, 4, "h", 8]):
        node = gs.Node("Conv", "c", {"auto_pad": "SAME_UPPER"}, [gs.Variable("x", np.float32, shape)])
        found = explicit_pads(node, (4, 3), (stride, 1), (1, 2))
        assert found == ([1, 2, 2, 2] if known else None)
        strided = gs.Node("Conv", "c", {"auto_pad": "SAME_UPPER", "strides": [stride, 1]}, node.inputs)
        assert (windows_of(strided, (4, 3)) is not None) == known
    lower = gs.Node("Conv", "c", {"auto_pad": "SAME_LOWER"}, [gs.Variable("x", np.float32, None)])
    assert explicit_pads(lower, (4, 3), (1, 1), (1, 2)) == [2, 2, 1, 2]
    valid = gs.Node("Conv", "c", {"auto_pad": "VALID"}, [gs.Variable("x", np.float32, None)])
    assert explicit_pads(valid, (4, 3), (2, 2), (1, 1)) == [0, 0, 0, 0]
