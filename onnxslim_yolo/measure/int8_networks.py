"""One-layer networks in int8 as onnxruntime reads them: a layer between codes.

    QuantizeLinear → DequantizeLinear → the layer → QuantizeLinear → DequantizeLinear

onnxruntime computes the layer on codes. Its nodes are named `Li_…` and timed; what makes the codes and reads them is
named `Qi_…` and is not, since layers one after another hand codes on. A layer without weights stands between two
convolutions in int8, since these read and write channels last: a pool of codes takes 15 times as long otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.latency.int8 import ENDS, TURN, WITH_WEIGHT, float_form
from onnxslim_yolo.latency.layers import LayerKey
from onnxslim_yolo.ops.arithmetic import PRODUCT
from onnxslim_yolo.ops.linear import CONVOLUTIONS, LINEAR
from onnxslim_yolo.ops.spatial import RESIZES

STEP, ZERO = 1 / 255, 0
GATE = "Silu"
Parts = tuple[str, dict[str, Any], list[Array]]


def int8_nodes(
    index: int, key: LayerKey, parts: Callable[[LayerKey], Parts], ins: Sequence[str], outs: Sequence[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes of the index-th layer, and their constants.

    Args:
        parts: operator, attributes and constant inputs of a float layer.
        ins, outs: names of what it reads and makes, floats.
    """
    writer = _Writer(index)
    end = key.family.op.split(" ")[0]
    if end == TURN:
        writer.turned(ins[0], outs[0])
    elif end in ENDS:
        writer.ends(ins[0], outs[0], timed=end)
    else:
        read = [writer.coded(name) for name in ins]
        between = key.family.kind not in WITH_WEIGHT
        if between:
            read = [writer.convolved(name, width) for name, width in zip(read, key.ins, strict=False)]
        made = [f"{name}_float" for name in outs]
        writer.layer(parts(LayerKey(float_form(key.family), key.ins, key.outs)), read, made)
        for name, out, width in zip(made, outs, key.outs, strict=True):
            if between:
                writer.ends(writer.convolved(writer.coded(name), width, coded=False), out)
            else:
                writer.ends(name, out)
    return writer.nodes, writer.constants


class _Writer:
    """Collects the nodes of one layer."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Array, name: str) -> str:
        """A constant by a name of this layer's own."""
        name = f"L{self.index}_c{len(self.constants)}_{name}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def ends(self, source: str, target: str, timed: str = "") -> None:
        """A tensor's codes, and floats of them again; `timed`: which of the two is."""
        scale = [self.constant(np.asarray(STEP, np.float32), "s"), self.constant(np.asarray(ZERO, np.uint8), "z")]
        codes = f"{source}_codes"

        def put(op: str, read: str, made: str) -> None:
            which = "L" if timed and op.lower().startswith(timed) else "Q"
            self.nodes.append(helper.make_node(op, [read, *scale], [made], f"{which}{self.index}_{made}"))

        put("QuantizeLinear", source, codes)
        put("DequantizeLinear", codes, target)

    def turned(self, source: str, target: str) -> None:
        """A tensor's codes with their channels last."""
        read, made = self.coded(source), f"{source}_turned"
        self.nodes.append(helper.make_node("Transpose", [read], [made], f"L{self.index}_layer", perm=[0, 2, 3, 1]))
        self.ends(made, target)

    def coded(self, source: str) -> str:
        """The tensor as its codes tell it."""
        self.ends(source, f"{source}_again")
        return f"{source}_again"

    def convolved(self, source: str, width: int, *, coded: bool = True) -> str:
        """A tensor behind a convolution of each channel by itself, not timed; `coded`: as its codes tell it."""
        read, made = [source, *self.weights((width, 1, 1, 1), axis=0)], f"{source}_convolved"
        self.nodes.append(helper.make_node("Conv", read, [made], f"Q{self.index}_{made}", group=width))
        return self.coded(made) if coded else made

    def layer(self, parts: Parts, read: list[str], made: list[str]) -> None:
        """The layer itself, its weights as codes."""
        op, attributes, constants = parts
        if op == GATE:
            self.nodes.append(helper.make_node("Sigmoid", read, [f"{read[0]}_s"], f"L{self.index}_gate"))
            read, op = [*read, self.coded(f"{read[0]}_s")], PRODUCT
        if op in CONVOLUTIONS:
            read = [*read, *self.weights(constants[0].shape, axis=0)]
        elif op in LINEAR:  # it has no bias
            read = [*read, *self.weights(constants[0].shape, axis=1)[:1]]
        else:
            read = [*read, *[""] * (op in RESIZES), *(self.constant(value, "w") for value in constants)]
        node = helper.make_node(op, read, made, f"L{self.index}_layer")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)

    def weights(self, shape: tuple[int, ...], axis: int) -> list[str]:
        """A layer's weight and bias behind their DequantizeLinear, a step per output channel, which `axis` counts."""
        outputs = shape[axis]
        step = np.full(outputs, 0.01, np.float32)
        random = np.random.default_rng(0)
        kinds = {
            "w": (random.integers(-63, 64, shape, np.int8), step),
            "b": (np.zeros(outputs, np.int32), (step * np.float32(STEP)).astype(np.float32)),
        }
        found = []
        for name, (codes, steps) in kinds.items():
            inputs = [self.constant(value, name) for value in (codes, steps, np.zeros(outputs, codes.dtype))]
            found.append(f"{inputs[0]}_floats")
            along = axis if name == "w" else 0
            made = f"Q{self.index}_{found[-1]}"
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, found[-1:], made, axis=along))
        return found
