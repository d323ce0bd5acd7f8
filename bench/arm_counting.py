"""Instructions of ncnn's layers and networks on an emulated core, counted by bench/arm_counter.c's plugin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from arm_setup import CORES, default_root

from onnxslim_yolo.latency.layers import LayerKey
from onnxslim_yolo.measure.networks import ncnn_network
from onnxslim_yolo.runtime.launchers import LaunchedChild

CHILD = Path(__file__).with_name("arm_count_child.py")
CLASSES = ("integer", "loads", "vector loads", "fma", "simd", "branches")
NS = {"a76": 0.2366, "a72": 0.45}
"""Nanoseconds an instruction: of a Pi 5, fitted to ncnn's published times; of a Pi 4, a guess by its clock."""

CACHES = {"a76": {1: 64, 2: 512, 3: 512}, "a72": {1: 32, 2: 256}}
"""KiB of a core's share of a Pi 5's and a Pi 4's caches by level: ncnn cuts its matrices into tiles by it."""


def board_root(root: Path, core: str, board: Path) -> Path:
    """The emulated Python's root, made at `board`, with this board's caches in /sys in place of this machine's."""
    for level, size in CACHES[core].items():
        index = board / f"sys/devices/system/cpu/cpu0/cache/index{level - 1}"
        index.mkdir(parents=True)
        facts = {"level": level, "type": "Data" if level == 1 else "Unified", "size": f"{size}K", "shared_cpu_map": 1}
        for name, value in facts.items():
            (index / name).write_text(f"{value}\n")
    for entry in (root / "arm64").iterdir():
        (board / entry.name).symlink_to(entry.resolve())
    return board


class Counter:
    """An emulated Python that counts. Use as a context manager; as a function, µs of layers by instructions.

    `site`: a folder in `root` whose packages go before those of `root`/site: another release of ncnn.
    """

    def __init__(
        self, core: str, *, half: bool = True, bf16: bool = False, site: str = "", root: Path | None = None
    ) -> None:
        root = (root or default_root()).resolve()
        self._folder = tempfile.TemporaryDirectory()
        counts = Path(self._folder.name) / "counts"
        counts.touch()
        plugin = f"{root}/counting/libarm_counter.so,out={counts}"
        path = f"{root}/{site}:{root}/site" if site else f"{root}/site"
        guest = f"-E PYTHONPATH={path} -E PYTHONHOME={root}/arm64/usr -E LD_LIBRARY_PATH= -E OMP_NUM_THREADS=1"
        self._launcher = (
            f"env ARM_COUNTS={counts} {root}/counting/qemu-aarch64 -plugin {plugin} -cpu {CORES[core]} "
            f"-L {board_root(root, core, Path(self._folder.name) / 'board')} {guest} {root}/arm64/usr/bin/python3.11 -"
        )
        self.core, self.ns, self.bf16, self._options = core, NS[core], bf16, {"half": half, "bf16": bf16}
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
        network = ncnn_network(key)
        return self._ask({**network.as_json(), "times": 1})

    def whole(self, param: Path, weights: Path, inputs: Sequence[Sequence[int]]) -> list[int] | None:
        """Instructions of a network by class."""
        files = {"param": str(param.resolve()), "bin": str(weights.resolve())}
        return self._ask({"files": files, "inputs": [list(shape) for shape in inputs], "times": 1})

    def empty(self, param: Path, inputs: Sequence[Sequence[int]]) -> list[int] | None:
        """The same of a network without a file of weights: they are 0."""
        return self._ask(
            {"files": {"param": str(param.resolve()), "bin": ""}, "inputs": [list(s) for s in inputs], "times": 1}
        )

    def by_blob(self, param: Path, inputs: Sequence[Sequence[int]], blobs: Sequence[str]) -> list[list[int]] | None:
        """Of what computes each of these blobs, in the network's order, weights 0."""
        files = {"param": str(param.resolve()), "bin": ""}
        request = {"files": files, "inputs": [list(s) for s in inputs], "blobs": list(blobs)}
        found: list[list[int]] | None = self._ask(request)
        if found is not None and len(found) == len(blobs):
            return found
        # No detections cannot be handed out as they lie: what makes them is what is left of the whole.
        found, all_of = self._ask({**request, "blobs": list(blobs[:-1])}), self.empty(param, inputs)
        if not found or not all_of or len(found) < len(blobs) - 1:
            return None
        made = [sum(column) for column in zip(*found, strict=True)]
        return [*found, [max(0, a - b) for a, b in zip(all_of, made, strict=True)]]

    def _ask(self, request: Mapping[str, object]) -> Any:
        if self._child is None:
            self._child = LaunchedChild(self._launcher, CHILD, text=True)
        self._child.stdin.write(json.dumps({**request, **self._options}) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:  # a layer that crashes ncnn
            self._stop()
            return None
        return json.loads(line)["counts"]

    def _stop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
