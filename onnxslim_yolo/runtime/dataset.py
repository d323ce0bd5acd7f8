"""Labelled images: a `data.yaml` in the format of Ultralytics, with one text file of boxes beside every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.images import list_images


@dataclass(frozen=True)
class Dataset:
    """Images with their labels.

    Attributes:
        file: the data.yaml.
        names: the classes, by index.
        images: image files, in order.
        keypoints: label lines carry key points behind the box, no polygons.
    """

    file: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    keypoints: bool = False

    def labels(self, image: Path) -> tuple[Array, Array]:
        """An image's ground truth: classes (n,) int64 and boxes (n, 4) xyxy, relative to its width and height.

        No label file means no object. Polygons are replaced by the boxes around them.

        Raises:
            InputError: a line is no label; the message says which and why.
        """
        path = label_file(image)
        if not path.is_file():
            return np.zeros(0, np.int64), np.zeros((0, 4))
        rows = [self._row(path, number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
        unique = list(dict.fromkeys(rows))  # the same box twice is a slip of the tool that wrote it
        table = np.array(unique, np.float64).reshape(-1, 5)
        return table[:, 0].astype(np.int64), table[:, 1:]

    def _row(self, path: Path, number: int, line: str) -> tuple[float, ...]:
        where = f"line {number} ('{line.strip()[:60]}')"
        try:
            values = [float(part) for part in line.split()]
        except ValueError as error:
            raise InputError(f"{where} holds something that is no number", file=path) from error
        if len(values) < 5 or not np.isfinite(values).all():
            raise InputError(f"{where}: expected 'class cx cy w h', relative to the image's size", file=path)
        label = int(values[0])
        if label != values[0] or not 0 <= label < len(self.names):
            raise InputError(f"{where}: class {values[0]:g} is none of the {len(self.names)} of {self.file}", file=path)
        box = _box(values[1:], polygon=not self.keypoints and len(values) >= 7)
        if max(box) > 1.01 or min(box) < -0.01:
            raise InputError(
                f"{where}: the box leaves the image", file=path, hint="coordinates are relative, between 0 and 1"
            )
        return (float(label), *np.clip(box, 0.0, 1.0).tolist())


def label_file(image: Path) -> Path:
    """Where an image's labels stand: `…/labels/x.txt` for `…/images/x.jpg`, else beside the image."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def read_dataset(file: Path, splits: Sequence[str] = ("val",)) -> Dataset:
    """Read a data.yaml and collect the images of its splits.

    `path` is relative to the yaml's folder; a split is a folder, a `.txt` list, or a list of those.

    Raises:
        InputError: the yaml is broken or lacks what is needed, an image is missing, or no image has a label.
    """
    data = _read_yaml(file)
    names = _names(file, data.get("names"))
    root = file.parent / str(data.get("path") or ".")
    images: dict[Path, None] = {}
    for split in splits:
        for source in _sources(file, data, split):
            images.update(dict.fromkeys(list_images(root / source)))
    dataset = Dataset(file, names, tuple(images), keypoints="kpt_shape" in data)
    if not any(label_file(image).is_file() for image in dataset.images):
        raise InputError(
            f"none of the {len(images)} images has a label file",
            file=file,
            hint=f"labels are expected as {label_file(dataset.images[0])}",
        )
    return dataset


def read_calibration(file: Path) -> tuple[Path, ...]:
    """Unlabelled images: a folder, a `.txt` list, one image, or a data.yaml (its `calib`, else `train` split)."""
    if file.suffix.lower() not in (".yaml", ".yml"):
        return list_images(file)
    data = _read_yaml(file)
    split = "calib" if data.get("calib") else "train"
    root = file.parent / str(data.get("path") or ".")
    return tuple(image for source in _sources(file, data, split) for image in list_images(root / source))


def _box(values: list[float], *, polygon: bool) -> tuple[float, float, float, float]:
    if polygon:
        xs, ys = values[0::2], values[1 : len(values) // 2 * 2 : 2]
        return min(xs), min(ys), max(xs), max(ys)
    cx, cy, w, h = values[:4]
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _lines(path: Path) -> list[str]:
    require_file(path)
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the label file cannot be read: {error}", file=path) from error


def _read_yaml(file: Path) -> Mapping[str, Any]:
    return read_yaml(file, "data.yaml", "a mapping with path, val and names")


def _names(file: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, list) and names:
        return tuple(map(str, names))
    if isinstance(names, dict) and names and set(names) == set(range(len(names))):
        return tuple(str(names[index]) for index in range(len(names)))
    raise InputError("'names' has to be a list, or a mapping with the keys 0, 1, 2, …", file=file)


def _sources(file: Path, data: Mapping[str, Any], split: str) -> list[str]:
    value = data.get(split)
    found = value if isinstance(value, list) else [value]
    sources = [source for source in found if isinstance(source, str) and source]
    if not sources or len(sources) != len(found):
        known = ", ".join(key for key in ("train", "val", "test", "calib") if data.get(key)) or "none"
        raise InputError(f"has no split '{split}' (a folder or a list of images); it has: {known}", file=file)
    return sources
