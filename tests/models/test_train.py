"""Training: targets and losses by hand, boxes that move with their pixels, and runs that go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from onnxslim_yolo.models.demo.train import Recipe, Trainer, main, train  # noqa: E402
from onnxslim_yolo.models.demo.train_data import Augmentation, Images, batches, cache  # noqa: E402
from onnxslim_yolo.models.demo.train_loss import (  # noqa: E402
    Predictions,
    assign,
    ciou,
    detection_loss,
    iou,
    read_head,
    start_rare,
)
from onnxslim_yolo.models.heads import Head  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import build  # noqa: E402
from onnxslim_yolo.runtime.dataset import read_dataset  # noqa: E402


def test_overlaps_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 2]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [0, 0, 4, 2]])
    torch.testing.assert_close(iou(a, b), torch.tensor([1.0, 1 / 3, 1.0]))
    # the second: centres 1 apart, hull 3 by 2, same aspect
    torch.testing.assert_close(ciou(a, b), torch.tensor([1.0, 1 / 3 - 1 / 13, 1.0]))
    far = ciou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[9.0, 9, 10, 10]]))
    assert -1 < float(far) < -0.7


def predictions(boxes: list[list[float]], logits: list[float]) -> Predictions:
    made = torch.tensor(boxes)
    centres = (made[:, :2] + made[:, 2:]) / 2
    return Predictions(made[None], torch.tensor(logits)[None, :, None], None, centres, torch.full((len(boxes),), 8.0))


def test_the_best_fitting_predictions_are_positive() -> None:
    found = predictions([[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]], [0.0, 0.0, 5.0])
    targets = assign(found, torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[0]]))
    assert targets.index[0].tolist() == [0, 0, -1]
    assert targets.quality[0, 0] == pytest.approx(1.0)
    assert 0 < targets.quality[0, 1] < 0.2
    assert targets.quality[0, 2] == 0


def test_a_prediction_between_two_objects_takes_the_one_it_overlaps_more() -> None:
    found = predictions([[0.0, 0, 10, 10]], [0.0])
    boxes = torch.tensor([[[4.0, 0, 14, 10], [1, 0, 11, 10], [0, 0, 0, 0]]])
    assert assign(found, boxes, torch.tensor([[0, 0, -1]])).index.tolist() == [[1]]


def test_without_objects_only_scores_are_punished() -> None:
    found = predictions([[0.0, 0, 10, 10]], [3.0])
    loss, parts = detection_loss(found, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.long))
    assert parts["box"] == 0
    assert loss > 1


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n"])
def test_predictions_are_what_the_decoded_head_says(name: str) -> None:
    model = build(name, nc=3, width=0.25, head="raw")
    head = next(part for part in model.modules() if isinstance(part, Head))
    start_rare(head)
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = read_head(head, model(x))
        head.output = "decoded"
        decoded = model(x)
    decoded = decoded if name == "yolov5n" else decoded.transpose(1, 2)
    centre, side = decoded[..., :2], decoded[..., 2:4]
    torch.testing.assert_close(found.boxes, torch.cat((centre - side / 2, centre + side / 2), -1), rtol=1e-4, atol=1e-3)
    scores = decoded[..., 4:] if name == "yolov8n" else decoded[..., 4:5] * decoded[..., 5:]
    torch.testing.assert_close(found.scores(), scores, rtol=1e-4, atol=1e-6)
    assert float(found.scores().max()) < 0.2


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="plain detection heads"):
        read_head(torch.nn.Identity(), [])


def test_boxes_move_with_their_pixels() -> None:
    pixels = torch.full((6, 3, 64, 96), 114, dtype=torch.uint8)
    pixels[:, :, 20:36, 30:60] = 255
    boxes = tuple(torch.tensor([[30.0, 20, 60, 36]]) for _ in range(6))
    images = Images(pixels, boxes, tuple(torch.zeros(1, dtype=torch.long) for _ in range(6)))
    how = Augmentation(brightness=0, contrast=0, colour=0)
    ((batch, moved, labels),) = list(batches(images, 6, how, torch.Generator().manual_seed(3)))
    assert (labels == 0).all()
    for picture, box in zip(batch, moved[:, 0], strict=True):
        ys, xs = torch.nonzero(picture[0] > 0.72, as_tuple=True)
        measured = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        assert (measured - box).abs().max() <= 1.0
    assert (moved[0] - moved[1]).abs().max() > 2  # the control: pictures do differ


def dataset(folder: Path) -> Path:
    """Eight pictures of one bright square each."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number in range(8):
        picture = random.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        x, y = random.integers(0, 40, 2)
        picture[y : y + 24, x : x + 24] = (250, 60, 60)
        Image.fromarray(picture).save(folder / "images" / "train" / f"{number}.png")
        line = f"0 {(x + 12) / 64} {(y + 12) / 64} 0.375 0.375\n"
        (folder / "labels" / "train" / f"{number}.txt").write_text(line)
    file = folder / "data.yaml"
    file.write_text("path: .\ntrain: images/train\nval: images/train\nnames: {0: square}\n")
    return file


