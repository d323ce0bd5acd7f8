"""Write a converted network as the folder that Ultralytics' `YOLO("NAME_ncnn_model")` opens."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.spec import RANKED_KEY
from onnxslim_yolo.ir.input_format import image_axes

PARAM, BIN, METADATA = "model.ncnn.param", "model.ncnn.bin", "metadata.yaml"
SECTION = "onnxslim_yolo"


def write_ncnn(ncnn: NcnnModel, folder: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write `model.ncnn.param`, `model.ncnn.bin` and `metadata.yaml`: all three, or none.

    Args:
        ncnn: the network.
        folder: by custom named `NAME_ncnn_model`; other files in it are left alone.
        metadata: the ONNX file's `metadata_props` (Ultralytics keeps stride, task, imgsz and names there).

    Raises:
        InputError: the folder cannot be written. What was there before is untouched.
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        write_pair(ncnn, temporary)
        _write(temporary / METADATA, metadata_yaml(ncnn, metadata or {}).encode())
        _install(temporary, folder)
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror or error}", file=folder, hint="choose another folder with -o"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_pair(ncnn: NcnnModel, folder: Path) -> tuple[Path, Path]:
    """Write the `.param` and the `.bin` into an existing folder. Returns their paths."""
    param, weights = folder / PARAM, folder / BIN
    _write(param, ncnn.param.encode())
    _write(weights, ncnn.bin)
    return param, weights


def metadata_yaml(ncnn: NcnnModel, metadata: Mapping[str, str]) -> str:
    """The text of `metadata.yaml`: the model's own metadata as values, and which ONNX tensor each blob was."""
    values: dict[str, object] = {key: _value(text) for key, text in metadata.items() if key != SECTION}
    if ncnn.cut:  # what ranked the rows may be gone
        values.pop(RANKED_KEY, None)
    image = next((port.shape for port in ncnn.inputs.values() if len(port.shape) == 4), None)
    if image is not None:
        values["imgsz"] = [image[axis] for axis in image_axes(image)[1]]
    values["batch"] = 1
    values.setdefault("task", "detect")
    values[SECTION] = {
        "weights": ncnn.weights,
        "inputs": {blob: {"onnx": port.onnx, "shape": list(port.shape)} for blob, port in ncnn.inputs.items()},
        "outputs": {blob: {"onnx": port.onnx, "shape": list(port.shape)} for blob, port in ncnn.outputs.items()},
        "cut": list(ncnn.cut),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=4096)


def _value(text: str) -> object:
    """A metadata string as what it spells: Ultralytics stores `str()` of Python values. Text where YAML has no such."""
    try:
        value: object = ast.literal_eval(text)
        if not (isinstance(value, (dict, list, int, float, bool, str)) or value is None):
            return text
        yaml.safe_load(yaml.safe_dump(value))  # a tuple as a key can be written, and not read
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, OverflowError, yaml.YAMLError):
        return text
    return value


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _install(temporary: Path, folder: Path) -> None:
    """Put complete files in place: a new folder by one rename, into an existing one file by file, or back again."""
    temporary.chmod(0o755)
    if not folder.exists():
        temporary.rename(folder)
        return
    kept = temporary / "before"
    kept.mkdir()
    names = (PARAM, BIN, METADATA)
    done: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                (folder / name).replace(kept / name)
            done.append(name)
            (temporary / name).replace(folder / name)
    except OSError:
        for name in done:
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
            if (kept / name).exists():
                (kept / name).replace(folder / name)
        raise
