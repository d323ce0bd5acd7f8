"""The saved module is run as well: what trainers get has to be what was cut."""

from __future__ import annotations

from pathlib import Path

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.half import feeds_in_float32, in_float32, is_half
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.files import FINEST_NCNN, Verification, require
from onnxslim_yolo.verify.judge import judge_of


def check_module(file: Path, cut: Model, found: Verification) -> Check:
    """Run a saved module on the inputs of the other checks, and compare it with the graph that it was made of.

    Args:
        file: as `--emit torch` writes it. cut: the graph before anything is fused. found: the checks so far.

    Raises:
        VerificationError: they differ; the tolerance is that of other runtimes, which sum in another order.
    """
    from onnxslim_yolo.load.graph_module import run_saved  # torch is needed here only

    feeds = [found.feeds[0], found.feeds[-1]]
    if is_half(cut):
        cut, feeds = in_float32(cut), feeds_in_float32(feeds)
    tolerance = max(found.tolerance, FINEST_NCNN)
    judge = judge_of(cut, feeds)
    check = Check(f"cut graph = {file.name}", "torch", judge.compare(run_saved(file, feeds), tolerance), tolerance)
    require([check])
    return check
