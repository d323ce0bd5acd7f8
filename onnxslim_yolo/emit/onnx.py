"""A model as an ONNX file."""

from __future__ import annotations

from pathlib import Path

from onnxslim_yolo.ir.graph import sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.quantisation.qdq import as_int8
from onnxslim_yolo.runtime.onnx_pads import fit_for_onnxruntime


def write_onnx(model: Model, path: Path) -> Path:
    """Write a model as runtimes in use read it right: int8 as pairs of nodes, no Pad that onnxruntime fuses wrongly.

    Raises:
        InputError: as `Model.save`.
    """
    written = as_int8(model)
    fit = fit_for_onnxruntime(written)
    if fit is not written:
        sweep(fit.graph)
    return fit.save(path)
