"""Constants along one axis, however many axes of one element stand in front of theirs."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.affine import affine_of, channel_constant

DATA = gs.Variable("x", np.float32, [1, 3, 4, 4])


@pytest.mark.parametrize(
    ("shape", "axis", "along"),
    [
        ((), 1, 1),
        ((1,), 1, 1),
        ((3, 1, 1), 1, 3),
        ((1, 3, 1, 1), 1, 3),
        ((1, 1, 1, 1), 1, 1),
        ((4,), 3, 4),
        ((4, 1), 2, 4),
        ((3,), 1, None),  # along the last axis, where there are 4
        ((4,), 1, None),
        ((1, 3, 4, 1), 1, None),
        ((2, 1, 1), 1, None),
        ((2, 3, 1, 1), 1, None),
        ((1, 1, 3, 1, 1), 1, None),  # more axes than the data
        ((3, 1, 1), 4, None),
    ],
)
def test_constants_along_one_axis(shape: tuple[int, ...], axis: int, along: int | None) -> None:
    values = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)
    found = channel_constant(gs.Constant("c", values), DATA, axis)
    assert (None if found is None else found.tolist()) == (None if along is None else values.reshape(-1).tolist())
    assert along is None or values.size == along


def test_integers_and_open_ranks_are_none() -> None:
    assert channel_constant(gs.Constant("c", np.ones((3, 1, 1), np.int64)), DATA, 1) is None
    assert channel_constant(gs.Constant("c", np.ones((3, 1, 1), np.float32)), gs.Variable("x", np.float32), 1) is None
    assert channel_constant(DATA, DATA, 1) is None


@pytest.mark.parametrize(
    ("op", "first", "scale", "offset"),
    [("Mul", 0, 2, 0), ("Add", 0, 1, 2), ("Sub", 0, 1, -2), ("Sub", 1, -1, 2), ("Div", 0, 0.5, 0)],
)
def test_lines(op: str, first: int, scale: float, offset: float) -> None:
    constant = gs.Constant("c", np.full((3, 1, 1), 2, np.float32))
    inputs = [DATA, constant] if first == 0 else [constant, DATA]
    found = affine_of(gs.Node(op, "n", {}, inputs, [gs.Variable("y")]))
    assert found is not None
    assert np.broadcast_to(found.scale, 3).tolist() == [scale] * 3
    assert np.broadcast_to(found.shift, 3).tolist() == [offset] * 3
