"""The tolerance follows what the control shows: tight enough to notice it, loose enough for honest rounding."""

from __future__ import annotations

import pytest

from onnxslim_yolo.verify.compare import TOLERANCE
from onnxslim_yolo.verify.files import MARGIN, sharpen


@pytest.mark.parametrize(
    ("control", "noise", "tolerance", "blind"),
    [
        (1.0, 0.0, TOLERANCE, False),  # an ordinary network
        (5.6e-4, 1e-7, 1.4e-4, False),  # the control hardly shows: tighten until it would be noticed
        (1.7, 1e-4, 2e-3, False),  # the network amplifies rounding itself
        (1e-7, 1e-6, 4e-6, True),  # freshly initialised: nothing shows
    ],
)
def test_tolerance(control: float, noise: float, tolerance: float, blind: bool) -> None:
    found = sharpen(control, noise)
    assert found == (pytest.approx(tolerance), blind)


@pytest.mark.parametrize("control", [1e-4, 1e-3, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4, 1e-2])
def test_a_sighted_check_always_notices_its_control(control: float, noise: float) -> None:
    tolerance, blind = sharpen(control, noise)
    assert blind or tolerance <= control / MARGIN * (1 + 1e-9)
