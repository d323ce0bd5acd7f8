"""What is trained and how: the options of a training run, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from onnxslim_yolo.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; written beside the weights.

    Attributes:
        data: "digits" or a data.yaml. arch, width: a key of the zoo and the factor on its channels.
        imgsz: (h, w) in pixels, multiples of 32. epochs, batch, lr, seed: as usual.
        sparsity: rate of `GammaSparsity` (prox); 0: none. target: share of channels to bring to zero.
        push: shares of the epochs between which γ are pushed.
        flips: mirror images at random (wrong for digits).
        class_gain: weight of the class loss; more for classes that are hard to tell apart.
        init: the `--state` of an earlier run of the same architecture, whose weights to begin with.
    """

    data: str = "digits"
    arch: str = "yolov5n"
    width: float = 0.5
    imgsz: tuple[int, int] = (192, 192)
    epochs: int = 60
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 3.0
    ema: float = 0.995
    seed: int = 0
    sparsity: float = 0.0
    target: float = 0.6
    push: tuple[float, float] = (0.25, 0.7)
    flips: bool = True
    class_gain: float = 0.5
    init: str = ""

    def __post_init__(self) -> None:
        if any(side % 32 or side < 64 for side in self.imgsz):
            raise UsageError(f"imgsz {self.imgsz}: sides have to be multiples of 32, at least 64")
        if not 0 < self.lr <= 1e-2 or self.epochs < 1 or self.batch < 2:
            raise UsageError("lr has to be in (0, 0.01], epochs ≥ 1, batch ≥ 2")
        if not 0 <= self.push[0] < self.push[1] <= 1:
            raise UsageError(f"push {self.push}: expected two shares of the epochs, ascending")


def recipe_from(text: str) -> Recipe:
    """A recipe from the JSON of its fields."""
    values: dict[str, Any] = json.loads(text)
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Recipe(**plain)
