"""Verify the files as written: each in its runtime, against the chain's last reference, with a control."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.graph import Model
from onnxslim_yolo.verify.chain import Chain, Check, check_links
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, compare, control, sorts
from onnxslim_yolo.verify.onnx_run import Feeds, image_like_feeds, run_onnx

if TYPE_CHECKING:
    from onnxslim_yolo.emit.ncnn import NcnnModel

BLIND = 10.0
"""A check sees nothing unless spoiling one layer by 1 % shows this many times the difference found."""


@dataclass
class Verification:
    """Every comparison made, the control, and how far the result is from the unpruned source.

    Attributes:
        checks: what had to agree.
        control: worst |Δ| / spread after spoiling the layer `control_layer` by 1 %.
        blind: the control was hardly noticed: on this model's weights agreement proves little.
        loss: difference from the source itself, reported and not checked; None where outputs differ in kind.
    """

    checks: list[Check] = field(default_factory=list)
    control: float = 0.0
    control_layer: str = ""
    blind: bool = False
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


def verify_files(
    model: Model, onnx_file: Path | None, ncnn_folder: Path | None, pair: NcnnModel | None, chain: Chain
) -> Verification:
    """Run what was written and compare.

    Raises:
        VerificationError: something that must agree does not; the message says what, where and by how much.
    """
    feeds = image_like_feeds(model)
    found = Verification(checks=check_links(chain.links, feeds))
    expected = run_onnx(chain.reference, feeds)
    ordered = sorts(model.graph)
    label = f"{chain.label} = {'files' if onnx_file is None else onnx_file.name}"
    for optimise in (False, True):
        got = run_onnx(onnx_file or model, feeds, optimise=optimise)
        runtime = "onnxruntime, optimised" if optimise else "onnxruntime"
        found.checks.append(Check(label, runtime, compare(expected, got, sorted_outputs=ordered)))
    found.control, found.control_layer = control(model, feeds, expected)
    worst = max(check.worst for check in found.checks)
    found.blind = found.control <= max(TOLERANCE, BLIND * worst) and found.control <= BLIND * max(worst, 1e-6)
    _require(found.checks)
    if ncnn_folder is not None and pair is not None:
        found.checks.append(_verify_ncnn(model, ncnn_folder, pair, feeds))
        _require(found.checks[-1:])
    found.loss = _loss(chain, feeds, onnx_file or model)
    return found


def _verify_ncnn(model: Model, folder: Path, pair: NcnnModel, feeds: list[Feeds]) -> Check:
    """Run the pair in ncnn and compare it with the ONNX graph; on failure the first differing layer is named."""
    from onnxslim_yolo.verify.ncnn_compare import TOLERANCE as NCNN_TOLERANCE
    from onnxslim_yolo.verify.ncnn_compare import verify_ncnn
    from onnxslim_yolo.verify.ncnn_run import ncnn_files

    param, weights = ncnn_files(folder)
    if param.read_text(encoding="utf-8") != pair.param or weights.read_bytes() != pair.bin:
        raise VerificationError("the ncnn files on disk are not what was converted", file=folder)
    differences = [
        Difference(d.name, d.relative, abs(d.wanted - d.found), 0.0, (d.index,), d.reason)
        for d in verify_ncnn(model, pair, feeds)
    ]
    return Check(f"ONNX graph = {folder.name}", f"ncnn, {pair.weights}", differences, NCNN_TOLERANCE[pair.weights])


def _loss(chain: Chain, feeds: list[Feeds], final: Path | Model) -> Check | None:
    source = chain.links[0].reference if chain.links else chain.reference
    if source is chain.reference:
        return None
    expected, got = run_onnx(source, feeds), run_onnx(final, feeds)
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
