"""Convolutions as linear maps: composing them, adding them, and what each costs.

A map has a geometry (channels, groups, one window per spatial axis) and a weight and bias. Geometries compose and add
without touching a weight, so that a rewrite can be judged before it is carried out.

Composition second∘first. Let M be the channels between. With all taps in place,

    W[o, i, s1·(f2 + d2·k2) + f1 + d1·k1] = Σ_m W2[o, m, k2] · W1[m, i, k1]
    b[o] = b2[o] + Σ_{m, k2} W2[o, m, k2] · b1[m]

is exact if `second` has no padding. With padding, `second` reads zeros beyond the output of `first`, where the composed
map reads W1∗0 + b1: the same only if `first` sees one element per output (1×1, no padding) and b1 = 0.

Addition: kernels are laid over each other on the smallest window that covers all (equal strides, equal output sizes).

Groups: a map of g groups is block-diagonal with g blocks, hence also with any divisor of g. Both operations use the
greatest common divisor of the groups; an identity or a BatchNorm is a depthwise 1×1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np

from onnxslim_yolo.analysis.affine import affine_of, data_index, is_affine
from onnxslim_yolo.analysis.window import Window, ceil_mode_matters, unite, windows_of
from onnxslim_yolo.analysis.window import compose as compose_windows
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, Tensor
from onnxslim_yolo.ops.linear import LinearLayer, is_conv
from onnxslim_yolo.ops.movement import is_identity
from onnxslim_yolo.ops.question import Question
from onnxslim_yolo.ops.spatial import is_average_pool


@dataclass(frozen=True)
class Geometry:
    """The shape of a linear map: channels out and in, groups, and one window per spatial axis."""

    outputs: int
    inputs: int
    groups: int
    windows: tuple[Window, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps per spatial axis."""
        return tuple(window.taps for window in self.windows)

    @property
    def cost(self) -> int:
        """Multiplications per output position."""
        return self.outputs * self.inputs // self.groups * prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads one input position."""
        return all(window.is_point for window in self.windows)

    @property
    def is_padded(self) -> bool:
        """Whether any output reads padding."""
        return any(window.is_padded for window in self.windows)


@dataclass(frozen=True)
class LinearMap:
    """A geometry with `weight` (outputs, inputs/groups, *kernel) and `bias` (outputs,), of any float type."""

    geometry: Geometry
    weight: Array
    bias: Array

    @property
    def is_biased(self) -> bool:
        """Whether any bias differs from zero."""
        return bool((self.bias != 0).any())


def linear_map_of(node: Node) -> LinearMap | None:
    """The linear map a node applies to its data input, or None if it is none (or not one that is known exactly)."""
    return next((build(node) for asked, build in _BUILDERS if asked(node)), None)


def data_input(node: Node) -> Tensor:
    """The data input of a node that `linear_map_of` understands."""
    index = data_index(node)
    return node.inputs[0 if index is None else index]


def identity(channels: int, rank: int) -> LinearMap:
    """The identity on `channels` channels and `rank` spatial axes."""
    return _depthwise(np.ones(channels), np.zeros(channels), rank)


def compose_geometry(first: Geometry, second: Geometry, *, biased: bool) -> Geometry | None:
    """The geometry of second∘first, or None where that is not exact. `biased`: whether `first` has a bias."""
    if first.outputs != second.inputs or len(first.windows) != len(second.windows):
        return None
    if second.is_padded and (biased or not first.is_pointwise):
        return None
    windows = tuple(map(compose_windows, first.windows, second.windows))
    return Geometry(second.outputs, first.inputs, gcd(first.groups, second.groups), windows)


def chain_geometry(steps: Sequence[LinearMap]) -> Geometry | None:
    """The geometry of several maps in a row, first to last; None where the composition is not exact."""
    total, biased = steps[0].geometry, steps[0].is_biased
    for step in steps[1:]:
        composed = compose_geometry(total, step.geometry, biased=biased)
        if composed is None:
            return None
        total, biased = composed, biased or step.is_biased
    return total


def sum_geometry(geometries: Sequence[Geometry]) -> Geometry | None:
    """The geometry of a sum of maps of one input; None where they cannot be added."""
    head = geometries[0]
    if any((g.outputs, g.inputs, len(g.windows)) != (head.outputs, head.inputs, len(head.windows)) for g in geometries):
        return None
    windows = [unite(axis) for axis in zip(*(g.windows for g in geometries), strict=True)]
    united = tuple(window for window in windows if window is not None)
    if len(united) != len(windows):
        return None
    return Geometry(head.outputs, head.inputs, gcd(*(g.groups for g in geometries)), united)


