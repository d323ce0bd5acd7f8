"""Which head a decode is, told by what it computes.

Exporters write the same decode in many ways, so its nodes are not matched. A hypothesis (kind of head, order of levels,
number of bins) follows from shapes alone; anchors and offsets are then read off the graph's own decode, run on maps
where they show:

    all logits 0      w = a_w·(2σ(0))² = a_w·exp(0) = a_w                          the anchors
    all logits 1      w = a_w·(2σ(1))² or a_w·exp(1)                               the rule of size, level by level
    all logits 30     cx of column 0 = (α·σ(30) − (α − 1)/2)·s = (α + 1)/2·s       α, level by level (2 in YOLOv5)

Last, random maps go through the graph's decode and through `decode`: every box, score and class has to agree. A decode
whose constants do not fit is thereby refused, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.decode import Candidates, candidates
from onnxslim_yolo.heads.decode_region import Region, UnrecognisedError, find_region, run_region
from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.heads.spec import Extra, HeadSpec, Sizes
from onnxslim_yolo.ir.graph import Array, Tensor, static_shape
from onnxslim_yolo.ir.model import Model

TOLERANCE = 2e-5
"""Largest difference between the two decodes: of scores absolutely, of boxes as a share of the image's larger side."""

_BETWEEN = 2.4
"""Between (2σ(1))² = 2.14 and exp(1) = 2.72."""

_USUAL_BINS = (16, 1, 17, 8)


