"""One ncnn child process for a whole test module."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from tests.emit.ncnn_cases import MAP, one
from tests.numeric import build


def fresh_session(**options: bool) -> NcnnSession:
    """A session, exact unless told otherwise, with a trivial network loaded."""
    with TemporaryDirectory() as folder:
        pair = write_pair(emit_ncnn(build(one("y = Relu(x)", MAP))), Path(folder))
        return NcnnSession(*pair, timeout=30, **{"exact": True, **options})
