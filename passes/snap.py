"""snap: move the planned widths to a grid the runtime likes. Only the plan changes.

A group that keeps k of w channels gets the width t of the grid nearest to k (the smaller one on a tie), never above w.
Grids: powers of two 8, 16, …; multiples of N. Groups the ranking left whole stay whole. Below the smallest grid point,
halves of it are taken down to 4, then k itself.

t > k: the *most* important of the removed channels come back. t < k: the least important of the kept ones go, unless
only dead channels may go (`prune{ratio=dead}`): then widths are only completed, and the result stays exact.

`auto` chooses by predicted latency instead (see `_auto_widths`): the fastest widths near the planned ones that lose no
more importance, judged by a stored table, never by a measurement of the moment. Where the graph is too small for that
or its shapes are not known, its grid is what a register holds, and halves of one down to 4: a layer of which a quarter
is wanted does not stay whole for being as wide as a register. Where only dead channels go, and the network
without them is predicted to be slower than with all, some stay (see `_not_slower`).

A group that is whole but off the grid (somebody else pruned it to an odd width) is left alone by default. `odd=down`
takes it to the grid point below, the least important channels going; `odd=up` to the one above, by zero channels, which
is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.importance import measure
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.devices import DeviceName, device_of
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.auto_widths import widths_by_latency, wished
from onnxslim_yolo.pruning.not_slower import given_back
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.pruning.problem import units_of

SMALLEST = 4
"""No finer grid than this: below four channels no runtime fills a register."""


@dataclass(frozen=True)
class SnapWidths:
    """Snap the widths of pruned groups to a grid.

    Args:
        to: "pow2", a number N for multiples of N, "auto" for what is fast on `runtime` and `isa`, or "none".
        isa: the device, or the instruction set, that "auto" is for; "host" asks this machine.
        runtime: the runtime that "auto" is for.
        table: a file of latencies for "auto", made by `onnxslim-yolo profile`, instead of the one shipped.
        threads: how many the runtime will have there, for "auto".
        odd: what to do with whole groups off the grid: "keep" them, cut them "down", or grow them "up" by zeros.
    """

    name: ClassVar[str] = "snap"
    effect: ClassVar[Effect] = "plan"

    to: Literal["none", "pow2", "auto"] | int = "auto"
    isa: DeviceName = "host"
    odd: Literal["keep", "down", "up"] = "keep"
    runtime: Runtime = "ncnn"
    table: Path | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.to, int) and self.to < 1:
            raise UsageError(f"cannot snap to multiples of {self.to}", hint="use none, pow2, auto or a number above 0")

    def run(self, model: Model) -> int:
        """Plan other widths; return the number of groups whose width changed."""
        if self.to == "none":
            return 0
        plan = open_plan(model)
        if not plan.importance.any():
            model.plan = plan = replace(plan, importance=measure(plan.channels).values)
        if self.odd == "keep" and not plan.removed and plan.snapped is None:
            if self.to == "auto":
                self._table()  # a broken one is refused, whatever is planned
            return 0  # what is whole stays whole
        ranked = plan
        snapped = self._by_latency(model, plan) if self.to == "auto" and self.odd == "keep" else None
        plan = self._on_grid(plan) if snapped is None else snapped
        if self.to == "auto" and self.odd == "keep" and plan.dead_only:
            plan = self._not_slower(model, plan)
        if self.odd == "up":
            plan = self._padded(plan)
        # Cutting a channel that `prune` did not find dead changes the function.
        lossless = plan.lossless and (plan.dead_only or not (ranked.keep & ~plan.keep).any())
        model.plan = plan = replace(plan, lossless=lossless)
        return sum(a.kept != b.kept for a, b in zip(ranked.group_plans(), plan.group_plans(), strict=True))

    def _on_grid(self, plan: Plan) -> Plan:
        keep = plan.keep.copy()
        for unit in _units(plan.channels, self._step()):
            self._snap(plan, keep, unit)
        return replace(plan, keep=complete(plan.channels, keep, plan.importance, floor=plan.floor))

    def _table(self) -> LatencyTable:
        return table_for(self.runtime, self.isa, self.table, self.threads)

    def _by_latency(self, model: Model, plan: Plan) -> Plan | None:
        """Widths chosen by latency; None where there is too little to judge by."""
        if device_of(self.isa).isa is None and self.table is None:
            return None  # nothing tells an accelerator's time: its grid is all that is known
        table = self._table()
        chosen = widths_by_latency(model.graph, plan, table)
        if chosen is None:
            return None
        keep, before, after = chosen
        if after.latency < before.latency:
            model.note(
                f"snap: {after.latency / before.latency:.2f} of the latency predicted for the widths as ranked, "
                f"{before.latency / 1000:.2f} → {after.latency / 1000:.2f} ms ({table.name})"
            )
        return replace(plan, keep=keep, snapped=(wished(plan), keep))

    def _not_slower(self, model: Model, plan: Plan) -> Plan:
        """Keep dead channels without which the network is predicted to be slower than with all of them."""
        table = self._table()
        found = given_back(model.graph, plan, table)
        if found is None:
            return plan
        keep, before, after = found
        staying = int((keep & ~plan.keep).sum())
        model.note(
            f"snap: {staying} channels stay though they contribute nothing: {before / 1000:.3f} ms predicted without "
            f"them, {after / 1000:.3f} ms with them ({table.name}); --snap none removes them"
        )
        return replace(plan, keep=keep, snapped=(wished(plan), keep))

    def _step(self) -> int:
        if self.to == "auto":
            return device_of(self.isa).grid
        return self.to if isinstance(self.to, int) else 8

    def _grid(self, width: int) -> list[int]:
        """Grid points up to a width, ascending."""
        step = self._step()
        while step > width and step > SMALLEST:
            step = max(step // 2, SMALLEST)
        if self.to == "pow2":
            return [step << i for i in range(32) if step << i <= width]
        below = (
            [step >> i for i in range(step.bit_length(), 0, -1) if step >> i >= SMALLEST] if self.to == "auto" else []
        )
        return [*below, *range(step, width + 1, step)]

    def target(self, kept: int, width: int) -> int:
        """The width that a group of `width` gets when the ranking keeps `kept` of it."""
        grid = self._grid(width)
        if not grid or (kept >= width and (self.odd != "down" or width in grid)):
            return kept
        if kept >= width:
            return grid[-1]
        return min(grid, key=lambda point: (abs(point - kept), point))

    def _snap(self, plan: Plan, keep: Array, classes: Array) -> None:
        kept = classes[keep[classes]]
        target = max(self.target(len(kept), len(classes)), min(plan.floor, len(kept)))
        if target > len(kept):
            gone = classes[~keep[classes]]
            best = gone[np.argsort(-plan.importance[gone], kind="stable")]
            keep[best[: target - len(kept)]] = True
        elif target < len(kept):
            allowed = kept[plan.removable[kept]]
            worst = allowed[np.argsort(plan.importance[allowed], kind="stable")]
            keep[worst[: len(kept) - target]] = False

    def _padded(self, plan: Plan) -> Plan:
        step, extra = self._step(), plan.extra.copy()
        balanced = {int(c) for balance in plan.channels.balances for c in balance.parts.reshape(-1) if c >= 0}
        # A channel that is alone in a tensor looks like one that is broadcast: nothing can be put beside it.
        alone = {int(labels.flat[0]) for labels in plan.channels.labels.values() if labels.size == 1}
        # What is summed over without a weight (‖x‖, attention's products) has no zero to multiply an added channel by.
        bare = [place.classes for place in contractions(plan.channels) if not place.weighted]
        fixed = balanced.union(*(classes.tolist() for classes in bare), _in_rows(plan.channels))
        for group in plan.channels.groups:
            kept = group.classes[plan.keep[group.classes]]
            places = [c for c in kept.tolist() if c not in alone]
            if not places or group.frozen or fixed.intersection(kept.tolist()):
                continue
            above = -(-len(kept) // step) * step
            if self.to == "pow2":
                above = max(step, 1 << (len(kept) - 1).bit_length())
            extra[places[-1]] = above - len(kept)
        return replace(plan, extra=extra)


def _in_rows(channels: Channels) -> set[int]:
    """Classes that several neighbours along an axis belong to, as a head's positions do: nothing goes between them."""
    rows = [labels.reshape(-1) for labels in channels.labels.values()]
    return set(np.concatenate([row[1:][row[1:] == row[:-1]] for row in rows]).tolist()) if rows else set()


def _units(channels: Channels, step: int) -> Iterable[Array]:
    """What is snapped together: a group; small groups of the same layers (a shuffle's routes) as one."""
    return units_of(channels, step)
