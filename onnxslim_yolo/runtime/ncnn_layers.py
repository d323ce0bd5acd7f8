"""Table of ncnn's layer types: how many inputs they take, and which weights they load from the `.bin`.

Source: ncnn docs/developer-guide/operators.md and the layers' load_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

MANY = 1 << 30


class Integer(Protocol):
    """Reads an integer parameter by id, with a default."""

    def __call__(self, key: int, default: int = 0) -> int:
        """The parameter."""
        ...


@dataclass(frozen=True)
class WeightSpec:
    """One array in the `.bin`: how many elements, and whether a type tag precedes them."""

    count: int
    tagged: bool = False


WeightRule: TypeAlias = Callable[[Integer], list[WeightSpec]]


@dataclass(frozen=True)
class LayerSpec:
    """Least and most inputs, and the rule for the weights (None: it has none)."""

    inputs: tuple[int, int] = (1, 1)
    weights: WeightRule | None = None


def _convolution(get: Integer) -> list[WeightSpec]:
    if get(19):  # the weight is an input
        return []
    outputs, scales = get(0), get(8)
    specs = [WeightSpec(get(6), tagged=True)]
    specs += [WeightSpec(outputs)] if get(5) else []
    if scales:
        groups = get(7, 1)
        per_weight = groups if groups > 1 and scales in (1, 101) else 1 if groups > 1 else outputs
        specs += [WeightSpec(per_weight), WeightSpec(1)]
        specs += [WeightSpec(1)] if scales > 100 else []
    return specs


def _deconvolution(get: Integer) -> list[WeightSpec]:
    if get(28):
        return []
    return [WeightSpec(get(6), tagged=True), *([WeightSpec(get(0))] if get(5) else [])]


def _inner_product(get: Integer) -> list[WeightSpec]:
    specs = [WeightSpec(get(2), tagged=True), *([WeightSpec(get(0))] if get(1) else [])]
    return specs + ([WeightSpec(get(0)), WeightSpec(1)] if get(8) else [])


def _embed(get: Integer) -> list[WeightSpec]:
    return [WeightSpec(get(3), tagged=True), *([WeightSpec(get(0))] if get(2) else [])]


def _affine(size: int, flag: int) -> WeightRule:
    def rule(get: Integer) -> list[WeightSpec]:
        return [WeightSpec(get(size))] * 2 if get(flag, 1) else []

    return rule


def _rms_norm(get: Integer) -> list[WeightSpec]:
    return [WeightSpec(get(0))] if get(2, 1) else []


def _scale(get: Integer) -> list[WeightSpec]:
    if get(0) == -233:
        return []
    return [WeightSpec(get(0)), *([WeightSpec(get(0))] if get(1) else [])]


def _memory(get: Integer) -> list[WeightSpec]:
    count = 1
    for key in (0, 1, 11, 2):
        count *= get(key) or 1
    return [WeightSpec(count, tagged=get(21, 1) == 0)] if get(0) else []


def _gemm(get: Integer) -> list[WeightSpec]:
    rows, columns, inner = get(7), get(8), get(9)
    specs = [WeightSpec(rows * inner, tagged=True)] if get(4) else []
    specs += [WeightSpec(inner * columns, tagged=True)] if get(5) else []
    size = {0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}.get(get(10), -1)
    if get(6) and get(10) != -1:
        specs.append(WeightSpec(size, tagged=True))
    return specs


def _counts(*keys: int) -> WeightRule:
    def rule(get: Integer) -> list[WeightSpec]:
        return [WeightSpec(get(key)) for key in keys if get(key)]

    return rule


def _recurrent(gates: int, biases: int) -> WeightRule:
    def rule(get: Integer) -> list[WeightSpec]:
        outputs, directions = get(0), 2 if get(2) == 2 else 1
        return [
            WeightSpec(get(1), tagged=True),
            WeightSpec(outputs * biases * directions, tagged=True),
            WeightSpec(outputs * outputs * gates * directions, tagged=True),
        ]

    return rule


_PLAIN = (
    "AbsVal", "ArgMax", "BNLL", "Cast", "CELU", "Clip", "CumulativeSum", "DeepCopy", "Diag", "Dropout", "ELU",
    "Erf", "Exp", "ExpandDims", "Flatten", "Flip", "Fold", "GELU", "GLU", "HardSigmoid", "HardSwish", "Log",
    "LRN", "Mish", "MVN", "Noop", "Packing", "Permute", "PixelShuffle", "Pooling", "Pooling1D", "Pooling3D",
    "Power", "ReLU", "Reorg", "SELU", "Shrink", "ShuffleChannel", "Sigmoid", "Slice", "Softmax", "Softplus",
    "Spectrogram", "InverseSpectrogram", "SPP", "Split", "StatisticsPooling", "Squeeze", "Swish", "TanH",
    "Threshold", "Tile", "UnaryOp", "Unfold", "Reduction",
)  # fmt: skip
_VARIADIC = (
    "BinaryOp", "Concat", "CopyTo", "Crop", "DetectionOutput", "Einsum", "Eltwise", "GridSample", "Interp",
    "MatMul", "PriorBox", "Proposal", "PSROIPooling", "Reshape", "ROIAlign", "ROIPooling", "RotaryEmbed", "SDPA",
    "YoloDetectionOutput", "Yolov3DetectionOutput",
)  # fmt: skip
_CONVOLUTIONS = ("", "1D", "3D", "DepthWise", "DepthWise1D", "DepthWise3D")

LAYERS: dict[str, LayerSpec] = {
    **{name: LayerSpec() for name in _PLAIN},
    **{name: LayerSpec((1, MANY)) for name in _VARIADIC},
    **{f"Convolution{kind}": LayerSpec((1, 3), _convolution) for kind in _CONVOLUTIONS},
    **{f"Deconvolution{kind}": LayerSpec((1, 3), _deconvolution) for kind in _CONVOLUTIONS},
    "Input": LayerSpec((0, 0)),
    "MemoryData": LayerSpec((0, 0), _memory),
    "DeformableConv2D": LayerSpec((2, 3), _convolution),
    "InnerProduct": LayerSpec((1, 1), _inner_product),
    "Embed": LayerSpec((1, 1), _embed),
    "BatchNorm": LayerSpec((1, 1), lambda get: [WeightSpec(get(0))] * 4),
    "Bias": LayerSpec((1, 1), _counts(0)),
    "Scale": LayerSpec((1, 2), _scale),
    "PReLU": LayerSpec((1, 1), _counts(0)),
    "InstanceNorm": LayerSpec((1, 1), _affine(0, 2)),
    "GroupNorm": LayerSpec((1, 1), _affine(1, 3)),
    "LayerNorm": LayerSpec((1, 1), _affine(0, 2)),
    "RMSNorm": LayerSpec((1, 1), _rms_norm),
    "Normalize": LayerSpec((1, 1), _counts(3)),
    "Padding": LayerSpec((1, 2), _counts(6)),
    "Gemm": LayerSpec((1, 3), _gemm),
    "Quantize": LayerSpec((1, 1), _counts(0)),
    "Dequantize": LayerSpec((1, 1), _counts(0, 1)),
    "Requantize": LayerSpec((1, 1), _counts(0, 1, 2)),
    "LSTM": LayerSpec((1, 3), _recurrent(4, 4)),
    "GRU": LayerSpec((1, 2), _recurrent(3, 4)),
    "RNN": LayerSpec((1, 2), _recurrent(1, 1)),
}
"""ncnn's layer types. Multi-head attention is missing on purpose: its weights' sizes depend on quantisation flags."""
