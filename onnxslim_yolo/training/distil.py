"""Distillation without labels: a pruned network learns, on unlabelled images, to repeat what it was cut from.

    distilled = distil(Path("best-slim/best.onnx"), Path("best.pt"), Path("images"))
    save_module(distilled.module, "best-distilled.pt")

The teacher speaks through its outputs, and through its feature maps where a plan says which of their channels the
student has (`teacher_maps`). The student is trained as the module that its graph is (`emit.torch`), BatchNorms in
inference: few images tell little about statistics. Where re-estimating those on the images does good by itself, it is
done first. Adam with a small rate falling to a twentieth of it, gradients clipped, and the weights averaged over the
last steps.

Every eighth image is trained on by nobody. The error on those (`pruning.head_error`, or the loss where outputs cannot
be decoded) decides after every epoch, and what came in stays where no epoch does clearly better.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.analysis.limits import Asked, limits_for
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.graph import static_shape
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.pruning.calibration_images import HELD_OUT, CalibrationImages, channels_first, input_size
from onnxslim_yolo.runtime.progress import counted
from onnxslim_yolo.training.image_batches import PLAIN, Variation, batches
from onnxslim_yolo.training.lesson import Lesson
from onnxslim_yolo.training.norm_statistics import re_estimated
from onnxslim_yolo.training.teacher_maps import MapPair, map_pairs
from onnxslim_yolo.training.teacher_plan import plan_for

if TYPE_CHECKING:
    from onnxslim_yolo.emit.torch import GraphModule

FIRST, LAST = 0.1, 0.05
"""Of the steps, those in which the rate grows to its whole; of the rate, in the last step."""
CLEARLY = 0.98
"""An epoch's error has to be below this share of what came in: the images held out are few."""
CLIP = 10.0
"""The largest norm of a step's gradients."""
FEWEST = HELD_OUT
"""Of fewer images none could be held out."""


@dataclass(frozen=True)
class DistilOptions:
    """How a network is distilled.

    Attributes:
        epochs, batch: passes over the images, and images a step. lr: the largest; 0 changes nothing (a control).
        maps: how much the feature maps count beside the outputs. flip: mirror images from left to right.
        seed: of the order and the variation of images.
        imgsz: (h, w) where files leave it open. limits: what running either network may take.
    """

    epochs: int = 20
    batch: int = 4
    lr: float = 3e-5
    maps: float = 1.0
    flip: bool = True
    seed: int = 0
    imgsz: tuple[int, int] | None = None
    limits: Asked = field(default_factory=Asked)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise UsageError(f"{self.epochs} epochs of batches of {self.batch}: both must be at least 1")
        if not 0 <= self.lr <= 0.1:
            raise UsageError(f"the learning rate {self.lr} is not in [0, 0.1]", hint="3e-5 is a good one")
        if not 0 <= self.maps <= 1000:
            raise UsageError(f"the weight of feature maps {self.maps} is not in [0, 1000]")


@dataclass
class Distilled:
    """What came of it.

    Attributes:
        module: the best network, in inference.
        teacher: the teacher's graph, in canonical form.
        facts: for a report: errors on the images held out (`before`, `after`, `epochs`: one each), the `epoch` that
            was kept (0: what came in), `maps` compared, `images` trained on and `held_out`, `norms`.
    """

    module: GraphModule
    teacher: Model
    facts: dict[str, Any]

    def __str__(self) -> str:
        facts = self.facts
        kept = f"epoch {facts['epoch']} of {len(facts['epochs'])}" if facts["epoch"] else "no epoch did better"
        return (
            f"distilled on {facts['images']} images with {facts['maps']} feature maps: {facts['error']} on "
            f"{facts['held_out']} images held out {facts['before']:.4f} → {facts['after']:.4f} ({kept}; BatchNorms' "
            f"statistics {facts['norms']})"
        )


