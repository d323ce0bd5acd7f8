"""Measure a table: single layers through the runtime itself, at few widths (see `sampling`).

Every family of layers in the graphs is measured up to its largest widths in them, and again where the machine was too
busy (see `steady`). Then the graphs are measured as wholes, and what they take beyond the sum of their layers becomes
the table's `scale` and `overhead`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.packing import RUNTIMES, Runtime, blocks_of, host_isa
from onnxslim_yolo.latency.table import Grid, LatencyTable, cell_widths
from onnxslim_yolo.measure.int8_profile import calibrated_int8, int8_layers
from onnxslim_yolo.measure.measurer import Measurer
from onnxslim_yolo.measure.networks import can_measure
from onnxslim_yolo.measure.sampling import Sampler
from onnxslim_yolo.measure.steady import Measure, batches, steadied

Progress = Callable[[int, int], None]


def profile(
    graphs: Iterable[gs.Graph],
    *,
    target: Runtime = "ncnn",
    threads: int = 1,
    run_on: str | None = None,
    int8: bool = False,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> LatencyTable:
    """Measure a table for the layers of these graphs.

    Args:
        graphs: with shapes inferred. Their largest widths bound what is measured.
        target: the runtime.
        threads: its threads. One is timed by its own CPU time, more by wall time, which needs an idle machine.
        run_on: a command that starts the Python to measure in (see `runtime.launchers`); None: this machine.
        int8: measure layers' int8 forms as well (see `latency.int8`).
        progress: called with (layers measured, layers to measure as far as is known).
        measure: instead of the runtime (for tests).

    Raises:
        UsageError: an unknown target, or more threads than cores.
        VerificationError: the measuring process cannot be started.
    """
    if target not in RUNTIMES:
        raise UsageError(f"unknown target '{target}'", hint=f"one of {', '.join(RUNTIMES)}")
    if run_on is None:
        _require_cores(threads, os.cpu_count() or 1)
    isa: str = host_isa()
    graphs = list(graphs)
    families = families_of(graphs, target if int8 else None)
    if measure is not None:
        grids = measure_families(families, target, blocks_of(target, isa), measure, progress)
        return LatencyTable(target, isa, threads, "", "", grids)
    from onnxslim_yolo.measure.machine import machine

    with Measurer(target, threads, 60.0 if run_on is None else 900.0, run_on) as measurer:
        board = measurer.board()
        if board is None:
            release, cpu = version(target), machine()["cpu"]
        else:
            _require_cores(threads, board.cores)
            isa, release, cpu = board.isa, getattr(board, target), board.cpu
            if not release:
                raise UsageError(f"--run-on: no {target} in that Python", hint=f"pip install {target}, there")
        found = measure_families(families, target, blocks_of(target, isa), measurer, progress)
        grids, noise = steadied(found, measurer)
        layers = LatencyTable(target, isa, threads, release, cpu, grids, noise=noise)
        wholes = []
        for graph in graphs:
            whole, keys = measurer.whole(graph), layers_of(graph)
            if whole is not None and (predicted := layers.predict_layers(keys)) > 0:
                wholes.append(Whole(whole, predicted, len(keys)))
        scale, overhead = calibrate(wholes)
        table = replace(layers, scale=scale, overhead=overhead, _cache={})
        return calibrated_int8(table, graphs, measurer.whole) if int8 else table


def _require_cores(threads: int, cores: int) -> None:
    if not 1 <= threads <= cores:
        raise UsageError(f"{threads} threads on {cores} cores would measure the scheduler")


class Whole(NamedTuple):
    """A network measured as a whole: µs, the sum of its layers' µs, and how many layers it has."""

    us: float
    sum_us: float
    layers: int


def calibrate(wholes: Sequence[Whole]) -> tuple[float, float]:
    """The scale and the overhead that leave the least squared relative error: µs = scale·sum + overhead·layers.

    Networks alike cannot tell the two apart; then, and where the fit is no sensible one, there is no overhead.
    """
    if not wholes:
        return 1.0, 0.0
    us, sums, layers = np.array(wholes, dtype=np.float64).T
    plain = float(np.median(us / sums))
    per_layer = sums / layers
    if per_layer.max() < 2 * per_layer.min():
        return plain, 0.0
    (scale, overhead), *_ = np.linalg.lstsq(np.stack([sums / us, layers / us], axis=1), np.ones(len(us)), rcond=None)
    return (float(scale), float(overhead)) if scale > 0 and overhead > 0 else (plain, 0.0)


def families_of(graphs: Iterable[gs.Graph], int8: Runtime | None = None) -> dict[Family, tuple[int, int]]:
    """Every family that can be measured, with the largest input and output width (of parts: the largest part).

    Args:
        int8: the runtime whose int8 forms of them are wanted as well.
    """
    found: dict[Family, tuple[int, int]] = {}
    for graph in graphs:
        layers = layers_of(graph)
        for key in layers if int8 is None else [*layers, *int8_layers(layers, int8)]:
            if not can_measure(key.family):
                continue
            ins = key.outs if key.family.kind == "split" else key.ins
            most = found.get(key.family, (0, 0))
            found[key.family] = (max(most[0], *ins), max(most[1], *key.outs))
    return dict(sorted(found.items()))


def measure_families(
    families: dict[Family, tuple[int, int]],
    runtime: Runtime,
    lanes: int,
    measure: Measure,
    progress: Progress | None = None,
) -> dict[Family, Grid]:
    """Grids for these families up to these widths: first the adaptive diagonals, then the pairs."""
    samplers = [Sampler(family, most, runtime, lanes) for family, most in families.items()]
    counter = _Counter(progress)
    while wanted := [(sampler, cell) for sampler in samplers for cell in sampler.wanted()]:
        keys = [LayerKey(sampler.family, *cell_widths(sampler.family, cell)) for sampler, cell in wanted]
        counter.expect(len(keys) + sum(sampler.later() for sampler in samplers))
        for batch in batches(keys):
            times = measure([keys[i] for i in batch])
            for i, us in zip(batch, times, strict=True):
                wanted[i][0].note(wanted[i][1], us)
            counter.done(len(batch))
    counter.finish()
    return {sampler.family: grid for sampler in samplers if (grid := sampler.grid()) is not None}


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total = max(self._total, self._done + more)

    def done(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))

    def finish(self) -> None:
        """What was expected was an estimate: say that all is done."""
        if self._progress is not None:
            self._progress(self._done, self._done)
