"""Packages that a minimal installation leaves out, asked for by name before work begins.

`ncnn` runs NCNN pairs (writing them takes nothing but numpy), `faster-coco-eval` counts mAP. Both are requirements of
this package; a CI step that writes ONNX only may install without them (`requirements-onnx.txt`).
"""

from __future__ import annotations

from importlib.util import find_spec

from onnxslim_yolo.errors import UsageError

_PACKAGES = {"ncnn": "ncnn", "faster_coco_eval": "faster-coco-eval"}


def require_ncnn(way_out: str = "") -> None:
    """Raises UsageError where the package that runs NCNN pairs is missing; `way_out` is said beside installing it."""
    _require("ncnn", "running an NCNN pair", way_out)


def require_counting() -> None:
    """Raises UsageError where the package that counts mAP is missing."""
    _require("faster_coco_eval", "measuring mAP", "")


def _require(module: str, purpose: str, way_out: str) -> None:
    if find_spec(module) is None:
        name = _PACKAGES[module]
        hint = f"pip install {name}{way_out and f', or {way_out}'}"
        raise UsageError(f"{purpose} needs the package {name}, which is not installed", hint=hint)
