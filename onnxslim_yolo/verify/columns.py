"""What the channels of an output mean: which axis holds them, which are scores, what each is called.

A table's boxes are pixels beside probabilities, so outputs are compared column by column. The head says which axis
that is where it is recognised; maps (b, c, h, w) have theirs at 1; the scores that a graph shows tell it where they
fill some columns and no others. Otherwise it is the axis along which elements differ in *how much* they move from
input to input: the one with the largest F statistic (variance of log movement between its indices over that within).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.spec import HeadSpec, identify_head
from onnxslim_yolo.ir.graph import Array

Feeds = dict[str, Array]

Groups = tuple[tuple[str, int, int], ...]
"""(name, first column, column behind the last) each; single names for single columns."""


@dataclass(frozen=True)
class Meaning:
    """One output's columns.

    Attributes:
        axis: the axis they lie on; None where the output is one column.
        scores: (columns,) bool: probabilities whose logit is what counts.
        groups: what they are called where the head is recognised.
        count: how many there are.
    """

    axis: int | None
    count: int = 1
    scores: Array = field(default_factory=lambda: np.zeros(1, dtype=bool))
    groups: Groups = ()

    def name(self, column: int) -> str:
        """A column's name: "cx", "class 3", "column 7"."""
        for name, first, behind in self.groups:
            if first <= column < behind:
                return name if behind - first == 1 else f"{name} {column - first}"
        return f"column {column}" if self.count > 1 else "all"

    def kind(self, column: int) -> str:
        """What kind of number it is: "box", "objectness", "class", "mask coefficient", …; "output" where unknown."""
        for name, first, behind in self.groups:
            if first <= column < behind:
                return "box" if name in _BOX else name.split(" of ")[0]
        return "score" if self.scores[column] else "output"

    def names(self, columns: Array) -> list[str]:
        """Names of the columns picked, neighbours of one group as a range: "class 3…7"."""
        found: list[str] = []
        picked = np.flatnonzero(columns)
        runs = np.split(picked, np.flatnonzero(np.diff(picked) != 1) + 1) if len(picked) else []
        for run in runs:
            start = 0
            while start < len(run):
                end = start
                while end + 1 < len(run) and self._group(run[end + 1]) == self._group(run[start]):
                    end += 1
                first, last = self.name(int(run[start])), self.name(int(run[end]))
                found.append(first if start == end else f"{first}…{last.rsplit(' ', 1)[-1]}")
                start = end + 1
        return found

    def _group(self, column: int) -> int:
        starts = [first for _, first, behind in self.groups if first <= column < behind]
        return starts[0] if starts else -1

    def table(self, value: Array) -> Array:
        """An output with its columns last: (…, columns); (elements, 1) where it is one column."""
        if self.axis is None:
            return value.reshape(-1, 1)
        moved = np.moveaxis(value, self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])


_BOX = frozenset(("cx", "cy", "w", "h", "x1", "y1", "x2", "y2", "box side", "box"))


def meanings(
    runs: Sequence[Feeds], head: HeadSpec | None = None, masks: dict[str, Array] | None = None
) -> dict[str, Meaning]:
    """The meaning of each output.

    Args:
        runs: outputs by name in the model's order, per input.
        head: how the first of them are read, if that is known.
        masks: which elements the graph shows to be scores, by output (see `shown_logits`).
    """
    found: dict[str, Meaning] = {}
    for index, (name, value) in enumerate(runs[0].items()):
        axis, groups = _of_head(head, index, value)
        mask = (masks or {}).get(name)
        if mask is not None and (mask.ndim != value.ndim or mask.shape[1:] != value.shape[1:]):
            mask = None  # of another size than the graph declares
        if mask is not None and axis is not None and not _fits(_along(mask, axis), groups):
            axis, groups = None, ()  # a table of this shape, but of another meaning
        if axis is None:
            axis = _axis([run[name] for run in runs if name in run], mask)
        found[name] = _meaning(value, axis, groups, mask)
    return found


def _meaning(value: Array, axis: int | None, groups: Groups, mask: Array | None) -> Meaning:
    if axis is None:
        return Meaning(None, 1, np.array([mask is not None and bool(mask.all())]), ())
    count = value.shape[axis]
    scores = np.zeros(count, dtype=bool)
    if mask is not None:
        scores = _along(mask, axis)
    return Meaning(axis, count, scores, groups)


def _along(mask: Array, axis: int) -> Array:
    """Which columns are scores throughout."""
    return np.asarray(mask.all(axis=tuple(k for k in range(mask.ndim) if k != axis)))


def _fits(scores: Array, groups: Groups) -> bool:
    """Whether scores stand where a head of these groups has them; an objectness may be constant (YOLOv6)."""
    wanted = np.zeros(len(scores), dtype=bool)
    either = np.zeros(len(scores), dtype=bool)
    for name, first, behind in groups:
        wanted[first:behind] = name in ("objectness", "class", "score")
        either[first:behind] = name == "objectness"
    return bool(not groups or (either | (wanted == scores)).all())


