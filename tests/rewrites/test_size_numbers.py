"""Numbers that may be of the old size are known in any spelling; others are numbers like others."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.rewrites.size_factors import OneSizeError
from onnxslim_yolo.rewrites.size_numbers import Numbers


def asked(value: object, op: str = "Div") -> None:
    numbers = Numbers()
    numbers.note(40, 60, 16, "a map")
    numbers.note(256, 256, 1, "the image")
    constant = gs.Constant("k", np.asarray(value))
    numbers.require(gs.Node(op, "n", inputs=[gs.Variable("x"), constant], outputs=[gs.Variable("y")]))


@pytest.mark.parametrize(
    "value",
    [
        np.float32(40), np.float32(1 / 60), np.float16(1 / 2400), np.float32(np.float16(1 / 2400)), np.float32(2399),
        np.float32(1 / 39), np.float32(2400 * 16), np.float32(2400 / 2399), np.float32(2400**-0.5), np.int64(60),
        np.array([60, 40, 60, 40], np.float32), np.array([[0, 1, 256]], np.float32),
    ],
)  # fmt: skip
def test_what_may_be_of_the_size(value: object) -> None:
    with pytest.raises(OneSizeError, match="may be of"):
        asked(value)


@pytest.mark.parametrize("value", [np.float32(3), np.float32(255), np.float32(1 / 6), np.array([40, 41.5], np.float32)])
def test_what_is_not(value: object) -> None:
    asked(value)


def test_weights_are_not_asked() -> None:
    asked(np.full((1, 1), 40, np.float32), "MatMul")
