"""The stages' work by this package's commands, in the Ultralytics that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from onnxslim_yolo.compiler import build
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.training.run_ultralytics import run_finetune, run_sparsify
from onnxslim_yolo.verify.detector import Detector, open_network


class Commands:
    """See `slim_loop.Work`."""

    def __init__(self, data: Path, folder: Path, progress: Callable[[str], None]) -> None:
        """`data`: read by both; `folder`: where the one that Ultralytics reads is written."""
        self._dataset = read_dataset(data)
        self._data = rooted(data, folder)
        self._progress = progress

    def compile(self, source: Path, options: CompileOptions) -> Mapping[str, Any]:
        """As `compile`."""
        return build(source, options, self._progress).report

    def sparsify(self, source: Path, epochs: int, target: float, settings: Mapping[str, Any], *, resume: bool) -> Path:
        """As `sparsify`."""
        return run_sparsify(source, str(self._data), epochs, target, settings, resume=resume)

    def finetune(self, source: Path, epochs: int, teacher: Path, settings: Mapping[str, Any], *, resume: bool) -> Path:
        """As `finetune`."""
        return run_finetune(source, str(self._data), epochs, teacher, settings, resume=resume)

    def score(self, onnx: Path) -> Mapping[str, float]:
        """As `eval`."""
        detector = Detector(open_network(onnx), nc=len(self._dataset.names))
        return evaluate(detector, self._dataset).to_dict()


def rooted(data: Path, folder: Path) -> Path:
    """The data.yaml with an absolute `path`: Ultralytics looks for a relative one in a folder of its settings."""
    content = read_yaml(data, "data.yaml", "a mapping with path, train, val and names")
    root = (data.parent / str(content.get("path") or ".")).resolve()
    text = yaml.safe_dump({**content, "path": str(root)}, sort_keys=False, allow_unicode=True)
    return write_atomically(folder / "data.yaml", text)
