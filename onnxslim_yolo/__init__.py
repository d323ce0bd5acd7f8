"""onnxslim-yolo: a graph-level pruning and fusion compiler for YOLO detectors."""

from onnxslim_yolo._version import __version__

__all__ = ["__version__"]
