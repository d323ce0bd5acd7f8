"""What cuts of a group cost: curves, the order in which the cheapest bites are taken, and losses by class."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning import curves as module
from onnxslim_yolo.pruning.curves import (
    FRACTIONS,
    MOST,
    Curve,
    Gauge,
    average,
    losses_of,
    measure_curves,
    removal_order,
)


def curve(*order: int, counts: tuple[int, ...], errors: tuple[float, ...]) -> Curve:
    return Curve(np.array(order), counts, errors)


A = curve(3, 1, 4, 0, counts=(0, 2, 4), errors=(0.0, 1.0, 5.0))
B = curve(2, 5, counts=(0, 1, 2), errors=(0.0, 3.0, 4.0))
CHANNELS = SimpleNamespace(count=7)


def test_between_what_was_measured_errors_are_interpolated() -> None:
    assert [A.error(n) for n in range(5)] == [0.0, 0.5, 1.0, 3.0, 5.0]


def test_a_class_costs_what_its_curve_rises_by_and_others_are_beyond_price() -> None:
    found = losses_of(CHANNELS, [A, B])  # type: ignore[arg-type]
    assert found[[3, 1, 4, 0]] == pytest.approx([0.5, 0.5, 2.0, 2.0]) and found[6] == MOST
    assert found[[2, 5]] == pytest.approx([3.0, 3.0]), "the second is not cheaper than the first"
    assert (np.diff(found[A.order]) > 0).all() and found[5] > found[2], "in the order in which they go"


def order(curves: list[Curve], saved: Array, **later: Array) -> list[int]:
    """`later`: what is saved once so many have gone."""

    def at(keep: Array) -> Array:
        return later.get(f"after{int((~keep).sum())}", saved)

    return removal_order(CHANNELS, curves, SimpleNamespace(saved=at)).tolist()  # type: ignore[arg-type]


def test_the_cheapest_bite_per_mac_goes_first() -> None:
    """A's first two cost 0.5 each, its next two 2; of B one costs 3, both 2 each. Curves of four go one by one."""
    assert order([A, B], np.full(7, 1.0)) == [3, 1, 4, 0, 2, 5], "of equals the first"
    dear = np.full(7, 1.0)
    dear[[2, 5]] = 10.0  # B saves ten times as much: 0.2 each
    assert order([A, B], 2 * dear) == [2, 5, 3, 1, 4, 0]
    dear[[2, 5]] = 3.0
    assert order([A, B], 2 * dear) == [3, 1, 2, 5, 4, 0]
    assert order([A, B], np.zeros(7)) == [3, 1, 2, 5, 4, 0], "what saves nothing counts as one"
    # What a bite saves is asked again after each.
    dear[[2, 5]] = 100.0
    assert order([A, B], np.full(7, 1.0), after1=dear) == [3, 2, 1, 5, 4, 0]


def test_a_step_is_taken_in_bites_of_a_thirty_second() -> None:
    long = curve(*range(64), counts=(0, 64), errors=(0.0, 64.0))
    short = curve(64, counts=(0, 1), errors=(0.0, 1.0))
    asked: list[int] = []

    def saved(keep: Array) -> Array:
        asked.append(int((~keep).sum()))
        return np.ones(65)

    found = removal_order(SimpleNamespace(count=65), [long, short], SimpleNamespace(saved=saved))  # type: ignore[arg-type]
    assert found.tolist() == list(range(65)) and asked == [*range(0, 65, 2), 65]


def test_the_error_is_the_mean_over_images_and_what_overflows_costs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[float]] = [[1.0], [3.0]]
    monkeypatch.setattr(module, "run_images", lambda model, images: found)
    metric = SimpleNamespace(error=lambda outputs: outputs[0])
    gauge = Gauge([], [metric, metric])  # type: ignore[list-item]
    assert gauge.error(None) == 2.0  # type: ignore[arg-type]
    for broken in (np.nan, np.inf, 1e300):
        found[1] = [broken]
        assert gauge.error(None) == MOST  # type: ignore[arg-type]


class TestMeasured:
    """Cuts of a quarter of a unit at a time, in the order of importance; see `FRACTIONS`."""

    IMPORTANCE = np.array([0.0, 5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 9.0])
    UNIT = np.array([1, 2, 3, 4, 5])

    def measured(self, monkeypatch: pytest.MonkeyPatch, errors: list[float], variance: Array, **more: object) -> Curve:
        cuts: list[list[int]] = []

        def cut(model: object, places: object, statistics: object, keep: Array, ridge: float) -> list[int]:
            cuts.append(np.flatnonzero(~keep).tolist())
            return cuts[-1]

        monkeypatch.setattr(module, "without", cut)
        monkeypatch.setattr(module, "complete", lambda channels, keep, importance: keep)
        gauge = SimpleNamespace(error=lambda model: errors[len(cuts) - 1])
        (found,) = measure_curves(
            None, SimpleNamespace(count=8), [self.UNIT], self.IMPORTANCE, [], [], gauge, variance, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        order = found.order.tolist()
        assert order == [2, 4, 5, 3, 1] and found.counts[0] == 0 and found.errors[0] == 0.0
        assert cuts == [sorted(order[:count]) for count in found.counts[1:]]
        assert list(found.counts[1:]) == sorted({round(f * 5) for f in FRACTIONS} - {0})
        return found

    def test_averaged_with_what_varies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variance = np.array([7.0, 0.1, 0.2, 0.3, 0.4, 0.5, 7, 7])
        errors = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
        found = self.measured(monkeypatch, errors, variance)
        varied = np.cumsum(variance[[2, 4, 5, 3, 1]])[np.array(found.counts[1:]) - 1]
        expected = average(np.array(errors[: len(varied)]), varied)
        assert found.errors[1:] == pytest.approx(np.maximum.accumulate(expected).tolist())

    def test_averaged_with_what_is_predicted_before_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The root of the product: predicted four times as dear, it is twice as dear."""
        variance, errors = np.ones(8), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
        asked: list[tuple[list[int], list[int]]] = []

        def predict(order: list[int], counts: list[int]) -> Array:
            asked.append((order, counts))
            return 4 * np.array(errors[: len(counts)])

        found = self.measured(monkeypatch, errors, variance, predicted=SimpleNamespace(errors=predict))
        counts = list(found.counts[1:])
        assert asked == [([2, 4, 5, 3, 1], counts)]
        expected = average(2 * np.array(errors[: len(counts)]), np.array(counts, float))
        assert found.errors[1:] == pytest.approx(np.maximum.accumulate(expected).tolist())

    def test_a_larger_cut_is_never_cheaper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.measured(monkeypatch, [9.0, 1, 1, 1, 1, 1, 1, 1], np.ones(8))
        assert (np.diff(found.errors) >= 0).all() and found.errors[1] > 0
