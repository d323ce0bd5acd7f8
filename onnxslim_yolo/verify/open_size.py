"""A result that takes any size its source takes: reopened, run at other sizes than it was compiled at, and judged.

Where what was written computes what the source does, the two are compared there directly. Where channels went, two
pairs are: the source against its canonical form reopened in the same way, and the reference (removed channels masked),
reopened likewise, against the result. A control has to show: the last layers spoiled by 1 %, at the last size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from onnxslim_yolo.errors import OnnxSlimError, VerificationError
from onnxslim_yolo.ir.input_format import image_axes
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.rewrites.open_sizes import StaysFixedError, names_of, reopened
from onnxslim_yolo.rewrites.size_probes import Probes, Sides, Size, feeds_at, probe
from onnxslim_yolo.runtime.onnx_run import bytes_of, run_onnx, with_outputs
from onnxslim_yolo.verify.chain import Chain, Check, Runnable
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.compare import told_apart
from onnxslim_yolo.verify.control import Tail, controls
from onnxslim_yolo.verify.files import sharpen
from onnxslim_yolo.verify.judge import Judge, judge_from

FEEDS = 2
"""Inputs at each size: columns are measured by how far inputs move them."""


@dataclass(frozen=True)
class Written:
    """What is written as ONNX.

    Attributes:
        model: the compiled graph, its size open again or not.
        notes: what became of an open size; empty where the source has none.
        checks: the comparisons at other sizes.
        fixed: the note's beginning where the size is fixed after all.
    """

    model: Model
    notes: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)
    fixed: str = ""

    def stays_fixed(self, model: Model, why: str) -> Written:
        """The same of a graph that takes one size only."""
        return Written(model, (f"{self.fixed}, for {why}",), fixed=self.fixed)


def with_open_size(
    model: Model, source: Model, reference: onnx.ModelProto, baseline: Model, chain: Chain, *, verify: bool
) -> Written:
    """A compiled graph with its height and width as open as its source's, or the graph as it is and a note why.

    Args:
        source: as it was read. reference: what results are compared with. baseline: the source in canonical form.
        chain: its last reference is what the result has to agree with at its own size.
        verify: whether anything is run; what is not checked is not reopened.
    """
    if not Sides.of(source.graph):
        return Written(model)
    image = next(tensor for tensor in model.graph.inputs if len(tensor.shape or ()) == 4)
    height, width = image_axes(image.shape)[1]
    at = (int(image.shape[height]), int(image.shape[width]))
    only = f"'{image.name}' leaves its size open, the ONNX file takes {at[0]}x{at[1]} only"
    fixed = Written(model, fixed=only)
    if not verify:
        return fixed.stays_fixed(model, "nothing was checked at other sizes (--no-verify)")
    try:
        opened, probes, pairs = _opened(model, source, reference, baseline, chain, at)
        checks = _compared(pairs, probes)
    except StaysFixedError as error:
        return fixed.stays_fixed(model, str(error))
    except OnnxSlimError as error:
        return fixed.stays_fixed(model, error.message)
    opened.metadata["imgsz"] = str(list(at))
    tried = ", ".join(f"{h}x{w}" for h, w in probes.sizes)
    note = f"'{image.name}' leaves its size open, the ONNX file takes any that its source takes: checked at {tried}"
    return Written(opened, (note,), checks, only)


Pair = tuple[str, Runnable, Model]


def _opened(
    model: Model, source: Model, reference: onnx.ModelProto, baseline: Model, chain: Chain, at: Size
) -> tuple[Model, Probes, list[Pair]]:
    """The graph reopened, the sizes to check at, and what has to agree there."""
    masked = chain.reference if isinstance(chain.reference, Model) else None
    probes = probe(source, names_of(model, baseline, *([masked] if masked else [])), at)
    opened = reopened(model, source, probes)
    if masked is None:
        return opened, probes, [(chain.label, chain.reference, opened)]
    plain = ("source", reference, reopened(baseline, source, probes))
    return opened, probes, [plain, (chain.label, reopened(masked, source, probes), opened)]


def _compared(pairs: Sequence[tuple[str, Runnable, Model]], probes: Probes) -> list[Check]:
    """The checks of every pair at every size.

    Raises:
        VerificationError: one does not pass, or would pass whatever the result computes.
    """
    checks: list[Check] = []
    feeds = [
        feeds_at(pairs[-1][2], size, batch, FEEDS) for size, batch in zip(probes.sizes, probes.batches, strict=True)
    ]
    for label, reference, candidate in pairs:
        judges = _judges(reference, feeds)
        got, tolerance = _run(candidate, feeds, judges[-1])
        for size, judge, runs in zip(probes.sizes, judges, got, strict=True):
            where = f"{label} = ONNX with its size open, at {size[0]}x{size[1]}"
            checks.append(Check(where, "onnxruntime", judge.compare(runs, tolerance), tolerance))
            _require(checks[-1], size)
    return checks


def _judges(reference: Runnable, feeds: list[list[Feeds]]) -> list[Judge]:
    data = bytes_of(reference)
    native = _split(run_onnx(data, [feed for group in feeds for feed in group]))
    again = run_onnx(data, [group[-1] for group in feeds], optimise=True)
    return [
        judge_from(reference, group, runs, [optimised])
        for group, runs, optimised in zip(feeds, native, again, strict=True)
    ]


def _run(candidate: Model, feeds: list[list[Feeds]], judge: Judge) -> tuple[list[list[Feeds]], float]:
    """Outputs for every input, and the tolerance that would notice the last layers spoiled at the last size."""
    tail = Tail(candidate)
    inner = tail.inner()
    runs = run_onnx(with_outputs(candidate, inner), [feed for group in feeds for feed in group])
    last = feeds[-1][-1] | runs[-1]
    found = controls(tail, last, judge.rulers)
    least = next((control.worst for control in found if not control.blind), 0.0)
    return _split([{n: v for n, v in run.items() if n not in inner} for run in runs]), sharpen(least)


def _split(runs: list[Feeds]) -> list[list[Feeds]]:
    return [runs[k : k + FEEDS] for k in range(0, len(runs), FEEDS)]


def _require(check: Check, size: Size) -> None:
    if check.passed:
        return
    culprit = max(check.differences, key=lambda d: d.worst)
    worst, allowed = told_apart(culprit.worst, check.tolerance)
    raise VerificationError(
        f"at {size[0]}x{size[1]} {culprit.place()} would differ from the {check.label.split(' =')[0]}'s by {worst} of "
        f"its spread (allowed: {allowed})"
    )


__all__ = ["Written", "with_open_size"]
