"""What a teacher says about images, and how far a student is from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.registry import RANKING
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.training.distil_loss import map_loss, output_loss
from onnxslim_yolo.training.teacher_maps import MapPair

if TYPE_CHECKING:
    from torch import Tensor

    from onnxslim_yolo.emit.torch import GraphModule


@dataclass
class Lesson:
    """A teacher, and what it says about the images that nothing is trained on.

    Attributes:
        pairs: feature maps that have to be alike. weight: how much they count beside the outputs.
        held: the outputs on the images held out. batch: images at once.
    """

    teacher: GraphModule
    pairs: Sequence[MapPair]
    weight: float
    held: HeadError
    batch: int

    @classmethod
    def of(
        cls, teacher: Model, held: CalibrationImages, pairs: Sequence[MapPair], *, weight: float, batch: int
    ) -> Lesson:
        """Let the teacher see the images held out."""
        from onnxslim_yolo.emit.torch import to_torch

        return cls(to_torch(teacher), pairs, weight, HeadError.of(teacher, held), batch)

    @property
    def ranked(self) -> bool:
        """Whether the outputs are rows of the best boxes, in an order of their own."""
        return self.held.head is None and _is_ranked(self.teacher)

    @property
    def unit(self) -> str:
        """What `error` is, in a word."""
        return "loss" if self.ranked else "relative error" if self.held.head is None else "error"

    def loss(self, student: GraphModule, pixels: Tensor) -> Tensor:
        """Of one batch."""
        import torch

        outputs = self.teacher.description["outputs"]
        count = len(outputs)
        with torch.no_grad():
            said = self.teacher.values([*outputs, *(pair.teacher for pair in self.pairs)], pixels)
        given = student.description["outputs"]
        found = student.values([*given, *(pair.student for pair in self.pairs)], pixels)
        loss = output_loss(found[:count], said[:count], self.held.head, ranked=self.ranked)
        return loss + self.weight * map_loss(found[count:], said[count:], self.pairs)

    def error(self, student: GraphModule) -> float:
        """On the images held out; infinite where the outputs are no numbers."""
        import torch

        inputs = [torch.from_numpy(image) for image in self.held.inputs]
        with torch.no_grad():
            if self.ranked:
                found = sum(float(self.loss(student, x)) for x in inputs) / len(inputs)
            else:
                names = student.description["outputs"]
                found = self.held.error_of([[y.numpy() for y in student.values(names, x)] for x in inputs])
        return found if math.isfinite(found) else math.inf


def _is_ranked(teacher: GraphModule) -> bool:
    return any(node["op"] in RANKING for node in teacher.description["nodes"])