def head_of(runs: Sequence[Feeds], size: tuple[int, int] | None, metadata: dict[str, str]) -> HeadSpec | None:
    """The head as the outputs' shapes and the metadata tell it; None where they do not."""
    if size is None or not runs:
        return None
    try:
        return identify_head([value.shape for value in runs[0].values()], size, metadata)
    except (UnsupportedError, InputError):
        return None


def _of_head(head: HeadSpec | None, index: int, value: Array) -> tuple[int | None, Groups]:
    """The column axis and names of a recognised head's output; (None, ()) for any other."""
    if head is None or index >= head.outputs:
        return None, ()
    table = head.kind in ("v5", "v8", "end2end")
    axis = (1 if head.kind == "v8" else 2) if table else 1
    if value.ndim != (3 if table else 4):
        return None, ()
    groups = _groups(_parts(head, index))
    return (axis, groups) if not groups or groups[-1][2] == value.shape[axis] else (axis, ())


def _parts(head: HeadSpec, index: int) -> list[tuple[str, int]]:
    extra = [(_EXTRA.get(head.extra, "further number"), head.extra_channels)] if head.extra_channels else []
    box, corners = [(name, 1) for name in ("cx", "cy", "w", "h")], [(name, 1) for name in ("x1", "y1", "x2", "y2")]
    scores = [("class", head.nc)]
    objectness = [("objectness", 1)]
    if head.kind == "v5":
        return [*box, *objectness, *scores, *extra]
    if head.kind == "v8":
        return [*box, *scores, *extra]
    if head.kind == "end2end":
        return [*corners, ("score", 1), ("label", 1), *extra]
    if head.kind == "fastestdet":
        return [*objectness, *box, *scores]
    if head.kind == "v5-raw":
        one = [*box, *objectness, *scores, *extra]
        count = len(head.anchors[index])
        return [(f"{name} of anchor {k}", size) for k in range(count) for name, size in one]
    sides = [("box side", 4 * head.reg_max)]
    if head.joint:
        return [*sides, *scores] if index < head.levels else extra
    return (sides, scores, extra)[min(index // head.levels, 2)]


_EXTRA = {"mask": "mask coefficient", "pose": "key point", "angle": "angle"}


def _groups(parts: Sequence[tuple[str, int]]) -> Groups:
    found: list[tuple[str, int, int]] = []
    start = 0
    for name, size in parts:
        found.append((name, start, start + size))
        start += size
    return tuple(found)


def _axis(values: Sequence[Array], mask: Array | None) -> int | None:
    """The axis of the columns of an output that no head explains."""
    value = values[0]
    # What depends on data (NonZero, NonMaxSuppression) has as many rows as there happen to be.
    alike = [k for k in range(1, value.ndim) if len({v.shape[k : k + 1] for v in values}) == 1]
    axes = [k for k in alike if value.shape[k] > 1]
    if value.ndim < 2 or not axes:
        return None
    if value.ndim == 4 and 1 in alike:
        return 1
    if len(axes) == 1:
        return axes[0]
    if mask is not None and mask.any() and not mask.all():
        telling = [k for k in axes if _constant_but_along(mask, k)]
        if len(telling) == 1:
            return telling[0]
    return _by_movement(values, axes)


LONGER = 100.0


def _constant_but_along(mask: Array, axis: int) -> bool:
    rows = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())


def _by_movement(values: Sequence[Array], axes: Sequence[int]) -> int:
    """The axis whose indices differ most in how much their elements move, or, of one input, in how large they are."""
    same = [value for value in values if value.shape == values[0].shape]
    stack = np.stack([np.nan_to_num(value.astype(np.float64)) for value in same])
    moved = stack.std(axis=0) if len(same) > 1 else np.abs(stack[0])
    floor = 1e-6 * float(moved.max(initial=0.0)) or 1.0
    logs = np.log(np.maximum(moved, floor))
    shortest = min(axes, key=lambda k: (logs.shape[k], k))
    strength = {k: _f_statistic(logs, k) for k in axes}
    best = max(axes, key=lambda k: (strength[k], k == shortest))
    # Boxes come by the hundred, and those of a level move alike: a long axis has to be much the better.
    much = logs.shape[best] <= 2 * logs.shape[shortest] or strength[best] > LONGER * strength[shortest]
    return best if strength[best] > 0 and much else shortest


def _f_statistic(logs: Array, axis: int) -> float:
    rows = np.moveaxis(logs, axis, 0).reshape(logs.shape[axis], -1)
    count, each = rows.shape
    if count < 2 or each < 2:
        return 0.0
    between = each * float(rows.mean(axis=1).var(ddof=1))
    within = float(rows.var(axis=1, ddof=1).mean())
    return between / within if within > 0 else (np.inf if between > 0 else 0.0)
