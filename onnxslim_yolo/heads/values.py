"""Which head outputs come from, told by their shapes and by where their boxes lie.

Shapes alone do not tell whether a table's boxes are pixels: a YOLOX exported without its decode has the shape of one
with it, and read wrongly it detects nothing. But boxes in pixels lie around their cells, so that the centres in a table
grow with the cells' places at slope 1; offsets from the cells do not depend on the place at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.heads.points import STRIDES, Guess, cells_of, grids_of, guesses
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec, class_names, identify_head
from onnxslim_yolo.ir.graph import Array

SLOPES = (0.6, 1.4)
"""Slopes of centres over cells that count as pixels."""

CORRELATED, INDEPENDENT = 0.6, 0.8
"""Correlation of centres with cells from which they count as pixels (at slope 1), and up to which as offsets: these,
too, may depend on the place where padding does."""

SLACK = 1e-2
"""How far from [0, 1] rounding may take a probability."""

NEAR = 16.0
"""Offsets and logarithms of sizes are smaller than this."""

Place = Literal["pixels", "offsets", "unknown"]


def recognise(
    outputs: Sequence[Array], size: tuple[int, int], metadata: Mapping[str, str] | None = None, nc: int | None = None
) -> HeadSpec:
    """The head that gave these outputs for one image of `size` (h, w).

    Args:
        outputs: as the model gave them, batch first. metadata, nc: as for `identify_head`.

    Raises:
        UnsupportedError: they fit no known head, or boxes are where none of the known decodes puts them.
    """
    metadata = metadata or {}
    if HEAD_KEY in metadata:
        return HeadSpec.from_json(metadata[HEAD_KEY])
    known = nc or len(class_names(metadata)) or None
    refusal: UnsupportedError | None = None
    try:
        spec = identify_head([o.shape for o in outputs], size, metadata, nc)
    except UnsupportedError as error:
        refusal = error
    else:
        where = place_of_boxes(outputs[0], spec, size)
        if where == "pixels" and _has_probabilities(outputs[0], spec):
            return spec
    for guess in guesses(outputs, size, known):
        found = _spec(guess)
        if _plausible(outputs, guess, size):
            return found
    raise refusal or UnsupportedError(
        f"a table of shape {'x'.join(map(str, outputs[0].shape))} whose boxes are neither pixels nor offsets from "
        "cells: its decode is not known",
        hint="export it with its boxes decoded to pixels, or compile it with --head raw where its head is recognised",
    )


def _spec(guess: Guess) -> HeadSpec:
    return HeadSpec(
        "points",
        guess.nc,
        strides=tuple(float(s) for s in guess.strides),
        reg_max=guess.bins,
        extra="pose" if guess.extra else "",
        extra_channels=guess.extra,
        points=guess.points,
    )


def place_of_boxes(table: Array, spec: HeadSpec, size: tuple[int, int]) -> Place:
    """Whether a table's boxes are pixels around their cells, offsets from them, or something else.

    Heads that are no table of cells are taken at their word.
    """
    if spec.kind not in ("v5", "v8"):
        return "pixels"
    rows = table[0].T if spec.kind == "v8" and not spec.rows else table[0]
    return _place(rows[:, :2], size)


def _place(centres: Array, size: tuple[int, int]) -> Place:
    """(n, 2) x and y against the cells of every order of levels that has so many."""
    orders = list(_orders(len(centres), size))
    if not orders:
        return "pixels"
    finite = np.isfinite(centres).all(axis=1)
    if finite.sum() < 2:
        return "unknown"
    fits = [[_fit(cells[finite, k], centres[finite, k]) for k in (0, 1)] for cells in orders]
    if any(all(r >= CORRELATED and SLOPES[0] <= slope <= SLOPES[1] for slope, r in fit) for fit in fits):
        return "pixels"
    if all(abs(r) <= INDEPENDENT for fit in fits for _, r in fit) and np.median(np.abs(centres[finite])) < NEAR:
        return "offsets"
    return "unknown"


def _orders(rows: int, size: tuple[int, int]) -> Iterator[Array]:
    """Centres of cells in pixels, (rows, 2), for every way to lay levels and anchors out."""
    for strides in STRIDES:
        for ordered in dict.fromkeys((strides, strides[::-1])):
            grids = grids_of(size, ordered)
            cells = sum(h * w for h, w in grids)
            if not cells or rows % cells or rows // cells > 9:
                continue
            anchors = rows // cells
            yield _centres(grids, ordered, anchors)
            if anchors > 1:  # all cells for an anchor, level by level
                parts = [np.tile(_centres((g,), (s,), 1), (anchors, 1)) for g, s in zip(grids, ordered, strict=True)]
                yield np.concatenate(parts)


def _centres(grids: Sequence[tuple[int, int]], strides: Sequence[float], per_cell: int) -> Array:
    cells, stride = cells_of(grids, strides, per_cell)
    return np.asarray((cells + 0.5) * stride[:, None])


def _fit(cells: Array, values: Array) -> tuple[float, float]:
    """Slope and correlation of values over cells; a single row or column of cells says nothing against."""
    x, y = cells - cells.mean(), values.astype(np.float64) - values.mean(dtype=np.float64)
    across, along = float((x**2).sum()), float((y**2).sum())
    if across <= 0:
        return 1.0, 1.0
    product = float((x * y).sum())
    return product / across, product / np.sqrt(across * along) if along > 0 else 0.0


def _has_probabilities(output: Array, spec: HeadSpec) -> bool:
    """Whether a map that has FastestDet's shape is one: any map of more than five channels has."""
    if spec.kind != "fastestdet":
        return True
    table = output if spec.rows else np.moveaxis(output, 1, -1)
    scores = np.delete(table, np.s_[1:5], axis=-1)
    return bool(scores.min() >= -SLACK and scores.max() <= 1 + SLACK)


def _plausible(outputs: Sequence[Array], guess: Guess, size: tuple[int, int]) -> bool:
    """Whether the box columns are offsets, as the layout has them."""
    if guess.points.order or guess.points.parts[0] != "box":
        return True
    box = outputs[0][0][:, :4]
    return _place(box[:, :2], size) == "offsets" and float(np.median(np.abs(box[:, 2:4]))) < NEAR
