"""Per-channel affine maps absorbed by the layer before or behind them; what `fold-bn` and `fold-affine` share.

With scale s and shift t per channel, and a layer y = W∗x + b:

    after:   s·(W∗x + b) + t  =  (s·W)∗x + (s·b + t)            always, s along the weight's output axis
    before:  W∗(s·x + t) + b  =  (W·s)∗x + (b + Σ_{i,k} W·t)    s along the input axis; the shift only without padding,
                                                                 for a padded layer reads 0 beyond the edge, not t

ConvTranspose keeps its weight as (Cin, Cout/groups, *k), and takes no shift before it: at the edges of its output
fewer taps meet. MatMul has no bias: on matrices it becomes a Gemm, otherwise the shift stays behind it as an Add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxslim_yolo.analysis.affine import Affine
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Namer, Node, has_input, input_constant, replace_constant
from onnxslim_yolo.ops.linear import groups_of

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
    absorb = _AFTER.get(node.op)
    return None if absorb is None or not _has_float_weight(node) else _representable(absorb(node, affine, axis))


def absorb_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    """A layer with a preceding affine map along `axis` absorbed, or None where that is impossible."""
    absorb = _BEFORE.get(node.op)
    return None if absorb is None or not _has_float_weight(node) else _representable(absorb(node, affine, axis))


def apply(absorbed: Absorbed, namer: Namer) -> None:
    """Write the new weight and bias into the node."""
    node = absorbed.node
    replace_constant(node, 1, absorbed.weight)
    if absorbed.bias is not None:
        has_bias = has_input(node, 2)
        replace_constant(node, 2, absorbed.bias, None if has_bias else namer(bias_name(node.inputs[1].name)))
    if absorbed.op == "Gemm":
        node.attrs = {**({} if node.op == "MatMul" else node.attrs), "beta": 1.0}
    node.op = absorbed.op


def bias_name(weight: str) -> str:
    """The name a bias has in a state_dict, given its weight's."""
    stem, dot, leaf = weight.rpartition(".")
    return f"{stem}.bias" if dot and leaf == "weight" else f"{weight}.bias"


