"""Where channels are before and after slicing, and the initializers cut accordingly; what `slice` works with.

Kept indices are recorded in the source's terms: when a network is sliced twice, the second slicing's indices into what
the first kept are composed with the first's, so that the plan always names positions of the source's weights.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.graph import Array, Model, Namer, Node, consumers
from onnxslim_yolo.plan import Indices, Plan

ADDED = -1
"""In a list of positions: a channel that is added, not taken from the source."""


class Cutter:
    """Positions before and after, for one plan."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self.name = Namer(model.graph)
        self._copies = np.where(plan.keep, 1 + plan.extra, 0)

    def positions(self, classes: Array) -> Array:
        """The old positions that make up the new axis, in order; `ADDED` for new ones."""
        taken: list[int] = []
        for position, copies in enumerate(self.copies(classes).tolist()):
            taken += [position][:copies] + [ADDED] * (copies - 1)
        return np.asarray(taken, dtype=np.int64)

    def copies(self, classes: Array) -> Array:
        """How many new positions each old one becomes."""
        return np.where(classes == NO_CHANNEL, 1, self._copies[np.maximum(classes, 0)])

    def starts(self, classes: Array) -> Array:
        """The new position of each old one (meaningful where it is kept), and behind the last, the new size."""
        return np.concatenate([[0], np.cumsum(self.copies(classes))])

    def along(self, node: Node, index: int, axis: int, *, output: bool = False) -> Array | None:
        """The classes along one axis of a node's input or output, or None if no channel varies there."""
        tensor = node.outputs[index] if output else node.inputs[index]
        labels = self.plan.channels.labels_of(tensor)
        if labels is None or labels.ndim <= axis or labels.shape[axis] == 1:
            return None
        return labels.reshape(-1)

    def widths(self, node: Node) -> dict[int, int]:
        """The new size of each axis of the node's output along which channels vary."""
        labels = self.plan.channels.labels_of(node.outputs[0])
        if labels is None:
            return {}
        return {k: int(self.copies(labels.reshape(-1)).sum()) for k in range(labels.ndim) if labels.shape[k] > 1}

    def cut_initializers(self) -> int:
        """Cut every initializer along all its labelled axes; returns how many changed."""
        by_constant: dict[int, list[AxisUse]] = defaultdict(list)
        for use in self.plan.channels.uses:
            by_constant[id(use.constant)].append(use)
        return sum(self._cut(uses) for uses in by_constant.values())

    def _cut(self, uses: list[AxisUse]) -> bool:
        constant = uses[0].constant
        values, changed = constant.values, False
        kept: dict[int, Indices] = {}
        first_use = {use.axis: use for use in reversed(uses)}
        # The input axis of a grouped convolution first: its groups are ranges of the still uncut rows.
        for axis, use in sorted(first_use.items(), key=lambda item: item[1].labels.ndim, reverse=True):
            if use.labels.ndim == 2:
                parts = [self.positions(part) for part in use.labels]
                values = _take_by_group(values, parts)
            else:
                parts = [self.positions(use.labels)]
                values = _take(values, parts[0], axis, repeat=use.role == "channel")
            if all(_is_whole(part, use.labels.shape[-1]) for part in parts):
                continue
            changed = True
            kept[axis] = _as_indices(parts)
        if not changed:
            return False
        self._record(constant.name, kept)
        fresh = gs.Constant(constant.name, np.ascontiguousarray(values))
        for node in consumers(constant):
            node.inputs = [fresh if tensor is constant else tensor for tensor in node.inputs]
        return True

    def _record(self, name: str, kept: dict[int, Indices]) -> None:
        """Note kept indices in the source's terms: composed with what an earlier slicing kept."""
        earlier = self.plan.kept.get(name, {})
        merged = dict(earlier)
        for axis, now in kept.items():
            merged[axis] = _compose(earlier[axis], now) if axis in earlier else now
        self.plan.kept[name] = merged


def _take(values: Array, positions: Array, axis: int, *, repeat: bool) -> Array:
    """Take positions along an axis. Added ones are zero, or with `repeat` like the one before (σ² must be sane)."""
    source = positions.copy()
    added = np.flatnonzero(positions == ADDED)
    for place in added.tolist():
        source[place] = source[place - 1]
    taken: Array = values.take(source, axis=axis)
    if added.size and not repeat:
        taken[(slice(None),) * axis + (added,)] = 0
    return taken


def _take_by_group(values: Array, parts: list[Array]) -> Array:
    rows = np.split(values, len(parts), axis=0)
    return np.concatenate([_take(row, part, 1, repeat=False) for row, part in zip(rows, parts, strict=True)], axis=0)


def _is_whole(positions: Array, size: int) -> bool:
    return len(positions) == size and bool((positions == np.arange(size)).all())


def _as_indices(parts: list[Array]) -> Indices:
    lists = [part[part != ADDED].tolist() for part in parts]
    return lists[0] if all(item == lists[0] for item in lists) else lists


def _compose(earlier: Indices, now: Indices) -> Indices:
    """Indices into what was kept earlier, as indices into the source."""
    before, after = _by_part(earlier), _by_part(now)
    parts = max(len(before), len(after))
    before, after = before * (parts // len(before)), after * (parts // len(after))
    return _as_indices([np.asarray(b)[a] for b, a in zip(before, after, strict=True)])


def _by_part(indices: Indices) -> list[list[int]]:
    nested = bool(indices) and isinstance(indices[0], list)
    return cast(list[list[int]], indices if nested else [indices])