def distil(
    model: Path,
    teacher: Path,
    images: Path,
    options: DistilOptions | None = None,
    *,
    plan: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Distilled:
    """Distil a network from the one that it was cut from.

    Args:
        model, teacher: any files that open here.
        images: unlabelled; a folder, a list, or a data.yaml.
        plan: which channels were kept; None: the plan beside the model that was made from the teacher, if any.
        progress: called with the name of each stage as it begins.

    Raises:
        InputError, UnsupportedError, UsageError: no torch; a file is none that can be trained; the two do not fit each
            other; too few images.
    """
    options = options or DistilOptions()
    require_torch()
    progress("read")
    student, source = (prepared(path, options) for path in (model, teacher))
    require_alike(student, source, model)
    content = plan_for(model, source, plan)
    pairs = [] if content is None else map_pairs(source, student, content)
    if content is not None and not pairs:
        raise InputError(
            "none of its layers is one of the model's",
            file=plan or teacher,
            hint="give the model's own plan and source",
        )
    return distil_models(student, source, images, options, pairs, progress)


def distil_models(
    student: Model,
    teacher: Model,
    images: Path,
    options: DistilOptions,
    pairs: Sequence[MapPair],
    progress: Callable[[str], None] = lambda stage: None,
) -> Distilled:
    """The same of graphs in canonical form, whose maps are known. Raises as `distil`."""
    import torch

    from onnxslim_yolo.emit.torch import to_torch

    trained, held = (CalibrationImages(images, teacher, part=part) for part in ("fit", "held-out"))
    if not trained.splits:
        raise InputError(
            f"{len(trained)} images are too few: every {HELD_OUT}th is held out to decide by, so at least {FEWEST}",
            file=images,
        )
    lesson = Lesson.of(teacher, held, pairs, weight=options.maps, batch=options.batch)
    if lesson.ranked and not pairs:
        raise InputError(
            "the outputs are ranked boxes, of which no row stands for a cell, and no plan says which maps correspond",
            file=student.source.file,
            hint="give the plan with --plan, or compile both with --head raw",
        )
    module = to_torch(student)
    _require_trainable(module, student)
    before = lesson.error(module)
    progress("statistics")
    best, least, norms = module, before, "as they were"
    estimated = re_estimated(module, lambda: batches(trained, options.batch, PLAIN, torch.Generator()))
    if estimated is not None and (error := lesson.error(estimated)) < CLEARLY * least:
        best, least, norms = estimated, error, "re-estimated"
    progress("distil")
    best, errors, epoch = _train(best, least, lesson, trained, options)
    facts = {
        "error": lesson.unit,
        "before": before,
        "after": errors[epoch - 1] if epoch else least,
        "epochs": errors,
        "epoch": epoch,
        "maps": len(pairs),
        "images": len(trained),
        "held_out": len(held),
        "norms": norms,
        "lr": options.lr,
    }
    return Distilled(best, teacher, facts)


def _train(
    start: GraphModule, least: float, lesson: Lesson, images: CalibrationImages, options: DistilOptions
) -> tuple[GraphModule, list[float], int]:
    """The best network, the error after every epoch, and which epoch was best (0: none)."""
    import torch

    best, student, average = start, copy.deepcopy(start).eval(), copy.deepcopy(start).eval()
    weights = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=options.lr)
    steps, done, epoch = options.epochs * math.ceil(len(images) / options.batch), 0, 0
    random = torch.Generator().manual_seed(options.seed)
    how = Variation(flip=0.5 if options.flip else 0.0)
    errors: list[float] = []
    for number in counted("epochs", range(options.epochs), options.epochs):
        for pixels in batches(images, options.batch, how, random):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * share_of_rate(done, steps)
            optimizer.zero_grad()
            loss = lesson.loss(student, pixels)
            done += 1
            if not bool(torch.isfinite(loss)):
                continue
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            _follow(average, student, min(0.99, done / (done + 10)))
        errors.append(lesson.error(average))
        if errors[-1] < (least if epoch else CLEARLY * least):
            best, least, epoch = copy.deepcopy(average), errors[-1], number + 1
    return best, errors, epoch


def share_of_rate(done: int, steps: int) -> float:
    """How much of the rate a step has: Adam's first steps are as long as any, whatever the gradients."""
    warm = max(1, round(FIRST * steps))
    if done < warm:
        return (done + 1) / (warm + 1)
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * (done - warm) / max(steps - warm, 1))) / 2


def _follow(average: GraphModule, student: GraphModule, decay: float) -> None:
    import torch

    own = dict(student.named_parameters())
    with torch.no_grad():
        for name, value in average.named_parameters():
            value.lerp_(own[name], 1 - decay)


def prepared(path: Path, options: DistilOptions) -> Model:
    """A file's graph in canonical form, BatchNorms kept, within the limits. Raises as `load`."""
    from onnxslim_yolo.manager import PassManager
    from onnxslim_yolo.passes import Canonicalise, ShuffleToGather

    model, _ = read_model(path, LoadOptions(imgsz=options.imgsz, asked=options.limits))
    limits = limits_for(model, options.limits.memory, options.limits.work)
    PassManager([Canonicalise(*(options.imgsz or (0, 0)))]).run(model)
    limits.require(model)  # shapes are known now, and nothing has been run
    PassManager([ShuffleToGather(), Canonicalise()]).run(model)
    return model


def require_alike(student: Model, teacher: Model, file: Path) -> None:
    """Raises InputError where the two do not take the same images or do not give the same kind of outputs."""
    sizes = [input_size(model) for model in (student, teacher)]
    if not (channels_first(student) and channels_first(teacher)):
        hint = "leave the preprocessing out of the graph, and give --input"
        raise InputError("trains on images (b, 3, h, w), and these networks take (b, h, w, 3)", file=file, hint=hint)
    if sizes[0] != sizes[1]:
        shown = ["x".join(map(str, size)) for size in sizes]
        raise InputError(f"takes images of {shown[0]}, its teacher of {shown[1]}", file=file, hint="give --imgsz")
    shapes = [[static_shape(tensor) for tensor in model.graph.outputs] for model in (student, teacher)]
    if shapes[0] != shapes[1]:
        shown = [", ".join("x".join(map(str, shape or "?")) for shape in each) for each in shapes]
        raise InputError(
            f"gives outputs of {shown[0]}, its teacher of {shown[1]}",
            file=file,
            hint="give the network that it was cut from, and compile it with --head keep",
        )


def _require_trainable(module: GraphModule, model: Model) -> None:
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError("has no weights that could be trained", file=model.source.file)


def require_torch() -> None:
    """Raises UsageError where torch is not installed. It is not imported."""
    from importlib.util import find_spec

    from onnxslim_yolo._version import install_line

    if find_spec("torch") is None:
        raise UsageError("distilling needs torch, which is not installed", hint=install_line("torch"))


__all__ = ["DistilOptions", "Distilled", "distil", "distil_models", "prepared"]