def cast(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """The values in a layer's own type."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(values.astype(dtype))


def _has_float_weight(node: Node) -> bool:
    weight = input_constant(node, 1)
    if weight is None or not np.issubdtype(weight.dtype, np.floating):
        return False
    return not has_input(node, 2) or input_constant(node, 2) is not None


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


def _weight(node: Node) -> Array:
    return node.inputs[1].values.astype(np.float64)  # type: ignore[attr-defined, no-any-return]


def _bias(node: Node, channels: int) -> Array:
    values = input_constant(node, 2) if has_input(node, 2) else None
    return np.zeros(channels) if values is None else values.astype(np.float64)


def _needs_bias(node: Node, affine: Affine) -> bool:
    return has_input(node, 2) or affine.shifts


def _conv_after(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight = _weight(node)
    if not _fits(affine, axis, 1, weight.shape[0]):
        return None
    wide = affine.widened(weight.shape[0])
    bias = _bias(node, wide.scale.size) * wide.scale + wide.shift
    weight *= wide.scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return Absorbed(node, weight, bias if _needs_bias(node, affine) else None, node.op)


def _conv_transpose_after(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight, groups = _weight(node), groups_of(node)
    channels = weight.shape[1] * groups
    if not _fits(affine, axis, 1, channels):
        return None
    wide = affine.widened(channels)
    bias = _bias(node, channels) * wide.scale + wide.shift
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    scale = wide.scale.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
    return Absorbed(node, (blocks * scale).reshape(weight.shape), bias if _needs_bias(node, affine) else None, node.op)


def _gemm_after(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight, transposed = _weight(node), bool(attribute(node, "transB"))
    channels = weight.shape[0 if transposed else 1]
    if not _fits(affine, axis, 1, channels):
        return None
    wide = affine.widened(channels)
    bias = float(attribute(node, "beta")) * _bias(node, channels) * wide.scale + wide.shift
    weight *= wide.scale[:, None] if transposed else wide.scale
    return Absorbed(node, weight, bias if _needs_bias(node, affine) else None, node.op)


def _matmul_after(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight, shape = _weight(node), node.inputs[0].shape
    if weight.ndim != 2 or shape is None or not _fits(affine, axis, len(shape) - 1, weight.shape[1]):
        return None
    weight *= affine.widened(weight.shape[1]).scale
    if not affine.shifts:
        return Absorbed(node, weight, None, "MatMul")
    if len(shape) == 2:
        return Absorbed(node, weight, affine.widened(weight.shape[1]).shift, "Gemm")
    return Absorbed(node, weight, None, "MatMul", left=affine.shift) if affine.scales else None


def _conv_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight, groups = _weight(node), groups_of(node)
    channels = weight.shape[1] * groups
    if not _fits(affine, axis, 1, channels):
        return None
    wide = affine.widened(channels)
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    ones = (1,) * (weight.ndim - 2)
    scaled = (blocks * wide.scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape)
    if not affine.shifts:
        return Absorbed(node, scaled, None, node.op)
    if _is_padded(node):
        return _scaled_only(node, scaled, affine)
    carried = (blocks * wide.shift.reshape(groups, 1, -1, *ones)).reshape(weight.shape[0], -1).sum(1)
    return Absorbed(node, scaled, _bias(node, weight.shape[0]) + carried, node.op)


def _conv_transpose_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight = _weight(node)
    if not _fits(affine, axis, 1, weight.shape[0]):
        return None
    weight *= affine.widened(weight.shape[0]).scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return _scaled_only(node, weight, affine) if affine.shifts else Absorbed(node, weight, None, node.op)


def _gemm_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight = _weight(node)
    matrix = weight.T if attribute(node, "transB") else weight
    if attribute(node, "transA") or not _fits(affine, axis, 1, matrix.shape[0]):
        return None
    wide = affine.widened(matrix.shape[0])
    carried = float(attribute(node, "alpha")) * (wide.shift @ matrix)
    bias = float(attribute(node, "beta")) * _bias(node, matrix.shape[1]) + carried
    matrix *= wide.scale[:, None]
    return Absorbed(node, weight, bias if affine.shifts else None, node.op)


def _matmul_before(node: Node, affine: Affine, axis: int) -> Absorbed | None:
    weight, shape = _weight(node), node.inputs[0].shape
    if weight.ndim != 2 or shape is None or not _fits(affine, axis, len(shape) - 1, weight.shape[0]):
        return None
    wide = affine.widened(weight.shape[0])
    scaled = weight * wide.scale[:, None]
    if not affine.shifts:
        return Absorbed(node, scaled, None, "MatMul")
    if len(shape) == 2:
        return Absorbed(node, scaled, wide.shift @ weight, "Gemm")
    return _scaled_only(node, scaled, affine)


def _scaled_only(node: Node, weight: Array, affine: Affine) -> Absorbed | None:
    """W∗(s·x + t) = (W·s)∗(x + t/s): the scale goes in, the shift stays in front."""
    if not affine.scales or (affine.scale == 0).any():
        return None
    return Absorbed(node, weight, None, node.op, left=affine.shift / affine.scale)


def _fits(affine: Affine, axis: int, expected: int, channels: int) -> bool:
    return affine.is_uniform or (axis == expected and max(affine.scale.size, affine.shift.size) == channels)


def _is_padded(node: Node) -> bool:
    auto = attribute(node, "auto_pad")
    return auto.startswith("SAME") or (auto == "NOTSET" and any(node.attrs.get("pads") or ()))


_Absorb = Callable[[Node, Affine, int], Absorbed | None]
_AFTER: dict[str, _Absorb] = {
    "Conv": _conv_after,
    "ConvTranspose": _conv_transpose_after,
    "Gemm": _gemm_after,
    "MatMul": _matmul_after,
}
_BEFORE: dict[str, _Absorb] = {
    "Conv": _conv_before,
    "ConvTranspose": _conv_transpose_before,
    "Gemm": _gemm_before,
    "MatMul": _matmul_before,
}
