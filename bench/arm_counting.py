"""Instructions of ncnn's layers and networks on an emulated core, counted by bench/arm_counter.c's plugin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from arm_setup import CORES, default_root

from onnxslim_yolo.latency.layers import LayerKey
from onnxslim_yolo.measure.networks import ncnn_network
from onnxslim_yolo.runtime.launchers import LaunchedChild

CHILD = Path(__file__).with_name("arm_count_child.py")
CLASSES = ("integer", "loads", "vector loads", "fma", "simd", "branches")
NS = {"a76": 0.2366, "a72": 0.45}
"""Nanoseconds an instruction: of a Pi 5, fitted to ncnn's published times; of a Pi 4, a guess by its clock."""


class Counter:
    """An emulated Python that counts. Use as a context manager; as a function, µs of layers by instructions."""

    def __init__(self, core: str, *, half: bool = True, bf16: bool = False, root: Path | None = None) -> None:
        root = root or default_root()
        self._folder = tempfile.TemporaryDirectory()
        counts = Path(self._folder.name) / "counts"
        counts.touch()
        plugin = f"{root}/counting/libarm_counter.so,out={counts}"
        guest = f"-E PYTHONPATH={root}/site -E PYTHONHOME={root}/arm64/usr -E LD_LIBRARY_PATH= -E OMP_NUM_THREADS=1"
        self._launcher = (
            f"env ARM_COUNTS={counts} {root}/counting/qemu-aarch64 -plugin {plugin} -cpu {CORES[core]} "
            f"-L {root}/arm64 {guest} {root}/arm64/usr/bin/python3.11 -"
        )
        self.core, self.ns, self._options = core, NS[core], {"half": half, "bf16": bf16}
        self._child: LaunchedChild | None = None

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        """µs per layer, as far as instructions tell."""
        return [None if counts is None else sum(counts) * self.ns / 1e3 for counts in map(self.layer, keys)]

    def layer(self, key: LayerKey) -> list[int] | None:
        """Instructions by class."""
        return self._ask(ncnn_network(key).as_json())

    def whole(self, param: Path, weights: Path, inputs: Sequence[Sequence[int]]) -> list[int] | None:
        """Instructions of a network by class."""
        files = {"param": str(param.resolve()), "bin": str(weights.resolve())}
        return self._ask({"files": files, "inputs": [list(shape) for shape in inputs]})

    def _ask(self, request: Mapping[str, object]) -> list[int] | None:
        if self._child is None:
            self._child = LaunchedChild(self._launcher, CHILD, text=True)
        self._child.stdin.write(json.dumps({**request, **self._options}) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:  # a layer that crashes ncnn
            self._stop()
            return None
        counts: list[int] | None = json.loads(line)["counts"]
        return counts

    def _stop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
