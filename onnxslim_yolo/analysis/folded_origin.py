"""Where the elements of a computed constant come from: what `folding` computed, told position by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.folding import fold
from onnxslim_yolo.ir.attributes import attribute, operand
from onnxslim_yolo.ir.graph import Array, Node, constant_of, is_empty
from onnxslim_yolo.ir.origins import Made, Move, Origin, Shape, broadcast, mixed, moved, origin_of, reduced
from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.movement import JOINS, OF_ONE, SAME, is_pad
from onnxslim_yolo.ops.reductions import REDUCTIONS


def origins_of_results(node: Node, results: Sequence[Array], opset: int) -> list[Origin | None]:
    """The origin of each output of a node whose inputs are all constant. None for integers: they hold no channels."""
    return [
        _origin(node, index, value, opset) if np.asarray(value).dtype.kind not in "iub" else None
        for index, value in enumerate(results)
    ]


def _origin(node: Node, output: int, value: Array, opset: int) -> Origin:
    data = [(origin_of(t), _shape(t)) for t in node.inputs if not is_empty(t) and _is_float(t)]
    if node.op in SAME:
        return origin_of(node.inputs[0])
    if node.op in OF_ONE:
        move = _mover(node, 0, output, np.shape(value), opset)
        return Made((moved(origin_of(node.inputs[0]), _shape(node.inputs[0]), move),))
    if node.op in JOINS:
        chosen = JOINS[node.op] or tuple(range(len(node.inputs)))
        moves = [_mover(node, k, output, np.shape(value), opset) for k in chosen]
        operands = [node.inputs[k] for k in chosen]
        return Made(tuple(moved(origin_of(t), _shape(t), move) for t, move in zip(operands, moves, strict=True)))
    if node.op in FUNCTIONS or node.op in ELEMENTWISE:
        return broadcast(data)
    axes = _reduced_axes(node) if node.op in REDUCTIONS else None
    if axes is not None:
        return reduced(*data[0], axes)
    return mixed(data)


def _reduced_axes(node: Node) -> list[int] | None:
    rank = len(_shape(node.inputs[0]))
    given = operand(node, "axes")
    axes = [] if given is None else [int(a) for a in given.reshape(-1)]
    if axes:
        return axes
    return None if attribute(node, "noop_with_empty_axes") else list(range(rank))


def _mover(node: Node, data: int, output: int, result: Shape, opset: int) -> Move:
    """What the node does to its input `data`, on numbers: other data become 0, what says where (indices) stays."""
    op, attrs = node.op, dict(node.attrs)
    count, joined = len(node.outputs), JOINS.get(op, (0,)) or tuple(range(len(node.inputs)))
    inputs: list[Array | Shape | None] = []
    for index, tensor in enumerate(node.inputs):
        if is_empty(tensor) or (is_pad(node) and index == 2):  # padded with numbers' 0
            inputs.append(None)
        else:
            inputs.append(_shape(tensor) if index in joined else constant_of(tensor))

    def move(numbers: Array) -> Array:
        values = [
            numbers if index == data else np.zeros(value, dtype=np.int64) if isinstance(value, tuple) else value
            for index, value in enumerate(inputs)
        ]
        tensors = [gs.Variable.empty() if v is None else gs.Constant(f"i{k}", v) for k, v in enumerate(values)]
        outputs = [gs.Variable(f"o{k}", np.int64, list(result)) for k in range(count)]
        found = fold(gs.Node(op, "n", attrs, tensors, outputs), opset)
        if found is None:
            raise ValueError(f"{op} cannot be computed on positions")
        return np.asarray(found[output]).astype(np.int64).reshape(result)

    return move


def _shape(tensor: gs.Tensor) -> Shape:
    return tuple(int(d) for d in tensor.shape)


def _is_float(tensor: gs.Tensor) -> bool:
    return np.dtype(tensor.dtype).kind not in "iub"
