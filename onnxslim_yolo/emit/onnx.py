"""Write a model as ONNX: completely or not at all."""

from __future__ import annotations

from pathlib import Path

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files import write_atomically
from onnxslim_yolo.graph import Model

PROTOBUF_LIMIT = 2**31 - 1


def write_onnx(model: Model, path: Path) -> Path:
    """Write the model to `path`.

    Raises:
        InputError: the file cannot be written, or the model exceeds protobuf's 2 GiB.
    """
    proto = model.to_onnx()
    try:
        data = proto.SerializeToString(deterministic=True)
    except Exception as error:
        raise InputError(f"the model does not fit into one ONNX file: {error}", file=path) from error
    return write_atomically(path, data)
