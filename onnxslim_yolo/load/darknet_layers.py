"""Darknet's layers as ONNX, one function each, and the table that finds them.

Sizes follow darknet: a convolution's `pad=1` means size // 2; a pool pads `padding` (default size − 1) *in total*, the
smaller half before, and never reads beyond what its last window needs; so size 2 with stride 1 keeps the map's size.
BatchNorm's ε is 1e-5 (`forward_batchnorm_layer`; cuDNN's least, too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.load.darknet_cfg import Section
from onnxslim_yolo.load.darknet_weights import WeightReader
from onnxslim_yolo.load.onnx_writer import Writer

_MAX_ELEMENTS = 1 << 28
_BN_EPSILON = 1e-5


@dataclass(frozen=True)
class Feature:
    """A layer's output: the tensor's name, its (c, h, w), and the tensor before a final logistic if there is one."""

    name: str
    shape: tuple[int, int, int]
    logits: str | None = None


@dataclass
class Network:
    """What has been built so far. `features[i]` is layer i's output, None for a detection layer."""

    writer: Writer
    weights: WeightReader
    source: Feature
    features: list[Feature | None] = field(default_factory=list)

    def before(self, section: Section) -> Feature:
        """The output of the layer before."""
        return self.at(section, len(self.features) - 1) if self.features else self.source

    def at(self, section: Section, index: int) -> Feature:
        """The output of layer `index`, counted from 0, or from here if negative."""
        absolute = index + len(self.features) if index < 0 else index
        if not 0 <= absolute < len(self.features):
            section.fail(f"refers to layer {index}; {len(self.features)} layers stand before this one")
        feature = self.features[absolute]
        if feature is None:
            section.fail(f"refers to layer {absolute}, a detection layer")
        return feature


