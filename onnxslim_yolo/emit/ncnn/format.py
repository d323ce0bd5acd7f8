"""ncnn's on-disk format: layers to `.param` text and `.bin` bytes.

Sources: ncnn's docs/developer-guide/param-and-model-file-structure.md and its ParamDict reader, which scans a value
into 15 characters (so a float is written as `%.8e` and never as `inf`) and a name into 255.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array

Weights: TypeAlias = Literal["fp16", "fp32"]
Param: TypeAlias = "int | float | list[int] | list[float]"

MAGIC = 7767517
TAG_FP32 = 0
TAG_FP16 = 0x01306B47
TAG_INT8 = 0x000D4B38
FLT_MAX = float(np.finfo(np.float32).max)
FP16_MAX = float(np.finfo(np.float16).max)
FP16_SMALL = 2.0**-15
MAX_NAME = 240
SHAPE_HINT = 30
"""Any layer's parameter with its outputs' shapes: dimensions, w, h, c."""
FEATURE_MASK = 31
"""Any layer's parameter with what of the options it is loaded with does not hold for it."""
NO_HALF_ARITHMETIC, NO_HALF_STORAGE = 1, 2
"""Bits of it."""


@dataclass(frozen=True)
class Weight:
    """One array of a layer's weights, in the order ncnn loads them.

    Attributes:
        values: float32, or int8 where they are codes; any shape; written flat in C order.
        tagged: whether ncnn reads a type tag first (weights of convolutions and the like), and fp16 is allowed.
    """

    values: Array
    tagged: bool = False


@dataclass
class Layer:
    """One ncnn layer. `inputs` and `outputs` are blob names; before `insert_splits` a blob may have many readers."""

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, Param] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)


def param_text(layers: Sequence[Layer]) -> str:
    """The `.param` file: magic, counts, one line a layer. The layers must be in topological order."""
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(MAGIC), f"{len(layers)} {blobs}"]
    for layer in layers:
        names = " ".join([*layer.inputs, *layer.outputs])
        head = f"{layer.type:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)} {names}"
        params = [_param(key, value) for key, value in sorted(layer.params.items())]
        lines.append(" ".join([head, *params]).rstrip())
    return "\n".join(lines) + "\n"


def bin_bytes(layers: Sequence[Layer], weights: Weights) -> bytes:
    """The `.bin` file: every layer's weights in order, each padded to 4 bytes."""
    return b"".join(_weight_bytes(layer, weight, weights) for layer in layers for weight in layer.weights)


def fits_fp16(layer: Layer, weight: Weight) -> bool:
    """Whether half precision holds a layer's weights: no value overflows, and no output's all underflow.

    Below 2⁻¹⁴ half floats are 2⁻²⁴ apart: an output whose largest weight is smaller than 2⁻¹⁵ would be rounded more
    coarsely than half precision is meant to, and what lies below 2⁻²⁵ would be nothing at all.
    """
    sizes = np.abs(weight.values)
    outputs = layer.params.get(0)
    rows = int(outputs) if isinstance(outputs, (int, np.integer)) and outputs and sizes.size % outputs == 0 else 1
    largest = sizes.reshape(rows, -1).max(axis=1, initial=0.0)
    return not np.any((largest > FP16_MAX) | ((largest > 0) & (largest < FP16_SMALL)))


def safe_name(name: str) -> str:
    """The name without what ncnn's scanner would split at, and short enough for its buffers."""
    cleaned = "".join(char if "!" <= char <= "~" else "_" for char in name) or "_"
    return cleaned[:MAX_NAME]


class Names:
    """Hands out unique names: the wanted one if free, else with a number behind it."""

    def __init__(self, reserved: Sequence[str] = ()) -> None:
        self._used: Counter[str] = Counter(reserved)

    def __call__(self, wanted: str) -> str:
        """A name nobody has got before."""
        stem = safe_name(wanted)
        name, count = stem, 0
        while name in self._used:
            count += 1
            name = f"{stem}_{count}"
        self._used[name] += 1
        return name


def _param(key: int, value: Param) -> str:
    if isinstance(value, list):
        return f"{-23300 - key}={','.join([str(len(value)), *map(_scalar, value)])}"
    return f"{key}={_scalar(value)}"


def _scalar(value: int | float) -> str:
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if math.isnan(value):
        raise UnsupportedError("a layer parameter is NaN", hint="look for a broken constant in the model")
    return f"{min(max(float(value), -FLT_MAX), FLT_MAX):.8e}"


def _weight_bytes(layer: Layer, weight: Weight, weights: Weights) -> bytes:
    if weight.values.dtype == np.int8:
        return TAG_INT8.to_bytes(4, "little") + weight.values.tobytes() + bytes(-weight.values.size % 4)
    flat = np.ascontiguousarray(weight.values, dtype="<f4").reshape(-1)
    if not weight.tagged:
        return flat.tobytes()
    if weights == "fp32" or not fits_fp16(layer, weight):
        return TAG_FP32.to_bytes(4, "little") + flat.tobytes()
    halves = flat.astype("<f2").tobytes()
    return TAG_FP16.to_bytes(4, "little") + halves + bytes(-len(halves) % 4)
