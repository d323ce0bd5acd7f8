"""What compensation gains: how far the cut network is from its source with a compensating pass, and without it.

Seen from the compiler: at every pass that makes up for what is cut (`absorb`, `reconstruct`) three networks are noted:
the source as it stood there, the same with the removed channels masked, which is what cutting alone would give, and
the compensated one masked likewise. They are run on the same images once everything is written, and reported. Nothing
is required of them: on some networks compensation makes things worse, and then the report says that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Pass, effect_of
from onnxslim_yolo.pruning.head_error import HeadError, relative_error, run_images
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx

IMAGES = 16
"""Held-out images at most: three networks run on each."""


@dataclass(frozen=True)
class Compensation:
    """One compensating pass.

    Attributes:
        step: the pass's name.
        without, compensated: distance from the source without it, and with it.
        measure: "head error" (see `verify.head_error`), or "difference": the root mean square difference of an output
            in units of its spread, in the mean over the outputs.
        images: how many were run; `kind`: "held-out", "calibration" (nothing was held out) or "synthetic".
    """

    step: str
    without: float
    compensated: float
    measure: str
    images: int
    kind: str

    def as_json(self) -> dict[str, Any]:
        """All fields; the pass as `pass`. JSON has no infinity: null for a network that yields no numbers."""
        fields = {k: v if not isinstance(v, float) or np.isfinite(v) else None for k, v in asdict(self).items()}
        return {"pass": fields.pop("step")} | fields


@dataclass(frozen=True)
class _Moment:
    """The three networks of one pass."""

    step: str
    source: Model
    without: Model
    compensated: Model


@dataclass
class CompensationProbe:
    """An observer of a PassManager that notes what compensating passes change (see the module)."""

    moments: list[_Moment] = field(default_factory=list)

    def __call__(self, step: Pass, before: Model, after: Model) -> None:
        """Note one pass, if it compensates for channels that are to go."""
        old, new = before.plan, after.plan
        if effect_of(step) != "approximate" or old is None or new is None or old.applied or new.applied:
            return
        if old.lossless or not old.removed:
            return  # what goes contributes nothing that could be lost
        self.moments.append(_Moment(step.name, before, masked(before, old), masked(after, new)))

    def measure(self, calib: Path | None) -> list[Compensation]:
        """Run what was noted, and forget it: on images that nothing was fitted to where there are some, else on
        made-up ones.

        Raises:
            InputError, UnsupportedError: the images cannot be read, or not be fed to this network.
        """
        moments, self.moments = self.moments, []
        if calib is None or not moments:
            return [_on_synthetic(moment) for moment in moments]
        from onnxslim_yolo.pruning.calibration_images import CalibrationImages

        images = CalibrationImages(calib, moments[0].source, IMAGES, "held-out")
        inputs = list(images)  # read once: no pass changes what the network is fed
        kind = "held-out" if images.splits else "calibration"
        return [_on_images(moment, inputs, kind) for moment in moments]


def _on_images(moment: _Moment, images: Sequence[Array], kind: str) -> Compensation:
    reference = HeadError.of(moment.source, images)
    without, compensated = (
        reference.error_of(run_images(model, reference.inputs)) for model in (moment.without, moment.compensated)
    )
    measure = "head error" if reference.head is not None else "difference"
    if reference.head is None:  # the squared error; its root has the unit of the other measure
        without, compensated = float(np.sqrt(without)), float(np.sqrt(compensated))
    return Compensation(moment.step, without, compensated, measure, len(reference.inputs), kind)


def _on_synthetic(moment: _Moment) -> Compensation:
    feeds = image_like_feeds(moment.source, 1)
    (expected,), (without,), (compensated,) = (
        run_onnx(model, feeds) for model in (moment.source, moment.without, moment.compensated)
    )
    return Compensation(
        moment.step, _distance(expected, without), _distance(expected, compensated), "difference", 1, "synthetic"
    )


def _distance(expected: dict[str, Array], found: dict[str, Array]) -> float:
    pairs = [(value.astype(np.float64), found[name].astype(np.float64)) for name, value in expected.items()]
    return float(np.mean([np.sqrt(relative_error(a, b)) for a, b in pairs]))
