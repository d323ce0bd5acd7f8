"""Verify the files as written: each in its runtime, against the chain's last reference, with a control."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import input_constant, sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.half import feeds_in_float32, in_float32, is_half
from onnxslim_yolo.runtime.onnx_run import run_onnx, with_outputs
from onnxslim_yolo.verify.chain import Chain, Check
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.compare import TOLERANCE, told_apart
from onnxslim_yolo.verify.control import SPOILED_BY, Control, Tail, controls
from onnxslim_yolo.verify.feeds import shared_feeds
from onnxslim_yolo.verify.judge import Judge, judge_of

if TYPE_CHECKING:
    from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
    from onnxslim_yolo.verify.quantised import Int8Verification

MARGIN = 4.0
"""What spoiling one layer by 1 % shows must be this many times the tolerance, or such a mistake would pass."""

FINEST = 1e-6
"""No tolerance below this: single precision does not carry further."""


FINEST_NCNN = 5e-5
"""No tolerance below this for ncnn: its kernels sum in another order than any of onnxruntime's (Winograd, packed).
That shows as up to 2e-5 where onnxruntime's own two ways agree to 1e-6."""


def sharpen(control: float) -> float:
    """The tolerance that would notice what the control does. What rounding hides is a matter of each column's floor."""
    return min(TOLERANCE, max(control / MARGIN, FINEST))


@dataclass(frozen=True)
class NcnnFiles:
    """A written NCNN folder, the converted network in memory, and the graph that it was converted from."""

    folder: Path
    pair: NcnnModel
    model: Model


@dataclass
class Verification:
    """Every comparison made, the control, and how far the result is from the unpruned source.

    Attributes:
        checks: what had to agree.
        controls: what spoiling the last layers by 1 % shows, per kind of column, the least visible first.
        tolerance: what was allowed in onnxruntime.
        loss: difference from the source itself, reported and not checked; None where outputs differ in kind.
        feeds: the inputs of all checks, the one on which scores fire last.
        int8: how an int8 file was checked; its comparisons are among the checks.
    """

    checks: list[Check] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    tolerance: float = TOLERANCE
    loss: Check | None = None
    feeds: list[Feeds] = field(default_factory=list)
    int8: Int8Verification | None = None

    @property
    def control(self) -> float:
        """What the least visible kind of column that any input moves shows; 0 where there is none."""
        return next((found.worst for found in self.controls if not found.blind), 0.0)

    @property
    def blind(self) -> bool:
        """Whether a kind of column hardly shows its spoiled layer: agreement proves little there."""
        return self.control < 2 * self.tolerance

    def as_json(self) -> dict[str, Any]:
        """Everything, as report.json holds it."""
        least = next((found for found in self.controls if not found.blind), None)
        return {
            "checks": [check.as_json() for check in self.checks],
            "control": {
                "layer": "" if least is None else least.layer,
                "spoiled_by": SPOILED_BY,
                "worst": self.control,
                "noticed": not self.blind,
                "kinds": [asdict(found) for found in self.controls],
            },
            "int8": None if self.int8 is None else self.int8.as_json(),
            "difference_from_source": None if self.loss is None else self.loss.as_json(),
        }


def verify_files(
    model: Model,
    onnx_file: Path | None,
    ncnn: NcnnFiles | None,
    chain: Chain,
    *,
    source: Model | None = None,
    calib: Path | None = None,
) -> Verification:
    """Run what was written and compare.

    Args:
        model: what was written. chain: what it has to agree with.
        source: the source in canonical form, for inputs on which its scores fire. calib: photographs.

    Raises:
        VerificationError: something that must agree does not; the message says what, where and by how much.
    """
    feeds = shared_feeds(source or model, calib)
    found = Verification(feeds=feeds)
    judge = judge_of(chain.reference, feeds)
    label = f"{chain.label} = {'files' if onnx_file is None else onnx_file.name}"
    tail = Tail(model)
    plain, inner = _run_written(onnx_file or model, feeds, tail.inner())
    found.controls = controls(tail, plain[-1] | feeds[-1] | inner, judge.rulers)
    found.tolerance = sharpen(found.control)
    few = [feeds[0], feeds[-1]]
    links = {id(link.reference): judge_of(link.reference, few) for link in chain.links}
    for link in chain.links:
        differences = links[id(link.reference)].compare(run_onnx(link.candidate, few), found.tolerance)
        found.checks.append(Check(link.label, "onnxruntime", differences, found.tolerance))
    optimised = run_onnx(onnx_file or model, feeds[-1:], optimise=True)
    for runtime, got, skip in (("onnxruntime", plain, 0), ("onnxruntime, optimised", optimised, len(feeds) - 1)):
        differences = judge.compare(got, found.tolerance, skip=skip)
        found.checks.append(Check(label, runtime, differences, found.tolerance))
    require(found.checks)
    if onnx_file is not None:
        _require_weights(onnx_file, model)
    if ncnn is not None:
        _verify_ncnn(found, ncnn, model, judge, plain)
    if chain.links and chain.links[0].reference is not chain.reference:
        found.loss = _loss(links[id(chain.links[0].reference)], [plain[0], plain[-1]])
    return found


