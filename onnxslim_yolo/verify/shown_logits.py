"""Which elements of the outputs are probabilities, and the logits behind them.

A score is a Sigmoid's or a Softmax's result that reaches an output by movement alone: Concat, Transpose, Reshape,
picking, the largest of several, or the product of two scores (objectness and class). So walking back from an output
ends at functions' results of two kinds, and runs of the movements on markers (1, then ½ for scores, 0 for everything
else) tell for every element of the output whether it is one: it is 1, then less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.heads.decode_region import UnrecognisedError, part_of, part_runner
from onnxslim_yolo.ir.graph import Array, Node, Tensor, is_constant, is_empty, producer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import infer_shapes
from onnxslim_yolo.ops.arithmetic import is_product
from onnxslim_yolo.ops.functions import is_sigmoid
from onnxslim_yolo.ops.movement import OF_ONE, is_join
from onnxslim_yolo.ops.norms import is_softmax
from onnxslim_yolo.ops.reductions import takes_greatest
from onnxslim_yolo.ops.registry import takes_best


@dataclass(frozen=True)
class Shown:
    """What a graph shows of its scores.

    Attributes:
        masks: per output's name, which of its elements are scores; outputs without any are left out.
        logits: the tensors whose Sigmoid or Softmax they are.
    """

    masks: dict[str, Array]
    logits: tuple[Tensor, ...]


def shown_logits(model: Model) -> Shown:
    """The scores among a model's outputs. Nothing where sizes are not known or the movements cannot be run."""
    walk = _Walk(list(model.graph.outputs))
    scores = [tensor for tensor in walk.ends if _makes_score(tensor)]
    logits = tuple({id(t): t for s in scores for n in [producer(s)] if n is not None for t in [n.inputs[0]]}.values())
    if not scores or any(producer(tensor) is None and is_constant(tensor) for tensor in scores):
        return Shown({}, ())
    try:
        return Shown(_masks(model, walk), logits)
    except (UnrecognisedError, InputError, KeyError, ValueError, TypeError):
        return Shown({}, logits)


def _makes_score(tensor: Tensor) -> bool:
    node = producer(tensor)
    return is_sigmoid(node) or is_softmax(node)


class _Walk:
    """Back from the outputs through movements: the nodes passed, and the tensors where it ended."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self.nodes: dict[int, Node] = {}
        self.ends: list[Tensor] = []
        seen: set[int] = set()
        stack = list(outputs)
        while stack:
            tensor = stack.pop()
            if id(tensor) in seen or is_constant(tensor) or is_empty(tensor):
                continue
            seen.add(id(tensor))
            node = producer(tensor)
            if node is None or not _moves(node):
                self.ends.append(tensor)
                continue
            self.nodes[id(node)] = node
            stack += node.inputs


def _moves(node: Node) -> bool:
    """Whether it hands on values of its first input, or of all."""
    if is_product(node):
        return not any(is_constant(tensor) for tensor in node.inputs)
    return node.op in OF_ONE or is_join(node) or takes_greatest(node) or takes_best(node)


def _masks(model: Model, walk: _Walk) -> dict[str, Array]:
    graph = model.graph
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    nodes = sorted(walk.nodes.values(), key=lambda node: order[id(node)])
    moved = [tensor for tensor in graph.outputs if producer(tensor) is not None and id(producer(tensor)) in walk.nodes]
    ends = _sizes(model, walk)
    found = {t.name: np.ones(ends[t.name][0], dtype=bool) for t in graph.outputs if _makes_score(t)}
    if moved:
        run = part_runner(part_of(graph, nodes, walk.ends, moved), "the outputs' arrangement")
        high, low = (run(_markers(walk, ends, value)) for value in (1.0, 0.5))
        for tensor, a, b in zip(moved, high, low, strict=True):
            if a.dtype.kind == "f":
                found[tensor.name] = (a == 1) & (b < 1)
    return {name: mask for name, mask in found.items() if mask.any()}


def _sizes(model: Model, walk: _Walk) -> dict[str, tuple[list[int], bool]]:
    """Per end its shape, and whether it holds floating-point numbers."""
    types = infer_shapes(model.graph, strict=False)
    kinds = {tensor.name: types[tensor.name].tensor_type for tensor in walk.ends}
    return {
        name: ([max(dim.dim_value, 1) for dim in kind.shape.dim], kind.elem_type in (1, 10, 11))
        for name, kind in kinds.items()
    }


def _markers(walk: _Walk, ends: dict[str, tuple[list[int], bool]], value: float) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for tensor in walk.ends:
        shape, floating = ends[tensor.name]
        marker = value if floating and _makes_score(tensor) else 0.0
        found[tensor.name] = np.full(shape, marker, np.float32 if tensor.dtype is None else tensor.dtype)
    return found
