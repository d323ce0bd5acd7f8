"""Normalisations, reductions and pools in PyTorch, by kind. See `graph_ops` for the conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch  # noqa: TID253 (only imported by what needs torch)
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.load.graph_ops_shape import Attributes, Operator, numbers, tensor


def batch_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """BatchNormalization as it is used: by its running statistics."""
    x, weight, bias, mean, var = inputs[:5]
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, attrs["epsilon"])


def instance_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """InstanceNormalization."""
    return functional.instance_norm(inputs[0], weight=inputs[1], bias=inputs[2], eps=attrs["epsilon"])


def group_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """GroupNormalization; before opset 21 its scale and shift are a group's."""
    x, width = inputs[0], inputs[0].shape[1]
    weight, bias = (v if len(v) == width else v.repeat_interleave(width // len(v)) for v in map(tensor, inputs[1:3]))
    return functional.group_norm(x, attrs["num_groups"], weight, bias, attrs["epsilon"])


def layer_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """LayerNormalization."""
    x = inputs[0]
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.layer_norm(x, x.shape[attrs["axis"] % x.dim() :], inputs[1], bias, attrs["epsilon"])


def rms_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """RMSNormalization."""
    x = inputs[0]
    over = list(range(attrs["axis"] % x.dim(), x.dim()))
    y: Tensor = x * torch.rsqrt((x * x).mean(over, True) + attrs["epsilon"]) * tensor(inputs[1])
    return y


def mean_variance(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """MeanVarianceNormalization."""
    x, axes = inputs[0], list(attrs["axes"])
    centred = x - x.mean(axes, True)
    y: Tensor = centred / ((centred * centred).mean(axes, True).sqrt() + 1e-9)
    return y


def lp_norm(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """LpNormalization."""
    return functional.normalize(inputs[0], float(attrs["p"]), attrs["axis"], 0.0)


def local_response(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """LRN."""
    return functional.local_response_norm(inputs[0], attrs["size"], attrs["alpha"], attrs["beta"], attrs["bias"])


def _axes(inputs: Sequence[Any], attrs: Attributes) -> list[int] | None:
    given = numbers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else []
    return None if not given and attrs["noop_with_empty_axes"] else given or list(range(inputs[0].dim()))


def reduce_axes(run: Callable[..., Tensor]) -> Operator:
    """A reduction over axes as an operator."""

    def operator(inputs: Sequence[Any], attrs: Attributes) -> Any:
        axes = _axes(inputs, attrs)
        return inputs[0] if axes is None else run(inputs[0], axes, bool(attrs["keepdims"]))

    return operator


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """ReduceProd: torch multiplies along one axis at a time."""
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def over_axes(run: Callable[[Tensor, int], Tensor]) -> Operator:
    """Softmax or LogSoftmax over the axes that its description names: before opset 13 they are all from one on."""

    def operator(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
        x: Tensor = inputs[0]
        axes: list[int] = attrs.get("axes") or [attrs["axis"]]
        first, more = axes[0], axes[1:]
        y = run(x.flatten(first, more[-1]) if more else x, first)
        return y.reshape(x.shape) if more else y

    return operator


REDUCE: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
}


def _whole(plain: Callable[[Tensor, int], Tensor], run: Callable[..., Tensor]) -> Operator:
    """A pool over the whole map, of however many axes."""
    return lambda inputs, attrs: (
        plain(inputs[0], 1) if inputs[0].dim() == 4 else run(inputs[0], list(range(2, inputs[0].dim())), True)
    )


def lp_pool(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """GlobalLpPool: over the whole map."""
    x, p = inputs[0], float(attrs["p"])
    y: Tensor = (x.abs() ** p).sum(list(range(2, x.dim())), True) ** (1 / p)
    return y


def space_to_depth(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """SpaceToDepth, the block's position first, as ONNX has it."""
    x, block = inputs[0], attrs["blocksize"]
    if attrs.get("mode") not in (None, "DCR"):
        raise UnsupportedError("a SpaceToDepth that puts channels first")
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // block, block, width // block, block)
    y: Tensor = parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)
    return y


def depth_to_space(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """DepthToSpace, either way round."""
    x, block = inputs[0], attrs["blocksize"]
    if attrs["mode"] == "CRD":
        return functional.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    y: Tensor = parts.reshape(batch, channels // block**2, height * block, width * block)
    return y


def tile(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Tile."""
    return torch.tile(tensor(inputs[0]), tuple(numbers(inputs[1])))


NORMS: dict[str, Operator] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "MeanVarianceNormalization": mean_variance,
    "LpNormalization": lp_norm,
    "LRN": local_response,
    "Softmax": over_axes(torch.softmax),
    "LogSoftmax": over_axes(torch.log_softmax),
    **{op: reduce_axes(run) for op, run in REDUCE.items()},
    "GlobalAveragePool": _whole(functional.adaptive_avg_pool2d, REDUCE["ReduceMean"]),
    "GlobalMaxPool": _whole(functional.adaptive_max_pool2d, REDUCE["ReduceMax"]),
    "GlobalLpPool": lp_pool,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Tile": tile,
}
"""Operator → function."""
