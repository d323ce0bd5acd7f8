"""Convolutions and InnerProducts in int8: ncnn quantises what they read, multiplies whole numbers and gives out floats.

    q(x) = clip(round(k·x), −127, 127), halves away from 0        y = Σ w·q(x) / (k·k_o) + b

with a weight's codes w = clip(round(k_o·W), −127, 127), k_o = 127 / max |W_o| per output channel, and k = 127 / max |x|
over the tensor's range. Parameter 8 says so; codes (tag int8), bias, k_o and k stand in the `.bin` in this order
(load_model of Convolution, ConvolutionDepthWise and InnerProduct). In between everything stays float, but for a
convolution that only int8 ones read, all with one k: it writes q(y) itself (term 101, k behind the rest), the codes
that they would make of y. Nothing else is different, and passes over the map are saved.

Declined, with the reason: groups that are no depthwise convolution (ncnn has one k_o a group), layers whose input has
no range, and where the processor has dot products, 3×3 ones with stride 1: ncnn leaves Winograd's algorithm out for
int8 there, and float is faster (published times: resnet18 on a Raspberry Pi 5 29.5 ms in fp16, 36.3 ms in int8).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxslim_yolo.emit.ncnn.format import Layer, Weight, safe_name
from onnxslim_yolo.emit.ncnn.layout import Dims
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.int8 import HANDED_ON
from onnxslim_yolo.quantisation.plan import Quantisation

SCALE_TERM = 8
HANDS_ON = 101
"""The term of a layer that writes codes."""
LARGEST = 127
WITH_KERNEL = ("Convolution", "ConvolutionDepthWise", "InnerProduct")
"""Layers that ncnn computes in int8."""
CODES_THROUGH = ("Convolution", "ConvolutionDepthWise")
"""Those that read and write codes as well. Its pools, concatenations and activations know floats only."""


@dataclass(frozen=True)
class Int8Layer:
    """A layer of a pair in int8.

    Attributes:
        name: of the layer. reads, writes: ONNX names of what it reads and, with its activation, makes.
        codes: int8, in the order of ncnn's weight. scale: k_o per output channel; input_scale: k. float32.
        output_scale: k of what it makes, where it hands on codes; None where floats.
    """

    name: str
    reads: str
    writes: str
    codes: Array
    scale: Array
    input_scale: np.float32
    output_scale: np.float32 | None = None


def quantise_layers(
    layers: Sequence[Layer], onnx_names: Mapping[str, str], plan: Quantisation, *, dot_products: bool
) -> tuple[list[Layer], list[Int8Layer], dict[str, str]]:
    """The layers, those that the plan names in int8; what these are; and of its others why they stay float.

    Args:
        onnx_names: of blobs. dot_products: whether the processor is known to have them.
    """
    wanted = {safe_name(name): name for name in plan.layers}
    done: list[Layer] = []
    found: list[Int8Layer] = []
    left = dict.fromkeys(wanted.values(), "it is another layer in ncnn")
    makers = {blob: layer for layer in layers for blob in layer.outputs}
    for layer in layers:
        name = wanted.get(layer.name)
        if name is None or layer.type not in WITH_KERNEL:
            done.append(layer)
            continue
        reads, writes = _named(layer.inputs[0], makers, onnx_names, plan), onnx_names.get(layer.outputs[0])
        why = _declined(layer, reads if reads in plan.ranges else None, dot_products=dot_products)
        if why is not None or reads is None or writes is None:
            left[name] = why or left[name]
            done.append(layer)
            continue
        del left[name]
        made = _quantised(layer, reads, writes, np.float32(1 / plan.ranges[reads].symmetric_step))
        found.append(made)
        done.append(_written(layer, made))
    return done, found, left


def hand_on_codes(
    layers: Sequence[Layer], found: Sequence[Int8Layer], outputs: Collection[str], dims: Mapping[str, Dims]
) -> tuple[list[Layer], list[Int8Layer]]:
    """Let convolutions write the codes that their readers would make of what they write, where all of these are int8.

    Args:
        layers: before blobs are split. outputs: blobs that the network gives out. dims: of blobs.
    """
    known = {each.name: each for each in found}
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        for blob in layer.inputs:
            readers.setdefault(blob, []).append(layer)
    done: dict[str, Int8Layer] = {}
    made = []
    for layer in layers:
        blob, scale = layer.outputs[0], None
        if layer.name in known and blob not in outputs and prod(dims.get(blob, ())) >= HANDED_ON:
            scale = _scale_read(layer, readers.get(blob, ()), known)
        if scale is None:
            made.append(layer)
            continue
        done[layer.name] = replace(known[layer.name], output_scale=scale)
        weights = [*layer.weights, Weight(np.asarray([scale], np.float32))]
        params = layer.params | {SCALE_TERM: HANDS_ON}
        made.append(Layer(layer.type, layer.name, layer.inputs, layer.outputs, params, weights))
    return made, [done.get(each.name, each) for each in found]


def _scale_read(layer: Layer, readers: Sequence[Layer], known: Mapping[str, Int8Layer]) -> np.float32 | None:
    """k of all that read what a layer writes; None where one of them or the layer itself has no kernel for codes."""
    if any(each.type not in CODES_THROUGH or each.name not in known for each in (layer, *readers)):
        return None
    scales = {known[each.name].input_scale for each in readers}
    return scales.pop() if len(scales) == 1 else None


def _named(blob: str, makers: Mapping[str, Layer], onnx_names: Mapping[str, str], plan: Quantisation) -> str | None:
    """The tensor with a range whose elements a blob has in their order, itself or as a view."""
    while onnx_names.get(blob) not in plan.ranges and makers[blob].type == "Reshape":
        blob = makers[blob].inputs[0]
    return onnx_names.get(blob)


def _declined(layer: Layer, reads: str | None, *, dot_products: bool) -> str | None:
    if reads is None:
        return "ncnn: what it reads is another tensor there"
    if layer.type == "ConvolutionDepthWise" and layer.params.get(7) != layer.params.get(0):
        return "ncnn: its groups are no depthwise convolution"
    plain = layer.type == "Convolution" and [layer.params.get(key, 1) for key in (1, 11, 3, 13)] == [3, 3, 1, 1]
    return "ncnn: a 3x3 convolution is faster in fp16 there" if dot_products and plain else None


def _quantised(layer: Layer, reads: str, writes: str, input_scale: np.float32) -> Int8Layer:
    outputs = layer.params[0]
    weight = layer.weights[0].values.reshape(int(outputs) if isinstance(outputs, int) else -1, -1)
    largest = np.abs(weight).max(axis=1)
    scale = (LARGEST / np.where(largest > 0, largest, 1.0)).astype(np.float32)
    product = weight.astype(np.float32) * scale[:, None]
    codes = np.clip(away_from_zero(product), -LARGEST, LARGEST).astype(np.int8)
    return Int8Layer(layer.name, reads, writes, codes.reshape(layer.weights[0].values.shape), scale, input_scale)


def away_from_zero(values: Array) -> Array:
    """Rounded, halves away from 0, as C's `roundf`."""
    return np.asarray(np.sign(values) * np.floor(np.abs(values) + np.float32(0.5)))


def _written(layer: Layer, made: Int8Layer) -> Layer:
    weights = [Weight(made.codes, tagged=True), *layer.weights[1:]]
    weights += [Weight(made.scale), Weight(np.asarray([made.input_scale], np.float32))]
    return Layer(layer.type, layer.name, layer.inputs, layer.outputs, layer.params | {SCALE_TERM: 1}, weights)
