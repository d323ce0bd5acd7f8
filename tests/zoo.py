"""Every architecture as ONNX, traced once and cached: `onnx_bytes("yolov8n")`, `model_path("yolov8n", fold=True)`.

The cache lies under the system's temporary directory, keyed by the options and by the code that makes the files, so
that tests and parallel workers share it and a change of `models/` or of the tracer empties it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch")

from onnxslim_yolo.load.trace import trace  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import ARCHITECTURES, build, randomise  # noqa: E402

NAMES = tuple(ARCHITECTURES)
_FAMILIES = ("yolo", "v5lite", "nanodet", "rtdetr", "ssd", "efficientdet", "ppyoloe")
DETECTORS = tuple(name for name in NAMES if name.startswith(_FAMILIES) and not name.endswith("-cls"))
"""Architectures that end in a detection head."""

EVERY = bool(os.environ.get("ONNXSLIM_EVERY_ARCHITECTURE"))
"""Whether tests that sweep over architectures take all of them, in place of those in which something is different."""

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """What a cached file depends on.

    Attributes:
        nc: classes. width: factor on the nano size's channels. size: image side, a multiple of 32. batch: images.
        head: "decoded" or "raw".
        dynamic: batch, height and width symbolic.
        fold: BatchNorm folded by the exporter and names lost, as most ONNX files found in the wild.
        dead: share of each BatchNorm's channels with γ = β = 0.
        seed: of the weights. exporter: "torchscript" or "dynamo".
    """

    nc: int = 4
    width: float = 0.5
    size: int = 64
    batch: int = 1
    head: str = "decoded"
    dynamic: bool = False
    fold: bool = False
    dead: float = 0.0
    seed: int = 0
    exporter: str = "torchscript"


def some(*names: str) -> tuple[str, ...]:
    """These, or all where `ONNXSLIM_EVERY_ARCHITECTURE` is set: what all show beside, others show as well."""
    return NAMES if EVERY else names


def module(name: str, **options: object) -> torch.nn.Module:
    """The randomised PyTorch module that `onnx_bytes` with the same options traces."""
    o = Options(**options)
    built = build(name, nc=o.nc, width=o.width, seed=o.seed, head=o.head)
    return randomise(built, o.seed, o.dead)


def images(batch: int = 1, size: int = 64, seed: int = 7) -> torch.Tensor:
    """(batch, 3, size, size) uniform noise in [0, 1)."""
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def onnx_bytes(name: str, **options: object) -> bytes:
    """The serialised model. `options` are the fields of `Options`."""
    return model_path(name, **options).read_bytes()


def model_path(name: str, **options: object) -> Path:
    """The cached file. Do not write to it: copy it first."""
    o = Options(**options)
    key = hashlib.sha256(f"{name} {sorted(asdict(o).items())} {_code_hash()}".encode()).hexdigest()[:24]
    path = _cache() / f"{name}-{key}.onnx"
    if not path.exists():
        data = _folded(name, o) if o.fold else _killed(name, o) if o.dead else _traced(name, o)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(data)
        partial.replace(path)
    return path


def _traced(name: str, o: Options) -> bytes:
    proto = trace(module(name, **asdict(o)), images(o.batch, o.size), dynamic=o.dynamic, exporter=o.exporter)
    return proto.SerializeToString(deterministic=True)


def _killed(name: str, o: Options) -> bytes:
    """The trace of the living network with the dead one's tensors: tracing is what costs, and it is the same."""
    proto = onnx.load_from_string(onnx_bytes(name, **asdict(replace(o, dead=0.0))))
    state = module(name, **asdict(o)).state_dict()
    for tensor in proto.graph.initializer:
        if (key := tensor.name.removesuffix(".T")) in state:
            value = state[key].numpy()
            value = value if key == tensor.name else value.T
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return proto.SerializeToString(deterministic=True)


def _folded(name: str, o: Options) -> bytes:
    """The exporter's defaults: BatchNorm folded, equal tensors merged, weights renamed."""
    net = module(name, **asdict(o))
    for part in net.modules():
        if isinstance(getattr(part, "dynamic", None), bool):
            part.dynamic = o.dynamic
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if o.dynamic else None
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (images(o.batch, o.size),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            dynamic_axes=axes,
        )
    return buffer.getvalue()


@cache
def _cache() -> Path:
    path = Path(tempfile.gettempdir()) / f"onnxslim-yolo-zoo-{os.getuid() if hasattr(os, 'getuid') else 0}"
    path.mkdir(exist_ok=True)
    return path


@cache
def _code_hash() -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for file in (
        *sorted((_ROOT / "models").glob("*.py")),
        _ROOT / "onnxslim_yolo/load/trace.py",
        *(_ROOT / "onnxslim_yolo/load").glob("trace_*.py"),
        Path(__file__),
    ):
        digest.update(file.read_bytes())
    return digest.hexdigest()