def compose(first: LinearMap, second: LinearMap) -> LinearMap:
    """second∘first, in float64.

    Raises:
        ValueError: the composition is not exact (see the module's docstring).
    """
    geometry = compose_geometry(first.geometry, second.geometry, biased=first.is_biased)
    if geometry is None:
        raise ValueError(f"{second.geometry} after {first.geometry} is no single convolution")
    groups, kernel = geometry.groups, first.geometry.kernel
    inner = expand_groups(first.weight, first.geometry.groups, groups)
    outer = expand_groups(second.weight, second.geometry.groups, groups)
    middle, per_group = second.geometry.inputs // groups, geometry.inputs // groups
    inner = inner.reshape(groups, middle, per_group * prod(kernel))
    outer = outer.reshape(groups, geometry.outputs // groups, middle, *second.geometry.kernel)
    weight = np.zeros((geometry.outputs, per_group, *geometry.kernel))
    for taps in product(*map(range, second.geometry.kernel)):
        part = outer[_at(taps, 3)] @ inner
        places = _at(_places(first.geometry, second.geometry, geometry, taps))
        weight[places] += part.reshape(geometry.outputs, per_group, *kernel)
    summed = outer.reshape(groups, geometry.outputs // groups, middle, -1).sum(-1)
    carried = summed @ first.bias.astype(np.float64).reshape(groups, middle, 1)
    return LinearMap(geometry, weight, second.bias.astype(np.float64) + carried.reshape(-1))


def compose_chain(steps: Sequence[LinearMap]) -> LinearMap:
    """Several maps in a row, first to last, as one."""
    return reduce(compose, steps)


def add(maps: Sequence[LinearMap]) -> LinearMap:
    """The sum of maps of one input, in float64.

    Raises:
        ValueError: their strides, channels or output sizes differ.
    """
    geometry = sum_geometry([m.geometry for m in maps])
    if geometry is None:
        raise ValueError(f"maps of different strides, channels or sizes: {[m.geometry for m in maps]}")
    weight = np.zeros((geometry.outputs, geometry.inputs // geometry.groups, *geometry.kernel))
    for m in maps:
        places = tuple(
            slice((w.first - total.first) // total.step, (w.last - total.first) // total.step + 1, w.step // total.step)
            if w.taps > 1
            else slice((w.first - total.first) // total.step, (w.first - total.first) // total.step + 1)
            for w, total in zip(m.geometry.windows, geometry.windows, strict=True)
        )
        weight[_at(places)] += expand_groups(m.weight, m.geometry.groups, geometry.groups)
    return LinearMap(geometry, weight, np.sum([m.bias.astype(np.float64) for m in maps], axis=0))


def expand_groups(weight: Array, groups: int, fewer: int) -> Array:
    """A weight (Cout, Cin/groups, *k) of `groups` groups written with `fewer` groups (a divisor), in float64."""
    weight = weight.astype(np.float64)
    if groups == fewer:
        return weight
    ratio, outputs, inputs, kernel = groups // fewer, weight.shape[0] // groups, weight.shape[1], weight.shape[2:]
    blocks = weight.reshape(fewer, ratio, outputs, inputs, *kernel)
    wide = np.zeros((fewer, ratio, outputs, ratio, inputs, *kernel))
    for index in range(ratio):
        wide[:, index, :, index] = blocks[:, index]
    return wide.reshape(weight.shape[0], ratio * inputs, *kernel)


def _at(kernel: tuple[Any, ...], leading: int = 2) -> tuple[Any, ...]:
    """The index of kernel positions, for all of the leading axes."""
    return (*(slice(None),) * leading, *kernel)


def _places(first: Geometry, second: Geometry, total: Geometry, taps: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the kernel of `first` lands in the composed kernel for one tap of `second`."""
    places = []
    for one, two, both, tap in zip(first.windows, second.windows, total.windows, taps, strict=True):
        start = (one.stride * (two.first + two.step * tap) + one.first - both.first) // both.step
        step = one.step // both.step if one.taps > 1 else 1
        places.append(slice(start, start + step * (one.taps - 1) + 1, step))
    return tuple(places)


def _of_conv(node: Node) -> LinearMap | None:
    layer = LinearLayer.of(node)
    if layer is None or layer.has_computed_bias or not np.issubdtype(layer.weight.dtype, np.floating):
        return None
    bias = np.zeros(layer.outputs) if layer.bias is None else layer.bias
    windows = windows_of(node, layer.kernel)
    if windows is None:
        return None
    return LinearMap(Geometry(layer.outputs, layer.inputs, layer.groups, windows), layer.weight, bias)


def _of_average_pool(node: Node) -> LinearMap | None:
    """An average over k elements is a depthwise convolution by 1/k, if padding counts among them (or there is none)."""
    channels = _channels(node.inputs[0])
    windows = windows_of(node, node.attrs["kernel_shape"])
    if channels is None or windows is None or ceil_mode_matters(node, windows):
        return None
    if any(w.is_padded for w in windows) and not attribute(node, "count_include_pad"):
        return None
    geometry = Geometry(channels, channels, channels, windows)
    weight = np.full((channels, 1, *geometry.kernel), 1 / prod(geometry.kernel))
    return LinearMap(geometry, weight, np.zeros(channels))


def _of_affine(node: Node) -> LinearMap | None:
    affine = affine_of(node)
    if affine is None:
        return None
    data = data_input(node)
    channels = _channels(data)
    if channels is None or data.shape is None:
        return None
    wide = affine.widened(channels)
    return _depthwise(wide.scale, wide.shift, len(data.shape) - 2)


def _of_identity(node: Node) -> LinearMap | None:
    shape, channels = node.inputs[0].shape, _channels(node.inputs[0])
    return None if shape is None or channels is None else identity(channels, len(shape) - 2)


def _depthwise(scale: Array, shift: Array, rank: int) -> LinearMap:
    channels, point = scale.size, Window.of(1, 1, 1, 0, 0)
    weight = np.asarray(scale, np.float64).reshape(channels, 1, *(1,) * rank)
    return LinearMap(Geometry(channels, channels, channels, (point,) * rank), weight, np.asarray(shift, np.float64))


def _channels(tensor: Tensor) -> int | None:
    """The number of channels of a feature map (N, C, spatial…), or None if it is none or not known."""
    shape = tensor.shape
    return shape[1] if shape is not None and len(shape) > 2 and isinstance(shape[1], int) else None


_BUILDERS: tuple[tuple[Question, Callable[[Node], LinearMap | None]], ...] = (
    (is_conv, _of_conv),
    (is_affine, _of_affine),
    (is_average_pool, _of_average_pool),
    (is_identity, _of_identity),
)