def convolution(net: Network, section: Section) -> Feature:
    """`[convolutional]`: bias, or scales, means and variances; then weights (n, c/groups, size, size)."""
    section.refuse("binary", "xnor", "antialiasing", "share_index", "deform", "flipped", "dot", "sway", "rotate")
    section.refuse("stretch", "stretch_sway")
    source = net.before(section)
    channels, height, width = source.shape
    filters = section.integer("filters", 1, low=1, high=1 << 16)
    size = section.integer("size", 1, low=1, high=255)
    groups = section.integer("groups", 1, low=1)
    dilation = section.integer("dilation", 1, low=1, high=255)
    strides = _strides(section, 1)
    if channels % groups or filters % groups:
        section.fail(f"{channels} channels and {filters} filters do not divide into {groups} groups")
    pad = (size // 2 if section.integer("pad", 0) else section.integer("padding", 0, high=255)) * dilation
    reach = dilation * (size - 1) + 1
    shape = (filters, *((n + 2 * pad - reach) // s + 1 for n, s in zip((height, width), strides, strict=True)))
    name = _normalised_convolution(
        net,
        source.name,
        section,
        (filters, channels // groups, size, size),
        group=groups,
        dilations=[dilation, dilation],
        strides=strides,
        pads=[pad] * 4,
    )
    return _activated(net, section, name, _checked(section, shape), default="logistic")


def _normalised_convolution(
    net: Network, source: str, section: Section, shape: tuple[int, int, int, int], **attributes: object
) -> str:
    writer, where, filters = net.writer, section.where, (shape[0],)
    shift = net.weights.take(filters, where)
    if not section.integer("batch_normalize", 0):
        kernel = writer.weight("conv.weight", net.weights.take(shape, where))
        bias = writer.weight("conv.bias", shift)
        return writer.node("Conv", [source, kernel, bias], kernel_shape=shape[2:], **attributes)
    scale, mean, variance = (net.weights.take(filters, where) for _ in range(3))
    if (variance < 0).any():
        section.fail("a running variance is negative: the .weights belong to another .cfg")
    kernel = writer.weight("conv.weight", net.weights.take(shape, where))
    convolved = writer.node("Conv", [source, kernel], kernel_shape=shape[2:], **attributes)
    statistics = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
    inputs = [convolved, *(writer.weight(f"bn.{key}", values) for key, values in statistics.items())]
    return writer.node("BatchNormalization", inputs, epsilon=_BN_EPSILON)


def maxpool(net: Network, section: Section) -> Feature:
    """`[maxpool]`, padding as in the module's docstring."""
    section.refuse("maxpool_depth", "out_channels", "antialiasing")
    source = net.before(section)
    channels, height, width = source.shape
    strides = _strides(section, 1)
    size = section.integer("size", strides[0], low=1, high=1024)
    total = section.integer("padding", size - 1, high=size - 1)
    begin = total // 2
    sides = [
        (n + total - size) // s + 1 if n + total >= size else 0 for n, s in zip((height, width), strides, strict=True)
    ]
    shape = _checked(section, (channels, *sides))
    ends = [max(0, (out - 1) * s + size - begin - n) for out, s, n in zip(sides, strides, (height, width), strict=True)]
    pads = [begin, begin, *ends]
    name = net.writer.node("MaxPool", [source.name], kernel_shape=[size, size], strides=strides, pads=pads)
    return Feature(name, shape)


def average(net: Network, section: Section) -> Feature:
    """`[avgpool]`: the mean over the whole map."""
    source = net.before(section)
    return Feature(net.writer.node("GlobalAveragePool", [source.name]), (source.shape[0], 1, 1))


def route(net: Network, section: Section) -> Feature:
    """`[route]`: concatenation, of one group of each source's channels if `groups` says so."""
    section.refuse("stream")
    sources = [net.at(section, index) for index in section.integers("layers")]
    groups = section.integer("groups", 1, low=1)
    chosen = section.integer("group_id", 0, high=groups - 1)
    if not sources:
        section.fail("'layers' is missing")
    if any(feature.shape[1:] != sources[0].shape[1:] for feature in sources):
        section.fail(f"the maps differ in size: {', '.join(_size(feature) for feature in sources)}")
    if any(feature.shape[0] % groups for feature in sources):
        section.fail(f"the channels do not divide into {groups} groups")
    if groups > 1:
        sources = [_channel_range(net, feature, groups, chosen) for feature in sources]
    if len(sources) == 1:
        return sources[0]
    shape = (sum(feature.shape[0] for feature in sources), *sources[0].shape[1:])
    name = net.writer.node("Concat", [feature.name for feature in sources], axis=1)
    return Feature(name, _checked(section, shape))


def shortcut(net: Network, section: Section) -> Feature:
    """`[shortcut]`: the sum of the layer before and those in `from`, then the activation."""
    section.refuse("weights_type")
    total = net.before(section)
    for feature in _named(net, section):
        if feature.shape != total.shape:
            section.fail(f"adds {_size(feature)} to {_size(total)}; only maps of equal size are supported")
        total = Feature(net.writer.node("Add", [total.name, feature.name]), total.shape)
    return _activated(net, section, total.name, total.shape, default="linear")


def _named(net: Network, section: Section) -> list[Feature]:
    """The layers that `from` lists, at least one."""
    named = [net.at(section, index) for index in section.integers("from")]
    if not named:
        section.fail("'from' is missing")
    return named


def scaled_channels(net: Network, section: Section) -> Feature:
    """`[scale_channels]`: the map of `from` times the layer before, one factor a channel (squeeze and excitation)."""
    section.refuse("scale_wh")
    factors, source = net.before(section), _named(net, section)[0]
    if factors.shape != (source.shape[0], 1, 1):
        section.fail(f"scales {_size(source)} by {_size(factors)}; one factor a channel is expected")
    product = net.writer.node("Mul", [source.name, factors.name])
    return _activated(net, section, product, source.shape, default="linear")


def attention(net: Network, section: Section) -> Feature:
    """`[sam]`: the product with an equally large map (spatial attention)."""
    source, factors = net.before(section), _named(net, section)[0]
    if factors.shape != source.shape:
        section.fail(f"multiplies {_size(source)} by {_size(factors)}; maps of equal size are expected")
    product = net.writer.node("Mul", [source.name, factors.name])
    return _activated(net, section, product, source.shape, default="linear")


def upsample(net: Network, section: Section) -> Feature:
    """`[upsample]`: every pixel repeated `stride` times in both directions, times `scale`."""
    source = net.before(section)
    channels, height, width = source.shape
    stride = section.integer("stride", 2, low=1, high=64)
    shape = _checked(section, (channels, height * stride, width * stride))
    scales = net.writer.floats("scales", [1, 1, stride, stride])
    name = net.writer.node(
        "Resize",
        [source.name, "", scales],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    factor = section.number("scale", 1.0)
    if factor != 1.0:
        name = net.writer.node("Mul", [name, net.writer.floats("factor", [factor])])
    return Feature(name, shape)


def reorganise(net: Network, section: Section) -> Feature:
    """`[reorg3d]` is space to depth; YOLOv2's `[reorg]` takes its windows from the map *read as* (c/s², h·s, w·s)."""
    section.refuse("reverse", "flatten", "extra")
    source = net.before(section)
    (channels, height, width), stride = source.shape, section.integer("stride", 1, low=1, high=64)
    area = stride * stride
    if section.name == "reorg":
        if channels % area:
            section.fail(f"{channels} channels do not divide by {area}")
        view = [0, channels // area, height, stride, width, stride]
    else:
        view = [0, channels, height // stride, stride, width // stride, stride]
    if height % stride or width % stride:
        section.fail(f"a map of {height} × {width} does not divide by {stride}")
    shape = (channels * area, height // stride, width // stride)
    parts = net.writer.node("Reshape", [source.name, net.writer.ints("view", view)])
    moved = net.writer.node("Transpose", [parts], perm=[0, 3, 5, 1, 2, 4])
    name = net.writer.node("Reshape", [moved, net.writer.ints("shape", [0, *shape])])
    return Feature(name, _checked(section, shape))


def unchanged(net: Network, section: Section) -> Feature:
    """`[dropout]` and `[cost]` do nothing when a network is used."""
    return net.before(section)


LAYERS: dict[str, Callable[[Network, Section], Feature]] = {
    "convolutional": convolution,
    "conv": convolution,
    "maxpool": maxpool,
    "max": maxpool,
    "avgpool": average,
    "avg": average,
    "route": route,
    "shortcut": shortcut,
    "scale_channels": scaled_channels,
    "sam": attention,
    "upsample": upsample,
    "reorg": reorganise,
    "reorg3d": reorganise,
    "dropout": unchanged,
    "cost": unchanged,
}
"""Darknet's name of a layer to the function that writes it."""

_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "leaky": ("LeakyRelu", {"alpha": 0.1}),
    "relie": ("LeakyRelu", {"alpha": 0.01}),
    "relu": ("Relu", {}),
    "logistic": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
}


def _activated(net: Network, section: Section, name: str, shape: tuple[int, int, int], *, default: str) -> Feature:
    kind = section.text("activation", default)
    if kind == "linear":
        return Feature(name, shape)
    if kind == "swish":
        return Feature(net.writer.node("Mul", [name, net.writer.node("Sigmoid", [name])]), shape)
    if kind == "mish":
        gate = net.writer.node("Tanh", [net.writer.node("Softplus", [name])])
        return Feature(net.writer.node("Mul", [name, gate]), shape)
    if kind == "relu6":
        bounds = [net.writer.floats(key, np.float32(value)) for key, value in (("min", 0), ("max", 6))]
        return Feature(net.writer.node("Clip", [name, *bounds]), shape)
    if kind not in _ACTIVATIONS:
        known = ", ".join(sorted([*_ACTIVATIONS, "linear", "mish", "relu6", "swish"]))
        raise UnsupportedError(
            f"activation '{kind}' is not supported; known are {known}", file=section.file, node=section.where
        )
    op, attributes = _ACTIVATIONS[kind]
    return Feature(net.writer.node(op, [name], **attributes), shape, logits=name if kind == "logistic" else None)


def _channel_range(net: Network, feature: Feature, groups: int, chosen: int) -> Feature:
    channels, height, width = feature.shape
    part = channels // groups
    bounds = [
        net.writer.ints(key, [value])
        for key, value in (("start", chosen * part), ("end", (chosen + 1) * part), ("axis", 1))
    ]
    return Feature(net.writer.node("Slice", [feature.name, *bounds]), (part, height, width))


def _strides(section: Section, default: int) -> list[int]:
    both = section.integer("stride", default, low=1, high=255)
    return [section.integer(key, both, low=1, high=255) for key in ("stride_y", "stride_x")]


def _checked(section: Section, shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    if min(shape) < 1:
        section.fail(f"the map would be {channels} × {height} × {width}: the input size is too small")
    if channels * height * width > _MAX_ELEMENTS:
        section.fail(f"the map would be {channels} × {height} × {width}, more than {_MAX_ELEMENTS} values")
    return channels, height, width


def _size(feature: Feature) -> str:
    return " × ".join(map(str, feature.shape))
