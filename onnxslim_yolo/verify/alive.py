"""Is what is left still the detector? A file may compute exactly what its plan says and detect nothing.

The result is run beside its source on `--calib` images (those that nothing was fitted to, and the same mirrored), or,
without any, or where the source detects nothing on them, on made-up photographs (`verify.scenes`), and judged by

* *kept*: the share of the source's own detections (confidence 0.25) that the result has too: overlapping by half (IoU),
  of the same class, with a score within 0.2;
* *alike*: how alike the responses to the images are (`verify.response`), of the scores' columns the worst.

                                    alive                                needs training
    ten detections to go by         kept ≥ 0.5                           kept < 0.3 and alike < 0.9
    fewer; some cell scores ≥ 0.1   alike ≥ 0.8, half of the size left,  alike < 0.5
                                    of three and more one is found
    none does, or head not known    –                                    size < 0.02: the output ignores the image

and *weakened* in between; *not judged* where the source detects nothing on the images, and where it was never
trained, which has nothing to lose: its scores on images do not rise above those on the same images in disorder, or it
fires in most of its cells (`verify.disorder`).

Why these thresholds: mAP50 beside these figures, with images and without, for seven networks pruned by 2 to 90 % in a
first run; bench/verdicts.py repeats it, and bench/results/verdicts.md has what of it is done. "Alive" has never less
than half of the source's mAP, "needs training" never more than 0.9 of it, and the thresholds stand in the middle of
what separates them. Two conditions for the latter, because where all scores fell a little, few detections are kept at
the confidence they had, but their order, all that mAP asks for, is hardly worse.
Made-up photographs ask more than real ones of a network whose loss was made up for on images, so that
where there are images, they decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.decode import candidates
from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.heads.shown import classes_shown
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.head_error import iou
from onnxslim_yolo.runtime.onnx_run import Feeds, run_each
from onnxslim_yolo.runtime.progress import counted
from onnxslim_yolo.verify.disorder import SHOWN, disordered, looks_trained
from onnxslim_yolo.verify.response import Groups, Response, groups_of, response

CONFIDENCE, OVERLAP, SCORE = 0.25, 0.5, 0.2
"""What the source detects at; what a kept detection overlaps by at least, and how far its score may be off."""

ENOUGH = 10
"""Fewer detections than this are an anecdote."""

SOME = 3
"""Of so many detections one is found again, whatever its score, or the response tells too little."""

KEPT, LOST = 0.5, 0.3
ALIKE, UNLIKE, SAME = 0.8, 0.5, 0.9
HALF, GONE = 0.5, 0.02
FAINT = 0.1
"""Where no cell of the source scores this much, it sees nothing at all."""

EVERY_CELL = -float("inf")
"""A confidence that every cell exceeds."""

State = Literal["alive", "weakened", "needs training", "not judged"]


@dataclass(frozen=True)
class Alive:
    """The verdict, and what it rests on.

    Attributes:
        state: see the module.
        why: one sentence.
        images: how many were run. kind: "held-out", "calibration" or "made-up"; "" where none had to be.
        detections: what the source detects on them. kept: how many of those the result has, too; found: how many
            whatever their score. None where the head is not one that can be decoded.
        response: what is left of every group's response.
    """

    state: State
    why: str
    images: int = 0
    kind: str = ""
    detections: int | None = None
    kept: int | None = None
    found: int | None = None
    response: list[Response] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        plain = {k: getattr(self, k) for k in ("state", "why", "images", "kind", "detections", "kept", "found")}
        return plain | {"response": [one.as_json() for one in self.response]}


SAME_FUNCTION = Alive("alive", "it computes what its source computes")
NOT_RUN = Alive("not judged", "nothing that was written has been run")


def judge(source: Model, result: Model, feeds: Sequence[Feeds], kind: str) -> Alive:
    """Run both networks on the same inputs and judge (see the module).

    Args:
        source: what was pruned, with the same outputs as `result` has.
        feeds: inputs of both. kind: as in `Alive`.
    """
    seen: list[_Seen] = []
    told = counted("images", feeds, len(feeds))
    for feed, before, after in zip(feeds, run_each(source, told), run_each(result, feeds), strict=True):
        seen.append(_Seen.of(source, feed, before, after))
    left = response([one.before for one in seen], [one.after for one in seen]) if len(seen) > 1 else []
    known = [one.pair for one in seen if one.pair is not None]
    if not known:
        state = _by_response(left)
        return Alive(state, _why(state, None, left, kind), len(seen), kind, response=left)
    counts = _Counts(
        sum(len(a) for a, _ in known),
        sum(kept(*p) for p in known),
        sum(kept(*p, score=1) for p in known),
        _untrained(source, feeds, seen),
    )
    best = max(float(one.scores.max(initial=0)) for one in seen)
    state = _state(counts, best, left)
    why = _why(state, counts, left, kind)
    return Alive(state, why, len(seen), kind, counts.detections, counts.kept, counts.found, left)


@dataclass(frozen=True)
class _Counts:
    """Detections of the source; how many are kept, or found with whatever score; whether it looks untrained."""

    detections: int
    kept: int
    found: int
    untrained: bool


@dataclass(frozen=True)
class _Seen:
    """Both networks on one input: groups of columns; detections and the source's score per cell, the head known."""

    before: Groups
    after: Groups
    pair: tuple[Detections, Detections] | None
    scores: Array
    head: HeadSpec | None = None

    @classmethod
    def of(cls, source: Model, feed: Feeds, before: Feeds, after: Feeds) -> _Seen:
        names = [tensor.name for tensor in source.graph.outputs if tensor.name in before]
        ours, theirs = ([np.asarray(side.get(n, ()), np.float32) for n in names] for side in (before, after))
        head = head_of(source, ours, feed)
        groups = (groups_of(ours, names, head), groups_of(theirs, names, head))
        if head is None:
            return cls(*groups, None, np.zeros(0))
        found = postprocess(ours, head, conf=CONFIDENCE)[0]
        again = postprocess([np.nan_to_num(o) for o in theirs], head, conf=CONFIDENCE - SCORE)[0]
        return cls(*groups, (found, again), candidates(ours, head, 0, EVERY_CELL, False).scores, head)


