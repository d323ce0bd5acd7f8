"""Targets that are computed from open sizes, written down. Used by the pass `canonicalise`.

1. A Reshape's target with one number open becomes a constant with −1 there; where −1 is taken, a number that is the
   input's own at that place becomes 0 ("copy").
2. An Expand's target whose open numbers are the input's own becomes a constant with 1 there.
3. A Reshape's target that has its own −1 beside one open number is read off the shapes it makes at two batches: what
   is the same is a number, and −1 stands for what is not.
4. A Tile by computed counts that repeats axes of one element only becomes an Expand.
5. Any other target of a Reshape, Expand or ConstantOfShape that inference cannot follow becomes a Concat of numbers
   and of sizes read off the graph's input: what it was, without the detour.

Exact: every number stays what it is (see `analysis.shape_values`).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.shape_values import Size, Sizes, dims_of, sizes_of
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import (
    Namer,
    Node,
    Tensor,
    become,
    is_constant,
    nodes_of,
    producer,
    replace_constant,
    set_input,
)
from onnxslim_yolo.ops.arithmetic import is_product
from onnxslim_yolo.ops.movement import SIZED_BY, is_expand, is_gather, is_join, is_reshape, tells_shape


def resolve_targets(graph: gs.Graph) -> int:
    """Write computed targets down; return how many."""
    done, name = sum(_repeat_once(node) for node in nodes_of(graph, "Tile")), Namer(graph)
    for node in nodes_of(graph, "Reshape", "Expand", "ConstantOfShape"):
        place = SIZED_BY[node.op]
        if not node.outputs or len(node.inputs) <= place or is_constant(node.inputs[place]):
            continue
        sizes = sizes_of(node.inputs[place])
        if sizes is None or (attribute(node, "allowzero") and Size(0) in sizes):
            continue
        target = _reshaped(node, sizes) if is_reshape(node) else _expanded(node, sizes) if is_expand(node) else None
        if target is not None:
            replace_constant(node, place, np.asarray(target, dtype=np.int64), name(f"{node.name}_shape"))
            node.attrs.pop("allowzero", None)
            done += 1
        elif _is_open(node.outputs[0]) and not _is_spelt(graph, node.inputs[place]):
            done += _spell_out(graph, node, place, sizes, name)
    return done or _by_trial(graph, name)


def _repeat_once(node: Node) -> bool:
    """A Tile by computed counts becomes an Expand where it repeats axes of one element only."""
    if len(node.inputs) < 2 or is_constant(node.inputs[1]):
        return False
    own, counts = dims_of(node.inputs[0]), sizes_of(node.inputs[1])
    if own is None or counts is None or len(own) != len(counts):
        return False
    if not all(Size(1) in pair for pair in zip(own, counts, strict=True)):
        return False
    become(node, "Expand", {})
    return True


PROBES = (1, 7)


def _by_trial(graph: gs.Graph, name: Namer) -> int:
    """Targets of the remaining Reshapes, from the shapes that two batches have; returns how many."""
    left = [
        node
        for node in nodes_of(graph, "Reshape")
        if node.outputs and len(node.inputs) > 1 and not is_constant(node.inputs[1]) and sizes_of(node.inputs[1])
    ]
    if not left:
        return 0
    trials = [concrete_shapes(graph, batch) for batch in PROBES]
    done = 0
    for node in left:
        first, second = (trial.get(id(node.outputs[0])) for trial in trials)
        if first is None or second is None or len(first) != len(second) or 0 in first:
            continue
        target = [a if a == b else -1 for a, b in zip(first, second, strict=True)]
        if target.count(-1) <= 1:
            replace_constant(node, 1, np.asarray(target, dtype=np.int64), name(f"{node.name}_shape"))
            done += 1
    return done


def _is_spelt(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether a target is written down already: numbers, and sizes read off an input."""
    node = producer(tensor)
    if not is_join(node):
        return False
    inputs = {id(item) for item in graph.inputs}
    for part in node.inputs:
        maker = producer(part)
        while is_product(maker) or is_gather(maker):
            maker = producer(maker.inputs[0])
        if not is_constant(part) and (not tells_shape(maker) or id(maker.inputs[0]) not in inputs):
            return False
    return True


def _reshaped(node: Node, sizes: Sizes) -> list[int] | None:
    own = dims_of(node.inputs[0]) or []
    target = [size.factor if size is not None and not size.of else -1 for size in sizes]
    if target.count(-1) > 1:
        for k, size in enumerate(sizes):
            if size is not None and size.of and k < len(own) and own[k] == size:
                target[k] = 0
    return target if target.count(-1) <= 1 else None


def _expanded(node: Node, sizes: Sizes) -> list[int] | None:
    own = dims_of(node.inputs[0])
    if own is None:
        return None
    padded: Sizes = [*([Size(1)] * (len(sizes) - len(own))), *own]
    offset = len(padded) - len(sizes)
    target = []
    for k, size in enumerate(sizes):
        if size is None or (size.of and padded[k + offset] != size):
            return None
        target.append(1 if size.of else size.factor)
    return target


def _is_open(tensor: Tensor) -> bool:
    """Whether inference does not know what it could: a size without a name."""
    return tensor.shape is None or any(isinstance(dim, str) and dim.startswith("unk_") for dim in tensor.shape)


def _spell_out(graph: gs.Graph, node: Node, place: int, sizes: Sizes, name: Namer) -> bool:
    where = {
        str(dim): (tensor, axis)
        for tensor in reversed(graph.inputs)
        for axis, dim in enumerate(tensor.shape or ())
        if isinstance(dim, str)
    }
    known = [size for size in sizes if size is not None and (not size.of or size.of in where)]
    if len(known) != len(sizes) or not any(size.of for size in known):
        return False
    parts = [_part(graph, size, where, name) for size in known]
    target = gs.Variable(name(f"{node.name}_shape"), np.int64, [len(parts)])
    graph.nodes.append(gs.Node("Concat", name(f"{node.name}_target"), {"axis": 0}, parts, [target]))
    set_input(node, place, target)
    return True


def _part(graph: gs.Graph, size: Size, where: dict[str, tuple[Tensor, int]], name: Namer) -> Tensor:
    def constant(value: int) -> gs.Constant:
        return gs.Constant(name("size"), np.asarray([value], dtype=np.int64))

    if not size.of:
        return constant(size.factor)
    tensor, axis = where[size.of]
    read = gs.Variable(name(f"{tensor.name}_shape"), np.int64, [len(tensor.shape or ())])
    graph.nodes.append(gs.Node("Shape", name(f"{tensor.name}_shape"), {}, [tensor], [read]))
    one = gs.Variable(name(f"{tensor.name}_size"), np.int64, [1])
    graph.nodes.append(gs.Node("Gather", name(f"{tensor.name}_size"), {"axis": 0}, [read, constant(axis)], [one]))
    if size.factor == 1:
        return one
    times = gs.Variable(name(f"{tensor.name}_sizes"), np.int64, [1])
    graph.nodes.append(gs.Node("Mul", name(f"{tensor.name}_sizes"), {}, [one, constant(size.factor)], [times]))
    return times
