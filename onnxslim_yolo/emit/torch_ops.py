"""What each ONNX operator is in PyTorch: one row of `OPS` each.

A function takes the node's inputs and attributes and returns its output, or a tuple of outputs. Inputs are tensors,
None (omitted), or numpy arrays: integers, and floats in the places
named in `torch_describe.STATIC_FLOATS`. These stay Python numbers, so that a trace of the module has them as constants
again. Functions are written so that `torch.onnx.export` gives back the operator they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch  # noqa: TID253 (this file is only imported by what needs torch)
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from onnxslim_yolo.emit.torch_describe import TRACED_ROWS
from onnxslim_yolo.errors import UnsupportedError

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[[Sequence[Any], Attributes], Any]

_DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def tensor(value: Any) -> Tensor:
    """A tensor as it is, a numpy constant as a tensor."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))


def numbers(value: Any) -> list[int]:
    """A static input as integers."""
    if isinstance(value, Tensor):
        raise UnsupportedError("a shape, an axis or a bound is computed while the model runs")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def same_padding(attrs: Attributes, rank: int) -> tuple[list[int], bool]:
    """Padding per axis before it begins, and whether it is the same behind."""
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad {attrs['auto_pad']} has no fixed padding")
    pads = list(attrs.get("pads") or [0] * (2 * rank))
    return pads[:rank], pads[:rank] == pads[rank:]


def _padded(x: Tensor, attrs: Attributes, value: float) -> tuple[Tensor, list[int]]:
    """The input with uneven padding applied, and the padding that is left to the operator."""
    rank = x.dim() - 2
    begin, even = same_padding(attrs, rank)
    if even:
        return x, begin
    pads = list(attrs["pads"])
    flat = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[rank + axis])]
    return functional.pad(x, flat, value=value), [0] * rank


