"""What each ONNX operator is in PyTorch: one row of `OPS` each.

A function takes the node's inputs and attributes, defaults among them, and returns its output, or a tuple of outputs.
Inputs are tensors, None (omitted), or numpy arrays: integers, and floats in the places named in
`emit.torch.describe.STATIC_FLOATS`. These stay Python numbers, so that a trace of the module has them as constants
again. Functions are written so that `torch.onnx.export` gives back the operator they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch  # noqa: TID253 (this file is only imported by what needs torch)
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.attributes import attributes, window_numbers
from onnxslim_yolo.load.graph_ops_norm import NORMS
from onnxslim_yolo.load.graph_ops_shape import (
    Attributes,
    Operator,
    concat,
    expand,
    gather,
    numbers,
    pad,
    reshape,
    resize,
    sample,
    slice_axes,
    split,
    squeeze,
    tensor,
    unsqueeze,
    upsample,
)
from onnxslim_yolo.ops.functions import FUNCTIONS, Function
from onnxslim_yolo.ops.spatial import same_pads

_DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}


def same_padding(attrs: Attributes, rank: int) -> tuple[list[int], bool]:
    """Padding per axis before it begins, and whether it is the same behind."""
    if attrs["auto_pad"] not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad {attrs['auto_pad']} has no fixed padding")
    pads = window_numbers(attrs, "pads", rank)
    return pads[:rank], pads[:rank] == pads[rank:]


def _padded(x: Tensor, kernel: Sequence[int], attrs: Attributes, value: float) -> tuple[Tensor, list[int]]:
    """The input with uneven padding applied, and the padding that is left to the operator."""
    rank = x.dim() - 2
    sides = _sides(x, kernel, attrs)
    taken = (value == 0.0 or 2 * begin <= size for (begin, _), size in zip(sides, kernel, strict=True))
    if all(begin == end for begin, end in sides) and all(taken):  # pools take at most half a window
        return x, [begin for begin, _ in sides]
    return functional.pad(x, [side for pair in reversed(sides) for side in pair], value=value), [0] * rank


def _sides(x: Tensor, kernel: Sequence[int], attrs: Attributes) -> list[tuple[int, int]]:
    """Padding in front and behind, per axis: as written, or what it takes for ⌈size / stride⌉ outputs (SAME)."""
    rank, auto = len(kernel), attrs["auto_pad"]
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        begin, _ = same_padding(attrs, rank)
        return list(zip(begin, window_numbers(attrs, "pads", rank)[rank:], strict=True))
    strides, dilations = (window_numbers(attrs, key, rank) for key in ("strides", "dilations"))
    axes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
    return [same_pads(auto, int(size), (taps - 1) * dilation + 1, stride) for size, taps, stride, dilation in axes]


def _conv(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    rank = x.dim() - 2
    run = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[rank]
    x, padding = _padded(x, weight.shape[2:], attrs, 0.0)
    strides, dilations = (window_numbers(attrs, key, rank) for key in ("strides", "dilations"))
    y: Tensor = run(x, weight, bias, strides, padding, dilations, attrs["group"])
    return y


def _conv_transpose(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    begin, even = same_padding(attrs, 2)
    if not even or attrs.get("output_shape"):
        raise UnsupportedError("a transposed convolution with uneven padding")
    extra = window_numbers(attrs, "output_padding", 2)
    strides, dilations = (window_numbers(attrs, key, 2) for key in ("strides", "dilations"))
    return torch.conv_transpose2d(inputs[0], inputs[1], bias, strides, begin, extra, attrs["group"], dilations)


def _gemm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    a, b = inputs[0], inputs[1]
    c = inputs[2] if len(inputs) > 2 else None
    if attrs["transA"] or attrs["alpha"] != 1.0 or attrs["beta"] != 1.0:
        raise UnsupportedError("a Gemm with factors or a transposed input")
    return functional.linear(a, b if attrs["transB"] else b.t(), c)


def _max_pool(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    kernel = attrs["kernel_shape"]
    x, padding = _padded(inputs[0], kernel, attrs, float("-inf"))
    strides, dilations = (window_numbers(attrs, key, len(kernel)) for key in ("strides", "dilations"))
    return functional.max_pool2d(x, kernel, strides, padding, dilations, bool(attrs["ceil_mode"]))


def _average_pool(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    kernel = attrs["kernel_shape"]
    begin, even = same_padding(attrs, len(kernel))
    if not even:
        raise UnsupportedError("an average pool with uneven padding")
    strides = window_numbers(attrs, "strides", len(kernel))
    include = bool(attrs["count_include_pad"])
    return functional.avg_pool2d(inputs[0], kernel, strides, begin, bool(attrs["ceil_mode"]), include)


def _clip(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    given = [*inputs[1:3], None, None]
    low, high = (None if each is None else float(np.asarray(each).reshape(-1)[0]) for each in given[:2])
    return functional.relu6(inputs[0]) if (low, high) == (0.0, 6.0) else torch.clamp(inputs[0], low, high)


def _hard_sigmoid(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    alpha, beta = attrs["alpha"], attrs["beta"]
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(inputs[0])
    return torch.clamp(inputs[0] * alpha + beta, 0.0, 1.0)


def _top_k(inputs: Sequence[Any], attrs: Attributes) -> tuple[Tensor, ...]:
    axis, largest, ordered = attrs["axis"], attrs["largest"], attrs["sorted"]
    return tuple(torch.topk(inputs[0], numbers(inputs[1])[0], axis, bool(largest), bool(ordered)))


def _prelu(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    return functional.prelu(inputs[0], inputs[1].reshape(-1))


def _row(row: Function) -> Operator:
    """A function as torch has it, with the attributes that it takes."""
    run = getattr(torch, str(row.torch), None) or getattr(functional, str(row.torch))

    def operator(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
        y: Tensor = run(tensor(inputs[0]), **{keyword: attrs[name] for name, keyword in row.arguments.items()})
        return y

    return operator


def _selu(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = tensor(inputs[0])
    if dict(attrs) == attributes("Selu", {}):
        return functional.selu(x)
    y: Tensor = functional.elu(x, attrs["alpha"]) * attrs["gamma"]
    return y


def _swish(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, alpha = tensor(inputs[0]), attrs["alpha"]
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _thresholded(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    y: Tensor = functional.threshold(tensor(inputs[0]), attrs["alpha"], 0.0)
    return y


def _shrink(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, bias, limit = tensor(inputs[0]), attrs["bias"], attrs["lambd"]
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def _unary(run: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, attrs: run(tensor(inputs[0]))


def _binary(run: Callable[[Any, Any], Any]) -> Operator:
    """Static scalars stay Python numbers, other static inputs become tensors."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value
        return np.asarray(value).item() if np.asarray(value).ndim == 0 else tensor(value)

    return lambda inputs, attrs: run(plain(inputs[0]), plain(inputs[1]))


