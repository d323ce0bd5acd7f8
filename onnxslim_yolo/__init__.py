"""onnxslim-yolo: a graph-level pruning and fusion compiler for YOLO detectors.

>>> import onnxslim_yolo as oy
>>> [p.name for p in oy.parse_pipeline("prune{ratio=0.7},snap{to=pow2},slice")]
['prune', 'snap', 'slice']
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (pathlib is not imported yet)
if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [_ROOT]:  # noqa: PTH109
    # `python -m onnxslim_yolo`: Python puts the working directory in front. A stranger's files may lie there, so it
    # goes before anything else is imported.
    del sys.path[0]

# No network, and nothing left in the home: set before onnxruntime is imported anywhere, since it reads this once.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from typing import TYPE_CHECKING, Any  # noqa: E402

from onnxslim_yolo._version import __version__  # noqa: E402

if TYPE_CHECKING:
    from onnxslim_yolo.compiler import compile
    from onnxslim_yolo.emit.torch import load_module
    from onnxslim_yolo.errors import OnnxSlimError
    from onnxslim_yolo.ir.model import Model
    from onnxslim_yolo.load import load
    from onnxslim_yolo.manager import PassManager
    from onnxslim_yolo.passes.protocol import Pass
    from onnxslim_yolo.pipeline import parse_pipeline
    from onnxslim_yolo.result import Result

__all__ = [
    "Model",
    "OnnxSlimError",
    "Pass",
    "PassManager",
    "Result",
    "__version__",
    "compile",
    "load",
    "load_module",
    "parse_pipeline",
]

_HOME = {
    "Model": "ir.model",
    "OnnxSlimError": "errors",
    "Pass": "passes.protocol",
    "PassManager": "manager",
    "Result": "result",
    "compile": "compiler",
    "load": "load",
    "load_module": "emit.torch",
    "parse_pipeline": "pipeline",
}


def __getattr__(name: str) -> Any:
    # onnx and onnxruntime take most of a second to import: not before something of ours is used.
    if name not in _HOME:
        raise AttributeError(f"module 'onnxslim_yolo' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"onnxslim_yolo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