@dataclass(frozen=True)
class HeadCut:
    """A recognised head: the maps in the order that `spec` wants, their shapes, and the output that they replace."""

    spec: HeadSpec
    maps: tuple[Tensor, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    table: Tensor


@dataclass(frozen=True)
class _Hypothesis:
    spec: HeadSpec
    table: HeadSpec
    order: tuple[int, ...]


def find_head(model: Model) -> HeadCut:
    """The decode behind a detector's last convolutions.

    Raises:
        UnrecognisedError: the reason why there is none that could be cut off.
    """
    region = find_region(model)
    zeros = run_region(model, region, [np.zeros(shape, np.float32) for shape in region.shapes])
    if zeros.ndim != 3:
        raise UnrecognisedError(f"the table of boxes has rank {zeros.ndim}, not 3")
    probe = _Probe(model, region)
    tried = 0
    for guess in _hypotheses(model, region, zeros):
        tried += 1
        if probe.agrees(guess):
            maps = tuple(region.maps[index] for index in guess.order)
            return HeadCut(guess.spec, maps, _declared_shapes(model, region, guess), region.table)
    shapes = ", ".join("x".join(map(str, shape)) for shape in region.shapes)
    reason = f"none of {tried} known decodes gives what it computes" if tried else "no known decode has such shapes"
    table = "x".join(map(str, zeros.shape))
    raise UnrecognisedError(f"the decode from maps {shapes} to a table {table} is not recognised: {reason}")


def _declared_shapes(model: Model, region: Region, guess: _Hypothesis) -> tuple[tuple[int | str, ...], ...]:
    """The maps' shapes, with symbols for what is free in the input's."""
    image = model.graph.inputs[0]
    free = static_shape(image) is None
    batch: int | str = image.shape[0] if free and image.shape is not None else region.shapes[0][0]
    shapes: list[tuple[int | str, ...]] = []
    for position, index in enumerate(guess.order):
        _, channels, height, width = region.shapes[index]
        level = position % guess.spec.levels
        shapes.append(
            (batch, channels, f"height_{level}", f"width_{level}") if free else (batch, channels, height, width)
        )
    return tuple(shapes)


class _Probe:
    """Random maps and the table that the graph's own decode makes of them."""

    def __init__(self, model: Model, region: Region) -> None:
        generator = np.random.default_rng(0)
        self.maps = [generator.normal(0, 2, shape).astype(np.float32) for shape in region.shapes]
        self.table = run_region(model, region, self.maps)
        self.side = max(region.size)

    def agrees(self, guess: _Hypothesis) -> bool:
        """Whether post-processing the maps gives what post-processing the table gives."""
        maps = [self.maps[index] for index in guess.order]
        try:
            if guess.spec.end2end:
                count = self.table.shape[1]
                ours = postprocess(maps, guess.spec, conf=0, max_det=count)[0]
                theirs = postprocess([self.table], guess.table, conf=0, max_det=count)[0]
                return self._same_ranking(ours, theirs)
            return self._same(
                candidates(maps, guess.spec, 0, 0.0, multi_label=True),
                candidates([self.table], guess.table, 0, 0.0, multi_label=True),
            )
        except InputError:
            return False

    def _same_ranking(self, ours: Detections, theirs: Detections) -> bool:
        """Two scores one rounding apart may change places, so only boxes with a score of their own are compared."""
        if len(ours) != len(theirs) or not len(ours):
            return False
        gap = np.diff(theirs.scores, prepend=np.inf, append=-np.inf)
        clear = (-gap[:-1] > 2 * TOLERANCE) & (-gap[1:] > 2 * TOLERANCE)
        picked = [Candidates(d.boxes[clear], d.scores[clear], d.classes[clear], d.extra[clear]) for d in (ours, theirs)]
        close = np.abs(ours.scores - theirs.scores).max() <= TOLERANCE
        return bool(close) and clear.sum() >= min(8, len(ours)) and self._same(*picked)

    def _same(self, ours: Candidates, theirs: Candidates) -> bool:
        if ours.boxes.shape != theirs.boxes.shape or ours.extra.shape != theirs.extra.shape or not len(ours.scores):
            return False
        scale = max(self.side, float(np.abs(theirs.boxes).max()))
        return bool(
            np.array_equal(ours.classes, theirs.classes)
            and np.abs(ours.scores - theirs.scores).max() <= TOLERANCE
            and np.abs(ours.boxes - theirs.boxes).max() <= TOLERANCE * scale
            and np.allclose(ours.extra, theirs.extra, rtol=TOLERANCE, atol=TOLERANCE * self.side)
        )


def _hypotheses(model: Model, region: Region, zeros: Array) -> Iterator[_Hypothesis]:
    for levels in _level_orders(region):
        strides = _strides(region, levels)
        if strides is None:
            raise UnrecognisedError("the maps' sizes are no common divisors of the input's height and width")
        cells = sum(region.shapes[level[0]][2] * region.shapes[level[0]][3] for level in levels)
        rows, columns = zeros.shape[1:]
        if all(len(level) == 1 for level in levels):
            yield from _anchored(model, region, zeros, [level[0] for level in levels], strides)
        if columns == cells:
            yield from _anchor_free(region, levels, HeadSpec("v8", 0), rows - 4, strides)
        if rows == cells:
            yield from _anchor_free(region, levels, HeadSpec("v5", 0), columns - 5, strides)
        if columns == 6 and rows <= cells:
            yield from _end2end(region, levels, strides)


def _level_orders(region: Region) -> list[list[list[int]]]:
    """The maps grouped by size: in order of appearance, finest first, coarsest first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(region.shapes):
        groups.setdefault(shape[2:], []).append(index)
    appearance = list(groups.values())
    finest = sorted(appearance, key=lambda group: -region.shapes[group[0]][2])
    orders = [finest, appearance, finest[::-1]]
    return [order for index, order in enumerate(orders) if order not in orders[:index]]


def _strides(region: Region, levels: Sequence[Sequence[int]]) -> tuple[float, ...] | None:
    strides: list[float] = []
    for level in levels:
        height, width = region.shapes[level[0]][2:]
        if region.size[0] % height or region.size[1] % width or region.size[0] * width != region.size[1] * height:
            return None
        strides.append(region.size[0] / height)
    return tuple(strides)


def _anchored(
    model: Model, region: Region, zeros: Array, levels: Sequence[int], strides: tuple[float, ...]
) -> Iterator[_Hypothesis]:
    rows, columns = zeros.shape[1:]
    sizes = [region.shapes[index][2] * region.shapes[index][3] for index in levels]
    counts = [region.shapes[index][1] // columns for index in levels]
    exact = all(region.shapes[index][1] == count * columns for index, count in zip(levels, counts, strict=True))
    if columns < 6 or not exact or rows != sum(n * size for n, size in zip(counts, sizes, strict=True)):
        return
    # σ(0) = ½ marks the classes; what follows them (mask coefficients) is linear.
    logistic = np.abs(zeros[0, 0, 5:] - 0.5) < TOLERANCE
    nc = int(logistic.argmin()) if not logistic.all() else columns - 5
    extra: Extra = "mask" if columns - 5 - nc else ""
    starts = np.cumsum([0, *(n * size for n, size in zip(counts, sizes, strict=True))])
    anchors = tuple(
        tuple((float(w), float(h)) for w, h in zeros[0, start : start + count * size : size, 2:4])
        for start, count, size in zip(starts, counts, sizes, strict=False)
    )
    if not all(width for level in anchors for width, _ in level):
        return  # a box without a width at zero: what comes in are no logits
    high = run_region(model, region, [np.full(shape, 30, np.float32) for shape in region.shapes])
    firsts = zip(starts, strides, strict=False)
    scales = tuple(round(float(2 * high[0, start, 0] / stride - 1), 4) for start, stride in firsts)
    once = run_region(model, region, [np.ones(shape, np.float32) for shape in region.shapes])
    widths = [float(once[0, start, 2]) / level[0][0] for start, level in zip(starts, anchors, strict=False)]
    rules: tuple[Sizes, ...] = tuple("exp" if width > _BETWEEN else "square" for width in widths)
    spec = HeadSpec(
        "v5-raw",
        nc,
        strides=strides,
        anchors=anchors,
        scale_xy=scales[0] if len(set(scales)) == 1 else scales,
        extra=extra,
        extra_channels=columns - 5 - nc,
    )
    table = HeadSpec("v5", nc, extra=extra, extra_channels=columns - 5 - nc)
    yield _Hypothesis(spec, table, tuple(levels))
    yield _Hypothesis(replace(spec, sizes=rules[0] if len(set(rules)) == 1 else rules), table, tuple(levels))
    yield _Hypothesis(replace(spec, scale_xy=1.0, centres="linear", sizes="exp"), table, tuple(levels))


def _anchor_free(
    region: Region, levels: Sequence[Sequence[int]], table: HeadSpec, numbers: int, strides: tuple[float, ...]
) -> Iterator[_Hypothesis]:
    """`numbers`: classes and further numbers a box in the table."""
    for roles in _roles(region, levels):
        channels = {role: region.shapes[maps[0]][1] for role, maps in roles.items()}
        further = channels.get("extra", 0)
        nc = numbers - further
        bins = channels["box"] if "cls" in roles else channels["box"] - nc
        if nc < 1 or bins < 4 or bins % 4 or channels.get("cls", nc) != nc:
            continue
        spec = HeadSpec("v8-raw", nc, strides=strides, reg_max=bins // 4, joint="cls" not in roles)
        for extra in _extra_kinds(further):
            yield _Hypothesis(
                replace(spec, extra=extra, extra_channels=further),
                replace(table, nc=nc, extra=extra, extra_channels=further),
                _in_order(roles),
            )


def _end2end(region: Region, levels: Sequence[Sequence[int]], strides: tuple[float, ...]) -> Iterator[_Hypothesis]:
    for roles in _roles(region, levels):
        box = region.shapes[roles["box"][0]][1]
        if "extra" in roles:
            continue
        if "cls" in roles:
            choices = [(box // 4, region.shapes[roles["cls"][0]][1])] if box % 4 == 0 else []
        else:
            others = [bins for bins in range(2, 33) if bins not in _USUAL_BINS]
            choices = [(bins, box - 4 * bins) for bins in (*_USUAL_BINS, *others) if box > 4 * bins]
        for bins, nc in choices:
            spec = HeadSpec("v8-raw", nc, strides=strides, reg_max=bins, joint="cls" not in roles, end2end=True)
            yield _Hypothesis(spec, HeadSpec("end2end", nc), _in_order(roles))


def _extra_kinds(channels: int) -> tuple[Extra, ...]:
    if not channels:
        return ("",)
    return ("angle", "mask") if channels == 1 else ("mask", "pose")


_ROLES: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (("box",),),
    2: (("box", "cls"), ("cls", "box"), ("box", "extra"), ("extra", "box")),
    3: tuple(
        (a, b, c)
        for a in ("box", "cls", "extra")
        for b in ("box", "cls", "extra")
        for c in ("box", "cls", "extra")
        if len({a, b, c}) == 3
    ),
}


def _roles(region: Region, levels: Sequence[Sequence[int]]) -> Iterator[dict[str, list[int]]]:
    """Ways to say which of a level's maps is which; the same for all levels, whose channels have to be equal."""
    count = len(levels[0])
    for names in _ROLES.get(count, ()) if all(len(level) == count for level in levels) else ():
        for by_channels in (False, True):
            ordered = [sorted(level, key=lambda i: region.shapes[i][1]) if by_channels else level for level in levels]
            roles = {name: [level[index] for level in ordered] for index, name in enumerate(names)}
            if all(len({region.shapes[index][1] for index in maps}) == 1 for maps in roles.values()):
                yield roles
                break


def _in_order(roles: dict[str, list[int]]) -> tuple[int, ...]:
    return tuple(index for role in ("box", "cls", "extra") for index in roles.get(role, ()))
