"""distil: after `reconstruct` and `slice`, a short training on the calibration images alone, the source as teacher.

    step = Distil(teacher, calib)        # the source's graph with the same outputs, BatchNorms kept
    step.run(cut)                        # weights in place; 0: no epoch was better on the images held out

It is `training.distil` with a small rate and few epochs. Weights that `reconstruct` has fitted lie in a narrow place:
rates of 5e-4 and more throw them out of it and few images do not bring them back, so 1e-4 is the largest allowed; with
28 images that already lost 4 points of YOLOv5n's mAP50, and 3e-5 none (bench/compensate.py).
Images that are held out from fitting (every eighth) are held out here, too, and decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from onnxslim_yolo.errors import UnsupportedError, UsageError
from onnxslim_yolo.ir.graph import Array, input_constant, revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.pruning.plan import plan_as_json
from onnxslim_yolo.training.distil import DistilOptions, distil_models, require_torch
from onnxslim_yolo.training.teacher_maps import map_pairs

MOST = 1e-4
"""The largest rate."""


@dataclass(frozen=True)
class Distil:
    """Teach a cut network what it was cut from.

    Args:
        teacher: the source, with the outputs that the cut network has. Not edited.
        calib: unlabelled images, eight or more.
        epochs, lr: as of `DistilOptions`; the rate is 1e-4 at most.
        facts: gets what came of it, for the report (see `Distilled`), and under `text` the same in a sentence.
    """

    name: ClassVar[str] = "distil"
    effect: ClassVar[Effect] = "approximate"

    teacher: Model = field(repr=False)
    calib: Path
    epochs: int = 20
    lr: float = 3e-5
    facts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.lr > MOST:
            raise UsageError(f"the learning rate {self.lr} is above {MOST}", hint="larger ones undo reconstruction")

    def run(self, model: Model) -> int:
        """Train in place; returns the number of weights that changed.

        Raises:
            UsageError: no torch. InputError: too few images. UnsupportedError: an operator that torch lacks.
        """
        if model.plan is not None or model.lossless or self.facts:
            return 0
        require_torch()
        content = plan_as_json(model)
        pairs = map_pairs(self.teacher, model, content)
        options = DistilOptions(epochs=self.epochs, lr=self.lr)
        found = distil_models(model, self.teacher, self.calib, options, pairs)
        self.facts.update(found.facts, text=str(found))
        model.note(str(found))
        if not found.facts["epoch"] and found.facts["norms"] == "as they were":
            return 0
        return write_back(model, found.module.description, weights_of(found.module))


def weights_of(module: Any) -> dict[str, Array]:
    """A module's parameters and running statistics by their names, as arrays."""
    return {key: value.detach().cpu().numpy() for key, value in module.state_dict().items()}


def write_back(model: Model, description: dict[str, Any], weights: dict[str, Array]) -> int:
    """Give a graph the weights of a module that was made of it; returns how many constants changed.

    Raises:
        UnsupportedError: the graph is not the one that the description is of.
    """
    changed = 0
    nodes = list(model.graph.nodes)
    if [node.name for node in nodes] != [entry["name"] for entry in description["nodes"]]:
        raise UnsupportedError("the module was made of another graph", file=model.source.file)
    for node, entry in zip(nodes, description["nodes"], strict=True):
        for index, given in enumerate(entry["inputs"]):
            key = (given or {}).get("parameter")
            old = None if key is None or index >= len(node.inputs) else input_constant(node, index)
            if old is None or key not in weights:
                continue
            new = weights[key].T if given.get("transposed") else weights[key]
            if (new != old).any():
                revalue(node, index, new.reshape(old.shape).astype(old.dtype))
                changed += 1
    return changed
