"""What Ultralytics computes is compared with what was planned: rounding passes, a layer 1 % off does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.training.slim_compare import MOST, require_equal, sorted_out

FILE = Path("best.pt")


def found(
    off: float, spoiled: float, rounding: float
) -> tuple[list[list[np.ndarray]], dict[str, list[list[np.ndarray]]]]:
    rng = np.random.default_rng(0)
    wanted = [[rng.random((1, 5, 40)).astype(np.float32)] for _ in range(2)]

    def moved(by: float) -> list[list[np.ndarray]]:
        return [[each[0] + np.float32(by)] for each in wanted]

    return wanted, {"slim": moved(off), "spoiled": moved(spoiled), "double": moved(off + rounding)}


@pytest.mark.parametrize(("off", "rounding"), [(0.0, 0.0), (1e-5, 0.0), (2e-3, 8e-4)])
def test_rounding_passes(off: float, rounding: float) -> None:
    wanted, outputs = found(off, 0.2, rounding)
    assert require_equal(FILE, wanted, outputs, sorts=False) < MOST


def test_a_network_that_hardly_moves_is_compared_where_a_layer_off_shows_plainly() -> None:
    assert 0 < require_equal(FILE, *found(1e-5, 2e-4, 1e-6), sorts=False) < 1e-4


BLIND = [(0.0, 1e-5, 0.0), (1e-4, 2e-4, 0.0), (0.0, 2e-4, 1e-4)]


@pytest.mark.parametrize(("off", "spoiled", "rounding"), [(5e-3, 0.2, 0.0), (5e-2, 0.2, 1.0), *BLIND])
def test_more_does_not_and_a_blind_comparison_does_not(off: float, spoiled: float, rounding: float) -> None:
    with pytest.raises(VerificationError, match=r"does not compute|cannot be compared"):
        require_equal(FILE, *found(off, spoiled, rounding), sorts=False)


def test_outputs_are_sorted_by_number() -> None:
    arrays = {f"slim.{i}.{j}": np.array(10 * i + j) for i in range(11) for j in range(2)}
    assert [[int(each) for each in image] for image in sorted_out(arrays)["slim"]][10] == [100, 101]


def test_a_score_that_hardly_moves_is_compared_as_float32_can() -> None:
    wanted, outputs = found(0.0, 0.2, 0.0)
    quiet = np.float32(1e-4) * wanted[0][0][:, 4]
    for each in (wanted, outputs["slim"], outputs["double"], outputs["spoiled"]):
        for run in each:
            run[0] = run[0].copy()
            run[0][:, 4] = quiet
    for run in outputs["slim"]:
        run[0][:, 4] += np.float32(1e-7)  # 1e-3 of its spread
    assert require_equal(FILE, wanted, outputs, sorts=False) == 0
    for run in outputs["slim"]:
        run[0][:, 4] += np.float32(1e-6)
    with pytest.raises(VerificationError, match="does not compute"):
        require_equal(FILE, wanted, outputs, sorts=False)
