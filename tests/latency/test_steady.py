"""A table that does not come out alike is measured again; made-up clocks, so that nothing here depends on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.latency import LatencyTable, LayerKey
from onnxslim_yolo.latency.table import NOISY
from onnxslim_yolo.latency.table_format import read_table, write_table
from onnxslim_yolo.measure.latency import ProfileResult
from onnxslim_yolo.measure.profile import families_of, measure_families
from onnxslim_yolo.measure.steady import AGAIN, Grids, noise_of, steadied
from tests.latency.models import formula, small


class Clock:
    """The formula, times what other work makes of it: up to (1 + busy), another share each time; None at odd times."""

    def __init__(self, busy: float, refused: bool = False) -> None:
        self.busy, self.refused, self.asked = busy, refused, 0
        self._random = np.random.default_rng(0)

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        self.asked += len(keys)
        true = formula("ncnn")(keys)
        share = 1 + self.busy * self._random.random(len(keys))
        return [None if self.refused or us is None else us * s for us, s in zip(true, share, strict=True)]


def grids_of(clock: Clock) -> Grids:
    return measure_families(families_of([small().graph]), "ncnn", 16, clock)


def errors(grids: Grids) -> float:
    """How far cells are above the truth, in the mean."""
    true = grids_of(Clock(0.0))
    ratios = [us / true[f].us[cell] for f, grid in grids.items() for cell, us in grid.us.items() if cell in true[f].us]
    assert len(ratios) > 50
    return float(np.mean(ratios)) - 1


def test_a_quiet_machine_is_asked_for_a_few_layers_more() -> None:
    clock = Clock(0.04)
    grids = grids_of(clock)
    before = clock.asked
    found, noise = steadied(grids, clock)
    assert found == grids and noise is not None and noise < NOISY
    assert 0 < clock.asked - before < before / 2


@pytest.mark.parametrize("busy", [1.0, 3.0])
def test_on_a_busy_one_every_layer_is_measured_again(busy: float) -> None:
    clock = Clock(busy)
    grids = grids_of(clock)
    before, first = clock.asked, noise_of(grids, Clock(busy))
    found, noise = steadied(grids, clock)
    assert first is not None and noise is not None and first > NOISY
    cells = sum(len(grid.us) for grid in grids.values())
    assert cells < clock.asked - before <= AGAIN * cells + (AGAIN + 1) * cells
    assert errors(found) < 0.7 * errors(grids)


def test_where_nothing_is_measured_nothing_is_said() -> None:
    grids = grids_of(Clock(0.0))
    assert steadied(grids, Clock(0.0, refused=True)) == (grids, None)
    assert steadied({}, Clock(0.0)) == ({}, None)


def test_a_noisy_table_says_so(tmp_path: Path) -> None:
    quiet = LatencyTable("ncnn", "avx2", 2, "1.0", "a CPU", grids_of(Clock(0.0)), noise=0.03)
    for table, said in ((quiet, False), (replace(quiet, noise=0.24), True), (replace(quiet, noise=None), False)):
        again = read_table(write_table(table, tmp_path / "t.json"))
        assert again.noise == table.noise and ("noisy: ±24 %" in again.name) is said
        assert (ProfileResult(tmp_path, again, 1, 1).doubt is not None) is said
    text = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(text.replace('"overhead"', '"noise": -1, "overhead"'))
    with pytest.raises(InputError, match="noise"):
        read_table(tmp_path / "t.json")
