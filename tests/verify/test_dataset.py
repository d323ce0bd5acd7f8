"""data.yaml and label files: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.runtime.dataset import label_file, read_calibration, read_dataset

YAML = "path: .\nval: images/val\ncalib: calib.txt\nnames: {0: cat, 1: dog}\n"


def make(root: Path, labels: dict[str, str], yaml: str = YAML) -> Path:
    for split in ("images/val", "labels/val"):
        (root / split).mkdir(parents=True)
    for name, text in labels.items():
        Image.new("RGB", (8, 6)).save(root / "images" / "val" / f"{name}.png")
        if text:
            (root / "labels" / "val" / f"{name}.txt").write_text(text)
    (root / "calib.txt").write_text(f"images/val/{next(iter(labels))}.png\n")
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


def test_reads_boxes_polygons_and_empty_images(tmp_path) -> None:
    text = "1 0.5 0.5 0.5 0.5\n0 .1 .1 .3 .2 .2 .4\n1 0.5 0.5 0.5 0.5\n"
    dataset = read_dataset(make(tmp_path, {"a": text, "b": ""}))
    assert dataset.names == ("cat", "dog") and [p.name for p in dataset.images] == ["a.png", "b.png"]
    classes, boxes = dataset.labels(dataset.images[0])
    np.testing.assert_array_equal(classes, [1, 0])  # the repeated line counts once
    np.testing.assert_allclose(boxes, [[0.25, 0.25, 0.75, 0.75], [0.1, 0.1, 0.3, 0.4]])
    assert dataset.labels(dataset.images[1])[1].shape == (0, 4)


def test_key_points_are_no_polygon(tmp_path) -> None:
    dataset = read_dataset(make(tmp_path, {"a": "0 .5 .5 .2 .2 .9 .9 2\n"}, YAML + "kpt_shape: [1, 3]\n"))
    np.testing.assert_allclose(dataset.labels(dataset.images[0])[1], [[0.4, 0.4, 0.6, 0.6]])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 .5 .5 .1 .1", "class 2 is none of the 2"),
        ("0.5 .5 .5 .1 .1", "class 0.5"),
        ("-1 .5 .5 .1 .1", "class -1"),
        ("0 .5 .5 .1", "expected 'class cx cy w h'"),
        ("0 .5 .5 .1 nan", "expected 'class cx cy w h'"),
        ("0 .5 .5 x .1", "no number"),
        ("0 320 240 50 50", "leaves the image"),
    ],
)
def test_broken_labels_name_file_and_line(tmp_path, line: str, reason: str) -> None:
    dataset = read_dataset(make(tmp_path, {"a": f"0 .5 .5 .1 .1\n{line}\n"}))
    with pytest.raises(InputError, match=reason) as caught:
        dataset.labels(dataset.images[0])
    assert "a.txt" in str(caught.value) and "line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("- 1\n", "mapping"),
        ("a: [", "yaml"),
        ("val: images/val\n", "names"),
        ("val: images/val\nnames: {1: a}\n", "names"),
        ("names: [a, b]\n", "no split 'val'"),
        ("val: elsewhere\nnames: [a, b]\n", "no such folder"),
        (YAML.replace("0: cat", "cat: 0"), "'names' has to be"),
        (YAML.replace("images/val", "images/" + "x" * 5000), "cannot be looked at"),
        (YAML.replace("images/val", '"a\\0b"'), "cannot be looked at|no such folder"),
        (YAML + "day: 2001-13-45\n", "cannot be read as yaml"),
    ],
)
def test_broken_yaml(tmp_path, yaml: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_dataset(make(tmp_path, {"a": "0 .5 .5 .1 .1"}, yaml))


def test_no_labels_at_all_is_an_error_not_a_zero(tmp_path) -> None:
    with pytest.raises(InputError, match="none of the 1 images has a label file"):
        read_dataset(make(tmp_path, {"a": ""}))


def test_calibration_sources(tmp_path) -> None:
    file = make(tmp_path, {"a": "", "b": ""})
    assert [p.name for p in read_calibration(file)] == ["a.png"]
    assert [p.name for p in read_calibration(tmp_path / "calib.txt")] == ["a.png"]
    assert len(read_calibration(tmp_path / "images")) == 2


def test_label_file_replaces_the_last_images_folder() -> None:
    assert label_file(Path("/images/set/images/val/x.jpg")) == Path("/images/set/labels/val/x.txt")
    assert label_file(Path("/data/x.jpg")) == Path("/data/x.txt")
