"""What running a model takes, judged before `verify`, `bench`, `eval` and `profile` open it: as `compile` does.

A runtime computes constants while it opens a file, so this comes before. A graph that cannot be compiled is judged by
the shapes that inference finds. NCNN's files are judged by `runtime.ncnn_effort`, and run in a process that is held to
so much memory and time.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxslim_yolo.analysis.limits import Asked, limits_for
from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.model import Model, Source
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.load.onnx import read_as_it_is
from onnxslim_yolo.passes.canonicalise import Canonicalise


def require_affordable(source: Path | onnx.ModelProto, file: Path, size: tuple[int, int] | None, asked: Asked) -> None:
    """Raises InputError where one run of an ONNX model takes more than is allowed, with the node that takes most.

    Args:
        source: the file, or what was traced of it. file: what it is called.
        size: (h, w) of the input where the model leaves it open.
        asked: the user's limits.
    """
    proto = source if isinstance(source, onnx.ModelProto) else read_as_it_is(source)
    model = _shaped(proto, file, size)
    if model is None:
        return  # whoever opens it says what is the matter
    limits = limits_for(model, asked.memory, asked.work)
    try:
        limits.require(model)
    except InputError as error:
        error.file = str(file)
        raise


def _shaped(proto: onnx.ModelProto, file: Path, size: tuple[int, int] | None) -> Model | None:
    """The graph with its shapes: in canonical form, or else as it is."""
    for canonical in (True, False):
        try:
            model = Model.from_onnx(proto, Source(file.name))
            if canonical:
                Canonicalise(*(size or (0, 0))).run(model)
            else:
                reinfer(model.graph)
        except (OnnxSlimError, OSError, ValueError, LookupError, TypeError, ArithmeticError):
            continue
        return model
    return None
