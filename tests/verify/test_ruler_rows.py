"""Differences of scores are differences of logits, whatever way they are computed; what is equal or near is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.verify.columns import Meaning
from onnxslim_yolo.verify.ruler import LEAST, Ruler

UNIT = float(np.finfo(np.float32).eps) / 2
SCORES = np.array([False, True, True, False, True])


def ruler() -> Ruler:
    return Ruler(Meaning(1, 5, SCORES), np.ones(5), np.zeros(5), UNIT, np.zeros(5, dtype=bool))


def plainly(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As the module says it: |Δ|, of scores |Δ logit| less what rounding of an element is."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    p, q = (np.clip(x, LEAST, 1 - LEAST) for x in (a, b))
    apart = np.abs(np.log(p) - np.log1p(-p) - np.log(q) + np.log1p(-q))
    slack = np.maximum(*((UNIT * x + 2.0**-21) / (x * (1 - x)) for x in (p, q)))
    apart = np.where(np.abs(b - 0.5) > 0.5 + 4 * UNIT, np.inf, np.maximum(apart - slack, 0))
    delta = np.where(SCORES, apart, np.abs(a - b))
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.where(np.isnan(delta), np.inf, delta))


@pytest.mark.parametrize("off", [0.0, 3e-7, 6e-7, 1e-3, 0.3])
@pytest.mark.parametrize("power", [1, 8, 40])
def test_rows_are_what_the_definition_says(off: float, power: int) -> None:
    rng = np.random.default_rng(power)
    a = (rng.random((400, 5)) ** power).astype(np.float32)
    b = (a + off * rng.standard_normal(a.shape) * (rng.random(a.shape) < 0.7)).astype(np.float32)
    odd = rng.random(a.shape) < 0.05
    a[odd], b[odd] = rng.choice([0, 1, np.nan, 1 + 1e-6], odd.sum()), rng.choice([0, 1, np.nan, -1e-6], odd.sum())
    expected = plainly(a, b)
    assert np.allclose(ruler().rows(a, b), expected, rtol=1e-6, atol=1e-9)
    assert not np.allclose(ruler().rows(a, b + np.float32(0.01)), expected, rtol=1e-6, atol=1e-9)  # the control


def test_a_column_of_one_kind_does_not_need_the_other() -> None:
    a = np.tile(np.float32([3.0, 0.1, 0.2, 5.0, 0.3]), (6, 1))
    b = a.copy()
    b[2, 0] += 0.5
    assert np.flatnonzero(ruler().rows(a, b)).tolist() == [10]
    b[2, 1] = 0.11
    assert np.flatnonzero(ruler().rows(a, b)).tolist() == [10, 11]
