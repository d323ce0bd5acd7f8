"""One-layer networks, for either runtime, out of a layer's description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxslim_yolo.emit.ncnn.format import SHAPE_HINT, Param, param_text
from onnxslim_yolo.emit.ncnn.format import Layer as NcnnLayer
from onnxslim_yolo.emit.ncnn.int8 import HANDS_ON, SCALE_TERM
from onnxslim_yolo.emit.ncnn.stem import CHANNELS, becomes_phases
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.int8 import ENDS, clips, float_form, gives_codes, is_int8
from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.measure.int8_networks import int8_nodes

MEASURABLE = frozenset(
    ("conv", "group-conv", "depthwise", "maxpool", "avgpool", "resize", "concat", "split", "binary", "gate", "unary")
) | {"matmul"}
"""Kinds that are measured. What else there is (products of two maps, reshapes) is estimated."""

OPSET = 17
FLOATS, TAGGED, CODES, SCALES = range(4)


@dataclass(frozen=True)
class NcnnSpec:
    """A network for the measuring process: the `.param` text, [count, kind] per weight, (c, h, w) per input.

    A weight's kind: `FLOATS`; `TAGGED`: floats behind a tag; `CODES` behind theirs; `SCALES` of codes.
    """

    param: str
    weights: list[list[int]]
    inputs: list[list[int]]

    def as_json(self) -> dict[str, object]:
        """As the process reads it."""
        return {"param": self.param, "weights": self.weights, "inputs": self.inputs}


NCNN_UNARY: dict[str, tuple[str, dict[int, Param]]] = {
    "silu": ("Swish", {}), "sigmoid": ("Sigmoid", {}), "relu": ("ReLU", {}), "leaky": ("ReLU", {0: 0.1}),
    "hardswish": ("HardSwish", {0: 1 / 6, 1: 0.5}), "hardsigmoid": ("HardSigmoid", {0: 1 / 6, 1: 0.5}),
    "mish": ("Mish", {}), "tanh": ("TanH", {}), "gelu": ("GELU", {}), "elu": ("ELU", {0: 1.0}),
    "exp": ("Exp", {}), "scale": ("BinaryOp", {0: 2, 1: 1, 2: 0.5}),
}  # fmt: skip
ONNX_UNARY: dict[str, str] = {
    "sigmoid": "Sigmoid", "relu": "Relu", "leaky": "LeakyRelu", "hardsigmoid": "HardSigmoid",
    "tanh": "Tanh", "elu": "Elu", "exp": "Exp",
}  # fmt: skip


def can_measure(family: Family) -> bool:
    """Whether there is a network for it."""
    if is_int8(family):
        return family.op.split(" ")[0] in ENDS or can_measure(float_form(family))
    known = {"unary": family.op in NCNN_UNARY, "matmul": not family.op}.get(family.kind, True)
    return family.kind in MEASURABLE and known


def input_shapes(key: LayerKey) -> list[list[int]]:
    """(c, h, w) of each input of the layer's network; (rows, columns) of a product's, (columns) of one row's."""
    family = key.family
    height, width = family.size
    if family.kind == "matmul":
        return [[height, key.ins[0]] if height > 1 else [key.ins[0]]]
    if family.kind in ("conv", "group-conv", "depthwise", "maxpool"):
        height, width = height * family.stride[0], width * family.stride[1]
    elif family.kind == "avgpool":
        height, width = (
            (height - 1) * family.stride[0] + family.kernel[0],
            (width - 1) * family.stride[1] + family.kernel[1],
        )
    elif family.kind == "resize":
        height, width = max(1, height // family.kernel[0]), max(1, width // family.kernel[1])
    shapes = [[c, height, width] for c in key.ins]
    return [*shapes, [key.ins[0], 1, 1]] if family.kind == "gate" else shapes


def _pads(family: Family) -> tuple[int, int, int, int]:
    """Top, left, bottom, right, so that the output is the input divided by the stride."""
    before = [(k - 1) // 2 for k in family.kernel]
    after = [max(k - s, 0) - b for k, s, b in zip(family.kernel, family.stride, before, strict=True)]
    return before[0], before[1], max(after[0], 0), max(after[1], 0)


def ncnn_network(key: LayerKey) -> NcnnSpec:
    """Input → ReLU (which packs) → the layer; of int8 that gives out floats → Noop, for which they are packed anew."""
    shapes = input_shapes(key)
    layers = [NcnnLayer("Input", f"in{i}", [], [f"in{i}"]) for i in range(len(shapes))]
    layers += [NcnnLayer("ReLU", f"pre{i}", [f"in{i}"], [f"pre{i}"]) for i in range(len(shapes))]
    outs = ["out", *(f"out{i}" for i in range(1, len(key.outs)))]
    ins, parts = [f"pre{i}" for i in range(len(shapes))], as_emitted(key)
    weights: list[list[int]] = []
    for step, part in enumerate(parts):
        layer_type, params, counts = NCNN[part.family.kind](part)
        packed = is_int8(part.family) and not gives_codes(part.family)
        made = outs if part is parts[-1] and not packed else [f"between{step}"]
        layers.append(NcnnLayer(layer_type, f"layer{step}", ins, made, params))
        if packed:
            layers.append(NcnnLayer("Noop", "packed", made, outs))
        ins, weights = made, [*weights, *counts]
    return NcnnSpec(param_text(layers), weights, shapes)


def as_emitted(key: LayerKey) -> list[LayerKey]:
    """The layers that the emitter writes for one: a stem becomes two (see `emit.ncnn_stem`)."""
    family = key.family
    if family.kind != "conv" or family.stride != (2, 2) or not becomes_phases(key.ins[0], family.kernel):
        return [key]
    split = replace(family, kernel=(2, 2))
    small = replace(family, kernel=(family.kernel[0] // 2, family.kernel[1] // 2), stride=(1, 1))
    return [LayerKey(split, key.ins, (CHANNELS,)), LayerKey(small, (CHANNELS,), key.outs)]


_Made = tuple[str, dict[int, Param], list[list[int]]]


def _ncnn_conv(key: LayerKey) -> _Made:
    family = key.family
    top, left, bottom, right = _pads(family)
    groups = key.ins[0] if family.kind == "depthwise" else family.groups
    size = key.outs[0] * (key.ins[0] // groups) * prod(family.kernel)
    params: dict[int, Param] = {
        0: key.outs[0], 1: family.kernel[1], 11: family.kernel[0], 3: family.stride[1], 13: family.stride[0],
        4: left, 14: top, 15: right, 16: bottom, 5: 1, 6: size,
    }  # fmt: skip
    if groups > 1:
        params[7] = groups
    else:  # as the emitter writes it: ncnn chooses its kernel by it
        params[SHAPE_HINT] = [3, family.size[1], family.size[0], key.outs[0]]
    weights = [[size, TAGGED], [key.outs[0], FLOATS]]
    if is_int8(family):
        codes = gives_codes(family)
        params[SCALE_TERM] = HANDS_ON if codes else 1
        weights = _in_codes(key, size) + [[1, 3]] * codes
        if clips(family):
            params |= {9: 3, 10: [0.0, 6.0]}
    return "ConvolutionDepthWise" if groups > 1 else "Convolution", params, weights


def _in_codes(key: LayerKey, size: int) -> list[list[int]]:
    """Weights of an int8 layer: codes, biases, their scales, that of what it reads."""
    return [[size, CODES], [key.outs[0], FLOATS], [key.outs[0], SCALES], [1, SCALES]]


def _ncnn_product(key: LayerKey) -> _Made:
    """As the emitter writes it: every row of the matrix is read as a vector."""
    size = key.ins[0] * key.outs[0]
    params: dict[int, Param] = {0: key.outs[0], 1: 1, 2: size}
    if is_int8(key.family):
        return "InnerProduct", params | {SCALE_TERM: 1}, _in_codes(key, size)
    return "InnerProduct", params, [[size, TAGGED], [key.outs[0], FLOATS]]


def _ncnn_pool(key: LayerKey) -> _Made:
    family = key.family
    top, left, bottom, right = _pads(family) if family.kind == "maxpool" else (0, 0, 0, 0)
    params: dict[int, Param] = {
        0: 0 if family.kind == "maxpool" else 1, 1: family.kernel[1], 11: family.kernel[0], 2: family.stride[1],
        12: family.stride[0], 3: left, 13: top, 14: right, 15: bottom, 5: 1,
    }  # fmt: skip
    return "Pooling", params, []


def _ncnn_resize(key: LayerKey) -> _Made:
    family = key.family
    mode = 1 if family.op == "nearest" else 2
    return "Interp", {0: mode, 1: float(family.kernel[0]), 2: float(family.kernel[1])}, []


NCNN: dict[str, Callable[[LayerKey], _Made]] = {
    "conv": _ncnn_conv, "group-conv": _ncnn_conv, "depthwise": _ncnn_conv, "matmul": _ncnn_product,
    "maxpool": _ncnn_pool, "avgpool": _ncnn_pool, "resize": _ncnn_resize,
    "concat": lambda key: ("Concat", {0: 0}, []),
    "split": lambda key: ("Slice", {0: list(key.outs), 1: 0}, []),
    "binary": lambda key: ("BinaryOp", {0: 2 if key.family.op == "mul" else 0}, []),
    "gate": lambda key: ("BinaryOp", {0: 2 if key.family.op == "mul" else 0}, []),
    "unary": lambda key: (*NCNN_UNARY[key.family.op], []),
}  # fmt: skip


def onnx_network(keys: Sequence[LayerKey], path: Path) -> Path:
    """Write a model of independent layers; the nodes of the i-th are named `Li_…`. Returns the path."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for index, key in enumerate(keys):
        shapes = input_shapes(key)
        names = [f"L{index}_in{i}" for i in range(len(shapes))]
        outs = [f"L{index}_out{i}" for i in range(len(key.outs))]
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape])
            for name, shape in zip(names, shapes, strict=True)
        ]
        outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outs]
        if is_int8(key.family):
            made = int8_nodes(index, key, onnx_parts, names, outs)
            nodes += made[0]
            weights += made[1]
            continue
        op, attributes, constants = onnx_parts(key)
        extra = [f"L{index}_w{place}" for place in range(len(constants))]
        weights += [numpy_helper.from_array(value, name) for value, name in zip(constants, extra, strict=True)]
        if op in GATES:
            nodes.append(helper.make_node(GATES[op], names, [f"L{index}_s"], f"L{index}_gate"))
            nodes.append(helper.make_node("Mul", [*names, f"L{index}_s"], outs, f"L{index}_mul"))
            continue
        operands = [names[0], "", *extra] if op == "Resize" else [*names, *extra]
        node = helper.make_node(op, operands, outs, f"L{index}_layer")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        nodes.append(node)
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8), str(path))
    return path


GATES = {"Silu": "Sigmoid", "HardSwish": "HardSigmoid"}
"""Activations x·g(x), written with two nodes, as exporters do: what onnxruntime expands itself loses its name."""

_Parts = tuple[str, dict[str, Any], list[Array]]


def onnx_parts(key: LayerKey) -> _Parts:
    """Operator, attributes and constant inputs."""
    family = key.family
    if family.kind in ONNX:
        return ONNX[family.kind](key)
    if family.op in ONNX_UNARY:
        return ONNX_UNARY[family.op], {}, []
    if family.op == "scale":
        return "Mul", {}, [np.full(1, 0.5, np.float32)]
    # What else there is (Mish, GELU) evaluates an exponential an element, as SiLU does.
    return "HardSwish" if family.op == "hardswish" else "Silu", {}, []


def _onnx_conv(key: LayerKey) -> _Parts:
    family = key.family
    groups = key.ins[0] if family.kind == "depthwise" else family.groups
    random = np.random.default_rng(0)
    shape = (key.outs[0], key.ins[0] // groups, *family.kernel)
    weight = random.normal(0, 0.1, shape).astype(np.float32)
    return "Conv", {**_window(family), "group": groups}, [weight, np.zeros(key.outs[0], np.float32)]


def _onnx_product(key: LayerKey) -> _Parts:
    weight = np.random.default_rng(0).normal(0, 0.1, (key.ins[0], key.outs[0]))
    return "MatMul", {}, [weight.astype(np.float32)]


def _window(family: Family) -> dict[str, Any]:
    return {"kernel_shape": family.kernel, "strides": family.stride, "pads": _pads(family)}


def _onnx_resize(key: LayerKey) -> _Parts:
    family = key.family
    modes = {"coordinate_transformation_mode": "half_pixel"}
    if family.op == "nearest":
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return "Resize", {"mode": family.op, **modes}, [np.array([1, 1, *family.kernel], np.float32)]


ONNX: dict[str, Callable[[LayerKey], _Parts]] = {
    "conv": _onnx_conv, "group-conv": _onnx_conv, "depthwise": _onnx_conv, "matmul": _onnx_product,
    "maxpool": lambda key: ("MaxPool", _window(key.family), []),
    "avgpool": lambda key: ("AveragePool", {"kernel_shape": key.family.kernel, "strides": key.family.stride}, []),
    "resize": _onnx_resize,
    "concat": lambda key: ("Concat", {"axis": 1}, []),
    "split": lambda key: ("Split", {"axis": 1}, [np.array(key.outs, np.int64)]),
    "binary": lambda key: ("Mul" if key.family.op == "mul" else "Add", {}, []),
    "gate": lambda key: ("Mul" if key.family.op == "mul" else "Add", {}, []),
}  # fmt: skip
