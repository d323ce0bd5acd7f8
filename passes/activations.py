"""silu: activation functions that are written as several nodes become the one operator that ONNX has for them.

`analysis.activations` recognises them; all forms are equal up to rounding. Which operator may be written depends on the
model's opset, which stays as it is, so that the file runs wherever the source did:

    HardSigmoid, LeakyRelu, Clip   6        HardSwish   14 (below: HardSigmoid and Mul)
    Mish                          18        Gelu        20

SiLU has no operator: it stays Sigmoid and Mul, with x as the Mul's first input. What the opset has no operator for
stays as it is; emitters and the cost model recognise the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.activations import Activation, find_activations, operator_of
from onnxslim_yolo.ir.attributes import since
from onnxslim_yolo.ir.graph import Namer, Tensor, detach, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.functions import is_sigmoid


@dataclass(frozen=True)
class Activations:
    """Write every activation function with as few nodes as the model's opset allows."""

    name: ClassVar[str] = "silu"

    def run(self, model: Model) -> int:
        """Rewrite; return how many activations were."""
        graph, namer = model.graph, Namer(model.graph)
        rewrites = sum(_rewrite(graph, found, model.opset, namer) for found in find_activations(graph))
        if rewrites:
            sweep(graph)
            graph.nodes = toposort(graph)
        return rewrites


def _rewrite(graph: gs.Graph, found: Activation, opset: int, namer: Namer) -> bool:
    if found.kind == "SiLU":
        return _order(found) if is_sigmoid(found.nodes[-1]) else _write_silu(graph, found, namer)
    op, own = operator_of(found.kind)
    if opset < since(op):
        gated = found.kind == "HardSwish" and len(found.nodes) > 2
        return gated and _write_hard_swish(graph, found, namer)
    x, output, dtype, name = found.input, found.output, found.output.dtype, found.nodes[0].name
    attributes, inputs = {**own, **found.attributes}, [x]
    if found.kind == "Clip":
        if opset >= 11 and (dtype is None or np.dtype(dtype).kind != "f"):
            return False
        attributes, limits = _limits(found, opset, dtype, namer)
        inputs += limits
    for node in found.nodes:
        detach(node)
    graph.nodes.append(gs.Node(op, name, attributes, inputs, [output]))
    return True


def _order(found: Activation) -> bool:
    """Put x before σ(x)."""
    mul, sigmoid = found.nodes[0], found.nodes[-1]
    if mul.inputs[0] is found.input:
        return False
    mul.inputs = [found.input, sigmoid.outputs[0]]
    return True


def _write_silu(graph: gs.Graph, found: Activation, namer: Namer) -> bool:
    return _write_gated(graph, found, namer, "Sigmoid", {})


def _write_hard_swish(graph: gs.Graph, found: Activation, namer: Namer) -> bool:
    return _write_gated(graph, found, namer, "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})


def _write_gated(graph: gs.Graph, found: Activation, namer: Namer, op: str, attributes: dict[str, float]) -> bool:
    """x·gate(x)."""
    x, output, name = found.input, found.output, found.nodes[0].name
    for node in found.nodes:
        detach(node)
    gate = gs.Variable(namer(f"{output.name}_gate"), output.dtype, output.shape)
    graph.nodes += [
        gs.Node(op, namer(f"{name}_gate"), attributes, [x], [gate]),
        gs.Node("Mul", name, inputs=[x, gate], outputs=[output]),
    ]
    return True


def _limits(found: Activation, opset: int, dtype: Any, namer: Namer) -> tuple[dict[str, Any], list[Tensor]]:
    """A Clip's bounds, as attributes before opset 11 and as inputs since."""
    bounds = {name: found.attributes[name] for name in ("min", "max")}
    if opset < 11:
        return {name: value for name, value in bounds.items() if not isinf(value)}, []
    inputs: list[Tensor] = []
    for name, value in bounds.items():
        if isinf(value):
            inputs.append(gs.Variable.empty())
        else:
            inputs.append(gs.Constant(namer(f"{found.output.name}_{name}"), np.array(value, np.dtype(dtype))))
    return {}, inputs[:1] if isinf(bounds["max"]) else inputs
