"""Measure a table: single layers through the runtime itself, at few widths, more of them where latency bends.

For every family of layers in the graphs, the widths 1 … W (W: the largest in the graphs, rounded up to 16) are sampled
per class of packs, geometrically: each class has its own curve. In rounds, every other sampled width is measured first,
along the diagonal (equal widths in and out); where interpolating between two measured widths misses one that lies
between them by more than `TOLERANCE`, that one joins the grid. Convolutions are then measured at all pairs of the grid.
In the end, what is slower than its wider neighbour of the same class, or much slower than both neighbours suggest, is
measured once more, and the better of the two times counts: something else may have used the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from types import TracebackType

import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import UsageError, VerificationError
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.networks import can_measure, ncnn_network, onnx_network
from onnxslim_yolo.latency.packing import RUNTIMES, Runtime, host_isa, lanes_of, pack_of, packs_of
from onnxslim_yolo.latency.table import SQUARE, Grid, LatencyTable, Widths, cell_widths

CHILD = Path(__file__).with_name("profile_child.py")
_START = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
TOLERANCE = 0.12
DOUBT = 1.15
SAMPLES: dict[int, Widths] = {
    16: (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024),
    8: (8, 24, 40, 56, 88, 120, 184, 248, 376, 504, 760, 1016),
    4: (4, 12, 28, 44, 60, 92, 124, 188, 252, 380, 508, 764, 1020),
    1: (1, 3, 7, 11, 14, 15, 21, 31, 45, 61, 93, 127, 189, 255, 381, 511, 765, 1023),
}
"""Widths to choose from, by class."""

BATCH = 24
BATCH_WEIGHTS = 4_000_000
"""Layers, and weights in sum, that one request to the measuring process holds."""

Progress = Callable[[int, int], None]
Measure = Callable[[Sequence[LayerKey]], list[float | None]]
"""µs per layer; None where the runtime refuses it."""


def profile(
    graphs: Iterable[gs.Graph],
    *,
    target: Runtime = "ncnn",
    threads: int = 1,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> LatencyTable:
    """Measure a table for the layers of these graphs.

    Args:
        graphs: with shapes inferred. Their largest widths bound what is measured.
        target: the runtime.
        threads: its threads. One is timed by its own CPU time, more by wall time, which needs an idle machine.
        progress: called with (layers measured, layers to measure as far as is known).
        measure: instead of the runtime (for tests).

    Raises:
        UsageError: an unknown target, or more threads than cores.
        VerificationError: the measuring process cannot be started.
    """
    if target not in RUNTIMES:
        raise UsageError(f"unknown target '{target}'", hint=f"one of {', '.join(RUNTIMES)}")
    if not 1 <= threads <= (os.cpu_count() or 1):
        raise UsageError(f"{threads} threads on {os.cpu_count()} cores would measure the scheduler")
    isa = host_isa()
    families = families_of(graphs)
    if measure is not None:
        grids = measure_families(families, target, lanes_of(isa), measure, progress)
        return LatencyTable(target, isa, threads, "", "", grids)
    from onnxslim_yolo.verify.benchmark import machine

    with Measurer(target, threads) as measurer:
        grids = measure_families(families, target, lanes_of(isa), measurer, progress)
    return LatencyTable(target, isa, threads, version(target), machine()["cpu"], grids)


def families_of(graphs: Iterable[gs.Graph]) -> dict[Family, tuple[int, int]]:
    """Every family that can be measured, with the largest input and output width (of parts: the largest part)."""
    found: dict[Family, tuple[int, int]] = {}
    for graph in graphs:
        for key in layers_of(graph):
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
    samplers = [_Sampler(family, most, runtime, lanes) for family, most in families.items()]
    counter = _Counter(progress)
    while wanted := [(sampler, cell) for sampler in samplers for cell in sampler.wanted()]:
        keys = [LayerKey(sampler.family, *cell_widths(sampler.family, cell)) for sampler, cell in wanted]
        counter.expect(len(keys) + sum(sampler.later() for sampler in samplers))
        for batch in _batches(keys):
            times = measure([keys[i] for i in batch])
            for i, us in zip(batch, times, strict=True):
                wanted[i][0].note(wanted[i][1], us)
            counter.done(len(batch))
    return {sampler.family: grid for sampler in samplers if (grid := sampler.grid()) is not None}


class _Sampler:
    """What of one family has been measured, and what should be next."""

    def __init__(self, family: Family, most: tuple[int, int], runtime: Runtime, lanes: int) -> None:
        self.family = family
        self.runtime, self.lanes = runtime, lanes
        self.square = family.kind in SQUARE
        self.us: dict[Widths, float | None] = {}
        self.sides = [self._candidates(width) for width in (most if self.square else most[:1])]
        self.chosen: set[int] = set()
        self.finished = False
        self.doubted = False
        self.untried = self._coarse()

    def _candidates(self, most: int) -> list[int]:
        limit = -(-most // 16) * 16
        if most <= 4:  # an image's channels are what they are
            return [most]
        packs = packs_of(self.runtime, self.lanes)
        samples = {c for widths in SAMPLES.values() for c in widths if c <= limit and c % self.family.groups == 0}
        samples |= {self.family.groups * c for c in (1, 2, 3, 4, 8, 16) if self.family.groups > 1}
        return sorted(c for c in samples if c <= limit and pack_of(self.runtime, self.lanes, c) in packs) or [most]

    def _widths(self) -> list[int]:
        return sorted({c for side in self.sides for c in side})

    def _coarse(self) -> set[int]:
        """Per class: the ends, and every other width between them."""
        chosen: set[int] = set()
        for same in self._classes():
            chosen.update(same[::2], same[-1:])
        return chosen

    def _classes(self) -> list[list[int]]:
        packs: dict[int, list[int]] = {}
        for c in self._widths():
            packs.setdefault(pack_of(self.runtime, self.lanes, c), []).append(c)
        return list(packs.values())

    def _diagonal(self, c: int) -> Widths:
        if not self.square:
            return (c,)
        return (self._near(0, c), self._near(1, c))

    def _near(self, side: int, c: int) -> int:
        """The width itself where the side goes that far, else the side's largest of its class."""
        if c in self.sides[side]:
            return c
        pack = pack_of(self.runtime, self.lanes, c)
        same = [x for x in self.sides[side] if pack_of(self.runtime, self.lanes, x) == pack]
        return max(same or self.sides[side])

    def wanted(self) -> list[Widths]:
        """The cells to measure next; none when done."""
        if not self.finished:
            self._judge()
        fresh = {self._diagonal(c) for c in self.untried} | {self._diagonal(c) for c in self._between()}
        fresh -= self.us.keys()
        if fresh:
            return sorted(fresh)
        if self.square and not self.finished:
            self.finished = True
            rest = {(a, b) for a in self._grid_side(0) for b in self._grid_side(1)} - self.us.keys()
            if rest:
                return sorted(rest)
        if self.doubted:
            return []
        self.doubted = True
        return sorted(cell for cell in self.us if self._doubtful(cell))

    def _doubtful(self, cell: Widths) -> bool:
        """Whether a wider layer of the same class is faster, or the layer is far above the line between neighbours."""
        here = self.us[cell]
        if here is None:
            return False
        for side in range(len(cell)):
            pack = pack_of(self.runtime, self.lanes, cell[side])
            line = sorted(
                other[side]
                for other, us in self.us.items()
                if us is not None
                and other[:side] + other[side + 1 :] == cell[:side] + cell[side + 1 :]
                and pack_of(self.runtime, self.lanes, other[side]) == pack
            )
            place = line.index(cell[side])
            low, high = line[max(place - 1, 0)], line[min(place + 1, len(line) - 1)]
            left, right = (self.us[cell[:side] + (c,) + cell[side + 1 :]] or here for c in (low, high))
            share = (cell[side] - low) / (high - low) if high > low else 0.0
            if right < here or (low < cell[side] < high and here > DOUBT * (left * (1 - share) + right * share)):
                return True
        return False

    def later(self) -> int:
        """About how many more cells there will be."""
        return 0 if not self.square or self.finished else len(self.untried | self.chosen) ** 2 // 2

    def _judge(self) -> None:
        """The coarse widths are kept; one between them is when interpolation misses it."""
        if self.untried and all(self._diagonal(c) in self.us for c in self.untried):
            self.chosen |= self.untried
            self.untried = set()
        for same in self._classes():
            for low, c, high in zip(same, same[1:], same[2:], strict=False):
                here, left, right = (self.us.get(self._diagonal(x)) for x in (c, low, high))
                if c in self.chosen or not here or not left or not right or not {low, high} <= self.chosen:
                    continue
                share = (c - low) / (high - low)
                power = 2 if self.square else 1  # along the diagonal a convolution's work grows with the square
                guess = (left ** (1 / power) * (1 - share) + right ** (1 / power) * share) ** power
                if abs(guess / here - 1) > TOLERANCE:
                    self.chosen.add(c)

    def _between(self) -> set[int]:
        if self.untried:
            return set()
        return {c for same in self._classes() for c in same[1:-1] if c not in self.chosen}

    def _grid_side(self, side: int) -> list[int]:
        return sorted({self._near(side, c) for c in self.chosen})

    def note(self, cell: Widths, us: float | None) -> None:
        """Keep a measured time; of two, the smaller."""
        before = self.us.get(cell)
        self.us[cell] = us if before is None or us is None else min(before, us)

    def grid(self) -> Grid | None:
        """All that was measured."""
        measured = {cell: us for cell, us in self.us.items() if us is not None}
        if not measured:
            return None
        if not self.square:
            return Grid(tuple(sorted(c for (c,) in measured)), (), measured)
        ins, outs = self._grid_side(0), self._grid_side(1)
        inside = {(a, b): us for (a, b), us in measured.items() if a in ins and b in outs}
        return Grid(tuple(ins), tuple(outs), inside) if inside else None


