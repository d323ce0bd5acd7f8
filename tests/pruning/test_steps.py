"""At which positions of a map calibration looks."""

from __future__ import annotations

import pytest

from onnxslim_yolo.pruning import calibration


@pytest.mark.parametrize(
    "extents, steps",
    [
        ([32, 32], [1, 1]),
        ([33, 32], [3, 1]),
        ([32, 33], [1, 3]),
        ([64, 64], [3, 3]),
        ([1024], [1]),
        ([1025], [3]),
        ([4096], [5]),
        ([2048, 1], [3, 1]),
        ([160, 160], [5, 5]),
        ([320, 80], [9, 3]),
        ([], []),
    ],
)
def test_longer_axes_are_thinned_first_in_odd_steps(extents: list[int], steps: list[int]) -> None:
    assert calibration.POSITIONS == 1024
    assert calibration._steps(extents) == steps
