"""Gradients without a training framework: a graph that carries cotangents from a network's outputs to its layers.

For a network o = f(x) and numbers u of the outputs' shapes, the added nodes compute g = (∂o/∂t)ᵀ·u for every tensor t
asked for, by the adjoint of each operator on the way (reverse-mode differentiation; Griewank & Walther 2008, ch. 3).
They are ordinary ONNX nodes, so onnxruntime runs them, and nothing is learnt: no weight is ever changed by them.

Every tensor between has to have a static shape, and every operator a row in `adjoint_rules.ADJOINTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint_nodes import Adjoint
from onnxslim_yolo.analysis.adjoint_rules import ADJOINTS
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Node, is_constant, is_empty, toposort


@dataclass(frozen=True)
class Carried:
    """What was carried back: cotangents of the wanted tensors by name, without those nothing depends on; and by node,
    the part of its first input's cotangent that comes through this node alone."""

    of: dict[str, gs.Variable]
    through: dict[str, gs.Variable]


def carry_back(graph: gs.Graph, seeds: Mapping[str, gs.Variable], wanted: Sequence[str]) -> Carried:
    """Add what computes the cotangents of the wanted tensors.

    Args:
        graph: edited: nodes are added, and the seeds become inputs. Its outputs stay.
        seeds: per output's name the variable that brings its cotangent, of the output's shape.
        wanted: names of tensors.

    Raises:
        UnsupportedError: an operator between has no rule, or a shape is not known.
    """
    adjoint, order = Adjoint(graph), toposort(graph)
    needed = _leading_to(order, set(wanted))
    parts: dict[str, list[Any]] = {name: [seed] for name, seed in seeds.items()}
    done: dict[str, gs.Variable] = {}
    through: dict[str, gs.Variable] = {}

    def total(name: str) -> gs.Variable | None:
        if name not in done and name in parts:
            some = parts[name]
            done[name] = some[0] if len(some) == 1 else adjoint.add("Sum", some)
        return done.get(name)

    for node in reversed(order):
        outputs = [None if is_empty(tensor) else total(tensor.name) for tensor in node.outputs]
        if all(one is None for one in outputs) or not any(t.name in needed for t in node.inputs if not is_empty(t)):
            continue
        rule = ADJOINTS.get(node.op) if node.domain in (None, "", "ai.onnx") else None
        if rule is None:
            raise UnsupportedError(f"no gradient is known for {node.op}", node=node.name)
        for index, value in rule(adjoint, node, outputs).items():
            tensor = node.inputs[index]
            if not is_constant(tensor) and tensor.name in needed:
                if index == 0:
                    through[node.name] = value
                parts.setdefault(tensor.name, []).append(value)
    found = {name: total(name) for name in wanted}
    graph.inputs = [*graph.inputs, *seeds.values()]
    graph.nodes = toposort(graph)
    return Carried({name: value for name, value in found.items() if value is not None}, through)


def _leading_to(order: Sequence[Node], wanted: set[str]) -> set[str]:
    """The tensors that depend on a wanted one, and those themselves."""
    found = set(wanted)
    for node in order:
        if any(tensor.name in found for tensor in node.inputs if not is_empty(tensor)):
            found |= {tensor.name for tensor in node.outputs if not is_empty(tensor)}
    return found
