"""Operators that move, cut and reduce, in PyTorch. See `torch_ops` for the conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch  # noqa: TID253 (only imported by what needs torch)
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.attributes import attributes
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.saved_module import TRACED_ROWS
from onnxslim_yolo.ops.spatial import nearest_pixel, sampled_at

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[[Sequence[Any], Attributes], Any]

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
_CUBIC = -0.75
"""The coefficient of torch's cubic kernel."""


def tensor(value: Any) -> Tensor:
    """A tensor as it is, a numpy constant as a tensor."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))


def numbers(value: Any) -> list[int]:
    """A static input as integers."""
    if isinstance(value, Tensor):
        raise UnsupportedError("a shape, an axis or a bound is computed while the model runs")
    return [int(v) for v in np.asarray(value).reshape(-1)]


def pad(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Pad, constants before and behind."""
    x = inputs[0]
    pads = numbers(inputs[1])
    axes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(pads) // 2))
    sides = {axis % x.dim(): (pads[k], pads[len(axes) + k]) for k, axis in enumerate(axes)}
    first = min((axis for axis, side in sides.items() if any(side)), default=x.dim() - 1)
    first = first if attrs["mode"] == "constant" else min(first, 2)  # torch reflects all of space or nothing
    flat = [side for axis in reversed(range(first, x.dim())) for side in sides.get(axis, (0, 0))]
    value = float(np.asarray(inputs[2]).reshape(-1)[0]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return functional.pad(x, flat, mode=_PAD_MODES[attrs["mode"]], value=value)


def resize(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Resize of the last two axes, where torch samples the very pixels that ONNX asks for."""
    x, mode, where = inputs[0], attrs["mode"], attrs["coordinate_transformation_mode"]
    size = _of_space(inputs[3], x) if len(inputs) > 3 and inputs[3] is not None else None
    scales = _of_space(inputs[2], x) if size is None else None
    kind = _resize_kind(x, attrs, size or (), scales or ())
    if kind is None:
        raise UnsupportedError(f"a Resize with mode {mode} and coordinates {where}")
    corners = None if mode == "nearest" else where == "align_corners"
    return functional.interpolate(x, size, scales, kind, corners)


def _of_space(given: Any, x: Tensor) -> list[Any]:
    """What a Resize says about height and width: of every axis, or, since opset 18, of those in `axes` alone."""
    return list(np.asarray(given).reshape(-1).tolist()[-(x.dim() - 2) :])


def _resize_kind(x: Tensor, attrs: Attributes, size: Sequence[int], scales: Sequence[float]) -> str | None:
    """What torch calls it, or None. Of the nearest pixel there are several notions: those asked for are compared."""
    mode, where = attrs["mode"], attrs["coordinate_transformation_mode"]
    axes = [axis % x.dim() for axis in attrs.get("axes") or range(x.dim())]
    unlike = attrs["antialias"] or attrs["keep_aspect_ratio_policy"] != "stretch"
    if unlike or axes[-2:] != [2, 3] or x.dim() != 4:
        return None
    if mode != "nearest":
        unlike = mode == "cubic" and (attrs["cubic_coeff_a"] != _CUBIC or attrs["exclude_outside"])
        alike = where in ("half_pixel", "pytorch_half_pixel", "align_corners") and not unlike
        return {"linear": "bilinear", "cubic": "bicubic"}.get(mode) if alike else None
    before = [int(side) for side in x.shape[2:]]
    after = list(size) or [int(a * b) for a, b in zip(before, scales, strict=True)]
    ratios = list(scales) or [b / a for a, b in zip(before, after, strict=True)]
    sides = list(zip(before, after, ratios, strict=True))
    if all((_picked(attrs, *side) == _floored(0.0, *side)).all() for side in sides):
        return "nearest"
    return "nearest-exact" if all((_picked(attrs, *side) == _floored(0.5, *side)).all() for side in sides) else None


def _picked(attrs: Attributes, before: int, after: int, scale: float) -> Array:
    """Which pixels ONNX picks along an axis; −1 by the formulas that torch lacks."""
    where = sampled_at(attrs["coordinate_transformation_mode"], before, after, scale)
    return np.full(after, -1) if where is None else nearest_pixel(attrs["nearest_mode"], where, before)


def _floored(middle: float, before: int, after: int, scale: float) -> Array:
    """Which pixels torch picks: "nearest" from a pixel's beginning, "nearest-exact" from its middle."""
    ratio = np.float32(1 / scale)
    where: Array = np.floor((np.arange(after, dtype=np.float32) + np.float32(middle)) * ratio)
    return np.minimum(where, before - 1)


def upsample(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Upsample, and Resize of opset 10: they have no attributes that say how."""
    rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resize([inputs[0], None, inputs[1]], attributes("Resize", {"mode": attrs["mode"], **rule}))


def sample(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """GridSample, by the names of either opset."""
    mode = str({"linear": "bilinear", "cubic": "bicubic"}.get(attrs["mode"], attrs["mode"]))
    padding, corners = str(attrs["padding_mode"]), bool(attrs["align_corners"])
    return functional.grid_sample(inputs[0], tensor(inputs[1]), mode, padding, corners)


def reshape(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Reshape, with the batch as long as the input has it."""
    x, target = inputs[0], numbers(inputs[1])
    if target and target[0] > 0 and attrs.get(TRACED_ROWS):
        target[0] = target[0] * int(x.shape[0]) // attrs[TRACED_ROWS]
    if not attrs["allowzero"]:  # a 0 takes the input's size, which has the batch's length already
        target = [int(x.shape[axis]) if size == 0 else size for axis, size in enumerate(target)]
    return torch.reshape(x, target)


def concat(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Constants beside feature maps were made for one image: they are repeated for every image of a batch."""
    parts = [tensor(value) for value in inputs]
    axis, batch = attrs["axis"], max(int(part.shape[0]) for part in parts)
    if axis % parts[0].dim() != 0:
        parts = [part if part.shape[0] == batch else part.expand(batch, *part.shape[1:]) for part in parts]
    return torch.cat(parts, axis)


def split(inputs: Sequence[Any], attrs: Attributes) -> tuple[Tensor, ...]:
    """Split into given sizes."""
    x, axis = inputs[0], attrs["axis"]
    if len(inputs) < 2 or inputs[1] is None:
        raise UnsupportedError("a Split without sizes")
    return tuple(torch.split(x, numbers(inputs[1]), axis))


def slice_axes(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Slice, forwards."""
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


def gather(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Gather with any index."""
    x, axis = inputs[0], attrs["axis"] % inputs[0].dim()
    index = tensor(inputs[1])
    if index.dim() == 0:
        return x.select(axis, int(index))  # type: ignore[no-any-return]
    if index.dim() == 1:
        return torch.index_select(x, axis, index.to(x.device))
    return x[(slice(None),) * axis + (index.to(x.device),)]  # type: ignore[no-any-return]


def _axes(inputs: Sequence[Any]) -> list[int] | None:
    return numbers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else None


def squeeze(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Squeeze."""
    x, axes = inputs[0], _axes(inputs)
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True) if axes else ():
        x = x.squeeze(axis)
    return x if axes else x.squeeze()  # type: ignore[no-any-return]


def unsqueeze(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Unsqueeze."""
    x, axes = tensor(inputs[0]), _axes(inputs) or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def expand(inputs: Sequence[Any], attrs: Attributes) -> Tensor:
    """Expand, by mutual broadcasting."""
    x = tensor(inputs[0])
    return x.expand(np.broadcast_shapes(tuple(int(n) for n in x.shape), tuple(numbers(inputs[1]))))
