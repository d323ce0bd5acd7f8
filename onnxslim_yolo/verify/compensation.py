"""What compensation gains: how far the cut network is from its source with a compensating pass, and without it.

At every pass that makes up for what is cut (`absorb`, `reconstruct`) three networks are kept: the source as it stood
there, the same with the removed channels masked, which is what cutting alone would give, and the compensated one masked
likewise. They are run on the same images once everything is written, and reported. Nothing
is required of them: on some networks compensation makes things worse, and then the report says that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
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
class Compensated:
    """A compensating pass, and the three networks that it is judged by."""

    step: str
    source: Model
    without: Model
    compensated: Model


def compensated_by(name: str, before: Model, after: Model) -> Compensated | None:
    """What an approximate pass of this name did, if it compensates for channels that are to go."""
    old, new = before.plan, after.plan
    if old is None or new is None or before.lossless or not old.removed:
        return None  # what goes contributes nothing that could be lost
    return Compensated(name, before, masked(before, old), masked(after, new))


def measure_compensation(passes: Sequence[Compensated], calib: Path | None) -> list[Compensation]:
    """Run the networks of each pass: on images that nothing was fitted to where there are some, else on made-up ones.

    Raises:
        InputError, UnsupportedError: the images cannot be read, or not be fed to this network.
    """
    if calib is None or not passes:
        return [_on_synthetic(step) for step in passes]
    from onnxslim_yolo.pruning.calibration_images import CalibrationImages

    images = CalibrationImages(calib, passes[0].source, IMAGES, "held-out")
    inputs = list(images)  # read once: no pass changes what the network is fed
    kind = "held-out" if images.splits else "calibration"
    return [_on_images(step, inputs, kind) for step in passes]


def _on_images(found: Compensated, images: Sequence[Array], kind: str) -> Compensation:
    reference = HeadError.of(found.source, images)
    without, compensated = (
        reference.error_of(run_images(model, reference.inputs)) for model in (found.without, found.compensated)
    )
    measure = "head error" if reference.head is not None else "difference"
    if reference.head is None:  # the squared error; its root has the unit of the other measure
        without, compensated = float(np.sqrt(without)), float(np.sqrt(compensated))
    return Compensation(found.step, without, compensated, measure, len(reference.inputs), kind)


def _on_synthetic(found: Compensated) -> Compensation:
    feeds = image_like_feeds(found.source, 1)
    (expected,), (without,), (compensated,) = (
        run_onnx(model, feeds) for model in (found.source, found.without, found.compensated)
    )
    return Compensation(
        found.step, _distance(expected, without), _distance(expected, compensated), "difference", 1, "synthetic"
    )


def _distance(expected: dict[str, Array], found: dict[str, Array]) -> float:
    pairs = [(value.astype(np.float64), found[name].astype(np.float64)) for name, value in expected.items()]
    return float(np.mean([np.sqrt(relative_error(a, b)) for a, b in pairs]))
