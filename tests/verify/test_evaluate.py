"""mAP: by hand, against pycocotools on the same boxes, and on real weights."""

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.measure.evaluate import ImageBoxes, coco_results, coco_truth, evaluate, score
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

MATERIAL = Path(__file__).resolve().parents[3] / "shared" / "material"
NAMES = ("cat", "dog", "bird")


def boxes_of(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def one_image(found: list[tuple[float, ...]], true: list[tuple[float, ...]]) -> ImageBoxes:
    """found: x1 y1 x2 y2 score class; true: x1 y1 x2 y2 class."""
    table, truth = np.array(found, np.float64).reshape(-1, 6), np.array(true, np.float64).reshape(-1, 5)
    return ImageBoxes(
        (100, 100), table[:, :4], table[:, 4], table[:, 5].astype(int), truth[:, :4], truth[:, 4].astype(int)
    )


def random_images(count: int = 30, seed: int = 3) -> list[ImageBoxes]:
    """True boxes, most of them found with some jitter, among false ones."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        corner, size = rng.uniform(0, 60, (6, 2)), rng.uniform(5, 40, (6, 2))
        true = np.concatenate((corner, corner + size), axis=1)
        labels = rng.integers(0, 2, 6)
        jitter = np.concatenate((true + rng.normal(0, 2, true.shape), true[:3] + rng.normal(0, 12, (3, 4))))
        jitter[:, 2:] = np.maximum(jitter[:, 2:], jitter[:, :2] + 1)
        found_labels = np.where(rng.random(9) < 0.85, np.concatenate((labels, labels[:3])), rng.integers(0, 3, 9))
        images.append(ImageBoxes((100, 100), jitter, rng.random(9), found_labels, true, labels))
    return images


def test_by_hand() -> None:
    box, off = (10, 10, 50, 50), (60, 60, 90, 90)
    perfect = score([one_image([(*box, 0.9, 0)], [(*box, 0)])], NAMES)
    assert (perfect.map50, perfect.map, perfect.precision, perfect.recall) == (1, 1, 1, 1)
    assert [c.name for c in perfect.classes] == ["cat"] and perfect.objects == 1
    missed = score([one_image([(*off, 0.9, 0)], [(*box, 0)])], NAMES)
    assert (missed.map50, missed.map, missed.precision, missed.recall) == (0, 0, 0, 0)
    assert score([one_image([], [(*box, 0)])], NAMES).map50 == 0
    # One of two found, at rank 1: precision 1 up to recall ½, i.e. at 51 of the 101 recall points.
    half = score([one_image([(*box, 0.9, 0), (0, 0, 5, 5, 0.5, 0)], [(*box, 0), (*off, 0)])], NAMES)
    assert half.map50 == pytest.approx(51 / 101, abs=1e-9)
    assert (half.precision, half.recall) == (1, 0.5)
    # IoU 0.64: counts at 0.5, 0.55 and 0.6 of the ten thresholds.
    loose = score([one_image([(10, 10, 42, 42, 0.9, 0)], [(0 + 10, 10, 50, 50, 0)])], NAMES)
    assert loose.map50 == 1 and loose.map == pytest.approx(0.3)


def test_the_wrong_class_is_wrong() -> None:
    box = (10, 10, 50, 50)
    assert score([one_image([(*box, 0.9, 1)], [(*box, 0)])], NAMES).map50 == 0


def test_no_truth_is_refused() -> None:
    with pytest.raises(InputError, match="no labelled object"):
        score([one_image([(1, 1, 2, 2, 0.5, 0)], [])], NAMES)


def test_max_det_cuts_the_worst() -> None:
    box = (10, 10, 50, 50)
    many = [(60 + i * 0.01, 60, 90, 90, 0.9, 0) for i in range(5)]
    image = one_image([*many, (*box, 0.1, 0)], [(*box, 0)])
    assert score([image], NAMES, max_det=6).map50 > 0
    assert score([image], NAMES, max_det=5).map50 == 0


def pycoco_map(images: list[ImageBoxes]) -> tuple[float, float]:
    coco = pytest.importorskip("pycocotools.coco")
    evaluator = pytest.importorskip("pycocotools.cocoeval")
    reference = coco.COCO()
    reference.dataset = coco_truth(images, NAMES)
    reference.createIndex()
    evaluation = evaluator.COCOeval(reference, reference.loadRes(coco_results(images)), "bbox")
    evaluation.params.maxDets = [1, 10, 300]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return float(precision[0][precision[0] > -1].mean()), float(precision[precision > -1].mean())


@pytest.mark.peer
def test_agrees_with_pycocotools() -> None:
    images = random_images()
    result = score(images, NAMES)
    assert 0.1 < result.map < result.map50 < 0.95
    assert (result.map50, result.map) == pytest.approx(pycoco_map(images), abs=1e-3)
    # Control: with one image's boxes moved, the two differ.
    spoilt = [
        *images[:-3],
        *(ImageBoxes(i.size, i.boxes + 9, i.scores, i.classes, i.true_boxes, i.true_classes) for i in images[-3:]),
    ]
    assert abs(score(spoilt, NAMES).map50 - pycoco_map(images)[0]) > 1e-3


@pytest.mark.material
@pytest.mark.skipif(not MATERIAL.is_dir(), reason="no ../shared/material")
def test_fastestdet_on_coco() -> None:
    dataset = read_dataset(MATERIAL / "data" / "coco-val128" / "data.yaml", ("calib",))
    seen: list[int] = []
    detector = Detector(open_network(MATERIAL / "weights" / "FastestDet.onnx", threads=1))
    result = evaluate(detector, dataset, progress=lambda done, _: seen.append(done))
    assert seen == list(range(1, 33)) and result.images == 32
    assert result.map50 == pytest.approx(0.4, abs=0.12)
    # Control: the network was trained on BGR; fed RGB it loses.
    detector.head = type(detector.head)(**{**vars(detector.head), "bgr": False})
    assert evaluate(detector, dataset).map50 < result.map50 - 0.02


def test_more_classes_than_the_dataset_has_is_an_error(tmp_path) -> None:
    from onnxslim_yolo.heads.finish import Detections
    from tests.verify.test_dataset import make

    class Wrong:
        size = (32, 32)

        def __call__(self, images: np.ndarray) -> list[Detections]:
            box = np.array([[0, 0, 9, 9]], np.float32)
            return [Detections(box, np.ones(1, np.float32), np.array([7]), np.zeros((1, 0), np.float32))]

    with pytest.raises(InputError, match="finds class 7, the dataset has 2"):
        evaluate(Wrong(), read_dataset(make(tmp_path, {"a": "0 .5 .5 .1 .1"})))


@pytest.mark.material
@pytest.mark.skipif(not MATERIAL.is_dir(), reason="no ../shared/material")
def test_a_checkpoint_scores_as_its_traced_graph(tmp_path) -> None:
    pytest.importorskip("torch")
    from onnxslim_yolo.load import LoadOptions, read_model

    dataset = read_dataset(MATERIAL / "data" / "coco-val128" / "data.yaml", ("calib",))
    checkpoint = MATERIAL / "weights" / "yolov5n-coco-v6.pt"
    size = (256, 256)
    read_model(checkpoint, LoadOptions(imgsz=size))[0].save(tmp_path / "traced.onnx")
    files = (checkpoint, tmp_path / "traced.onnx")
    first, second = (evaluate(Detector(open_network(f, size=size, threads=1), nc=80), dataset) for f in files)
    assert first.map50 > 0.3
    assert (first.map50, first.map) == (second.map50, second.map)
    assert [(c.name, c.ap50) for c in first.classes] == [(c.name, c.ap50) for c in second.classes]
