"""Measured latencies: what a table file holds, and how a layer is looked up in it.

The file is JSON:

    {"format": "onnxslim-yolo/latency", "version": 1,
     "runtime": "ncnn", "runtime_version": "1.0.20261020", "cpu": "AMD EPYC", "isa": "avx512", "threads": 1,
     "scale": 1.08, "overhead": 3.1, "noise": 0.02,
     "families": [{"kind": "conv", "op": "", "kernel": [3, 3], "stride": [1, 1], "groups": 1, "size": [40, 40],
                   "in": [8, 13, 16], "out": [8, 13, 16], "us": [[…], […], […]]},
                  {"kind": "maxpool", …, "in": [8, 13, 16], "us": […]}]}

`us` holds microseconds: a row per input width and a column per output width for convolutions, one number a width for
all else ("concat" and "split": two equal parts of that width each). null: not measured. An `op` that ends in "int8" is
a layer's int8 form (see `latency.int8`). "method", where it is there, says that nothing was timed, and what the numbers
are. "noise", where it is there: by how much layers were off that were measured twice (see `measure.steady`). `scale`
and `overhead`: whole networks took scale · (the sum of their layers) + overhead µs a layer, since layers one after
another compete for the caches, and calling one takes time.

Look-up. Widths fall in classes (see `packing`). Within the table, latency is interpolated linearly between measured
widths of the same class. Beyond it, the nearest measured point is scaled by what the analytic model says about the way
from there: so also for spatial sizes that were not measured (from the nearest below and above, on a logarithmic scale).
A family of which nothing like it was measured gets the analytic estimate, times the typical ratio of measured to
analytic in this table.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.latency.analytic import AnalyticModel
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.methods import ANALYTIC
from onnxslim_yolo.latency.packing import Runtime, blocks_of, lanes_of, pack_of, packs_of, padded

FORMAT, VERSION = "onnxslim-yolo/latency", 1
SQUARE = frozenset({"conv", "group-conv", "deconv", "matmul"})
"""Kinds that are measured over input and output widths; the others over one width."""

NOISY = 0.1
"""From here on a table's name says so: what it is to tell apart is often less."""

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Measured points of one family.

    Attributes:
        ins, outs: measured widths, ascending; `outs` is empty where there is one width only.
        us: {(in, out): µs} or {(width,): µs}.
    """

    ins: Widths
    outs: Widths
    us: dict[Widths, float]


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies of one runtime on one machine; without families, the analytic model.

    Attributes:
        runtime, runtime_version: what was measured.
        cpu, isa, threads: on what.
        method: how, in words, where nothing was timed; "" of what was measured.
        families: what was measured, by family.
        scale, overhead: factor on every prediction, and µs added to it, from whole networks.
        noise: the median of |ln(second ÷ first)| over layers that were measured twice; None: not known.
    """

    runtime: Runtime
    isa: str
    threads: int = 1
    runtime_version: str = ""
    cpu: str = ""
    families: dict[Family, Grid] = field(default_factory=dict)
    scale: float = 1.0
    overhead: float = 0.0
    method: str = ""
    noise: float | None = None
    _cache: dict[tuple[Family, Widths, Widths], float] = field(default_factory=dict, compare=False, repr=False)
    _corrections: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    _axes: dict[tuple[int, int, bool], _Axis] = field(default_factory=dict, compare=False, repr=False)
    _near: dict[Family, list[Family]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def analytic(cls, runtime: Runtime, isa: str) -> LatencyTable:
        """A table that holds nothing: every prediction is the analytic model's."""
        return cls(runtime, isa)

    @property
    def name(self) -> str:
        """What the table is, in words."""
        if not self.families:
            return f"{self.runtime}, {self.isa}: {ANALYTIC}"
        measured = f"{self.runtime} {self.runtime_version}, {self.cpu} ({self.isa}), {self.threads} thread(s)"
        if self.noise is not None and self.noise > NOISY:
            measured += f", noisy: ±{100 * self.noise:.0f} % from one time to another"
        return f"{measured}: {self.method}" if self.method else measured

    @cached_property
    def lanes(self) -> int:
        """Channels in a register of the machine."""
        return lanes_of(self.isa)

    @cached_property
    def blocks(self) -> int:
        """Channels that the runtime interleaves there."""
        return blocks_of(self.runtime, self.isa)

    @cached_property
    def model(self) -> AnalyticModel:
        """What stands in where nothing was measured."""
        return AnalyticModel(self.runtime, self.isa)

    def predict(self, key: LayerKey) -> float:
        """µs of one layer."""
        return self.lookup(key.family, key.ins, key.outs)

    def predict_graph(self, graph: gs.Graph) -> float:
        """µs of a graph: the sum over its layers."""
        return self.predict_layers(layers_of(graph))

    def predict_layers(self, layers: Iterable[LayerKey]) -> float:
        """µs of these layers one after another."""
        return sum(self.predict(key) for key in layers)

    def lookup(self, family: Family, ins: Widths, outs: Widths) -> float:
        """µs of a layer of a family with these widths. Remembered."""
        key = (family, ins, outs)
        known = self._cache.get(key)
        if known is None:
            family = as_computed(self.runtime, family, ins)
            alone = self._lookup(family, ins, outs) + self.model.conversion(family, ins, outs)
            known = self.scale * alone + (self.overhead if alone > 0 else 0.0)
            self._cache[key] = known
        return known

    def _lookup(self, family: Family, ins: Widths, outs: Widths) -> float:
        known = self.measured(family, ins, outs)
        return self.model.estimate(family, ins, outs) * self._correction(family.kind) if known is None else known

    def measured(self, family: Family, ins: Widths, outs: Widths) -> float | None:
        """µs by what was measured, neither scaled nor with overhead; None where nothing like it was."""
        if min((*ins, *outs), default=0) <= 0:
            return 0.0
        neighbours = self._near.get(family)
        if neighbours is None:
            neighbours = self._near[family] = self._neighbours(family)
        if not neighbours:
            return None
        if len(neighbours) == 1:
            return self._from(neighbours[0], family, ins, outs)
        low, high = neighbours
        share = math.log(family.area / low.area) / math.log(high.area / low.area)
        logs = [math.log(max(self._from(near, family, ins, outs), 1e-3)) for near in (low, high)]
        return math.exp(logs[0] * (1 - share) + logs[1] * share)

    def _neighbours(self, family: Family) -> list[Family]:
        """The measured families to go by: the very same, or the same at the nearest sizes below and above."""
        if family in self.families:
            return [family]
        alike = self._alike.get(_without_size(family), [])
        areas = [other.area for other in alike]
        if not alike:
            return []
        place = bisect_right(areas, family.area)
        if place and areas[place - 1] == family.area:
            return [alike[place - 1]]
        if place == 0 or place == len(alike):
            return [alike[min(place, len(alike) - 1)]]
        return [alike[place - 1], alike[place]]

    def _from(self, near: Family, family: Family, ins: Widths, outs: Widths) -> float:
        """µs by a measured family: interpolated there, scaled from there to what is asked for."""
        here, there = self._interpolate(near, ins, outs)
        asked = self.model.estimate(family, tuple(map(float, ins)), tuple(map(float, outs)))
        return here * asked / max(self.model.estimate(near, *there), 1e-3)

    def _interpolate(self, family: Family, ins: Widths, outs: Widths) -> tuple[float, _Point]:
        """µs at the nearest point inside what was measured of the same class, and that point's widths."""
        grid = self.families[family]
        if family.kind in SQUARE:
            first = _bracket(*self._axis(grid.ins, ins[0]))
            second = _bracket(*self._axis(grid.outs, outs[0], ins[0]))
            us = sum(
                w1 * w2 * self._measured(family, grid, (c1, c2))
                for c1, w1 in first for c2, w2 in second
            )  # fmt: skip
            return us, ((_mean(first),), (_mean(second),))
        parts = ins if family.kind == "concat" else outs
        width = round(sum(parts) / len(parts)) if len(parts) > 1 and family.kind in ("concat", "split") else parts[0]
        weakest = min(parts, key=lambda part: (pack_of(self.runtime, self.blocks, part), part))
        near = _bracket(*self._axis(grid.ins, width, pack_like=weakest))
        us = sum(w * grid.us[(c,)] for c, w in near)
        at_width = _mean(near)
        if family.kind == "concat":
            return us, ((at_width,) * 2, (2 * at_width,))
        if family.kind == "split":
            return us, ((2 * at_width,), (at_width,) * 2)
        return us, (tuple(at_width if c == width else float(c) for c in ins), (at_width,) * len(outs))

    def _measured(self, family: Family, grid: Grid, widths: tuple[int, int]) -> float:
        """A measured cell; a missing one by its nearest measured neighbour of the same input width, scaled."""
        if widths in grid.us:
            return grid.us[widths]
        key = (family, widths, ())
        if key in self._cache:
            return self._cache[key]
        near = min(grid.us, key=lambda cell: abs(math.log(cell[0] / widths[0])) + abs(math.log(cell[1] / widths[1])))
        ratio = self.model.estimate(family, widths[:1], widths[1:]) / self.model.estimate(family, near[:1], near[1:])
        self._cache[key] = grid.us[near] * ratio
        return self._cache[key]

    def _axis(
        self, measured: Widths, width: int, beside: int | None = None, pack_like: int | None = None
    ) -> tuple[_Axis, float]:
        """Measured widths of a width's class by coordinate, and the width's own coordinate."""
        wanted = pack_of(self.runtime, self.blocks, width if pack_like is None else pack_like)
        stairs = beside is not None and self.runtime == "onnxruntime" and pack_of(self.runtime, self.blocks, beside) > 1
        at = padded(self.runtime, self.blocks, width) if stairs else float(width)
        key = (id(measured), wanted, stairs)  # of a family's grid, which stays
        axis = self._axes.get(key)
        if axis is None:
            axis = self._axes[key] = _axis_of(self.runtime, self.blocks, measured, wanted, stairs)
        return axis, at

    @cached_property
    def _alike(self) -> dict[Family, list[Family]]:
        """Families by what they are apart from their size, ascending by area."""
        found: dict[Family, list[Family]] = {}
        for family in sorted(self.families, key=lambda f: f.area):
            same = found.setdefault(_without_size(family), [])
            if not same or same[-1].area != family.area:
                same.append(family)
        return found

    def _correction(self, kind: str) -> float:
        """The median of measured over analytic for a kind; over all kinds if it was not measured."""
        known = self._corrections.get(kind)
        if known is None:
            ratios = [
                us / self.model.estimate(family, *cell_widths(family, widths))
                for family, grid in self._floats
                if family.kind == kind
                for widths, us in grid.us.items()
            ]
            known = self._corrections[kind] = float(np.median(ratios)) if ratios else self._typical
        return known

    @cached_property
    def _floats(self) -> list[tuple[Family, Grid]]:
        """What was measured of floats."""
        return [(family, grid) for family, grid in self.families.items() if not family.op.endswith("int8")]

    @cached_property
    def _typical(self) -> float:
        kinds = {family.kind for family, grid in self._floats if grid.us}
        return float(np.median([self._correction(kind) for kind in sorted(kinds)])) if kinds else 1.0


def as_computed(runtime: Runtime, family: Family, ins: Widths) -> Family:
    """What a runtime computes for a layer: in ncnn, scattered channels are picked by a 1×1 convolution.

    A shuffle of whole groups has a layer of its own there, until channels are cut out of it.
    """
    if family.kind != "gather" or runtime != "ncnn" or ins[0] == family.groups:
        return family
    return Family("conv", size=family.size)


_Point = tuple[tuple[float, ...], tuple[float, ...]]


def cell_widths(family: Family, widths: Widths) -> tuple[Widths, Widths]:
    """The input and output widths of the network that a table's cell was measured with."""
    if family.kind in SQUARE:
        return widths[:1], widths[1:]
    if family.kind == "concat":
        return widths * 2, (2 * widths[0],)
    if family.kind == "split":
        return (2 * widths[0],), widths * 2
    if family.kind == "binary":
        return widths * 2, widths
    return widths, widths


@lru_cache(maxsize=4096)
def _of_class(runtime: Runtime, lanes: int, measured: Widths, wanted: int) -> Widths:
    """The measured widths of a class; of the nearest wider one, else narrower one, where it has none."""
    order = packs_of(runtime, lanes)
    for pack in (wanted, *order[order.index(wanted) + 1 :], *reversed(order[: order.index(wanted)])):
        same = tuple(c for c in measured if pack_of(runtime, lanes, c) == pack)
        if same:
            return same
    return ()


_Axis = tuple[tuple[float, ...], Widths]
"""Coordinates, ascending, and the width at each."""


@lru_cache(maxsize=4096)
def _axis_of(runtime: Runtime, lanes: int, measured: Widths, wanted: int, stairs: bool) -> _Axis:
    """The measured widths of a class; with stairs those that are padded to one width have one coordinate."""
    widths = _of_class(runtime, lanes, measured, wanted)
    points = sorted((padded(runtime, lanes, c) if stairs else float(c), c) for c in widths)
    return tuple(at for at, _ in points), tuple(c for _, c in points)


def _without_size(family: Family) -> Family:
    kernel = (0, 0) if family.kind == "avgpool" and family.area == 1 else family.kernel
    return Family(family.kind, family.op, kernel, family.stride, family.groups)


def _bracket(axis: _Axis, at: float) -> list[tuple[int, float]]:
    """The measured widths around a coordinate with their weights; one alone at either end."""
    places, widths = axis
    place = bisect_right(places, at)
    if place and places[place - 1] == at:
        same = widths[bisect_left(places, at) : place]
        return [(width, 1 / len(same)) for width in same]
    if place == 0:
        return [(widths[0], 1.0)]
    if place == len(places):
        return [(widths[-1], 1.0)]
    share = (at - places[place - 1]) / (places[place] - places[place - 1])
    return [(widths[place - 1], 1 - share), (widths[place], share)]


def _mean(points: list[tuple[int, float]]) -> float:
    return sum(width * weight for width, weight in points)
