"""How much of a network's response to its input is left, per group of output columns.

Between two inputs a network's outputs change by ΔS at the source and by ΔR at the result. Per group of columns

    size  = |ΔR| / |ΔS|                 1: as strong as the source's; 7e-6: the output no longer depends on the image
    alike = ⟨ΔR, ΔS⟩ / (|ΔR|·|ΔS|)      1: the same response; 0: another one altogether

with every column in units of its own |ΔS|, so that a column of pixels does not drown one of probabilities. Scores are
compared as logits, also where the file holds probabilities: down at 1e-5 a response is as real as at 0.9.

Groups are a recognised head's boxes, objectness, classes and further numbers; of any other output, itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from onnxslim_yolo.heads.metric import layout_of
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.progress import counted

LEAST = 1e-7
"""Probabilities are taken to lie between this and 1 − this."""

FLAT = 1e-9
"""A column whose change is less than this share of its own size says nothing: rounding alone does as much."""


@dataclass(frozen=True)
class Response:
    """What is left of one group's response (see the module).

    Attributes:
        group: "boxes", "objectness", "classes", "further numbers", or an output's name.
        size, alike: see the module.
        scores: whether the group decides what is detected.
    """

    group: str
    size: float
    alike: float
    scores: bool

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


Groups = dict[tuple[str, bool], Array]
"""(name, whether scores) → (rows, columns)."""


def groups_of(outputs: Sequence[Array], names: Sequence[str], head: HeadSpec | None) -> Groups:
    """One image's outputs by groups of columns."""
    if head is None:
        return {(name, False): _columns(value) for name, value in zip(names, outputs, strict=True)}
    found = _of_head(outputs, head)
    rest = list(zip(names, outputs, strict=True))[head.outputs :]
    return found | {(name, False): _columns(value) for name, value in rest}


def _of_head(outputs: Sequence[Array], head: HeadSpec) -> Groups:
    if head.kind == "end2end":
        # Ranked rows: row i of two networks is not one place, but the profile of the scores can be compared.
        return {("scores", True): _logits(np.sort(outputs[0][0][:, 4:5].astype(np.float64), axis=0))}
    layout = layout_of(replace(head, end2end=False))
    if layout is None:
        return {}
    table = layout.to_table(outputs).astype(np.float64)
    sides = 4 * layout.bins
    scores = table[:, sides:] if layout.logits else _logits(table[:, sides:])
    found: Groups = {("boxes", False): table[:, :sides]}
    if layout.objectness:
        found["objectness", True] = scores[:, :1]
    if scores.shape[1] > layout.objectness:
        found["classes", True] = scores[:, int(layout.objectness) :]
    further = _further(outputs, head)
    return found if further is None else found | {("further numbers", False): further}


def _further(outputs: Sequence[Array], head: HeadSpec) -> Array | None:
    if not head.extra_channels or head.kind not in ("v5", "v8"):
        return None
    table = outputs[0][0] if head.kind == "v5" else outputs[0][0].T
    return np.asarray(table[:, -head.extra_channels :], dtype=np.float64)


def _logits(probabilities: Array) -> Array:
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    logits: Array = np.log(p) - np.log1p(-p)
    return logits


def _columns(value: Array) -> Array:
    """(rows, columns) of any output: a map's channels; of a table the shorter axis."""
    value = np.asarray(value, dtype=np.float64)
    if value.ndim >= 4:
        return np.asarray(np.moveaxis(value[0], 0, -1).reshape(-1, value.shape[1]))
    if value.ndim == 3:
        table = value[0]
        return np.asarray(table if table.shape[1] <= table.shape[0] else table.T)
    return np.asarray(value.reshape(1, -1))


def response(source: Sequence[Groups], result: Sequence[Groups]) -> list[Response]:
    """What is left of every group's response, over all neighbouring pairs of images.

    Args:
        source, result: both networks' groups, per image; at least two images. Groups whose sizes differ between the two
            networks, or between images, cannot be compared and are left out, as are those that do not respond at all in
            the source.
    """
    found = []
    for key in counted("parts of the output", source[0], len(source[0])):
        left = _left([one.get(key) for one in source], [one.get(key) for one in result])
        if left is not None:
            found.append(Response(key[0], *left, scores=key[1]))
    return found


def _left(source: Sequence[Array | None], result: Sequence[Array | None]) -> tuple[float, float] | None:
    shapes = {None if value is None else value.shape for value in (*source, *result)}
    if len(shapes) != 1 or None in shapes:
        return None
    a, b = (np.nan_to_num(np.stack([np.asarray(v) for v in side]), posinf=0, neginf=0) for side in (source, result))
    before, after = np.diff(a, axis=0), np.diff(b, axis=0)
    unit = np.sqrt((before**2).mean(axis=(0, 1)))
    moving = unit > FLAT * np.abs(a).max(axis=(0, 1), initial=0)
    if not moving.any():
        return None
    before, after = before[..., moving] / unit[moving], after[..., moving] / unit[moving]
    sizes = [float(np.sqrt((delta**2).sum())) for delta in (before, after)]
    if sizes[1] == 0:
        return 0.0, 0.0
    return sizes[1] / sizes[0], float((before * after).sum() / (sizes[0] * sizes[1]))