def _conv(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    rank = x.dim() - 2
    run = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[rank]
    x, padding = _padded(x, attrs, 0.0)
    strides, dilations = attrs.get("strides") or [1] * rank, attrs.get("dilations") or [1] * rank
    y: Tensor = run(x, weight, bias, strides, padding, dilations, attrs.get("group", 1))
    return y


def _conv_transpose(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    bias = inputs[2] if len(inputs) > 2 else None
    begin, even = same_padding(attrs, 2)
    if not even or attrs.get("output_shape"):
        raise UnsupportedError("a transposed convolution with uneven padding")
    extra = attrs.get("output_padding") or [0, 0]
    strides, dilations = attrs.get("strides") or [1, 1], attrs.get("dilations") or [1, 1]
    return torch.conv_transpose2d(inputs[0], inputs[1], bias, strides, begin, extra, attrs.get("group", 1), dilations)


def _gemm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    a, b = inputs[0], inputs[1]
    c = inputs[2] if len(inputs) > 2 else None
    if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0:
        raise UnsupportedError("a Gemm with factors or a transposed input")
    return functional.linear(a, b if attrs.get("transB", 0) else b.t(), c)


def _max_pool(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, padding = _padded(inputs[0], attrs, float("-inf"))
    kernel = attrs["kernel_shape"]
    dilations = attrs.get("dilations") or [1] * len(kernel)
    strides = attrs.get("strides") or [1] * len(kernel)
    return functional.max_pool2d(x, kernel, strides, padding, dilations, bool(attrs.get("ceil_mode", 0)))


def _average_pool(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    kernel = attrs["kernel_shape"]
    begin, even = same_padding(attrs, len(kernel))
    if not even:
        raise UnsupportedError("an average pool with uneven padding")
    strides = attrs.get("strides") or [1] * len(kernel)
    include = bool(attrs.get("count_include_pad", 0))
    return functional.avg_pool2d(inputs[0], kernel, strides, begin, bool(attrs.get("ceil_mode", 0)), include)


def _pad(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = inputs[0]
    pads = numbers(inputs[1] if len(inputs) > 1 else attrs["pads"])
    axes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(pads) // 2))
    sides = {axis % x.dim(): (pads[k], pads[len(axes) + k]) for k, axis in enumerate(axes)}
    first = min((axis for axis, side in sides.items() if any(side)), default=x.dim() - 1)
    flat = [side for axis in reversed(range(first, x.dim())) for side in sides.get(axis, (0, 0))]
    value = float(np.asarray(inputs[2]).reshape(-1)[0]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return functional.pad(x, flat, mode=_PAD_MODES[attrs.get("mode", "constant")], value=value)


def _resize(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = inputs[0]
    modes = {"nearest": "nearest", "linear": "bilinear"}
    mode, where = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
    known = {"nearest": ("asymmetric",), "linear": ("half_pixel", "pytorch_half_pixel", "align_corners")}
    if where not in known.get(mode, ()) or (mode == "nearest" and attrs.get("nearest_mode") != "floor"):
        raise UnsupportedError(f"a Resize with mode {mode} and coordinates {where}")
    corners = None if mode == "nearest" else where == "align_corners"
    if len(inputs) > 3 and inputs[3] is not None:
        return functional.interpolate(x, size=numbers(inputs[3])[2:], mode=modes[mode], align_corners=corners)
    scales = [float(v) for v in np.asarray(inputs[2]).reshape(-1)[2:]]
    return functional.interpolate(x, scale_factor=scales, mode=modes[mode], align_corners=corners)


def _reshape(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, target = inputs[0], numbers(inputs[1])
    if not attrs.get("allowzero", 0):
        target = [int(x.shape[axis]) if size == 0 else size for axis, size in enumerate(target)]
    if target and target[0] > 0 and attrs.get(TRACED_ROWS):
        target[0] = target[0] * int(x.shape[0]) // attrs[TRACED_ROWS]
    return torch.reshape(x, target)


def _concat(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Constants beside feature maps were made for one image: they are repeated for every image of a batch."""
    parts = [tensor(value) for value in inputs]
    axis, batch = attrs["axis"], max(int(part.shape[0]) for part in parts)
    if axis % parts[0].dim() != 0:
        parts = [part if part.shape[0] == batch else part.expand(batch, *part.shape[1:]) for part in parts]
    return torch.cat(parts, axis)


def _split(inputs: Sequence[Any], attrs: Attributes) -> tuple[Tensor, ...]:
    x, axis = inputs[0], attrs.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attrs.get("split")
    if sizes is None:
        raise UnsupportedError("a Split without sizes")
    return tuple(torch.split(x, numbers(sizes), axis))


def _slice(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends = numbers(inputs[1]), numbers(inputs[2])
    axes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    if min(steps) < 1:
        raise UnsupportedError("a Slice that runs backwards")
    cut = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(start, end if end < (1 << 31) - 1 else None, step)
    return x[tuple(cut)]  # type: ignore[no-any-return]


def _gather(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, axis = inputs[0], attrs.get("axis", 0) % inputs[0].dim()
    index = tensor(inputs[1])
    if index.dim() == 0:
        return x.select(axis, int(index))  # type: ignore[no-any-return]
    if index.dim() == 1:
        return torch.index_select(x, axis, index.to(x.device))
    return x[(slice(None),) * axis + (index.to(x.device),)]  # type: ignore[no-any-return]


def _axes(inputs: Sequence[Any], attrs: Attributes) -> list[int] | None:
    if len(inputs) > 1 and inputs[1] is not None:
        return numbers(inputs[1])
    return list(attrs["axes"]) if attrs.get("axes") is not None else None


def _reduce(run: Callable[..., Tensor]) -> Operator:
    def operator(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
        axes = _axes(inputs, attrs) or list(range(inputs[0].dim()))
        return run(inputs[0], axes, bool(attrs.get("keepdims", 1)))

    return operator


def _squeeze(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, axes = inputs[0], _axes(inputs, attrs)
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True) if axes else ():
        x = x.squeeze(axis)
    return x if axes else x.squeeze()  # type: ignore[no-any-return]


def _unsqueeze(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, axes = tensor(inputs[0]), _axes(inputs, attrs) or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = tensor(inputs[0])
    return x.expand(np.broadcast_shapes(tuple(int(n) for n in x.shape), tuple(numbers(inputs[1]))))


def _clip(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    def limit(position: int, key: str) -> float | None:
        given = inputs[position] if len(inputs) > position else attrs.get(key)
        return None if given is None else float(np.asarray(given).reshape(-1)[0])

    low, high = limit(1, "min"), limit(2, "max")
    return functional.relu6(inputs[0]) if (low, high) == (0.0, 6.0) else torch.clamp(inputs[0], low, high)


def _hard_sigmoid(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    alpha, beta = attrs.get("alpha", 0.2), attrs.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(inputs[0])
    return torch.clamp(inputs[0] * alpha + beta, 0.0, 1.0)


def _layer_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x = inputs[0]
    axis = attrs.get("axis", -1) % x.dim()
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.layer_norm(x, x.shape[axis:], inputs[1], bias, attrs.get("epsilon", 1e-5))


def _top_k(inputs: Sequence[Any], attrs: Attributes) -> tuple[Tensor, ...]:
    axis, largest, ordered = attrs.get("axis", -1), attrs.get("largest", 1), attrs.get("sorted", 1)
    return tuple(torch.topk(inputs[0], numbers(inputs[1])[0], axis, bool(largest), bool(ordered)))


def _prelu(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    return functional.prelu(inputs[0], inputs[1].reshape(-1))


def _batch_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    x, weight, bias, mean, var = inputs[:5]
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, attrs.get("epsilon", 1e-5))


def _gelu(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    return functional.gelu(inputs[0], approximate=attrs.get("approximate", "none"))


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
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda inputs, attrs: functional.adaptive_avg_pool2d(inputs[0], 1),
    "GlobalMaxPool": lambda inputs, attrs: functional.adaptive_max_pool2d(inputs[0], 1),
    "Pad": _pad,
    "Resize": _resize,
    "Reshape": _reshape,
    "Flatten": lambda inputs, attrs: torch.flatten(inputs[0], attrs.get("axis", 1)),
    "Transpose": lambda inputs, attrs: inputs[0].permute(*attrs["perm"]),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": lambda inputs, attrs: torch.gather(inputs[0], attrs.get("axis", 0), tensor(inputs[1])),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Identity": _unary(lambda x: x),
    "Cast": lambda inputs, attrs: tensor(inputs[0]).to(_DTYPES[attrs["to"]]),
    "Clip": _clip,
    "Relu": _unary(functional.relu),
    "LeakyRelu": lambda inputs, attrs: functional.leaky_relu(inputs[0], attrs.get("alpha", 0.01)),
    "Elu": lambda inputs, attrs: functional.elu(inputs[0], attrs.get("alpha", 1.0)),
    "PRelu": _prelu,
    "Sigmoid": _unary(torch.sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Mish": _unary(functional.mish),
    "Gelu": _gelu,
    "Softplus": _unary(functional.softplus),
    "Tanh": _unary(torch.tanh),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Abs": _unary(torch.abs),
    "Neg": _unary(torch.neg),
    "Floor": _unary(torch.floor),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Not": _unary(torch.logical_not),
    "Softmax": lambda inputs, attrs: torch.softmax(inputs[0], attrs.get("axis", -1)),
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(lambda a, b: a / b if tensor(a).is_floating_point() else torch.div(a, b, rounding_mode="trunc")),
    "Pow": _binary(lambda a, b: a**b),
    "Mod": _binary(lambda a, b: a % b),
    "Min": _binary(lambda a, b: torch.minimum(tensor(a), tensor(b))),
    "Max": _binary(lambda a, b: torch.maximum(tensor(a), tensor(b))),
    "Equal": _binary(lambda a, b: a == b),
    "Less": _binary(lambda a, b: a < b),
    "Greater": _binary(lambda a, b: a > b),
    "And": _binary(lambda a, b: torch.logical_and(tensor(a), tensor(b))),
    "Or": _binary(lambda a, b: torch.logical_or(tensor(a), tensor(b))),
    "Xor": _binary(lambda a, b: torch.logical_xor(tensor(a), tensor(b))),
    "Where": lambda inputs, attrs: torch.where(*(tensor(value) for value in inputs)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "TopK": _top_k,
    "DepthToSpace": lambda inputs, attrs: functional.pixel_shuffle(inputs[0], attrs["blocksize"]),
}
"""Operator → function."""
