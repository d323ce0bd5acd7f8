"""Where channels are before and after slicing, and the initializers cut accordingly; what `slice` works with.

What was taken of each initializer stays with it as its origin, so that the plan can name positions of the source's
weights however often they were rewritten and cut (see `source_terms`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, concrete_shapes
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.ir.graph import Array, Namer, Node, consumers, is_constant, replace_input, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import Indices, made_by_cutting, origin_of, set_origin
from onnxslim_yolo.pruning.plan import Plan

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

    def stale(self) -> str | None:
        """A tensor whose shape after slicing is not what is left of it, in words; None where all are."""
        channels, now = self.plan.channels, concrete_shapes(self.model.graph)
        for tensor in tensors(self.model.graph):
            before, after = channels.shapes.get(id(tensor)), now.get(id(tensor))
            labels = channels.labels_of(tensor)
            if before is None or labels is None or is_constant(tensor):
                continue
            sizes = enumerate(before)
            wanted = tuple(int(self.copies(labels.reshape(-1)).sum()) if labels.shape[k] > 1 else n for k, n in sizes)
            if wanted != after:
                return f"'{tensor.name}' has the shape {after} instead of {wanted}"
        return None

    def cut_initializers(self) -> int:
        """Cut every initializer along all its labelled axes; returns how many changed."""
        by_constant: dict[int, list[AxisUse]] = defaultdict(list)
        for use in self.plan.channels.uses:
            by_constant[id(use.constant)].append(use)
        return sum(self._cut(uses) for uses in by_constant.values())

    def _cut(self, uses: list[AxisUse]) -> bool:
        constant = uses[0].constant
        steps: list[tuple[int, list[Array], bool]] = []
        first_use = {use.axis: use for use in reversed(uses)}
        # The input axis of a grouped convolution first: its groups are ranges of the still uncut rows.
        for axis, use in sorted(first_use.items(), key=lambda item: item[1].labels.ndim, reverse=True):
            parts = [self.positions(part) for part in np.atleast_2d(use.labels)]
            if all(_is_whole(part, use.labels.shape[-1]) for part in parts):
                continue
            steps.append((axis, parts, use.role == "channel"))
        if not steps:
            return False
        fresh = gs.Constant(constant.name, np.ascontiguousarray(_carry_out(constant.values, steps)))
        move = partial(_carry_out, steps=steps)
        cut = {axis: _as_indices(parts) for axis, parts, _ in steps}
        set_origin(fresh, made_by_cutting(origin_of(constant), tuple(constant.shape), move, cut))
        for node in consumers(constant):
            replace_input(node, constant, fresh)
        return True


def _carry_out(values: Array, steps: Sequence[tuple[int, list[Array], bool]]) -> Array:
    """Take positions along axes, one after the other; several lists are those of groups of rows, along axis 1."""
    for axis, parts, repeat in steps:
        values = _take(values, parts[0], axis, repeat=repeat) if len(parts) == 1 else _take_by_group(values, parts)
    return values


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
