"""Functions applied value by value: ncnn's layer where the table names one, and a few that several layers make up."""

from __future__ import annotations

from collections.abc import Mapping

from onnxslim_yolo.emit.ncnn.format import FLT_MAX, Param
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering
from onnxslim_yolo.emit.ncnn.ops_elementwise import ADD, DIV, MAX, MUL, SUB, UNARY
from onnxslim_yolo.ir.attributes import attribute, attributes
from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.ops.functions import FUNCTIONS


def from_row(op: str, kind: str, places: Mapping[int, str | float]) -> Lower:
    """A layer that works element by element, with a function's attributes in these places."""

    def lower(low: Lowering, node: Node) -> None:
        source, given = low.input(node, 0), attributes(op, node.attrs)
        params: dict[int, Param] = {k: float(given[v]) if isinstance(v, str) else v for k, v in places.items()}
        low.emit(node, kind, [source], source.dims, params, to=node.outputs[0])

    return lower


def gelu(low: Lowering, node: Node) -> None:
    """GELU, exact or with tanh."""
    source, fast = low.input(node, 0), attributes("Gelu", node.attrs)["approximate"] == "tanh"
    low.emit(node, "GELU", [source], source.dims, {0: int(fast)}, to=node.outputs[0])


def hard_swish(low: Lowering, node: Node) -> None:
    """HardSwish; ncnn's has a slope and a shift, which patterns may give."""
    source, (kind, own) = low.input(node, 0), FUNCTIONS["HardSwish"].ncnn or ("HardSwish", {})
    given = {place: node.attrs.get(name) for place, name in enumerate(("alpha", "beta"))}
    params: dict[int, Param] = {k: float(own[k] if value is None else value) for k, value in given.items()}
    low.emit(node, kind, [source], source.dims, params, to=node.outputs[0])


def softsign(low: Lowering, node: Node) -> None:
    """x / (1 + |x|)."""
    source = low.input(node, 0)
    size = low.emit(node, "UnaryOp", [source], source.dims, {0: UNARY["Abs"]}, suffix="/abs")
    below = low.emit(node, "BinaryOp", [size], source.dims, {0: ADD, 1: 1, 2: 1.0}, suffix="/below")
    low.emit(node, "BinaryOp", [source, below], source.dims, {0: DIV}, to=node.outputs[0])


def thresholded(low: Lowering, node: Node) -> None:
    """x · (x > α)."""
    source = low.input(node, 0)
    alpha = float(attributes("ThresholdedRelu", node.attrs)["alpha"])
    above = low.emit(node, "Threshold", [source], source.dims, {0: alpha}, suffix="/above")
    low.emit(node, "BinaryOp", [source, above], source.dims, {0: MUL}, to=node.outputs[0])


def softplus(low: Lowering, node: Node) -> None:
    """max(x, log(1 + exp(min(x, 20)))): ncnn's exponential is ∞ from 88 on, and above 20 the sum is x in float32."""
    source = low.input(node, 0)
    below = low.emit(node, "Clip", [source], source.dims, {0: -FLT_MAX, 1: 20.0}, suffix="/below")
    curve = low.emit(node, "Softplus", [below], source.dims, suffix="/curve")
    low.emit(node, "BinaryOp", [source, curve], source.dims, {0: MAX}, to=node.outputs[0])


def sign(low: Lowering, node: Node) -> None:
    """(x > 0) − (−x > 0)."""
    source = low.input(node, 0)
    turned = low.emit(node, "UnaryOp", [source], source.dims, {0: UNARY["Neg"]}, suffix="/neg")
    above, below = (
        low.emit(node, "Threshold", [value], source.dims, {0: 0.0}, suffix=f"/{name}")
        for value, name in ((source, "above"), (turned, "below"))
    )
    low.emit(node, "BinaryOp", [above, below], source.dims, {0: SUB}, to=node.outputs[0])


def swish(low: Lowering, node: Node) -> None:
    """x · σ(αx); with α = 1 a Swish, otherwise three layers."""
    source, alpha = low.input(node, 0), 1.0 if node.op == "Silu" else float(attribute(node, "alpha"))
    if alpha == 1:
        low.emit(node, "Swish", [source], source.dims, to=node.outputs[0])
        return
    scaled = low.emit(node, "BinaryOp", [source], source.dims, {0: MUL, 1: 1, 2: alpha}, suffix="/scaled")
    gate = low.emit(node, "Sigmoid", [scaled], source.dims, suffix="/gate")
    low.emit(node, "BinaryOp", [source, gate], source.dims, {0: MUL}, to=node.outputs[0])


FUNCTION_OPS: dict[str, Lower] = {
    **{op: from_row(op, *row.ncnn) for op, row in FUNCTIONS.items() if row.ncnn is not None},
    "Gelu": gelu,
    "HardSwish": hard_swish,
    "Silu": swish,
    "Swish": swish,
    "Softplus": softplus,
    "Softsign": softsign,
    "ThresholdedRelu": thresholded,
    "Sign": sign,
}
