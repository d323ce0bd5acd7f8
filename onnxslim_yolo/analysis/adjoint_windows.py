"""Adjoints of pools and of resizing: what windows and grids of samples do, one row an operator in `WINDOWS`.

A pool's windows are a depthwise convolution's; where padding is asked for by name or the last windows hang over the
edge (`ceil_mode`), it is padded as far as they reach. Resizing is linear along each axis: y = A·x·Bᵀ, and the matrices
are what the operator itself makes of unit vectors, whatever its mode and its coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, Cotangents, Found, Rule, given, refusal, shape_of
from onnxslim_yolo.analysis.folding import evaluate, one_node
from onnxslim_yolo.ir.attributes import attribute, operand, per_axis
from onnxslim_yolo.ir.graph import Array, Node, has_input

WIDEST = 4096
"""Positions along an axis at most, of which a matrix is made."""


def pads_of(node: Node, size: Sequence[int], out: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """A window's pads, however they are asked for, such that the last window lies inside: begins, then ends."""
    rank = len(kernel)
    strides, dilations = per_axis(node, "strides", rank), per_axis(node, "dilations", rank)
    reach = [(out[k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 for k in range(rank)]
    how = attribute(node, "auto_pad")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        over = [max(r - n, 0) for r, n in zip(reach, size, strict=True)]
        before = [(o + (how == "SAME_LOWER")) // 2 for o in over]
        return [*before, *(o - b for o, b in zip(over, before, strict=True))]
    pads = [0] * (2 * rank) if how == "VALID" else per_axis(node, "pads", rank)
    more = [max(reach[k] - size[k] - pads[k] - pads[k + rank], 0) for k in range(rank)]
    return [*pads[:rank], *(pads[k + rank] + more[k] for k in range(rank))]


def spread_windows(
    adjoint: Adjoint, value: Any, weight: Array, attrs: dict[str, Any], size: Sequence[int], out: Sequence[int]
) -> gs.Variable:
    """The adjoint of a convolution: every position gets what the windows over it got of it.

    Args:
        attrs: its strides, dilations, pads and group. size, out: of its maps.
    """
    rank = weight.ndim - 2
    kernel, pads = weight.shape[2:], attrs["pads"]
    reached = [attrs["dilations"][k] * (kernel[k] - 1) for k in range(rank)]
    far = [size[k] - out[k] + pads[k] for k in range(rank)]
    within = all(pads[k] <= reached[k] and far[k] >= 0 for k in range(rank))
    plain = attrs["group"] in (1, max(weight.shape[:2]))
    if within and plain and all(step == 1 for step in attrs["strides"]):
        # Runtimes are quicker at a convolution with the kernels turned round than at a transposed one, but for one of
        # several groups that is not depthwise.
        turned = _turned_round(weight, attrs["group"])
        edges = {"pads": [*(reached[k] - pads[k] for k in range(rank)), *far]}
        return adjoint.add("Conv", [value, turned], **attrs | edges)
    reach = [
        (out[k] - 1) * attrs["strides"][k] - pads[k] - pads[k + rank] + (kernel[k] - 1) * attrs["dilations"][k] + 1
        for k in range(rank)
    ]
    padding = [size[k] - reach[k] for k in range(rank)]
    return adjoint.add("ConvTranspose", [value, weight], **attrs, output_padding=padding)


def _turned_round(weight: Array, groups: int) -> Array:
    """Kernels of a convolution's adjoint: outputs and inputs change places within a group, positions run backwards."""
    blocks = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    backwards = (slice(None), slice(None), *[slice(None, None, -1)] * (weight.ndim - 2))
    return np.ascontiguousarray(blocks.reshape(-1, *blocks.shape[2:])[backwards])


def _windows(node: Node) -> tuple[list[int], dict[str, Any]]:
    kernel = [int(n) for n in node.attrs["kernel_shape"]]
    size, out = shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:]
    if len(kernel) != 2:
        raise refusal(node, "only windows of two sides")
    strides, dilations = per_axis(node, "strides", 2), per_axis(node, "dilations", 2)
    return kernel, {"strides": strides, "dilations": dilations, "pads": pads_of(node, size, out, kernel)}


def _average_pool(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    kernel, attrs = _windows(node)
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    declared = [0] * 4 if attribute(node, "auto_pad") == "VALID" else per_axis(node, "pads", 2)
    if attribute(node, "auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        declared = attrs["pads"]
    counts = []
    for k in range(2):
        low, high = (-declared[k], shape[2 + k] + declared[2 + k]) if attribute(node, "count_include_pad") else (
            0, shape[2 + k])  # fmt: skip
        taps = np.arange(out[2 + k])[:, None] * attrs["strides"][k] - attrs["pads"][k]
        taps = taps + np.arange(kernel[k])[None] * attrs["dilations"][k]
        counts.append(((taps >= low) & (taps < high)).sum(axis=1))
    share = 1 / np.maximum(np.outer(*counts), 1)
    ones = np.ones((shape[1], 1, *kernel), dtype=np.float32)
    value = adjoint.add("Mul", [given(values), share.astype(np.float32)])
    return {0: spread_windows(adjoint, value, ones, attrs | {"group": shape[1]}, shape[2:], out[2:])}


def _max_pool(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    """Windows are laid out by a depthwise convolution with one-hot kernels; the maxima share their cotangent."""
    kernel, attrs = _windows(node)
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    channels, taps = shape[1], int(np.prod(kernel))
    attrs |= {"group": channels}
    one_hot = np.tile(np.eye(taps, dtype=np.float32).reshape(taps, 1, *kernel), (channels, 1, 1, 1))
    five = (shape[0], channels, taps, *out[2:])
    windows = adjoint.reshape(adjoint.add("Conv", [node.inputs[0], one_hot], **attrs), five)
    highest = adjoint.reshape(node.outputs[0], (shape[0], channels, 1, *out[2:]))
    hits = adjoint.hits(windows, highest)
    count = adjoint.at_least(adjoint.sum_over(hits, [2]), 1.0)
    share = adjoint.add("Div", [adjoint.reshape(given(values), (shape[0], channels, 1, *out[2:])), count])
    spread = adjoint.reshape(adjoint.add("Mul", [hits, share]), (shape[0], channels * taps, *out[2:]))
    return {0: spread_windows(adjoint, spread, one_hot, attrs, shape[2:], out[2:])}


def _resize(adjoint: Adjoint, node: Node, values: Cotangents) -> Found:
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if len(shape) != 4 or shape[:2] != out[:2]:
        raise refusal(node, "it does not resize height and width alone")
    if shape == out:
        return {0: given(values)}  # the runtime copies it, whatever its scales
    factors = [b // a for a, b in zip(shape, out, strict=True)]
    whole = all(a * f == b for a, b, f in zip(shape, out, factors, strict=True))
    if whole and attribute(node, "mode") == "nearest":
        ones = np.ones((shape[1], 1, *factors[2:]), dtype=np.float32)
        return {0: adjoint.add("Conv", [given(values), ones], strides=factors[2:], group=shape[1])}
    value = given(values)
    rows, columns = (_along(adjoint, node, axis, shape[axis], out[axis]) for axis in (2, 3))
    if rows is not None:
        value = adjoint.add("MatMul", [np.ascontiguousarray(rows.T), value])
    return {0: value if columns is None else adjoint.add("MatMul", [value, columns])}


def _along(adjoint: Adjoint, node: Node, axis: int, size: int, out: int) -> Array | None:
    """The matrix (out, size) that resizes along an axis; None where it is the identity."""
    scales = None if has_input(node, 3) else operand(node, "scales")
    if max(size, out) > WIDEST or attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        raise refusal(node, "its coordinates are not known")
    unit = np.eye(size, dtype=np.float32).reshape(1, size, size, 1)
    beside = 2 if size == out else 1  # what keeps all its sizes would be copied, whatever its scales
    given_scales = np.array([1, 1, 1 if scales is None else scales.reshape(-1)[axis], beside], dtype=np.float32)
    sizes = np.array([1, size, out, beside], dtype=np.int64)
    feeds: dict[str, Array] = {"x": unit}
    if node.op == "Resize" and adjoint.graph.opset >= 11:
        feeds |= {"sizes": sizes} if scales is None else {"scales": given_scales}
        inputs = ["x", "", *(["scales"] if scales is not None else ["", "sizes"])]
    else:
        feeds |= {"scales": given_scales}
        inputs = ["x", "scales"]
    kept = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    attrs = {name: node.attrs[name] for name in kept if name in node.attrs}
    proto = onnx.helper.make_node(node.op, inputs, ["y"], **attrs)
    try:
        (made,) = evaluate(one_node(proto, feeds, [onnx.helper.make_opsetid("", adjoint.graph.opset)]), feeds)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise refusal(node, "the runtime does not resize one axis alone") from error
    if made.shape != (1, size, out, beside):
        raise refusal(node, "what it makes of one axis has another size")
    matrix = np.ascontiguousarray(made[0, :, :, 0].T)
    return None if np.array_equal(matrix, np.eye(size, dtype=np.float32)) else matrix


WINDOWS: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Upsample": _resize,
}
