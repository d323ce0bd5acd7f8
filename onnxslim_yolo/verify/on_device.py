"""What a pair computes where it will run, beside what its graph computes here.

On a board ncnn computes in what its processor has, and by itself in fp16 where there is such arithmetic: no tolerance
that tells a wrong layer in fp32 can be held there. So outputs are measured, and detections are judged: of those of the
graph (confidence 0.25), how many the board finds too (overlapping by half, same class, score within 0.2), how well the
worst of them overlaps, and by how much a score is off at most.

Of candidates that overlap NMS keeps the one with the highest score, and where two scores are nearly equal, the last
digits decide. So where what a board keeps lies elsewhere, the graph's box is held to what the board makes of the same
candidate (the same row of the outputs), and counted as *swapped*. In a network of a single candidate an object, or with
a kernel that is wrong, there is no other: its own row is off as well.

    the same    all are found, IoU ≥ 0.8, scores within 0.05
    off         something is missing or moved more than that, or there is nothing to go by and an output is off by 0.1
    broken      a value is not finite, or more than a fifth of ten or more detections are missing

Networks whose layers are right kept every detection under fp16 arithmetic, scores within 0.03; wrong depthwise layers
of ncnn's moved scores by 0.06 and boxes down to an IoU of 0.77 (bench/results/arm_accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxslim_yolo.analysis.limits import Asked
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError, VerificationError
from onnxslim_yolo.heads.decode import candidates
from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.input_format import InputFormat
from onnxslim_yolo.pruning.head_error import iou
from onnxslim_yolo.runtime.boards import Board
from onnxslim_yolo.verify.alive import CONFIDENCE, ENOUGH, OVERLAP, SCORE
from onnxslim_yolo.verify.detector import ON_BOARDS, SLOW, Network, open_network, require_as_many
from onnxslim_yolo.verify.scenes import scene

IMAGES = 3
"""Made-up photographs, where no images are given: a board, or an emulator, is slow."""

SAME_IOU, SAME_SCORE, LOST, OUTPUT = 0.8, 0.05, 0.2, 0.1
"""See the module."""

SWAPPED = 0.95
"""A detection that what is kept there overlaps less than this is held to its own candidate."""

State = Literal["the same", "off", "broken"]


@dataclass(frozen=True)
class OutputThere:
    """One output: ‖Δ‖ / ‖reference‖ in the worst image, and whether all of it is finite."""

    name: str
    relative: float
    finite: bool


@dataclass(frozen=True)
class There:
    """A pair on another machine, beside its graph here.

    Attributes:
        state: see the module.
        arithmetic: what it was asked to compute in. images: how many were run.
        outputs: each of them.
        detections: of the graph; None where its outputs are not those of a known head. kept: how many the board finds.
        iou: the least of those kept. score: the most that one of them is off.
        swapped: of those kept, in whose place NMS keeps another candidate of the same object there.
        board: where it ran; None: on this machine.
    """

    state: State
    arithmetic: str
    images: int
    outputs: tuple[OutputThere, ...]
    detections: int | None = None
    kept: int = 0
    iou: float = 1.0
    score: float = 0.0
    swapped: int = 0
    board: Board | None = None

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if any(not output.finite for output in self.outputs):
            names = ", ".join(output.name for output in self.outputs if not output.finite)
            return f"{names} is not finite"
        worst = max(self.outputs, key=lambda output: output.relative, default=None)
        text = "" if worst is None else f"outputs within {worst.relative:.1e}"
        if not self.detections:
            return f"{text}, nothing detected to go by"
        found = f"{self.kept} of {self.detections} detections kept"
        found += f" ({self.swapped} by another candidate in NMS)" if self.swapped else ""
        return f"{found}, IoU ≥ {self.iou:.2f}, scores within {self.score:.3f}, {text}" if self.kept else found

    def as_json(self) -> dict[str, Any]:
        """As report.json holds it."""
        plain = {
            name: getattr(self, name) for name in ("state", "arithmetic", "images", "detections", "kept", "swapped")
        }
        shifts = {"iou": round(self.iou, 4), "score": round(self.score, 5), "why": self.sentence}
        outputs = [asdict(output) for output in self.outputs]
        return plain | shifts | {"outputs": outputs, "board": None if self.board is None else self.board.as_json()}


def compare_there(
    expected: Sequence[Sequence[Array]],
    got: Sequence[Sequence[Array]],
    names: Sequence[str],
    head: HeadSpec | None,
    *,
    arithmetic: str = "default",
    board: Board | None = None,
) -> There:
    """Judge outputs, [image][output], by what they should be."""
    outputs = tuple(
        OutputThere(
            name,
            max(_relative(want[index], found[index]) for want, found in zip(expected, got, strict=True)),
            all(bool(np.isfinite(found[index]).all()) for found in got),
        )
        for index, name in enumerate(names)
    )
    counts: tuple[int | None, int, float, float, int] = (None, 0, 1.0, 0.0, 0)
    if head is not None:
        counts = _counted(expected, got, head)
    state = _state(outputs, *counts[:4])
    return There(state, arithmetic, len(expected), outputs, *counts, board)


def _state(outputs: Sequence[OutputThere], detections: int | None, kept: int, least: float, most: float) -> State:
    if not all(output.finite for output in outputs):
        return "broken"
    if not detections:
        return "the same" if max((o.relative for o in outputs), default=0.0) <= OUTPUT else "off"
    if detections >= ENOUGH and kept < (1 - LOST) * detections:
        return "broken"
    return "the same" if kept == detections and least >= SAME_IOU and most <= SAME_SCORE else "off"


def _relative(want: Array, found: Array) -> float:
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (want, found))
    if a.size != b.size:
        return float("inf")
    error = float(np.linalg.norm(np.nan_to_num(b - a, nan=np.inf, posinf=np.inf, neginf=np.inf)))
    return error / max(float(np.linalg.norm(a)), 1e-12)


def _counted(
    expected: Sequence[Sequence[Array]], got: Sequence[Sequence[Array]], head: HeadSpec
) -> tuple[int, int, float, float, int]:
    """Detections, those kept, their least overlap and largest shift of a score, and how many of them are swapped."""
    detections, swapped = 0, 0
    pairs: list[tuple[float, float]] = []
    for want, found in zip(expected, got, strict=True):
        wanted = [np.asarray(o, np.float32) for o in want]
        plain = [np.nan_to_num(np.asarray(o, np.float32)).reshape(w.shape) for o, w in zip(found, want, strict=True)]
        ours = postprocess(wanted, head, conf=CONFIDENCE)[0]
        theirs = postprocess(plain, head, conf=CONFIDENCE - SCORE)[0]
        detections += len(ours)
        kept = _matched(ours, theirs)
        moved = [index for index, (overlap, _) in kept.items() if overlap < SWAPPED]
        rows = _own_rows(ours, moved, wanted, plain, head) if moved else {}
        better = {index: row for index, row in rows.items() if row[0] > kept[index][0]}
        swapped += len(better)
        pairs += (kept | better).values()
    return (
        detections,
        len(pairs),
        min((overlap for overlap, _ in pairs), default=1.0),
        max((shift for _, shift in pairs), default=0.0),
        swapped,
    )


def _own_rows(
    ours: Detections, which: Sequence[int], want: Sequence[Array], found: Sequence[Array], head: HeadSpec
) -> dict[int, tuple[float, float]]:
    """(IoU, |Δ score|) of some detections and what the board makes of their own candidates, where it is of their class.

    None of a head whose rows are ranked, and have no place of their own.
    """
    if head.kind == "end2end" or head.end2end:
        return {}
    # All rows, those as well whose score half precision holds for 0.
    source, result = (candidates(outputs, head, 0, -1.0, multi_label=False) for outputs in (want, found))
    if len(source.scores) != len(result.scores):
        return {}
    rows = {}
    for index in which:
        off = np.abs(source.boxes - ours.boxes[index]).max(axis=1) + np.abs(source.scores - ours.scores[index])
        row = int(off.argmin())
        shift = abs(float(result.scores[row]) - float(ours.scores[index]))
        if result.classes[row] == ours.classes[index] and shift <= SCORE:
            rows[index] = float(iou(ours.boxes[[index]], result.boxes[[row]])[0]), shift
    return rows


def matched(source: Detections, result: Detections) -> list[tuple[float, float]]:
    """(IoU, |Δ score|) of each of the source's detections that the result has too; each of the result's counts once."""
    return list(_matched(source, result).values())


def _matched(source: Detections, result: Detections) -> dict[int, tuple[float, float]]:
    """As `matched`, by the source's detections."""
    free = np.ones(len(result), dtype=bool)
    found = {}
    for index, (box, confidence, label) in enumerate(zip(source.boxes, source.scores, source.classes, strict=True)):
        shifts = np.abs(result.scores - confidence)
        fits = free & (result.classes == label) & (shifts <= SCORE)
        if not fits.any():
            continue
        overlap = np.where(fits, iou(np.broadcast_to(box, result.boxes.shape), result.boxes), 0)
        best = int(overlap.argmax())
        if overlap[best] >= OVERLAP:
            free[best] = False
            found[index] = float(overlap[best]), float(shifts[best])
    return found


