"""Padding that was worked out for a size is told from padding of a window."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.rewrites.size_factors import Factor, OneSizeError
from onnxslim_yolo.rewrites.size_windows import require_bounds, require_pads


@pytest.mark.parametrize(
    ("sides", "pads", "steps", "fits"),
    [
        ((32, 24), (1, 1), [], True),
        ((32, 24), (0, 1), [2], True),  # SAME of even sides
        ((32, 23), (0, 1), [2], False),
        ((32, 24), (3, 3), [2], True),
        ((26, 24), (3, 3), [], False),  # up to 32
        ((32, 24), (0, 16), [], False),
        ((32, 24), (8, 8), [], False),
        ((32, 24), (-1, -1), [], False),
    ],
)
def test_padding(sides: tuple[int, int], pads: tuple[int, int], steps: list[int], fits: bool) -> None:
    node, axis = gs.Node("Pad", "n"), (Factor(*sides),)
    if fits:
        require_pads(node, axis, *pads, steps)
        return
    with pytest.raises(OneSizeError, match="padding"):
        require_pads(node, axis, *pads, steps)


@pytest.mark.parametrize(("end", "fits"), [(16, True), (20, True), (100, False), (2**31 - 1, True)])
def test_a_slice_that_ends_behind_its_input(end: int, fits: bool) -> None:
    constants = [gs.Constant(name, np.array([value])) for name, value in (("b", 0), ("e", end), ("a", 2))]
    image = gs.Variable("x", np.float32, [1, 8, 20, 20])
    node = gs.Node("Slice", "n", inputs=[image, *constants], outputs=[gs.Variable("y")])
    if fits:
        require_bounds([node])
        return
    with pytest.raises(OneSizeError, match="ends at 100"):
        require_bounds([node])
