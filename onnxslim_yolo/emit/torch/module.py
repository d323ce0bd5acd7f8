"""A graph as a trainable PyTorch module, written so that it can be read again without running anything in it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 (the file is only imported by those who want torch)

from onnxslim_yolo.emit.torch.describe import describe
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.graph_module import GraphModule, buffer_name
from onnxslim_yolo.load.graph_ops import OPS
from onnxslim_yolo.load.saved_module import FORMAT, VERSION


def to_torch(model: Model) -> GraphModule:
    """A graph as a trainable module, in eval mode. The model is left alone.

    Raises:
        UnsupportedError: an operator has no row in `torch_ops.OPS`, or is used in a way that PyTorch lacks.
    """
    description, weights = describe(model)
    unknown = sorted({node["op"] for node in description["nodes"]} - set(OPS))
    if unknown:
        raise UnsupportedError(
            f"no PyTorch equivalent is known for {', '.join(unknown)}",
            file=model.source.file,
            hint="leave torch out of --emit, or apply the plan to your own module with apply-plan",
        )
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    return GraphModule(description, tensors).eval()


def save_module(module: GraphModule, path: str | Path) -> Path:
    """Write a module: description, state_dict and constants as plain containers, completely or not at all."""
    path = Path(path)
    constants = {key: module.get_buffer(buffer_name(key)) for key in module.description["constants"]}
    stream = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "version": VERSION,
            "graph": json.dumps(module.description),
            "state_dict": dict(module.state_dict()),
            "constants": constants,
        },
        stream,
    )
    return write_atomically(path, stream.getvalue())
