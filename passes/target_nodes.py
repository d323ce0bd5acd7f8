"""Targets that are computed from open sizes, written down. Used by the pass `canonicalise`.

1. A Reshape's target with one number open becomes a constant with −1 there; where −1 is taken, a number that is the
   input's own at that place becomes 0 ("copy").
2. An Expand's target whose open numbers are the input's own becomes a constant with 1 there.
3. Any other target of a Reshape, Expand or ConstantOfShape that inference cannot follow becomes a Concat of numbers
   and of sizes read off the graph's input: what it was, without the detour.

Exact: every number stays what it is (see `analysis.shape_values`).
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.shape_values import Size, Sizes, dims_of, sizes_of
from onnxslim_yolo.graph import Namer, Node, Tensor, is_constant, nodes_of, replace_constant, set_input

_PLACE = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}


def resolve_targets(graph: gs.Graph) -> int:
    """Write computed targets down; return how many."""
    done, name = 0, Namer(graph)
    for node in nodes_of(graph, *_PLACE):
        place = _PLACE[node.op]
        if not node.outputs or len(node.inputs) <= place or is_constant(node.inputs[place]):
            continue
        sizes = sizes_of(node.inputs[place])
        if sizes is None or (node.attrs.get("allowzero", 0) and Size(0) in sizes):
            continue
        target = {"Reshape": _reshaped, "Expand": _expanded}.get(node.op, _nothing)(node, sizes)
        if target is not None:
            replace_constant(node, place, np.asarray(target, dtype=np.int64), name(f"{node.name}_shape"))
            node.attrs.pop("allowzero", None)
            done += 1
        elif _is_open(node.outputs[0]):
            done += _spell_out(graph, node, place, sizes, name)
    return done


def _nothing(node: Node, sizes: Sizes) -> list[int] | None:
    return None


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
