"""What weights, padding and joins ask where an image's size changes (the rest: `test_other_size`)."""

from __future__ import annotations

import pytest

from onnxslim_yolo.rewrites.size_factors import OneSizeError
from tests.rewrites.test_other_size import made, shape


@pytest.mark.parametrize(
    ("pads", "fits"), [("0, 0, 1, 1", True), ("0, 0, 2, 2", True), ("0, 0, 4, 4", False), ("9, 9, 9, 9", False)]
)
def test_padding_in_front_of_a_stride(pads: str, fits: bool) -> None:
    body = f"p = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [{pads}]>(c, m) y = Relu(p)"
    if fits:
        assert shape(made(body, "float[4,8,3,3] m"))[:2] == [1, 4]
        return
    with pytest.raises(OneSizeError, match="padding may be of the old size"):
        made(body, "float[4,8,3,3] m")
