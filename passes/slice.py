"""slice: carry the channel plan out.

Let K be the kept classes. Every initializer axis whose positions are labelled c(0) … c(n−1) becomes the positions with
c(i) ∈ K, in their order; so does, by itself, the same axis of every computed tensor, since each operator either works
channel by channel or moves channels, and keeps their order when some are left out. What depends on *numbers* of
channels is recomputed: Split sizes, Slice bounds, Gather indices, Reshape and Expand targets, Resize sizes, `group` of
depthwise convolutions.

The result computes what the model computes with a mask of zeros at every place where removed channels are summed over
(the input of each convolution or matrix product), exactly up to float rounding: terms x·0 are left out.

Channels may also be added: `extra` zero channels behind a kept one, with zero weights in whoever makes them and whoever
reads them. Nothing depends on their value, so that is exact, too (`snap` adds none where no weight reads them).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.constraints import violations
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.analysis.movement import axis_of, gather_indices, slice_ranges, split_sizes
from onnxslim_yolo.graph import (
    Array,
    Model,
    Namer,
    Node,
    consumers,
    has_input,
    input_constant,
    is_empty,
    replace_constant,
    set_input,
    toposort,
)
from onnxslim_yolo.manager import Effect
from onnxslim_yolo.plan import Indices, Plan, open_plan
from onnxslim_yolo.shapes import reinfer

ADDED = -1
"""In a list of positions: a channel that is added, not taken from the source."""


@dataclass(frozen=True)
class SliceChannels:
    """Remove (and add) the channels that the plan says."""

    name: ClassVar[str] = "slice"
    effect: ClassVar[Effect] = "slice"

    def run(self, model: Model) -> int:
        """Carry out the model's plan; return the number of initializers cut."""
        if model.plan is None or model.plan.applied:
            return 0
        plan = open_plan(model)
        plan.groups = plan.group_plans()
        if plan.keep.all() and not plan.extra.any():
            plan.applied = True
            return 0
        broken = violations(plan.channels, plan.keep)
        if broken:
            raise ValueError("; ".join(broken[:5]))
        cutter = _Cutter(model, plan)
        for node in list(model.graph.nodes):
            update = UPDATES.get(node.op)
            if update is not None:
                update(cutter, node)
        cut = cutter.cut_initializers()
        plan.applied = True
        model.graph.nodes = toposort(model.graph)
        reinfer(model.graph)
        return cut


class _Cutter:
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


