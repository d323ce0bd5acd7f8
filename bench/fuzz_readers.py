"""Feed broken files to every reader but ONNX's and NCNN's.

    python bench/fuzz_readers.py [darknet-cfg] [darknet-weights] [plan] [report] [budget] [config] [table] [pt]
                                 [safetensors] [data-yaml] [metadata-yaml] [model-yaml]

Text is mutated as bytes; JSON also as a tree, so that it stays JSON; checkpoints inside their pickle and around it.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from fuzzing import Options, Tally, fuzz, mutate, run

import onnxslim_yolo as oy
from onnxslim_yolo.cli.config import read_config
from onnxslim_yolo.cli.defaults import _check, options_of
from onnxslim_yolo.cli.main import compile_command
from onnxslim_yolo.heads.spec import class_names, identify_head
from onnxslim_yolo.load.darknet import load_darknet
from onnxslim_yolo.report.budget import read_budget
from onnxslim_yolo.report.diff import diff_reports, markdown_diff, markdown_summary
from onnxslim_yolo.report.html import render_html
from onnxslim_yolo.report.read import read_report
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.training.apply_plan import apply_plan, read_plan
from onnxslim_yolo.verify.detector import _ncnn_metadata, cut_by_emitter
from onnxslim_yolo.verify.input_size import declared_size
from tests.load.darknet_files import TINY_YOLOV4, TINY_YOLOV4_CONVOLUTIONS, random_weights
from tests.report.sample import sample
from tests.test_bad_input import good

ROOT = Path(__file__).resolve().parents[1]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1 << 70,
    1e308,
    float("nan"),
    "",
    "x" * 1000,
    "\x1b[1m<b>",
    [],
    {},
    [[]],
    {"0": [0]},
]
BUDGET = b'params = 2_000_000\nmacs = "0.6x"\nfile_size = "4 MB"\nmax_difference = 1e-3\nlatency_ratio = 0.8\n'
CONFIG = b'prune = 0.5\nsnap = "pow2"\nkeep = ["model.22.*"]\nimgsz = [320, 640]\nbudget = "b.toml"\nfloor = 2\n'


DATA = b"path: .\nval: images\nnames:\n  0: cat\n  1: dog\nkpt_shape: [17, 3]\n"
LABELS = b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.1 0.3 0.4\n"
METADATA = (
    b"stride: 32\ntask: detect\nimgsz: [64, 96]\nnames: {0: cat, 1: dog}\nonnxslim_yolo.head: "
    b'\'{"kind": "v8-raw", "nc": 2, "strides": [8.0], "reg_max": 16}\'\nonnxslim_yolo.ncnn: {cut: []}\n'
)
MODEL = (
    b"nc: 2\nscale: n\nscales:\n  n: [0.33, 0.25, 1024]\nactivation: nn.LeakyReLU(0.1)\nbackbone:\n"
    b"  - [-1, 1, Conv, [16, 3, 2]]\n  - [-1, 1, nn.MaxPool2d, [2, 2, 0]]\nhead:\n  - [[0, 1], 1, Concat, [1]]\n"
)


def tree(rng: random.Random, value: Any) -> Any:
    """A JSON value with one to three places changed."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(copy))
        where, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            del where[key]
        elif kind == 1 and isinstance(where, list):
            where.append(_value(rng))
        elif kind == 1:
            where[rng.choice(["new", "0", "-1", "x" * 50])] = _value(rng)
        elif kind == 2 and isinstance(where[key], (int, float)):
            where[key] = rng.choice([-where[key], where[key] * 10**9, str(where[key]), where[key] + 0.5])
        else:
            where[key] = _value(rng)
    return copy


def _value(rng: random.Random) -> Any:
    """A fresh one each time: what is put in may be changed in turn."""
    return deepcopy(rng.choice(VALUES))


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *_places(inner)]
    return found or [({"x": 1}, "x")]


def json_input(seed: Any) -> Callable[[random.Random], bytes]:
    text = json.dumps(seed).encode()
    return lambda rng: mutate(rng, text) if rng.random() < 0.3 else json.dumps(tree(rng, seed)).encode()


def written(path: Path, read: Callable[[Path], object]) -> Callable[[object], object]:
    def feed(data: object) -> object:
        path.write_bytes(data)  # type: ignore[arg-type]
        return read(path)

    return feed


def checkpoint() -> bytes:
    import torch

    stream = io.BytesIO()
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.SiLU())
    torch.save({"model": layers.state_dict(), "epoch": 3, "names": {0: "cat"}}, stream)
    return stream.getvalue()


def tensors() -> bytes:
    """A `.safetensors` file: the length of a header, the header in JSON, the numbers."""
    numbers = np.arange(12, dtype=np.float32).tobytes()
    entries = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "a.bias": {"dtype": "F16", "shape": [8], "data_offsets": [32, 48]},
    }
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + numbers


def checkpoint_input(seed: bytes) -> Callable[[random.Random], bytes]:
    with zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    opcodes = [
        bytes([code]) for code in b"(.0125abcdeghijlopqrstuBCFGIJKLMNQRSTUVX\x80\x81\x85\x86\x87\x88\x8c\x93\x94"
    ]

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return mutate(rng, seed)
        changed = dict(members)
        name = pickled if rng.random() < 0.8 else rng.choice(list(members))
        changed[name] = mutate(rng, changed[name], opcodes)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for key, data in changed.items():
                archive.writestr(key, data)
        return stream.getvalue()

    return make