def _run_written(written: Path | Model, feeds: list[Feeds], inner: list[str]) -> tuple[list[Feeds], Feeds]:
    """Outputs for every input, and these inner tensors for the last one."""
    runs = run_onnx(with_outputs(written, inner), feeds)
    plain = [{name: value for name, value in run.items() if name not in inner} for run in runs]
    return plain, {name: runs[-1][name] for name in inner}


def _verify_ncnn(found: Verification, ncnn: NcnnFiles, written: Model, judge: Judge, plain: list[Feeds]) -> None:
    """Run the pair in ncnn and compare it with the ONNX graph; on failure the first differing layer is named.

    Half-precision weights are compared with the graph whose weights are rounded likewise, so that the same tight
    tolerance holds for them; what the rounding itself costs is a check of its own, reported and not required.
    """
    from onnxslim_yolo.runtime.ncnn_run import ncnn_files
    from onnxslim_yolo.verify.ncnn_compare import half_weights, verify_pair

    pair, feeds = ncnn.pair, [found.feeds[0], found.feeds[-1]]
    param, weights = ncnn_files(ncnn.folder)
    if param.read_text(encoding="utf-8") != pair.param or weights.read_bytes() != pair.bin:
        raise VerificationError("the ncnn files on disk are not what was converted", file=ncnn.folder)
    model = as_cut(ncnn.model, pair)
    if pair.int8:
        from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair

        found.checks += verify_int8_pair(model, pair, (param, weights), feeds)
        return
    if is_half(model):
        model, feeds = in_float32(model), feeds_in_float32(feeds)
    rounded = half_weights(model, pair.full) if pair.weights == "fp16" else model
    same = rounded is written  # whose outputs are known
    # What rounding costs is asked only where the pair is not as near as it would have to be if it cost nothing.
    mine = replace(judge, expected=[plain[0], plain[-1]]) if same else judge_of(rounded, feeds, exact=True)
    rounding = None if same else partial(judge_of, rounded, feeds)
    tolerance = max(found.tolerance, FINEST_NCNN)
    differences = verify_pair(rounded, pair, feeds, mine, rounding=rounding, tolerance=tolerance)
    label = f"ONNX graph{', weights rounded to fp16' if rounded is not model else ''} = {ncnn.folder.name}"
    found.checks.append(Check(label, f"ncnn, {pair.weights}", differences, tolerance))
    if rounded is not model:
        reporting = replace(mine, slips=None)  # whatever it is, nothing fails by it
        loss = reporting.compare(plain[:1] if model is written else run_onnx(model, feeds[:1]))
        found.checks.append(
            Check("fp32 weights = fp16 weights (the cost of rounding)", "onnxruntime", loss, float("inf"))
        )


def as_cut(model: Model, pair: NcnnModel) -> Model:
    """The graph as far as the pair goes: where post-processing was left out, it ends with what the pair yields."""
    ends = [port.onnx for port in pair.outputs.values()]
    if set(ends) == {tensor.name for tensor in model.graph.outputs}:
        return model
    shorter = model.copy()
    tensors = shorter.graph.tensors()
    shorter.graph.outputs = [tensors[name] for name in ends]
    sweep(shorter.graph)
    return shorter


def _require_weights(file: Path, model: Model) -> None:
    """The file's numbers are the compiled graph's to the last digit: small weights too, which no output shows."""
    import onnx

    proto = onnx.load(file)
    written = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in model.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            value = input_constant(node, index)
            if value is None or tensor.name not in written or np.array_equal(written[tensor.name], value):
                continue
            if not np.array_equal(written[tensor.name], value, equal_nan=value.dtype.kind == "f"):
                raise VerificationError(
                    f"the file holds other numbers than were compiled: {tensor.name} differs, which no output shows",
                    file=file,
                    node=node.name,
                    hint="nothing was written; --no-verify writes the files anyway",
                )


def _loss(judge: Judge, got: list[Feeds]) -> Check | None:
    if set(judge.expected[0]) != set(got[0]):
        return None
    return Check("source = files", "onnxruntime", judge.compare(got), tolerance=float("inf"))


def require(checks: list[Check]) -> None:
    """Raises VerificationError where one of them does not agree: the worst column, and by how much."""
    for check in checks:
        if check.passed:
            continue
        culprit = max(check.differences, key=lambda d: d.worst)
        detail = culprit.note or f"worst element at {culprit.at}"
        worst, allowed = told_apart(culprit.worst, check.tolerance)
        raise VerificationError(
            f"verification failed ({check.label}, in {check.runtime}): {culprit.place()} differs by "
            f"{worst} of its spread, allowed {allowed} ({detail})",
            hint="nothing was written; --verify-each names the pass, --no-verify writes the files anyway",
        )
