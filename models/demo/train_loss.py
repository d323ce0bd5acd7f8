"""What a detector is trained on: predictions matched to objects by how well they already fit, then three losses.

Written anew from the papers. Assignment: Feng et al., "TOOD: Task-aligned One-stage Object Detection" (2021), eq. 4-6:
a prediction's alignment with an object is t = s^α · u^β, with s its score for the object's class and u its IoU; the k
best predictions whose cell lies in the object are positive; t is rescaled so that an object's best t equals its best
IoU. Box loss: Zheng et al., "Distance-IoU Loss" (2020), CIoU. Scores: binary cross entropy with the rescaled t as soft
target, so that scores rank boxes by their quality.

It works on any head here that has anchors (YOLOv5: an objectness and conditional class scores) or none (YOLOX: these,
too; YOLOv8: class scores only, sides from the bins' expectation, no loss on the bins' distribution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.models.heads import AnchorDetect
from onnxslim_yolo.models.heads_dfl import Detect
from onnxslim_yolo.models.zoo.detectors import YOLOXHead

TOP_K = 10
ALPHA, BETA = 0.5, 6.0
BOX_GAIN, SCORE_GAIN = 7.5, 0.7
PRIOR = 0.01
"""Score that every prediction starts with: objects are rare."""


@dataclass(frozen=True)
class Predictions:
    """All predictions of a batch.

    Attributes:
        boxes: (b, n, 4) xyxy in pixels.
        classes: (b, n, nc) logits.
        objectness: (b, n) logits, or None for heads without it.
        centres: (n, 2) of the cells, pixels.
        strides: (n,) pixels.
    """

    boxes: Tensor
    classes: Tensor
    objectness: Tensor | None
    centres: Tensor
    strides: Tensor

    def scores(self) -> Tensor:
        """(b, n, nc) probabilities."""
        scores = self.classes.sigmoid()
        return scores if self.objectness is None else scores * self.objectness.sigmoid().unsqueeze(-1)


@dataclass(frozen=True)
class Targets:
    """Which prediction is to find what: (b, n) index of the object (-1: none), and (b, n) how well it fits: 0 to 1."""

    index: Tensor
    quality: Tensor


def read_head(head: nn.Module, raw: Sequence[Tensor]) -> Predictions:
    """A head's raw maps as predictions.

    Raises:
        UnsupportedError: the head is neither YOLOv5's, YOLOv8's nor YOLOX's.
    """
    if isinstance(head, AnchorDetect) and not head.nm:
        return _read_anchors(head, raw)
    if type(head) is Detect and head.one2one_cv2 is None:
        return _read_sides(head, raw)
    if isinstance(head, YOLOXHead):
        return _read_offsets(head, raw)
    raise UnsupportedError(
        f"training knows plain detection heads, found {type(head).__name__}",
        hint="choose an architecture with YOLOv5's, YOLOv8's or YOLOX's head",
    )


def _read_anchors(head: AnchorDetect, raw: Sequence[Tensor]) -> Predictions:
    boxes, classes, objectness, centres, strides = [], [], [], [], []
    for level, (x, stride) in enumerate(zip(raw, head.stride, strict=True)):
        b, _, h, w = x.shape
        y = x.reshape(b, head.na, head.no, h, w).permute(0, 1, 3, 4, 2)
        anchor = head.anchors[level].view(1, head.na, 1, 1, 2) * stride
        cells = head.grid(x, 0.5).permute(0, 2, 3, 1).unsqueeze(1).expand(1, head.na, h, w, 2)
        centre = (y[..., :2].sigmoid() * 2 - 1 + cells) * stride
        half = (y[..., 2:4].sigmoid() * 2) ** 2 * anchor / 2
        boxes.append(torch.cat((centre - half, centre + half), -1).reshape(b, -1, 4))
        objectness.append(y[..., 4].reshape(b, -1))
        classes.append(y[..., 5:].reshape(b, -1, head.nc))
        centres.append((cells * stride).reshape(-1, 2))
        strides.append(torch.full((centres[-1].shape[0],), stride))
    return Predictions(
        torch.cat(boxes, 1), torch.cat(classes, 1), torch.cat(objectness, 1), torch.cat(centres), torch.cat(strides)
    )


def _read_sides(head: Detect, raw: Sequence[Tensor]) -> Predictions:
    flat = torch.cat([level.flatten(2) for level in raw], 2)
    box, classes = flat.split_with_sizes((4 * head.reg_max, head.nc), 1)
    centre, stride = head.cells(raw)
    low, high = head.sides(box).split_with_sizes((2, 2), 1)
    boxes = torch.cat((centre - low, centre + high), 1) * stride
    points = (centre * stride)[0].transpose(0, 1)
    return Predictions(boxes.transpose(1, 2), classes.transpose(1, 2), None, points, stride.flatten())


def _read_offsets(head: YOLOXHead, raw: Sequence[Tensor]) -> Predictions:
    flat = torch.cat([level.flatten(2) for level in raw], 2).transpose(1, 2)
    cells = [head.grid(level, 0.0).flatten(2)[0].transpose(0, 1) for level in raw]
    strides = torch.cat([torch.full((len(c),), s) for c, s in zip(cells, head.stride, strict=True)])
    corner, side = torch.cat(cells), strides.unsqueeze(-1)
    centre, half = (flat[..., :2] + corner) * side, flat[..., 2:4].exp() * side / 2
    boxes = torch.cat((centre - half, centre + half), -1)
    return Predictions(boxes, flat[..., 5:], flat[..., 4], (corner + 0.5) * side, strides)


def assign(found: Predictions, boxes: Tensor, labels: Tensor) -> Targets:
    """Match predictions with objects.

    Args:
        found: the predictions.
        boxes: (b, m, 4) xyxy in pixels, padded with empty boxes.
        labels: (b, m) class numbers; -1 for padding.
    """
    b, n = found.boxes.shape[:2]
    if boxes.shape[1] == 0:
        return Targets(torch.full((b, n), -1), torch.zeros(b, n))
    with torch.no_grad():
        overlap = iou(boxes.unsqueeze(2), found.boxes.unsqueeze(1)).clamp(0, 1)
        scores = found.scores().transpose(1, 2)
        own = scores.gather(1, labels.clamp(min=0).unsqueeze(-1).expand(-1, -1, n))
        fit = own**ALPHA * overlap**BETA * _eligible(found, boxes, labels)
        kth = fit.topk(min(TOP_K, n), dim=2).values[..., -1:]
        positive = (fit >= kth) & (fit > 0)
        owner = torch.where(positive, overlap, overlap.new_tensor(-1.0)).argmax(1)  # one object a prediction
        positive &= torch.arange(boxes.shape[1]).view(1, -1, 1) == owner.unsqueeze(1)
        fit = fit * positive
        best = (overlap * positive).amax(2, keepdim=True)
        quality = (fit / fit.amax(2, keepdim=True).clamp(min=1e-12) * best).amax(1)
        return Targets(torch.where(positive.any(1), owner, owner.new_tensor(-1)), quality)


def _eligible(found: Predictions, boxes: Tensor, labels: Tensor) -> Tensor:
    """(b, m, n) predictions whose cell's centre lies in the object, or whose cell holds the object's centre."""
    centres, cells = found.centres.view(1, 1, -1, 2), found.strides.view(1, 1, -1, 1)
    inside = ((centres > boxes[:, :, None, :2]) & (centres < boxes[:, :, None, 2:])).all(-1)
    middle = (boxes[:, :, None, :2] + boxes[:, :, None, 2:]) / 2
    at_home = ((centres - middle).abs() <= cells / 2).all(-1)
    return (inside | at_home) & (labels >= 0).unsqueeze(-1)


def detection_loss(
    found: Predictions, boxes: Tensor, labels: Tensor, class_gain: float = 0.5
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch, and its parts as numbers. Arguments as for `assign`; `class_gain` weighs the class loss of
    heads that have an objectness."""
    targets = assign(found, boxes, labels)
    mask = targets.index >= 0
    weight = targets.quality[mask]
    total = targets.quality.sum().clamp(min=1.0)
    rows = torch.nonzero(mask)[:, 0]
    wanted = targets.index[mask]
    one_hot = functional.one_hot(labels[rows, wanted].clamp(min=0), found.classes.shape[-1]).to(found.classes.dtype)
    box = ((1 - ciou(found.boxes[mask], boxes[rows, wanted])) * weight).sum() / total
    if found.objectness is None:
        soft = torch.zeros_like(found.classes)
        soft[mask] = one_hot * weight.unsqueeze(-1)
        score = _bce(found.classes, soft).sum() / total
        kind = score.new_zeros(())
    else:
        score = _bce(found.objectness, targets.quality).sum() / total
        kind = (_bce(found.classes[mask], one_hot).sum(-1) * weight).sum() / total
    loss = BOX_GAIN * box + SCORE_GAIN * score + class_gain * kind
    return loss, {"box": float(box.detach()), "score": float(score.detach()), "class": float(kind.detach())}


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes (…, 4), broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return common / (areas - common).clamp(min=1e-7)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of xyxy boxes (n, 4): IoU, minus distance of centres over the hull's diagonal, minus aspect.

    IoU − ρ²/c² − αv, v = 4/π²·(atan(w/h) − atan(w'/h'))², α = v / (1 − IoU + v), held constant.
    """
    overlap = iou(a, b)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    distance = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(-1)
    angle_a, angle_b = (torch.atan((x[:, 2] - x[:, 0]) / (x[:, 3] - x[:, 1]).clamp(min=1e-7)) for x in (a, b))
    aspect = 4 / math.pi**2 * (angle_a - angle_b).square()
    with torch.no_grad():
        alpha = aspect / (1 - overlap + aspect).clamp(min=1e-7)
    return overlap - distance / hull.square().sum(-1).clamp(min=1e-7) - alpha * aspect


def start_rare(head: nn.Module) -> None:
    """Set the biases of a head's scores so that everything starts unlikely: σ(bias) = PRIOR."""
    bias = math.log(PRIOR / (1 - PRIOR))
    with torch.no_grad():
        if isinstance(head, AnchorDetect):
            for conv in head.m:
                conv.get_parameter("bias").view(head.na, head.no)[:, 4] = bias
        elif isinstance(head, Detect):
            for tower in head.cv3:
                tower.get_parameter("2.bias").fill_(bias)
        elif isinstance(head, YOLOXHead):
            for conv in head.obj_preds:
                conv.get_parameter("bias").fill_(bias)
