"""A graph that was compiled at one size takes any again, as its source does.

What canonicalisation made of sizes at the compiled size is looked for in every node's constants, and what varies with
the size (see `size_probes`) is computed again:

1. An integer vector (targets, bounds, pads, extents): entries that vary are taken from the source's own arithmetic;
   the others stay as they are, for channels may have gone.
2. A Reshape's target: one entry that varies becomes −1; of several, those that are the input's own at that place
   become 0 ("copy"), others are read off the input or the source's target.
3. Any other constant that varies (grids, strides, positions) is the source's own computation of it.

Whether that is all there is to it (padding that does nothing at the compiled size has gone by then) is for the caller
to check, by running both at other sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    Tensor,
    input_constant,
    is_constant,
    set_input,
    sweep,
    tensors,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.ops.movement import is_reshape
from onnxslim_yolo.rewrites.size_grafts import Grafts, StaysFixedError
from onnxslim_yolo.rewrites.size_probes import Probes

SIDES = ("height", "width")


def reopened(model: Model, source: Model, probes: Probes) -> Model:
    """A copy of a compiled graph whose height and width are as open as the source's.

    Args:
        model: compiled at one size, in topological order. source: as it was read. probes: the source at other sizes.

    Raises:
        StaysFixedError: something depends on the size in a way that cannot be told. InputError: shapes contradict.
    """
    copy = model.copy()
    graph = copy.graph
    graph.nodes = toposort(graph)
    grafts = Grafts(graph, source.graph, probes)
    for place, node in enumerate(list(graph.nodes)):
        for index, tensor in enumerate(list(node.inputs)):
            if not is_constant(tensor):
                continue
            fresh = _reopen(grafts, source, node, index, place)
            if fresh is not None:
                set_input(node, index, fresh)
    sweep(graph)
    _open_inputs(graph, source.graph)
    graph.nodes = toposort(graph)
    reinfer(graph)
    _name_outputs(graph, source.graph)
    return copy


def names_of(*models: Model) -> set[str]:
    """What `probe` is to look at so that any of these can be reopened."""
    return {tensor.name for model in models for tensor in tensors(model.graph)}


def _reopen(grafts: Grafts, source: Model, node: Node, index: int, place: int) -> Tensor | None:
    """What a node's constant becomes; None where it is the same at every size."""
    constant = input_constant(node, index)
    origin = _origin(grafts, node, index)
    if is_reshape(node) and index == 1 and constant is not None:
        return _target(grafts, node, constant, origin, place)
    if origin is None or constant is None:
        return None
    values = grafts.probes.values[origin]
    if all(np.array_equal(values[0], value) for value in values[1:]):
        return None
    if len({value.shape for value in values}) == 1 and values[0].ndim == 1 and constant.dtype == np.int64:
        return _entries(grafts, constant, origin, place, node)
    _require_alike(constant, values, node)
    return grafts.tensor(origin, place)


def _origin(grafts: Grafts, node: Node, index: int) -> str | None:
    """The source's derived tensor that a node's constant was: by the node's output, or by the constant's name."""
    tensor = node.inputs[index]
    if tensor.dtype is not None and np.dtype(tensor.dtype).kind == "f" and tensor.name in grafts.probes.values:
        return str(tensor.name)
    twin = grafts.made.get(node.outputs[0].name)
    if twin is not None and twin.op == node.op and index < len(twin.inputs):
        name = twin.inputs[index].name
        return name if name in grafts.probes.values else None
    return tensor.name if tensor.name in grafts.probes.values else None


def _require_alike(constant: Array, values: Sequence[Array], node: Node) -> None:
    """A constant is still what the source computes, as far as that does not depend on the size."""
    axes = [k for k in range(values[0].ndim) if len({v.shape[k] for v in values if v.ndim == values[0].ndim}) == 1]
    same = all(value.ndim == constant.ndim for value in values) and all(
        constant.shape[k] == values[0].shape[k] for k in axes
    )
    if not same or constant.dtype != values[0].dtype:
        raise StaysFixedError(f"a constant of '{node.name}' depends on the size, and has been rewritten since")


