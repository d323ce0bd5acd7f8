"""Operators that say numbers of channels anywhere but in their weights: the table `UPDATES`, which `slice` applies.

Split sizes, Slice bounds, Gather indices, Reshape and Expand targets, Resize sizes, and `group` of depthwise
convolutions are recomputed from the positions before and after. What is computed in the graph follows by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import axis_of, gather_indices, slice_ranges, split_sizes
from onnxslim_yolo.graph import Array, Node, has_input, input_constant, is_empty, replace_constant, set_input
from onnxslim_yolo.passes._cutter import Cutter


def _split(cutter: Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None:
        return
    axis = axis_of(node, len(shape))
    classes = cutter.along(node, 0, axis)
    if classes is None:
        return
    bounds = np.cumsum([0, *split_sizes(node, shape[axis])])
    sizes = [int(cutter.copies(classes[a:b]).sum()) for a, b in pairwise(bounds.tolist())]
    node.attrs.pop("num_outputs", None)
    if cutter.model.opset < 13:
        node.attrs["split"] = sizes
    else:
        set_input(node, 1, gs.Constant(cutter.name(f"{node.name}_sizes"), np.asarray(sizes, dtype=np.int64)))


def _slice(cutter: Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None:
        return
    for axis, taken in slice_ranges(node, shape).items():
        classes = cutter.along(node, 0, axis)
        if classes is None:
            continue
        starts = cutter.starts(classes)
        if taken == range(shape[axis]) and starts[-1] <= shape[axis]:
            continue  # its end may lie behind what is left, but not before what has been added
        if taken.step != 1:
            _gather_instead(cutter, node, len(shape), axis, classes, list(taken))
            continue
        _set_bounds(cutter, node, len(shape), axis, int(starts[taken.start]), int(starts[taken.stop]))


def _gather_instead(cutter: Cutter, node: Node, rank: int, axis: int, classes: Array, taken: list[int]) -> None:
    """A Slice that steps through channels takes no regular pattern of those that are left: a Gather behind it does."""
    _set_bounds(cutter, node, rank, axis, 0, np.iinfo(np.int64).max, step=1)
    output = node.outputs[0]
    inner = gs.Variable(cutter.name(f"{output.name}_all"), output.dtype)
    node.outputs = [inner]
    starts, copies = cutter.starts(classes), cutter.copies(classes)
    indices = np.concatenate([np.arange(starts[i], starts[i] + copies[i]) for i in taken]).astype(np.int64)
    constant = gs.Constant(cutter.name(f"{node.name}_channels"), indices)
    gather = gs.Node("Gather", cutter.name(f"{node.name}_gather"), {"axis": axis}, [inner, constant], [output])
    cutter.model.graph.nodes.append(gather)


def _set_bounds(
    cutter: Cutter, node: Node, rank: int, axis: int, start: int, end: int, step: int | None = None
) -> None:
    if "starts" in node.attrs:
        axes = [int(a) % rank for a in node.attrs.get("axes", range(len(node.attrs["starts"])))]
        position = axes.index(axis)
        for key, value in (("starts", start), ("ends", end)):
            node.attrs[key] = [value if k == position else v for k, v in enumerate(node.attrs[key])]
        return
    given = input_constant(node, 3)
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given.reshape(-1)]
    position = axes.index(axis)
    changed = [(1, start), (2, end)] if step is None else [(1, start), (2, end), (4, step)]
    for index, value in changed:
        bounds = np.array(input_constant(node, index))
        bounds.reshape(-1)[position] = value
        replace_constant(node, index, bounds, cutter.name(f"{node.name}_bounds"))


def _gather(cutter: Cutter, node: Node) -> None:
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None or input_constant(node, 1) is None:
        return
    axis = axis_of(node, len(shape))
    classes = cutter.along(node, 0, axis)
    if classes is None:
        return
    indices = gather_indices(node, shape[axis])
    starts, copies = cutter.starts(classes), cutter.copies(classes)
    if indices.ndim == 0:
        new = np.asarray(starts[int(indices)], dtype=np.int64)
    else:
        new = np.concatenate([np.arange(starts[i], starts[i] + copies[i]) for i in indices.reshape(-1).tolist()])
    replace_constant(node, 1, new.astype(np.int64), cutter.name(f"{node.name}_indices"))


def _target_shape(cutter: Cutter, node: Node) -> None:
    """Reshape and Expand: the new widths, where the target says widths at all."""
    target = input_constant(node, 1)
    if target is None:
        return
    widths = cutter.widths(node)
    new = np.array(target).reshape(-1)
    offset = len(cutter.plan.channels.shapes[id(node.outputs[0])] or ()) - len(new)
    for axis, width in widths.items():
        place = axis - offset
        if place >= 0 and new[place] > 0 and not (node.op == "Expand" and new[place] == 1):
            new[place] = width
    if not np.array_equal(new, target.reshape(-1)):
        replace_constant(node, 1, new, cutter.name(f"{node.name}_shape"))


def _resize(cutter: Cutter, node: Node) -> None:
    if not has_input(node, 3) or "axes" in node.attrs:
        return
    sizes = input_constant(node, 3)
    width = cutter.widths(node).get(1)
    if sizes is None or width is None:
        return
    replace_constant(
        node, 3, np.concatenate([sizes[:1], [width], sizes[2:]]).astype(np.int64), cutter.name(f"{node.name}_sizes")
    )


def _depthwise(cutter: Cutter, node: Node) -> None:
    """Where every channel is a group of its own, there are as many groups as channels left."""
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    groups = int(node.attrs.get("group", 1))
    if shape is None or groups == 1 or groups != shape[1]:
        return
    classes = cutter.along(node, 0, 1)
    if classes is not None:
        node.attrs["group"] = int(cutter.copies(classes).sum())


def _refuse_added(cutter: Cutter, node: Node) -> None:
    if cutter.plan.extra.any() and not is_empty(node.inputs[0]) and cutter.along(node, 0, 1) is not None:
        raise ValueError(f"{node.op} '{node.name}' ties channels in blocks; they cannot be padded")


UPDATES: dict[str, Callable[[Cutter, Node], None]] = {
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _target_shape,
    "Expand": _target_shape,
    "Resize": _resize,
    "Conv": _depthwise,
    "ConvTranspose": _depthwise,
    "DepthToSpace": _refuse_added,
    "SpaceToDepth": _refuse_added,
}
"""Operators that say numbers of channels anywhere but in their weights."""
