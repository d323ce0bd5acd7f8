"""A convolution's weights as whole numbers, and its bias corrected for what their rounding adds on average.

Rounding W to Ŵ adds Σ (Ŵ − W)·x to an output; its mean over images is Σ (Ŵ − W)·E[x], which goes off the bias (Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2; the mean is measured
here). Borders, where taps read zeros, are left out of it.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.graph import Array, Node, input_constant
from onnxslim_yolo.ops.linear import LinearLayer
from onnxslim_yolo.quantisation.plan import QuantisedLayer, Range

WHOLE, NARROW = 127, 63
"""The largest weight; and where pairs of products are added up in 16 bits (AVX2 without VNNI), which hold no more."""

ROOM = 2.0**30
"""A bias in whole numbers stays below this."""


def quantised_layer(node: Node, writes: str, read: Range, mean: Array, largest: int = WHOLE) -> QuantisedLayer:
    """A convolution in whole numbers.

    Args:
        writes: the tensor that its codes are of. read: the range of what it reads.
        mean: of what it reads, per channel. largest: weight.
    """
    weight = np.asarray(input_constant(node, 1), np.float64)
    count = weight.shape[0]
    constant = input_constant(node, 2)
    bias = np.zeros(count) if constant is None else constant.astype(np.float64).reshape(-1)
    # A channel of nothing but a bias needs steps as large as its bias asks for.
    needed = np.abs(bias) / (ROOM * read.step)
    step = np.maximum(np.abs(weight).reshape(count, -1).max(axis=1) / largest, np.maximum(needed, 1e-12))
    step = step.astype(np.float32)
    shape = (-1, *[1] * (weight.ndim - 1))
    codes = np.clip(np.rint(weight / step.astype(np.float64).reshape(shape)), -largest, largest)
    added = mean_added(node, codes * step.astype(np.float64).reshape(shape) - weight, mean)
    return QuantisedLayer(node.name, node.inputs[0].name, writes, codes.astype(np.int8), step, bias - added)


def mean_added(node: Node, change: Array, mean: Array) -> Array:
    """What a change of the weight adds to each output on average, (outputs,)."""
    blocks = LinearLayer.with_weight(node, change).blocks
    groups, outputs, inputs, _ = blocks.shape
    return np.asarray(np.einsum("goit,gi->go", blocks, mean.reshape(groups, inputs)).reshape(groups * outputs))