def _entries(grafts: Grafts, constant: Array, origin: str, place: int, node: Node) -> Tensor:
    values = grafts.probes.values[origin]
    if len(constant) != len(values[0]):
        raise StaysFixedError(f"a constant of '{node.name}' depends on the size, and has been rewritten since")
    free = [len({int(v[k]) for v in values}) > 1 for k in range(len(constant))]
    if all(varies or int(constant[k]) == int(values[0][k]) for k, varies in enumerate(free)):
        return grafts.tensor(origin, place)
    parts = [
        grafts.element(origin, k, place) if varies else grafts.constant(int(constant[k]))
        for k, varies in enumerate(free)
    ]
    return grafts.joined(parts, f"{node.name}_sizes")


def _target(grafts: Grafts, node: Node, target: Array, origin: str | None, place: int) -> Tensor | None:
    """A Reshape's target."""
    shapes = grafts.probes.shapes.get(node.outputs[0].name)
    if shapes is None or any(len(shape) != len(target) for shape in shapes):
        return None
    varying = [k for k in range(len(target)) if target[k] > 0 and len({shape[k] for shape in shapes}) > 1]
    if not varying:
        return None
    fixed: list[int | Tensor] = [int(entry) for entry in target]
    own = [] if 0 in target else grafts.probes.shapes.get(node.inputs[0].name, [])
    if 0 not in target:
        node.attrs.pop("allowzero", None)  # of which nothing is to be seen where no entry is 0
    for k in range(len(target)) if own else ():
        copied = all(k < len(mine) and mine[k] == shape[k] for mine, shape in zip(own, shapes, strict=True))
        if copied and (k in varying or target[k] == -1):
            fixed[k] = 0
    varying = [k for k in varying if fixed[k] != 0]
    if len(varying) == 1 and -1 not in fixed:
        fixed[varying.pop()] = -1
    for k in varying:
        fixed[k] = _extent(grafts, node, [shape[k] for shape in shapes], k, origin, place)
    parts: list[Tensor] = []
    for entry in fixed:
        parts.append(grafts.constant(entry) if isinstance(entry, int) else entry)
    if all(is_constant(part) for part in parts):
        return grafts.constant(*(entry for entry in fixed if isinstance(entry, int)))
    return grafts.joined(parts, f"{node.name}_shape")


def _extent(grafts: Grafts, node: Node, wanted: list[int], k: int, origin: str | None, place: int) -> Tensor:
    """An entry of a Reshape's target: what the source computes, else the extent of a tensor that has the same."""
    values = [] if origin is None else grafts.probes.values[origin]
    if origin is not None and all(k < len(v) and int(v[k]) == want for v, want in zip(values, wanted, strict=True)):
        return grafts.element(origin, k, place)
    found = grafts.extent(node.outputs[0].name, k, place)
    if found is None:
        raise StaysFixedError(f"the target of '{node.name}' depends on the size in a way that cannot be told")
    return found


def _open_inputs(graph: gs.Graph, source: gs.Graph) -> None:
    for tensor, original in zip(graph.inputs, source.inputs, strict=True):
        shape = list(tensor.shape or [])
        for k, side in enumerate(SIDES if len(shape) == 4 else ()):
            dim = original.shape[2 + k]
            if not isinstance(dim, (int, np.integer)) or dim <= 0:
                shape[2 + k] = str(dim) if dim else side
        tensor.shape = shape


def _name_outputs(graph: gs.Graph, source: gs.Graph) -> None:
    """Open extents of outputs by the source's names for them, where it has some."""
    declared = {tensor.name: list(tensor.shape or []) for tensor in source.outputs}
    for tensor in graph.outputs:
        theirs = declared.get(tensor.name, [])
        shape = list(tensor.shape or [])
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and (not dim or dim.startswith("unk_")):
                named = theirs[axis] if len(theirs) == len(shape) else None
                shape[axis] = named if isinstance(named, str) and named else f"{tensor.name}_{axis}"
        if tensor.shape is not None:
            tensor.shape = shape


__all__ = ["StaysFixedError", "names_of", "reopened"]