def head_of(model: Model, outputs: Sequence[Array], feed: Feeds) -> HeadSpec | None:
    """How to decode a network's outputs, or None where that is not known."""
    image = next(iter(feed.values()))
    if image.ndim != 4:
        return None
    try:
        shown = classes_shown(model.graph)
        return recognise(outputs, (image.shape[2], image.shape[3]), model.metadata, shown)
    except (UnsupportedError, InputError):
        return None


def kept(source: Detections, result: Detections, score: float = SCORE) -> int:
    """How many of the source's detections the result has, too; each of the result's counts once."""
    free = np.ones(len(result), dtype=bool)
    count = 0
    for box, confidence, label in zip(source.boxes, source.scores, source.classes, strict=True):
        fits = free & (result.classes == label) & (np.abs(result.scores - confidence) <= score)
        if not fits.any():
            continue
        overlap = np.where(fits, iou(np.broadcast_to(box, result.boxes.shape), result.boxes), 0)
        if overlap.max() >= OVERLAP:
            free[int(overlap.argmax())] = False
            count += 1
    return count


def _by_response(left: Sequence[Response]) -> State:
    return "needs training" if left and all(one.size < GONE for one in left) else "not judged"


def _untrained(source: Model, feeds: Sequence[Feeds], seen: Sequence[_Seen]) -> bool:
    """Whether the source scores these images as it scores disorder; no where none of its scores is worth mentioning."""
    scores = np.concatenate([one.scores for one in seen[:SHOWN]])
    head = next(one.head for one in seen if one.head is not None)
    if scores.max(initial=0) < FAINT:
        return False
    disorder = [scores_of(source, each, head) for each in disordered(feeds)]
    return not looks_trained(scores, *disorder, every=head.kind != "end2end")


def scores_of(model: Model, feeds: Sequence[Feeds], head: HeadSpec) -> Array:
    """The score of every cell on all of these inputs."""
    names = [tensor.name for tensor in model.graph.outputs]
    told = counted("images in disorder", feeds, len(feeds))
    runs = [[np.asarray(run[name], np.float32) for name in names] for run in run_each(model, told)]
    return np.concatenate([candidates(run, head, 0, EVERY_CELL, False).scores for run in runs])


def _state(counts: _Counts, best: float, left: Sequence[Response]) -> State:
    deciding = [one for one in left if one.scores] or list(left)
    alike = min((one.alike for one in deciding), default=1.0)
    if counts.untrained:
        return "not judged"
    if counts.detections >= ENOUGH:
        share = counts.kept / counts.detections
        return "alive" if share >= KEPT else "needs training" if share < LOST and alike < SAME else "weakened"
    if best < FAINT or not deciding:
        return _by_response(left)
    if alike < UNLIKE:
        return "needs training"
    size = min(one.size for one in deciding)
    none = counts.detections >= SOME and not counts.found
    return "alive" if alike >= ALIKE and size >= HALF and not none else "weakened"


def _why(state: State, counts: _Counts | None, left: Sequence[Response], kind: str) -> str:
    parts = []
    if counts is None:
        parts.append("its outputs are not those of a head that can be decoded")
    elif counts.untrained:
        parts.append("the source scores these images as it scores disorder: it was never trained")
    elif not counts.detections:
        where = "made-up photographs; give --calib" if kind == "made-up" else "the images"
        parts.append(f"the source itself detects nothing on {where}")
    else:
        plural = "" if counts.detections == 1 else "s"
        parts.append(f"{counts.kept} of {counts.detections} detection{plural} kept")
        if counts.found > counts.kept:
            parts.append(f"{counts.found} with whatever score")
    few = counts is not None and 0 < counts.detections < ENOUGH
    if left and (few or counts is None or state != "alive"):
        parts.insert(0 if few else len(parts), response_text(left))
    return ", ".join(parts)


def response_text(left: Sequence[Response]) -> str:
    """What is left of the response to the image, of the worst of the groups that decide."""
    worst = min([one for one in left if one.scores] or left, key=lambda one: (one.alike, one.size))
    if worst.size < GONE:
        return f"the output hardly depends on the image any more ({worst.size:.1g} of the response of {worst.group})"
    return f"response to the image {max(worst.alike, 0):.0%} alike ({worst.group})"


def mirrored(images: Sequence[Array]) -> Iterator[Array]:
    """Every image, and it again from left to right."""
    for image in images:
        yield image
        yield np.ascontiguousarray(image[..., ::-1])
