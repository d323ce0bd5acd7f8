"""A layer's weights as whole numbers, and its bias corrected for what their rounding adds on average.

Rounding W to Ŵ adds Σ (Ŵ − W)·x to an output; its mean over images is Σ (Ŵ − W)·E[x], which goes off the bias (Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2; the mean is measured
here). Borders, where taps read zeros, are left out of it; a MatMul has no bias that it could go off.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ops.linear import LinearLayer, is_matmul
from onnxslim_yolo.quantisation.plan import Quantisation, QuantisedLayer, Range
from onnxslim_yolo.runtime.processor import NARROW, adds_in_16_bits

WHOLE = 127
"""The largest weight, where pairs of products are not added up in 16 bits."""

ROOM = 2.0**30
"""A bias in whole numbers stays below this."""


def overflows_here(plan: Quantisation) -> bool:
    """Whether this machine's int8 kernels overflow on a plan that is for others."""
    return plan.largest_weight > NARROW and adds_in_16_bits()


def quantised_layer(node: Node, writes: str, read: Range, mean: Array, largest: int = WHOLE) -> QuantisedLayer:
    """A layer in whole numbers.

    Args:
        writes: the tensor that its codes are of. read: the range of what it reads.
        mean: of what it reads, per channel. largest: weight.

    Raises:
        UnsupportedError: it is none (see `places.no_kernel`).
    """
    layer = LinearLayer.of(node)
    if layer is None:
        raise UnsupportedError("int8: its weight is no constant", node=node.name)
    alpha, beta = layer.factors
    blocks = layer.blocks * alpha
    count = layer.outputs
    bias = (
        np.zeros(count)
        if layer.bias is None
        else beta * np.broadcast_to(layer.bias.astype(np.float64).reshape(-1), (count,))
    )
    # A channel of nothing but a bias needs steps as large as its bias asks for.
    needed = np.abs(bias) / (ROOM * read.step)
    step = np.maximum(np.abs(blocks).reshape(count, -1).max(axis=1) / largest, np.maximum(needed, 1e-12))
    step = step.astype(np.float32)
    steps = layer.per_output(step.astype(np.float64))
    codes = np.clip(np.rint(blocks / steps), -largest, largest)
    adds = not is_matmul(node)
    if adds:
        bias = bias - mean_added(codes * steps - blocks, mean)
    weight = layer.stored(codes.astype(np.int8))
    return QuantisedLayer(node.name, node.inputs[0].name, writes, weight, step, bias, layer.making_axis, adds)


def mean_added(change: Array, mean: Array) -> Array:
    """What a change of a layer's blocks adds to each output on average, (outputs,)."""
    groups, outputs, inputs, _ = change.shape
    return np.asarray(np.einsum("goit,gi->go", change, mean.reshape(groups, inputs)).reshape(groups * outputs))