def _split(cutter: _Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None:
        return
    axis = axis_of(node, len(shape))
    classes = cutter.along(node, 0, axis)
    if classes is None:
        return
    bounds = np.cumsum([0, *split_sizes(node, shape[axis])])
    sizes = [int(cutter.copies(classes[a:b]).sum()) for a, b in pairwise(bounds.tolist())]
    node.attrs.pop("num_outputs", None)
    if cutter.model.opset < 13:
        node.attrs["split"] = sizes
    else:
        set_input(node, 1, gs.Constant(cutter.name(f"{node.name}_sizes"), np.asarray(sizes, dtype=np.int64)))


def _slice(cutter: _Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None:
        return
    for axis, taken in slice_ranges(node, shape).items():
        classes = cutter.along(node, 0, axis)
        if classes is None:
            continue
        starts = cutter.starts(classes)
        if taken == range(shape[axis]) and starts[-1] <= shape[axis]:
            continue  # its end may lie behind what is left, but not before what has been added
        if taken.step != 1:
            _gather_instead(cutter, node, len(shape), axis, classes, list(taken))
            continue
        _set_bounds(cutter, node, len(shape), axis, int(starts[taken.start]), int(starts[taken.stop]))


def _gather_instead(cutter: _Cutter, node: Node, rank: int, axis: int, classes: Array, taken: list[int]) -> None:
    """A Slice that steps through channels takes no regular pattern of those that are left: a Gather behind it does."""
    _set_bounds(cutter, node, rank, axis, 0, np.iinfo(np.int64).max, step=1)
    output = node.outputs[0]
    inner = gs.Variable(cutter.name(f"{output.name}_all"), output.dtype)
    node.outputs = [inner]
    starts, copies = cutter.starts(classes), cutter.copies(classes)
    indices = np.concatenate([np.arange(starts[i], starts[i] + copies[i]) for i in taken]).astype(np.int64)
    constant = gs.Constant(cutter.name(f"{node.name}_channels"), indices)
    gather = gs.Node("Gather", cutter.name(f"{node.name}_gather"), {"axis": axis}, [inner, constant], [output])
    cutter.model.graph.nodes.append(gather)


def _set_bounds(
    cutter: _Cutter, node: Node, rank: int, axis: int, start: int, end: int, step: int | None = None
) -> None:
    if "starts" in node.attrs:
        axes = [int(a) % rank for a in node.attrs.get("axes", range(len(node.attrs["starts"])))]
        position = axes.index(axis)
        for key, value in (("starts", start), ("ends", end)):
            node.attrs[key] = [value if k == position else v for k, v in enumerate(node.attrs[key])]
        return
    given = input_constant(node, 3)
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given.reshape(-1)]
    position = axes.index(axis)
    changed = [(1, start), (2, end)] if step is None else [(1, start), (2, end), (4, step)]
    for index, value in changed:
        bounds = np.array(input_constant(node, index))
        bounds.reshape(-1)[position] = value
        replace_constant(node, index, bounds, cutter.name(f"{node.name}_bounds"))


def _gather(cutter: _Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None or input_constant(node, 1) is None:
        return
    axis = axis_of(node, len(shape))
    classes = cutter.along(node, 0, axis)
    if classes is None:
        return
    indices = gather_indices(node, shape[axis])
    starts, copies = cutter.starts(classes), cutter.copies(classes)
    if indices.ndim == 0:
        new = np.asarray(starts[int(indices)], dtype=np.int64)
    else:
        new = np.concatenate([np.arange(starts[i], starts[i] + copies[i]) for i in indices.reshape(-1).tolist()])
    replace_constant(node, 1, new.astype(np.int64), cutter.name(f"{node.name}_indices"))


def _target_shape(cutter: _Cutter, node: Node) -> None:
    """Reshape and Expand: the new widths, where the target says widths at all."""
    target = input_constant(node, 1)
    if target is None:
        return
    widths = cutter.widths(node)
    new = np.array(target).reshape(-1)
    offset = len(cutter.plan.channels.shapes[id(node.outputs[0])] or ()) - len(new)
    for axis, width in widths.items():
        place = axis - offset
        if place >= 0 and new[place] > 0 and not (node.op == "Expand" and new[place] == 1):
            new[place] = width
    if not np.array_equal(new, target.reshape(-1)):
        replace_constant(node, 1, new, cutter.name(f"{node.name}_shape"))


def _resize(cutter: _Cutter, node: Node) -> None:
    if not has_input(node, 3) or "axes" in node.attrs:
        return
    sizes = input_constant(node, 3)
    width = cutter.widths(node).get(1)
    if sizes is None or width is None:
        return
    replace_constant(
        node, 3, np.concatenate([sizes[:1], [width], sizes[2:]]).astype(np.int64), cutter.name(f"{node.name}_sizes")
    )


def _depthwise(cutter: _Cutter, node: Node) -> None:
    """Where every channel is a group of its own, there are as many groups as channels left."""
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    groups = int(node.attrs.get("group", 1))
    if shape is None or groups == 1 or groups != shape[1]:
        return
    classes = cutter.along(node, 0, 1)
    if classes is not None:
        node.attrs["group"] = int(cutter.copies(classes).sum())


def _refuse_added(cutter: _Cutter, node: Node) -> None:
    if cutter.plan.extra.any() and not is_empty(node.inputs[0]) and cutter.along(node, 0, 1) is not None:
        raise ValueError(f"{node.op} '{node.name}' ties channels in blocks; they cannot be padded")


UPDATES: dict[str, Callable[[_Cutter, Node], None]] = {
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _target_shape,
    "Expand": _target_shape,
    "Resize": _resize,
    "Conv": _depthwise,
    "ConvTranspose": _depthwise,
    "DepthToSpace": _refuse_added,
    "SpaceToDepth": _refuse_added,
}
"""Operators that say numbers of channels anywhere but in their weights."""
