"""Per-channel affine maps absorbed by the layer before or behind them; what `fold-bn` and `fold-affine` share.

With scale s and shift t per channel, and a layer y = W∗x + b:

    after:   s·(W∗x + b) + t  =  (s·W)∗x + (s·b + t)            always, s along the weight's output axis
    before:  W∗(s·x + t) + b  =  (W·s)∗x + (b + Σ_{i,k} W·t)    s along the input axis; the shift only without padding,
                                                                 for a padded layer reads 0 beyond the edge, not t

ConvTranspose keeps its weight as (Cin, Cout/groups, *k), and takes no shift before it: at the edges of its output
fewer taps meet. MatMul has no bias: on matrices it becomes a Gemm, otherwise the shift stays behind it as an Add.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxslim_yolo.analysis.affine import Affine
from onnxslim_yolo.ir.attributes import attribute, defaults
from onnxslim_yolo.ir.graph import Array, Namer, Node, become, has_input, input_constant, replace_constant
from onnxslim_yolo.ops.linear import LINEAR, LinearLayer, bias_place, is_matmul, is_steady, output_axis

FP16_ROUNDING = 2.0**-11
"""Relative rounding error of a float16; a weight that loses more than that was pushed into the subnormals."""


@dataclass(frozen=True)
class Absorbed:
    """A layer with an affine map in it: its new weight and bias in its own type.

    Attributes:
        bias: None where it keeps the bias it has.
        op: what the node becomes.
        left: a shift that could not be absorbed, to be added to the layer's output (after) or input (before).
    """

    node: Node
    weight: Array
    bias: Array | None
    op: str
    left: Array | None = None


def absorb_after(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    """A layer with a following affine map along `axis` absorbed, or None where that is impossible."""
    layer = _layer(node)
    if layer is None or not _fits(affine, axis, layer.node, layer.outputs):
        return None
    wide = affine.widened(layer.outputs)
    weight = layer.stored(layer.blocks * layer.per_output(wide.scale))
    if is_matmul(node):
        kept = Absorbed(node, weight, None, node.op, left=affine.shift) if affine.scales else None
        return _representable(_matrix(node, weight, affine, wide.shift) or kept)
    needed = layer.bias is not None or affine.shifts
    bias = layer.factors[1] * _bias(layer) * wide.scale + wide.shift if needed else None
    return _representable(Absorbed(node, weight, bias, node.op))


def absorb_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    """A layer with a preceding affine map along `axis` absorbed, or None where that is impossible."""
    layer = _layer(node)
    if layer is None or attribute(node, "transA") or not _fits(affine, axis, node, layer.inputs):
        return None
    wide = affine.widened(layer.inputs)
    weight = layer.stored(layer.blocks * layer.per_input(wide.scale))
    carried = (layer.blocks * layer.per_input(wide.shift)).reshape(layer.outputs, -1).sum(axis=1)
    if is_matmul(node):
        return _representable(_matrix(node, weight, affine, carried) or _scaled_only(node, weight, affine))
    if not affine.shifts:
        return _representable(Absorbed(node, weight, None, node.op))
    if not is_steady(node):
        return _representable(_scaled_only(node, weight, affine))
    alpha, beta = layer.factors
    return _representable(Absorbed(node, weight, beta * _bias(layer) + alpha * carried, node.op))


def apply(absorbed: Absorbed, namer: Namer) -> None:
    """Write the new weight and bias into the node."""
    node = absorbed.node
    replace_constant(node, 1, absorbed.weight)
    if absorbed.bias is not None:
        place = bias_place(node)
        has_bias = has_input(node, place)
        replace_constant(node, place, absorbed.bias, None if has_bias else namer(bias_name(node.inputs[1].name)))
    given = node.attrs if node.op == absorbed.op else {}
    become(node, absorbed.op, {**given, "beta": 1.0} if "beta" in defaults(absorbed.op) else given)


def bias_name(weight: str) -> str:
    """The name a bias has in a state_dict, given its weight's."""
    stem, dot, leaf = weight.rpartition(".")
    return f"{stem}.bias" if dot and leaf == "weight" else f"{weight}.bias"


def cast(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """The values in a layer's own type."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(values.astype(dtype))


def _layer(node: Node) -> LinearLayer | None:
    """The layer that a node is, of constant floats."""
    weight = input_constant(node, 1) if node.op in LINEAR else None
    if weight is None or not np.issubdtype(weight.dtype, np.floating) or (is_matmul(node) and weight.ndim != 2):
        return None
    layer = LinearLayer.with_weight(node, weight)
    return None if layer.has_computed_bias else layer


def _representable(found: Absorbed | None) -> Absorbed | None:
    """The same with weight and bias cast to the layer's type, or None where that type cannot hold them."""
    if found is None:
        return None
    weight = input_constant(found.node, 1)
    if weight is None:
        return None
    exact = [found.weight, *([] if found.bias is None else [found.bias])]
    rounded = [cast(values, weight.dtype) for values in exact]
    if any(not np.isfinite(r).all() and np.isfinite(e).all() for e, r in zip(exact, rounded, strict=True)):
        return None
    if weight.dtype == np.float16:
        lost = float(np.linalg.norm(rounded[0].astype(np.float64) - found.weight))
        if lost > FP16_ROUNDING * float(np.linalg.norm(found.weight)):
            return None
    left = None if found.left is None else cast(found.left, weight.dtype)
    return replace(found, weight=rounded[0], bias=rounded[1] if found.bias is not None else None, left=left)


def _bias(layer: LinearLayer) -> Array:
    return np.zeros(layer.outputs) if layer.bias is None else layer.bias.astype(np.float64)


def _matrix(node: Node, weight: Array, affine: Affine, shift: Array) -> Absorbed | None:
    """A MatMul has no bias: of matrices it becomes a Gemm, where that is needed. None of what has more axes."""
    if not affine.shifts:
        return Absorbed(node, weight, None, node.op)
    return Absorbed(node, weight, shift, "Gemm") if output_axis(node) == 1 else None


def _scaled_only(node: Node, weight: Array, affine: Affine) -> Absorbed | None:
    """W∗(s·x + t) = (W·s)∗(x + t/s): the scale goes in, the shift stays in front."""
    if not affine.scales or (affine.scale == 0).any():
        return None
    return Absorbed(node, weight, None, node.op, left=affine.shift / affine.scale)


def _fits(affine: Affine, axis: int, node: Node, channels: int) -> bool:
    along = axis == output_axis(node) and max(affine.scale.size, affine.shift.size) == channels
    return output_axis(node) is not None and (affine.is_uniform or along)
