"""Verify the files as written: each in its runtime, against the chain's last reference, with a control."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.graph import Model
from onnxslim_yolo.verify.chain import Chain, Check, check_links
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, compare, control, sorts, worst_of
from onnxslim_yolo.verify.onnx_run import Feeds, image_like_feeds, run_onnx

if TYPE_CHECKING:
    from onnxslim_yolo.emit.ncnn import NcnnModel

NOISE = 20.0
"""Results may differ by this many times what onnxruntime's own optimisations change, if the control leaves room."""

MARGIN = 4.0
"""What spoiling one layer by 1 % shows must be this many times the tolerance, or such a mistake would pass."""

FINEST = 1e-6
"""No tolerance below this: single precision does not carry further."""


FINEST_NCNN = 5e-5
"""No tolerance below this for ncnn: its kernels sum in another order than any of onnxruntime's (Winograd, packed).
That shows as up to 2e-5 where onnxruntime's own two ways agree to 1e-6."""


def sharpen(control: float, noise: float) -> tuple[float, bool]:
    """The tolerance that would notice what the control does, and whether none can.

    On freshly initialised weights, say, spoiling a layer shows less than rounding does: then the check is blind, and
    the report says so.
    """
    finest = max(FINEST, MARGIN * noise)
    wanted = control / MARGIN
    # Where a network amplifies rounding itself, what the control shows leaves room for it.
    allowed = max(TOLERANCE, min(NOISE * noise, wanted))
    return min(allowed, max(wanted, finest)), wanted < finest


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
        control: worst |Δ| / spread after spoiling the layer `control_layer` by 1 %.
        blind: the control was hardly noticed: on this model's weights agreement proves little.
        noise: difference between two ways onnxruntime runs the same file: rounding alone, as this model amplifies it.
        loss: difference from the source itself, reported and not checked; None where outputs differ in kind.
    """

    checks: list[Check] = field(default_factory=list)
    control: float = 0.0
    control_layer: str = ""
    blind: bool = False
    noise: float = 0.0
    loss: Check | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, as report.json holds it."""
        return {
            "checks": [check.as_json() for check in self.checks],
            "control": {
                "layer": self.control_layer,
                "spoiled_by": 0.01,
                "worst": self.control,
                "noticed": not self.blind,
            },
            "difference_from_source": None if self.loss is None else self.loss.as_json(),
        }


def verify_files(model: Model, onnx_file: Path | None, ncnn: NcnnFiles | None, chain: Chain) -> Verification:
    """Run what was written and compare.

    Raises:
        VerificationError: something that must agree does not; the message says what, where and by how much.
    """
    feeds = image_like_feeds(model)
    found = Verification()
    expected = run_onnx(chain.reference, feeds)
    ordered = sorts(model.graph)
    label = f"{chain.label} = {'files' if onnx_file is None else onnx_file.name}"
    plain, optimised = (run_onnx(onnx_file or model, feeds, optimise=optimise) for optimise in (False, True))
    found.control, found.control_layer = control(model, feeds[:1], expected[:1])
    found.noise = worst_of(compare(plain, optimised, sorted_outputs=ordered))
    tolerance, found.blind = sharpen(found.control, found.noise)
    found.checks += check_links(chain.links, feeds[:1], tolerance)
    for runtime, got in (("onnxruntime", plain), ("onnxruntime, optimised", optimised)):
        found.checks.append(Check(label, runtime, compare(expected, got, sorted_outputs=ordered), tolerance))
    _require(found.checks)
    if ncnn is not None:
        _verify_ncnn(found, ncnn.model, ncnn.folder, ncnn.pair, feeds)
    found.loss = _loss(chain, feeds[:1], plain[:1])
    return found


def _verify_ncnn(found: Verification, model: Model, folder: Path, pair: NcnnModel, feeds: list[Feeds]) -> None:
    """Run the pair in ncnn and compare it with the ONNX graph; on failure the first differing layer is named.

    Half-precision weights are compared with the graph whose weights are rounded likewise, so that the same tight
    tolerance holds for them; what the rounding itself costs is a check of its own, reported and not required.
    """
    from onnxslim_yolo.verify.ncnn_compare import half_weights, verify_ncnn
    from onnxslim_yolo.verify.ncnn_run import ncnn_files

    param, weights = ncnn_files(folder)
    if param.read_text(encoding="utf-8") != pair.param or weights.read_bytes() != pair.bin:
        raise VerificationError("the ncnn files on disk are not what was converted", file=folder)
    rounded = half_weights(model, pair.full) if pair.weights == "fp16" else model
    tolerance = max(sharpen(found.control, found.noise)[0], FINEST_NCNN)
    found.blind |= found.control < MARGIN * tolerance
    differences = [
        Difference(d.name, d.relative, abs(d.wanted - d.found), 0.0, (d.index,), d.reason)
        for d in verify_ncnn(model, pair, feeds, tolerance=tolerance)
    ]
    label = f"ONNX graph{', weights rounded to fp16' if rounded is not model else ''} = {folder.name}"
    found.checks.append(Check(label, f"ncnn, {pair.weights}", differences, tolerance))
    if rounded is not model:
        one = feeds[:1]
        loss = compare(run_onnx(model, one), run_onnx(rounded, one), sorted_outputs=sorts(model.graph))
        found.checks.append(
            Check("fp32 weights = fp16 weights (the cost of rounding)", "onnxruntime", loss, float("inf"))
        )


def _loss(chain: Chain, feeds: list[Feeds], got: list[Feeds]) -> Check | None:
    source = chain.links[0].reference if chain.links else chain.reference
    if source is chain.reference:
        return None
    expected = run_onnx(source, feeds)
    if set(expected[0]) != set(got[0]):
        return None
    return Check("source = files", "onnxruntime", compare(expected, got), tolerance=float("inf"))


def _require(checks: list[Check]) -> None:
    for check in checks:
        if check.passed:
            continue
        culprit = max(check.differences, key=lambda d: d.worst)
        detail = culprit.note or f"worst element at {culprit.at}"
        raise VerificationError(
            f"verification failed ({check.label}, in {check.runtime}): output '{culprit.output}' differs by "
            f"{culprit.worst:.2e} of its spread, allowed {check.tolerance:.0e} ({detail})",
            hint="nothing was written; --verify-each names the pass, --no-verify writes the files anyway",
        )
