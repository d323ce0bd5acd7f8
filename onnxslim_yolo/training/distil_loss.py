"""What a student's outputs and feature maps lack of its teacher's: the losses of distillation without labels.

Tables of decoded boxes (YOLOv5's and YOLOv8's): cross entropy of scores beyond the teacher's own, and the boxes' error
relative to their sizes, each row weighted by the teacher's score: empty cells say nothing about boxes. What else a row
has (mask coefficients, key points) counts by its relative error, weighted alike. Any other output, and every feature
map: Σ(Δ²) / Σ((x − mean)²), relative to how much the teacher's moves, channel by channel's mean.

Tables of ranked rows have no cell of their own a row; of those the maps behind them are compared only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.training.teacher_maps import MapPair

if TYPE_CHECKING:
    from torch import Tensor

SURE = 1e-6
"""Probabilities are kept this far from 0 and 1."""


def output_loss(found: Sequence[Tensor], wanted: Sequence[Tensor], head: HeadSpec | None, *, ranked: bool) -> Tensor:
    """The loss of the outputs.

    Args:
        found, wanted: the student's and the teacher's, batch first.
        head: how the first of them is read, where it is a table of cells. ranked: it is one of ranked rows.
    """
    import torch

    total = torch.zeros(())
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if index == 0 and head is not None and head.kind in ("v5", "v8"):
            total = total + table_loss(ours, theirs, head)
        elif not (ranked and ours.ndim == 3):
            total = total + relative_error(ours, theirs)
    return total


def table_loss(found: Tensor, wanted: Tensor, head: HeadSpec) -> Tensor:
    """The loss of a table of decoded cells: (b, n, 5 + nc + e) of kind v5, (b, 4 + nc + e, n) of kind v8."""
    from torch.nn import functional

    if head.kind == "v8" and not head.rows:
        found, wanted = found.transpose(1, 2), wanted.transpose(1, 2)
    first = 5 if head.kind == "v5" else 4
    end = first + head.nc
    targets, scores = (x[..., 4:end].clamp(SURE, 1 - SURE) for x in (wanted, found))
    excess = functional.binary_cross_entropy(scores, targets, reduction="none")
    excess = excess - functional.binary_cross_entropy(targets, targets, reduction="none")
    if head.kind == "v5":  # class scores are conditional: they count where there is an object
        weight = targets[..., 0]
        score = excess[..., 0].sum() + (excess[..., 1:].sum(-1) * weight).sum()
    else:
        weight, score = targets.amax(-1), excess.sum()
    side = wanted[..., 2:4].clamp(min=1.0).repeat(1, 1, 2)
    box = ((found[..., :4] - wanted[..., :4]).abs() / side).sum(-1)
    lost = score + (box * weight).sum()
    if wanted.shape[-1] > end:
        rest, target = found[..., end:], wanted[..., end:]
        spread = target.var(dim=(0, 1), keepdim=True).clamp(min=1e-12)
        lost = lost + (((rest - target).square() / spread).mean(-1) * weight).sum()
    return lost / weight.sum().clamp(min=1.0)


def map_loss(found: Sequence[Tensor], wanted: Sequence[Tensor], pairs: Sequence[MapPair]) -> Tensor:
    """The mean relative error of the feature maps; the teacher's are cut to the student's channels."""
    import torch

    if not pairs:
        return torch.zeros(())
    errors = [
        relative_error(ours, theirs if pair.kept is None else theirs[:, list(pair.kept)])
        for ours, theirs, pair in zip(found, wanted, pairs, strict=True)
    ]
    return torch.stack(errors).mean()


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Σ(Δ²) / Σ((x − mean of its channel)²), of (b, c, …)."""
    axes = [axis for axis in range(wanted.ndim) if axis != 1]
    centred = wanted - wanted.mean(dim=axes, keepdim=True)
    return (found - wanted).square().sum() / centred.square().sum().clamp(min=1e-9)
