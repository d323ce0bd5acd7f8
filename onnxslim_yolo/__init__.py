"""onnxslim-yolo: a graph-level pruning and fusion compiler for YOLO detectors.

>>> import onnxslim_yolo as oy
>>> [p.name for p in oy.parse_pipeline("prune{ratio=0.7},snap{to=pow2},slice")]
['prune', 'snap', 'slice']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxslim_yolo._version import __version__

if TYPE_CHECKING:
    from onnxslim_yolo.compiler import compile
    from onnxslim_yolo.emit.torch import load_module
    from onnxslim_yolo.errors import OnnxSlimError
    from onnxslim_yolo.graph import Model
    from onnxslim_yolo.load import load
    from onnxslim_yolo.manager import Pass, PassManager, parse_pipeline
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
    "Model": "graph",
    "OnnxSlimError": "errors",
    "Pass": "manager",
    "PassManager": "manager",
    "Result": "result",
    "compile": "compiler",
    "load": "load",
    "load_module": "emit.torch",
    "parse_pipeline": "manager",
}


def __getattr__(name: str) -> Any:
    # onnx and onnxruntime take most of a second to import: not before something of ours is used.
    if name not in _HOME:
        raise AttributeError(f"module 'onnxslim_yolo' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"onnxslim_yolo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