def test_the_loss_falls(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    recipe = Recipe(str(data), width=0.25, imgsz=(64, 64), epochs=24, batch=4, lr=5e-3, warmup=0)
    images = cache(read_dataset(data, ("train",)), recipe.imgsz)
    trainer = Trainer(recipe, ("square",))
    losses = [sum(trainer.run_epoch(images).values()) for _ in range(recipe.epochs)]
    assert losses[-1] < 0.9 * losses[0]


def test_an_interrupted_run_ends_where_the_other_does(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    values: dict[str, Any] = {"width": 0.25, "imgsz": (64, 64), "epochs": 3, "batch": 4, "sparsity": 5.0}
    recipe = Recipe(str(data), push=(0.0, 0.7), **values)
    images = cache(read_dataset(data, ("train",)), recipe.imgsz)
    through, before, after = (Trainer(recipe, ("square",)) for _ in range(3))
    for _ in range(3):
        through.run_epoch(images)
    before.run_epoch(images)
    before.save(tmp_path / "state")
    after.resume(tmp_path / "state")
    for _ in range(2):
        after.run_epoch(images)
    for key, value in through.ema.state_dict().items():
        assert torch.equal(value, after.ema.state_dict()[key]), key
    other = Trainer(Recipe(str(data), **{**values, "epochs": 4}), ("square",))
    with pytest.raises(InputError, match="other options"):
        other.resume(tmp_path / "state")


def test_what_is_written(tmp_path: Path) -> None:
    import onnx

    recipe = Recipe(str(dataset(tmp_path)), width=0.25, imgsz=(64, 64), epochs=1, batch=4)
    result = train(recipe, tmp_path / "x.onnx")
    assert 0 <= result["map50"] <= 1
    assert json.loads((tmp_path / "x.json").read_text())["recipe"]["epochs"] == 1
    proto = onnx.load(tmp_path / "x.onnx")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["names"] == "{0: 'square'}"
    assert metadata["imgsz"] == "[64, 64]"
    assert sum(node.op_type == "BatchNormalization" for node in proto.graph.node) == 57


def test_nonsense_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong in ({"imgsz": (100, 100)}, {"lr": 1.0}, {"push": (0.7, 0.2)}):
        with pytest.raises(UsageError):
            Recipe(**wrong)  # type: ignore[arg-type]
    assert main(["--out", str(tmp_path / "x.onnx"), "--data", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_digits_are_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from onnxslim_yolo.models.demo.train_digits import write_digits

    files = [write_digits(tmp_path / name, train=3, val=2, seed=5) for name in ("a", "b")]
    first, second = (read_dataset(file, ("train", "val")) for file in files)
    assert len(first.images) == 5
    for one, other in zip(first.images, second.images, strict=True):
        assert one.read_bytes() == other.read_bytes()
        classes, boxes = first.labels(one)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        np.testing.assert_array_equal(classes, second.labels(other)[0])
