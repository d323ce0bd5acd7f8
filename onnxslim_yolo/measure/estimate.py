"""What pruning cost, estimated without labels: the result against its source on images that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.head_error import HeadError, iou, run_images

CONFIDENCE = 0.25


@dataclass(frozen=True)
class Estimate:
    """The result against its source.

    Attributes:
        images: how many; `held_out`: whether nothing was fitted to them.
        head_error: see `verify.head_error`.
        objects: what the source detects with a confidence of 0.25. Of those, the result
        found: detects this share, with the same class and an IoU above 0.5;
        box_iou: overlaps so much with the nearest box, in the mean;
        class_agreement: gives the nearest box the same class this often, where they overlap by half.
            All three are None where heads are not decoded, or the source sees nothing.
        false_alarms: share of the result's detections that match none of the source's; None likewise.
        decoded: whether the head is known, so that detections could be counted.
    """

    images: int
    held_out: bool
    head_error: float
    objects: int = 0
    found: float | None = None
    box_iou: float | None = None
    class_agreement: float | None = None
    false_alarms: float | None = None
    decoded: bool = False

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def sentence(self) -> str:
        """For the report."""
        where = f"{self.images} {'held-out ' if self.held_out else ''}calibration images"
        if self.decoded and not self.objects:
            return (
                f"estimated loss: unknown, for the source detects nothing in the {where}; give images with objects "
                f"in them (head error {self.head_error:.2f})"
            )
        if self.found is None or self.box_iou is None:
            return f"estimated loss on {where}: relative error of the outputs {self.head_error:.3f}"
        return (
            f"estimated loss on {where}: of {self.objects} objects that the source detects, {self.found:.0%} are "
            f"found (mean IoU {self.box_iou:.2f}, same class {self.class_agreement or 0:.0%}); "
            f"head error {self.head_error:.2f}"
        )


def estimate_loss(source: Model, result: Model, images: Sequence[Array], *, held_out: bool) -> Estimate | None:
    """Compare two networks on images; None where their outputs differ in kind.

    Raises:
        InputError: there is no image.
    """
    reference = HeadError.of(source, images)
    outputs = run_images(result, reference.inputs)
    shapes = [[o.shape for o in one] for one in (reference.outputs[0], outputs[0])]
    if shapes[0] != shapes[1]:
        return None
    error, count = reference.error_of(outputs), len(reference.inputs)
    if reference.head is None:
        return Estimate(count, held_out, error)
    expected, got = (
        [postprocess(one, reference.head, conf=CONFIDENCE)[0] for one in all_] for all_ in (reference.outputs, outputs)
    )
    pairs = [_nearest(a, b) for a, b in zip(expected, got, strict=True)]
    overlap, same = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    if not len(overlap):
        return Estimate(count, held_out, error, decoded=True)
    near = overlap > 0.5
    reverse = [_nearest(b, a) for a, b in zip(expected, got, strict=True)]
    back = np.concatenate([(overlaps > 0.5) & classes for overlaps, classes in reverse])
    return Estimate(
        images=count,
        held_out=held_out,
        head_error=error,
        objects=len(overlap),
        found=float((near & same).mean()),
        box_iou=float(overlap.mean()),
        class_agreement=float(same[near].mean()) if near.any() else 0.0,
        false_alarms=float(1 - back.mean()) if len(back) else 0.0,
        decoded=True,
    )


def _nearest(of: Detections, among: Detections) -> tuple[Array, Array]:
    """For each detection the IoU with the box it overlaps most (one of its own class, if any does by half), and whether
    that has its class."""
    overlaps, same = np.zeros(len(of)), np.zeros(len(of), dtype=bool)
    for i in range(len(of) if len(among) else 0):
        values = iou(np.broadcast_to(of.boxes[i], among.boxes.shape), among.boxes)
        agrees = among.classes == of.classes[i]
        best = int(np.argmax(values + (agrees & (values > 0.5))))
        overlaps[i], same[i] = values[best], agrees[best]
    return overlaps, same
