"""NAME-slim.pt among the files of a compilation: built, compared, written; and what its code's demands cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.errors import UnsupportedError, UsageError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import CHECKPOINTS
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes.protocol import Pass, effect_of
from onnxslim_yolo.pruning.plan import plan_as_json
from onnxslim_yolo.result import Result
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx

IMAGES = 2


def require_checkpoint(path: Path, options: CompileOptions) -> None:
    """Refuse, before any work, what cannot become a checkpoint of its trainer's.

    Raises:
        UnsupportedError: the input is no checkpoint, or of no trainer known here. UsageError: there is no Ultralytics.
    """
    if "ultralytics" not in options.emit:
        return
    from onnxslim_yolo.training.slim_checkpoint import require_its_trainer

    if path.suffix.lower() not in CHECKPOINTS:
        raise UnsupportedError(
            "--emit ultralytics needs the checkpoint: an exported file does not say what its network was built from",
            file=path,
            hint="compile best.pt; --emit torch writes a module of any input",
        )
    if options.head == "raw":
        raise UsageError("--emit ultralytics writes whole detectors", hint="leave --head raw out, or ultralytics")
    require_its_trainer(path)


def write_slim(path: Path, trainable: Model, stage: Path, name: str, result: Result) -> None:
    """Write NAME-slim.pt into the folder `stage`; what was found goes into the result.

    Args:
        path: the checkpoint. trainable: the graph as cut, before anything is fused.
    """
    from onnxslim_yolo.emit.torch.describe import describe
    from onnxslim_yolo.training.slim_checkpoint import slim_checkpoint
    from onnxslim_yolo.verify.compare import sorts

    feeds = image_like_feeds(trainable, IMAGES)
    made = slim_checkpoint(
        path,
        plan_as_json(trainable, from_checkpoint=True),
        [next(iter(feed.values())) for feed in feeds],
        weights={name: np.asarray(values) for name, values in describe(trainable)[1].items()},
        expected=[list(outputs.values()) for outputs in run_onnx(trainable, feeds)],
        sorts=sorts(trainable.graph),
    )
    result.ultralytics = write_atomically(stage / f"{name}-slim.pt", made.data)
    result.slim = {"trainer": made.trainer, "parameters": made.parameters, "worst": made.worst}


def enter_slim(result: Result, baseline: Model, planning: Sequence[Pass]) -> None:
    """Enter the file into the report, with the MACs that the same wishes cost where any widths will do.

    Args:
        baseline: the model as prepared. planning: the passes that plan and cut it.
    """
    if result.slim is None or result.trainable is None:
        return
    free = baseline.copy()
    free.equal_parts = False
    steps = [step for step in planning if effect_of(step) in ("plan", "slice", "blocks")]
    PassManager(steps).run(free)
    whole, cut, without = (cost_of(model.graph).macs for model in (baseline, result.trainable, free))
    shares = {"macs": cut / max(whole, 1), "macs_unconstrained": without / max(whole, 1)}
    facts: dict[str, Any] = {**result.slim, **shares}
    result.report["ultralytics"] = facts
    result.report["notes"].append(
        f"written for {facts['trainer']}: the parts that its code takes for equal stay equal; "
        f"{facts['macs']:.1%} of the MACs are left, {facts['macs_unconstrained']:.1%} without that demand"
    )