OPS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    **NORMS,
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
    "GridSample": sample,
    "Reshape": reshape,
    "Flatten": lambda inputs, attrs: torch.flatten(inputs[0], attrs["axis"]),
    "Transpose": lambda inputs, attrs: inputs[0].permute(*attrs["perm"]),
    "Concat": concat,
    "Split": split,
    "Slice": slice_axes,
    "Gather": gather,
    "GatherElements": lambda inputs, attrs: torch.gather(inputs[0], attrs["axis"], tensor(inputs[1])),
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Identity": _unary(lambda x: x),
    "CastLike": lambda inputs, attrs: tensor(inputs[0]).to(tensor(inputs[1]).dtype),
    "Cast": lambda inputs, attrs: tensor(inputs[0]).to(_DTYPES[attrs["to"]]),
    **{op: _row(row) for op, row in FUNCTIONS.items() if row.torch is not None},
    "Selu": _selu,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
    "Shrink": _shrink,
    "Clip": _clip,
    "PRelu": _prelu,
    "HardSigmoid": _hard_sigmoid,
    "Not": _unary(torch.logical_not),
    "Add": _binary(lambda a, b: a + b),
    "Sum": lambda inputs, attrs: sum(map(tensor, inputs[1:]), tensor(inputs[0])),
    "Mean": lambda inputs, attrs: sum(map(tensor, inputs[1:]), tensor(inputs[0])) / len(inputs),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(lambda a, b: a / b if tensor(a).is_floating_point() else torch.div(a, b, rounding_mode="trunc")),
    "Pow": _binary(lambda a, b: a**b),
    "Mod": lambda inputs, attrs: _binary(torch.fmod if attrs["fmod"] else lambda a, b: a % b)(inputs, attrs),
    "Min": lambda inputs, attrs: reduce(torch.minimum, map(tensor, inputs)),
    "Max": lambda inputs, attrs: reduce(torch.maximum, map(tensor, inputs)),
    "Equal": _binary(lambda a, b: a == b),
    "Less": _binary(lambda a, b: a < b),
    "LessOrEqual": _binary(lambda a, b: a <= b),
    "GreaterOrEqual": _binary(lambda a, b: a >= b),
    "Greater": _binary(lambda a, b: a > b),
    "And": _binary(lambda a, b: torch.logical_and(tensor(a), tensor(b))),
    "Or": _binary(lambda a, b: torch.logical_or(tensor(a), tensor(b))),
    "Xor": _binary(lambda a, b: torch.logical_xor(tensor(a), tensor(b))),
    "Where": lambda inputs, attrs: torch.where(*(tensor(value) for value in inputs)),
    "TopK": _top_k,
}
"""Operator → function."""
