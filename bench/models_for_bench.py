"""The networks that benchmarks run on: this package's own definitions with random, calibrated weights."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def model_of(name: str, size: int, head: str = "raw") -> Model:
    """A published nano size, traced at this image side. Latency does not depend on the weights, importance does."""
    return load(onnx_of(name, size, head))


def onnx_of(name: str, size: int, head: str = "raw") -> Path:
    """The same as a file, cached."""
    from onnxslim_yolo.load.trace import trace
    from onnxslim_yolo.models.zoo.architectures import build, randomise

    path = Path(tempfile.gettempdir()) / "onnxslim-yolo-bench" / f"{name}-{size}-{head}.onnx"
    if not path.is_file():
        import torch

        path.parent.mkdir(parents=True, exist_ok=True)
        module = randomise(build(name, head=head))
        path.write_bytes(trace(module, torch.rand(1, 3, size, size)).SerializeToString())
    return path