def check_there(
    first: Path,
    second: Path,
    run_on: str,
    *,
    size: tuple[int, int] | None = None,
    form: InputFormat | None = None,
    asked: Asked | None = None,
) -> There:
    """Run a model here and an NCNN pair where a launcher leads, as ncnn computes there by itself.

    Raises:
        UsageError: the second is no NCNN pair, or the launcher starts no Python that will do.
    """
    if not (second.is_dir() or second.suffix == ".param"):
        raise UsageError(f"--run-on runs NCNN pairs, and {second.name} is none", hint=ON_BOARDS)
    here = open_network(first, size=size, form=form, asked=asked)
    there = open_network(second, size=size, form=form, asked=asked, run_on=run_on)
    rng = np.random.default_rng(0)
    images = [here.form.feed(scene(3, here.size, rng).astype(np.float32)[None]) for _ in range(IMAGES)]
    expected, got = ([list(network.run(image)) for image in images] for network in (here, there))
    names = [f"output{index}" for index in range(len(expected[0]))]
    require_as_many(len(names), len(got[0]), first, second)
    board = getattr(there.run, "board", None)
    return compare_there(expected, got, names, head_of(here, expected[0]), board=board)


def head_of(network: Network, outputs: Sequence[Array]) -> HeadSpec | None:
    """How to decode a network's outputs, or None where that is not known."""
    try:
        return recognise(outputs, network.size, network.metadata)
    except (UnsupportedError, InputError):
        return None


def require_sound(there: There, file: Path) -> None:
    """Raises VerificationError where what a board computes is broken."""
    if there.state != "broken":
        return
    where = "there" if there.board is None else f"on {there.board.cpu}"
    raise VerificationError(
        f"the pair does not compute the network {where}: {there.sentence}",
        file=file,
        hint="--ncnn-weights fp32, or turn fp16 off in the options that ncnn is loaded with",
    )


__all__ = ["SLOW", "OutputThere", "There", "check_there", "compare_there", "head_of", "matched", "require_sound"]