def plan_seed(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A plan, and the weights that it was made for."""
    path = folder / "seed.onnx"
    path.write_bytes(good().SerializeToString())
    result = oy.compile(path, out=folder / "seed", prune=0.4, snap="none", emit="onnx", verify=False)
    rng = np.random.default_rng(0)
    return result.plan, {"a.weight": rng.random((8, 3, 3, 3)), "z.weight": rng.random((2, 8, 1, 1))}


@dataclass(frozen=True)
class Target:
    """A reader: a sound file for it, how to damage that, and what reads it (as bytes)."""

    seed: Callable[[], bytes]
    make: Callable[[random.Random], bytes]
    read: Callable[[object], object]


def targets(folder: Path) -> dict[str, Target]:
    """Every reader, by name. Inputs become files in `folder`."""
    plan, weights = plan_seed(folder)
    keys, cfg = options_of(compile_command), TINY_YOLOV4.encode()
    right = random_weights(TINY_YOLOV4_CONVOLUTIONS, np.random.default_rng(0))
    (folder / "n.weights").write_bytes(right)
    (folder / "w.cfg").write_bytes(cfg)
    tables = sorted((ROOT / "onnxslim_yolo" / "latency" / "data").glob("*.json"))
    table = json.loads(tables[0].read_text())
    table["families"] = table.get("families", [])[:3]

    def text(seed: bytes, file: str, read: Callable[[Path], object]) -> Target:
        return Target(lambda: seed, lambda rng: mutate(rng, seed), written(folder / file, read))

    def tree_of(seed: Any, file: str, read: Callable[[Path], object]) -> Target:
        return Target(lambda: json.dumps(seed).encode(), json_input(seed), written(folder / file, read))

    def cut(rng: random.Random) -> bytes:
        return mutate(rng, right[: rng.choice([8, 20, 200, len(right), len(right)])])

    def dataset(rng: random.Random) -> tuple[bytes, bytes]:
        return (mutate(rng, DATA), LABELS) if rng.random() < 0.7 else (DATA, mutate(rng, LABELS))

    kept = cache(checkpoint)
    pt = Target(kept, lambda rng: checkpoint_input(kept())(rng), written(folder / "m.pt", _read_checkpoint))
    unweighted = written(folder / "w.weights", lambda path: load_darknet(folder / "w.cfg", path))
    return {
        "darknet-cfg": text(cfg, "n.cfg", load_darknet),
        "darknet-weights": Target(lambda: right, cut, unweighted),
        "plan": tree_of(plan, "p.json", lambda path: apply_plan(read_plan(path), weights)),
        "report": tree_of(sample(), "r.json", _show_report),
        "budget": text(BUDGET, "b.toml", read_budget),
        "config": text(CONFIG, "c.toml", lambda path: read_config(path, keys, _check)),
        "table": tree_of(table, "t.json", _read_table),
        "pt": pt,
        "safetensors": text(tensors(), "m.safetensors", _read_checkpoint),
        "data-yaml": Target(lambda: DATA, dataset, _dataset_reader(folder)),
        "metadata-yaml": text(METADATA, "metadata.yaml", _read_metadata),
        "model-yaml": text(MODEL, "m.yaml", _model_reader()),
    }


def _show_report(path: Path) -> None:
    content = read_report(path)
    markdown_summary(content), render_html(content)
    markdown_diff(diff_reports(sample(), content))


def _dataset_reader(folder: Path) -> Callable[[object], object]:
    """Reads a data.yaml and its labels, or, from bytes alone, a data.yaml beside sound labels."""
    place = folder / "data"
    (place / "images").mkdir(parents=True)
    (place / "labels").mkdir()
    (place / "images/x.jpg").touch()

    def read(data: object) -> None:
        lines, labels = data if isinstance(data, tuple) else (data, LABELS)
        (place / "data.yaml").write_bytes(lines)  # type: ignore[arg-type]
        (place / "labels/x.txt").write_bytes(labels)
        found = read_dataset(place / "data.yaml")
        for image in found.images:
            found.labels(image)

    return read


def _read_metadata(path: Path) -> None:
    metadata = _ncnn_metadata(path.parent)
    class_names(metadata), declared_size(metadata), cut_by_emitter(metadata)
    identify_head([(1, 66, 8, 12)], (64, 96), metadata)


def _model_reader() -> Callable[[Path], object]:
    """Builds a module from a yaml, for a state_dict of one convolution."""

    @cache
    def state() -> dict[str, Any]:
        import torch

        norm = {name: torch.ones(8) for name in ("weight", "bias", "running_mean", "running_var")}
        found = {f"model.0.bn.{name}": value for name, value in norm.items()}
        return {"model.0.conv.weight": torch.ones(8, 3, 3, 3), **found}

    def read(path: Path) -> object:
        from onnxslim_yolo.load.model_yaml import build_from_yaml

        return build_from_yaml(path, state())

    return read


def _read_checkpoint(path: Path) -> object:
    from onnxslim_yolo.load.checkpoint import read_checkpoint

    return read_checkpoint(path)


def _read_table(path: Path) -> object:
    from onnxslim_yolo.latency.table_format import read_table

    return read_table(path)


def main() -> int:
    place = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def reader(name: str, target: Target) -> Callable[[Options], Tally]:
        return lambda options: fuzz(name, target.make, target.read, options)

    with place:
        return run({name: reader(name, target) for name, target in targets(Path(place.name)).items()}, __doc__)


if __name__ == "__main__":
    sys.exit(main())
