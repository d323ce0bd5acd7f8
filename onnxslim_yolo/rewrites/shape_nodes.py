"""Shape arithmetic: what is known becomes a constant. Used by the pass `canonicalise`.

A Shape, and a Gather or Slice of one, is known where it asks for no symbolic size; a node of constants alone is
computed (`analysis.folding`). A Reshape's target with all but one entry known becomes a constant with −1 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.folded_origin import origins_of_results
from onnxslim_yolo.analysis.folding import SIZE_LIMIT, fold
from onnxslim_yolo.analysis.movement import CannotMoveError, slice_ranges
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Namer,
    Node,
    Tensor,
    become,
    constant_of,
    consumers,
    detach,
    initializers,
    input_constant,
    is_constant,
    is_empty,
    is_graph_output,
    producer,
    replace_constant,
    replace_input,
    static_shape,
)
from onnxslim_yolo.ir.origins import Origin, set_origin
from onnxslim_yolo.ops.arithmetic import ELEMENTWISE
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.movement import REPEATS, counts_elements, is_gather, is_join, is_reshape, is_slice, tells_shape
from onnxslim_yolo.ops.registry import MAKES
from onnxslim_yolo.ops.spatial import RESIZES

LEAST_GROWTH = 256
GROWTH_SHARE = 8
"""Elements that folding may add to a graph, and to how many weights one such element may come."""

_REPEATING = frozenset((*FUNCTIONS, *ELEMENTWISE, *REPEATS, *RESIZES, *MAKES))
"""Operators that make a map of a few numbers. A Pad or a Gather of weights makes weights: no more than there are. What
reads one tensor twice repeats it as well."""


@dataclass
class Room:
    """What folding may still make: many small nodes add up.

    Attributes:
        left: elements in sum.
        growth: elements beyond those of the operands. An Expand, a grid or a table of zeros is a few numbers in the
            file and a whole map when computed: the result must not be larger than its source.
    """

    left: int = SIZE_LIMIT
    growth: int = LEAST_GROWTH

    @classmethod
    def of(cls, graph: gs.Graph) -> Room:
        """What a graph of this many weights has room for."""
        weights = sum(int(np.prod(constant.shape, dtype=np.int64)) for constant in initializers(graph))
        return cls(growth=max(LEAST_GROWTH, weights // GROWTH_SHARE))

    def takes(self, node: Node) -> bool:
        """Whether a node of constants may be computed; what it adds is then taken from the room."""
        if any(not is_constant(t) and not is_empty(t) for t in node.inputs):
            return True
        sizes = [static_shape(tensor) for tensor in node.outputs if not is_empty(tensor)]
        made = sum(int(np.prod(size, dtype=np.int64)) for size in sizes if size is not None)
        given = [id(tensor) for tensor in node.inputs if is_constant(tensor)]
        held = {id(tensor): tensor for tensor in node.inputs if is_constant(tensor)}
        read = sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in held.values())
        if node.op not in _REPEATING and len(held) == len(given):  # a Concat of one row with itself repeats it
            return made - read <= GROWTH_SHARE * self.growth
        if made - read > self.growth:
            return False
        self.growth -= max(made - read, 0)
        return True


def fold_constants(graph: gs.Graph, room: Room | None = None) -> int:
    """Turn what nodes of constants alone, or Shape and its parts, yield into constants; return how many nodes went."""
    folded, room = 0, room or Room.of(graph)
    for node in graph.nodes:
        if not node.outputs:
            continue  # folded or dropped already, and waiting to be swept
        values = _shape_value(node)
        results = [values] if values is not None else fold(node, graph.opset, room.left) if room.takes(node) else None
        if results is None:
            continue
        if any(is_graph_output(graph, tensor) for tensor in node.outputs):
            folded += values is not None and _as_identity(node, values)
            continue  # an output must be computed by a node
        room.left -= sum(int(np.size(value)) for value in results)
        origins = origins_of_results(node, results, graph.opset)
        for tensor, value, origin in zip(list(node.outputs), results, origins, strict=False):
            if not is_empty(tensor):
                _make_constant(tensor, np.asarray(value), origin)
        detach(node)
        folded += 1
    return folded


def _as_identity(node: Node, values: np.ndarray) -> bool:
    """An output that says a size goes on saying it when channels go."""
    become(node, "Identity", {}, [gs.Constant(f"{node.outputs[0].name}__known", values)])
    return True


def _make_constant(tensor: Tensor, value: np.ndarray, origin: Origin | None) -> None:
    constant = gs.Constant(tensor.name, np.ascontiguousarray(value).reshape(np.shape(value)))
    if origin is not None:
        set_origin(constant, origin)
    for reader in consumers(tensor):
        replace_input(reader, tensor, constant)


def _shape_value(node: Node) -> np.ndarray | None:
    """What a Shape, or a Gather or Slice of a Shape, yields where that does not depend on a symbolic size."""
    if counts_elements(node):
        shape = static_shape(node.inputs[0])
        return None if shape is None else np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    if tells_shape(node):
        dims = _dims_of_shape(node)
        return None if dims is None or any(d is None for d in dims) else np.asarray(dims, dtype=np.int64)
    maker = producer(node.inputs[0]) if node.inputs else None
    if not tells_shape(maker) or not (is_gather(node) or is_slice(node)):
        return None
    dims = _dims_of_shape(maker)
    if dims is None:
        return None
    if is_gather(node):
        indices = input_constant(node, 1)
        if indices is None or np.any((indices >= len(dims)) | (indices < -len(dims))):
            return None
        taken = [dims[int(i)] for i in indices.reshape(-1)]
        return None if any(d is None for d in taken) else np.asarray(taken, dtype=np.int64).reshape(indices.shape)
    try:
        chosen = slice_ranges(node, (len(dims),)).get(0, range(len(dims)))
    except CannotMoveError:
        return None
    taken = [dims[i] for i in chosen]
    return None if any(d is None for d in taken) else np.asarray(taken, dtype=np.int64)


def _dims_of_shape(node: Node) -> list[int | None] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    dims = [int(d) if isinstance(d, (int, np.integer)) and d >= 0 else None for d in shape]
    return dims[slice(attribute(node, "start"), attribute(node, "end"))]


def resolve_reshapes(graph: gs.Graph) -> int:
    """Give a Reshape a constant target when all of it but one entry is known; return how many got one."""
    resolved, name = 0, Namer(graph)
    for node in graph.nodes:
        if not is_reshape(node) or len(node.inputs) < 2 or is_constant(node.inputs[1]) or attribute(node, "allowzero"):
            continue
        target = _target_from_shape(node) or _target_from_concat(node.inputs[1])
        if target is not None:
            replace_constant(node, 1, np.asarray(target, dtype=np.int64), name(f"{node.name}_shape"))
            resolved += 1
    return resolved


def _target_from_shape(node: Node) -> list[int] | None:
    shape = node.outputs[0].shape
    if shape is None:
        return None
    known = [int(d) if isinstance(d, (int, np.integer)) and d > 0 else -1 for d in shape]
    return known if known.count(-1) <= 1 else None


def _target_from_concat(tensor: Tensor) -> list[int] | None:
    """[batch, 3, 85, …] written as a Concat: the one computed entry becomes −1."""
    node = producer(tensor)
    if not is_join(node):
        return None
    target: list[int] = []
    for part in node.inputs:
        value = constant_of(part)
        if value is not None:
            target += [int(v) for v in value.reshape(-1)]
        elif static_shape(part) == (1,):
            target.append(-1)
        else:
            return None
    return target if target.count(-1) <= 1 and 0 not in target else None
