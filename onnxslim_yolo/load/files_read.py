"""Which files decide what comes of a model: itself and what is read with it. And their contents as one number.

Results of earlier work (a cache, a sweep, `advise`) are known by it, so that an edited file is worked on anew: weights
in a file of their own, another label, other pictures under the same names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import sha256_of

_DARKNET = (".cfg", ".weights", ".names")


def files_of_model(path: Path) -> Iterator[Path]:
    """A model's file, and those beside it that reading it reads: external data, or Darknet's others."""
    yield path
    suffix = path.suffix.lower()
    if suffix in _DARKNET:
        beside = (path.with_suffix(ending) for ending in _DARKNET)
        yield from (twin for twin in beside if twin.is_file() and twin != path)
    elif suffix == ".onnx":
        from onnxslim_yolo.load.onnx import external_files

        with contextlib.suppress(InputError):  # nothing belongs to what is no ONNX, which reading it tells
            yield from external_files(path)


def files_of_data(data: Path) -> Iterator[Path]:
    """A data.yaml, its images to validate on, and their labels. Raises InputError where it is broken."""
    from onnxslim_yolo.runtime.dataset import label_file, read_dataset

    yield data
    for image in read_dataset(data, ("val",)).images:
        yield from (file for file in (image, label_file(image)) if file.is_file())


def content_of(files: Iterable[Path]) -> str:
    """One number, in hexadecimal, for the names and contents of files, in their order.

    Raises:
        InputError: one of them cannot be read.
    """
    return hashlib.sha256(json.dumps([[file.name, _digest(file)] for file in files]).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