def _batches(keys: Sequence[LayerKey]) -> Iterable[list[int]]:
    batch: list[int] = []
    weights = 0
    for index, key in enumerate(keys):
        size = prod(key.family.kernel) * key.ins[0] * key.outs[0] + key.family.area * sum((*key.ins, *key.outs))
        if batch and (len(batch) == BATCH or weights + size > BATCH_WEIGHTS):
            yield batch
            batch, weights = [], 0
        batch.append(index)
        weights += size
    if batch:
        yield batch


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, more: int) -> None:
        self._total = max(self._total, self._done + more)

    def done(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))


class Measurer:
    """A measuring process, started again when a layer crashes it. Use as a context manager."""

    def __init__(self, runtime: Runtime, threads: int, timeout: float = 60.0) -> None:
        self._runtime, self._threads, self._timeout = runtime, threads, timeout
        self._child: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self.refused: list[LayerKey] = []

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        """µs per layer; a batch that crashes the process is tried again layer by layer."""
        request: dict[str, object] = {"runtime": self._runtime, "threads": self._threads}
        if self._runtime == "ncnn":
            request["nets"] = [ncnn_network(key).as_json() for key in keys]
        else:
            path = onnx_network(keys, Path(self._folder.name) / "layers.onnx")
            request |= {"model": str(path), "count": len(keys)}
        try:
            return self._ask(request)
        except (EOFError, BrokenPipeError) as error:
            self._stop()
            if len(keys) > 1:
                return [self([key])[0] for key in keys]
            if not self.refused or len(self.refused) < 100:
                self.refused.append(keys[0])
                return [None]
            raise VerificationError("the measuring process crashes at every layer") from error

    def _ask(self, request: dict[str, object]) -> list[float | None]:
        child = self._child or self._start()
        if child.stdin is None or child.stdout is None:
            raise EOFError
        timer = threading.Timer(self._timeout, child.kill)
        timer.start()
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise EOFError
        times: list[float | None] = json.loads(line)["us"]
        return times

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "passive"}
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        return self._child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    stream.close()
            self._child = None
