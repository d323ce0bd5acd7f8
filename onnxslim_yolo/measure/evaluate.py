"""Mean average precision of a detector on labelled images, as COCO defines it.

The counting is faster-coco-eval's (Apache-2.0, numpy only), with COCO's ten IoU thresholds and 101 recall points, but
with up to `max_det` boxes an image (COCO's own table stops at 100) and all object sizes together.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.dataset import Dataset
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.runtime.packages import require_counting
from onnxslim_yolo.runtime.progress import tell

Progress = Callable[[int, int], None]
"""Called after every image with (images done, images in all)."""


class Predict(Protocol):
    """A detector, as `Detector` is: its input size, and images to detections."""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input, pixels."""
        ...

    def __call__(self, images: Array) -> list[Detections]:
        """(1, 3, h, w) float32 in [0, 1] → one `Detections`."""
        ...


@dataclass(frozen=True)
class ClassResult:
    """One class: objects in the ground truth; precision and recall at the confidence where their harmonic mean (F1) is
    best, at IoU 0.5; average precision at IoU 0.5, and averaged over IoU 0.5 to 0.95."""

    name: str
    objects: int
    precision: float
    recall: float
    ap50: float
    ap: float


@dataclass(frozen=True)
class EvalResult:
    """Averages over the classes that occur in the ground truth, and those classes one by one.

    `map` is mAP50-95. `seconds` is the wall time of the detector alone.
    """

    map50: float
    map: float
    precision: float
    recall: float
    images: int
    objects: int
    seconds: float
    classes: tuple[ClassResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ImageBoxes:
    """Found and true boxes of one image, in its own pixels: xyxy (n, 4), classes (n,), scores (n,)."""

    size: tuple[int, int]
    boxes: Array
    scores: Array
    classes: Array
    true_boxes: Array
    true_classes: Array


def evaluate(predict: Predict, dataset: Dataset, *, max_det: int = 300, progress: Progress | None = None) -> EvalResult:
    """Run a detector over a dataset and count.

    Args:
        predict: the detector; for a fair mAP with a confidence threshold near 0.
        dataset: images and labels.
        max_det: boxes an image that count, best first.
        progress: called after every image.

    Raises:
        InputError: an image or a label file is broken, or the model finds classes that the dataset does not have.
        UsageError: the package that counts is missing.
    """
    require_counting()
    pairs: list[ImageBoxes] = []
    seconds = 0.0
    for done, image in enumerate(dataset.images, 1):
        true_classes, relative = dataset.labels(image)
        images, placement = load_input(image, predict.size)
        start = time.perf_counter()
        found = predict(images)[0]
        seconds += time.perf_counter() - start
        _check_classes(found, dataset)
        height, width = placement.source
        true_boxes = relative * np.array([width, height, width, height])
        boxes = placement.undo(found.boxes)
        pairs.append(ImageBoxes(placement.source, boxes, found.scores, found.classes, true_boxes, true_classes))
        tell("images evaluated", done, len(dataset.images))
        if progress is not None:
            progress(done, len(dataset.images))
    return score(pairs, dataset.names, max_det=max_det, seconds=seconds)


def score(pairs: Sequence[ImageBoxes], names: Sequence[str], *, max_det: int = 300, seconds: float = 0.0) -> EvalResult:
    """Count found boxes against true ones.

    Raises:
        InputError: there is no true box at all, so that nothing can be measured.
    """
    truth = coco_truth(pairs, names)
    if not truth["annotations"]:
        raise InputError("the images have no labelled object: nothing can be measured", hint="check the label files")
    precision = _precisions(truth, coco_results(pairs), max_det)
    counts = np.bincount(np.concatenate([pair.true_classes for pair in pairs]).astype(int), minlength=len(names))
    classes = tuple(
        _class_result(name, int(counts[index]), precision[:, :, index])
        for index, name in enumerate(names)
        if counts[index]
    )
    return EvalResult(
        map50=_mean(c.ap50 for c in classes),
        map=_mean(c.ap for c in classes),
        precision=_mean(c.precision for c in classes),
        recall=_mean(c.recall for c in classes),
        images=len(pairs),
        objects=int(counts.sum()),
        seconds=seconds,
        classes=classes,
    )


def coco_truth(pairs: Sequence[ImageBoxes], names: Sequence[str]) -> dict[str, Any]:
    """The true boxes as a COCO annotation file's content. Image and category numbers begin with 1."""
    annotations: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs, 1):
        for (x1, y1, x2, y2), label in zip(pair.true_boxes.tolist(), pair.true_classes.tolist(), strict=True):
            w, h = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    images = [{"id": n, "height": pair.size[0], "width": pair.size[1]} for n, pair in enumerate(pairs, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_results(pairs: Sequence[ImageBoxes]) -> Array:
    """The found boxes as COCO's result table (n, 7): image, x, y, w, h, score, category."""
    tables: list[Array] = []
    for number, pair in enumerate(pairs, 1):
        boxes = pair.boxes.astype(np.float64)
        columns = (
            np.full(len(boxes), float(number)),
            boxes[:, 0],
            boxes[:, 1],
            boxes[:, 2] - boxes[:, 0],
            boxes[:, 3] - boxes[:, 1],
            pair.scores.astype(np.float64),
            pair.classes.astype(np.float64) + 1,
        )
        tables.append(np.stack(columns, axis=1))
    return np.concatenate(tables)


def _precisions(truth: dict[str, Any], results: Array, max_det: int) -> Array:
    """(10 IoU thresholds, 101 recalls, classes) interpolated precision; −1 for classes without an object."""
    if not len(results):
        counts = np.zeros(len(truth["categories"]))
        for annotation in truth["annotations"]:
            counts[annotation["category_id"] - 1] += 1
        return np.broadcast_to(np.where(counts > 0, 0.0, -1.0), (10, 101, len(counts)))
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):  # the library reports its progress there
        reference = COCO(truth)
        evaluation = COCOeval_faster(reference, reference.loadRes(results), "bbox")
        evaluation.params.maxDets = [max_det]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: Array = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    return precision


def _class_result(name: str, objects: int, precision: Array) -> ClassResult:
    recalls = np.linspace(0, 1, precision.shape[1])
    at50 = precision[0]
    f1 = 2 * at50 * recalls / np.maximum(at50 + recalls, 1e-12)
    best = int(f1.argmax())
    found = bool(f1[best] > 0)
    return ClassResult(
        name=name,
        objects=objects,
        precision=float(at50[best]) if found else 0.0,
        recall=float(recalls[best]) if found else 0.0,
        ap50=float(at50.mean()),
        ap=float(precision.mean()),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _check_classes(found: Detections, dataset: Dataset) -> None:
    if len(found) and int(found.classes.max()) >= len(dataset.names):
        raise InputError(
            f"the model finds class {int(found.classes.max())}, the dataset has {len(dataset.names)}",
            file=dataset.file,
            hint="evaluate on the dataset whose classes the model was trained on",
        )
