"""Graphs whose weights are moved by their last place: what rounding once more may cost."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.graph import input_constant, nodes_of, replace_constant, revalue, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import PLAIN
from onnxslim_yolo.runtime.half import in_float32, is_half_tensor

UNIT = 2.0**-11
"""Of float16: half the distance of 1 to the next number."""


def rounded_again(model: Model, seed: int = 0) -> Model:
    """A float32 copy with every float16 weight of a linear layer moved by half its last place, up or down at random.

    So much any fold costs that scales weights (a BatchNorm, a division of the image): they are rounded once more.
    """
    moved = in_float32(model)
    rng = np.random.default_rng(seed)
    was_half = {tensor.name for tensor in tensors(model.graph) if is_half_tensor(tensor)}
    for node in nodes_of(moved.graph, *PLAIN):
        for index in range(len(node.inputs)):
            value = input_constant(node, index)
            if value is not None and node.inputs[index].name in was_half:
                signs = rng.choice([-UNIT, UNIT], size=value.shape)
                revalue(node, index, (value * (1 + signs)).astype(np.float32))
    return moved


def moved_weights(model: Model, seed: int = 0) -> Model:
    """A copy with every weight of a linear layer and a normalisation moved by its last place, up or down at random."""
    moved = model.copy()
    rng = np.random.default_rng(seed)
    for node in nodes_of(moved.graph, *PLAIN, "BatchNormalization"):
        for index in range(len(node.inputs)):
            value = input_constant(node, index)
            if value is not None and value.dtype.kind == "f":
                towards = rng.choice([-np.inf, np.inf], size=value.shape).astype(value.dtype)
                replace_constant(node, index, np.nextafter(value, towards))
    return moved
