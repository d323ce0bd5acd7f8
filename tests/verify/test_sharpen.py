"""The tolerance follows what the control shows: tight enough to notice it."""

from __future__ import annotations

import pytest

from onnxslim_yolo.verify.compare import TOLERANCE, told_apart
from onnxslim_yolo.verify.files import FINEST, MARGIN, sharpen


@pytest.mark.parametrize(
    ("control", "tolerance"),
    [
        (1.0, TOLERANCE),  # an ordinary network
        (1.2e-4, 3e-5),  # the control hardly shows: tighten until it would be noticed
        (1e-7, FINEST),  # freshly initialised: nothing shows
    ],
)
def test_tolerance(control: float, tolerance: float) -> None:
    assert sharpen(control) == pytest.approx(tolerance)


@pytest.mark.parametrize("control", [1e-4, 1e-3, 1e-2, 1.0, 10.0])
def test_a_control_that_shows_is_noticed(control: float) -> None:
    assert sharpen(control) <= control / MARGIN * (1 + 1e-9)


@pytest.mark.parametrize("worst", [1.0001e-3, 1.0000001e-3, 2e-3, float("inf")])
def test_a_message_never_prints_two_equal_numbers(worst: float) -> None:
    found, allowed = told_apart(worst, 1e-3)
    assert found != allowed and float(found) == pytest.approx(worst) and float(allowed) == 1e-3
    assert float(found) != float(allowed)
