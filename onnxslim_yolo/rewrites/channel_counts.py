"""Operators that say numbers of channels anywhere but in their weights: the table `UPDATES`, which `slice` applies.

Split sizes, Slice bounds, Gather indices, Reshape and Expand targets, Resize sizes, and `group` of depthwise
convolutions are recomputed from the positions before and after. What is computed in the graph follows by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import axes_of, axis_of, gather_indices, pad_widths, slice_ranges, split_sizes
from onnxslim_yolo.analysis.sign import is_nonnegative
from onnxslim_yolo.analysis.targets import entry_of
from onnxslim_yolo.ir.attributes import attribute, operand, set_operand
from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    constant_of,
    has_input,
    input_constant,
    is_empty,
    replace_constant,
    static_shape,
)
from onnxslim_yolo.ops.linear import groups_of
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.rewrites.cutter import Cutter


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
    _set(cutter, node, "split", sizes, "sizes")


def _set(cutter: Cutter, node: Node, name: str, values: Sequence[int] | Array, stem: str) -> None:
    """Say an operand otherwise, as an input or an attribute."""
    array = np.asarray(values, dtype=np.int64)
    set_operand(node, name, array, cutter.model.opset, lambda: cutter.name(f"{node.name}_{stem}"))


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
    position = [a % rank for a in axes_of(node) or range(rank)].index(axis)
    for name, value in (("starts", start), ("ends", end), ("steps", step)):
        if value is not None:
            bounds = np.array(operand(node, name))
            bounds.reshape(-1)[position] = value
            _set(cutter, node, name, bounds, "bounds")


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
    elif indices.ndim > 1:
        there = copies[indices] > 0  # a table whose rows or columns go, or none
        left = [np.flatnonzero(there.any(axis=tuple(np.delete(range(there.ndim), k)))) for k in range(there.ndim)]
        new = starts[indices][np.ix_(*left)]
    else:
        new = np.concatenate([np.arange(starts[i], starts[i] + copies[i]) for i in indices.reshape(-1).tolist()])
    replace_constant(node, 1, new.astype(np.int64), cutter.name(f"{node.name}_indices"))


def _target_shape(cutter: Cutter, node: Node) -> None:
    """Reshape and Expand: the new widths, where the target says widths at all."""
    if len(node.inputs) < 2:
        return
    target = constant_of(node.inputs[1])
    size = len(target.reshape(-1)) if target is not None else (static_shape(node.inputs[1]) or (0,))[0]
    offset = len(cutter.plan.channels.shapes[id(node.outputs[0])] or ()) - size
    for axis, width in cutter.widths(node).items():
        _set_number(cutter, node, 1, axis - offset, width, keep=(0, -1, 1) if node.op == "Expand" else (0, -1))


def _set_number(cutter: Cutter, node: Node, index: int, place: int, width: int, keep: tuple[int, ...]) -> None:
    """Set a number of a shape, constant or a Concat with constant parts, unless it follows by itself."""
    if place < 0:
        return
    if constant_of(node.inputs[index]) is None:
        entry = entry_of(node.inputs[index], place)
        if entry is None:
            return
        node, index, place = entry.node, entry.index, entry.element
    old = np.asarray(constant_of(node.inputs[index]))
    if int(old.reshape(-1)[place]) in (*keep, width):
        return
    new = np.array(old)
    new.reshape(-1)[place] = width
    replace_constant(node, index, new, cutter.name(f"{node.name}_shape"))


def _resize(cutter: Cutter, node: Node) -> None:
    width = cutter.widths(node).get(1)
    if not has_input(node, 3) or width is None:
        return
    rank = len(cutter.plan.channels.shapes[id(node.outputs[0])] or ())
    axes = [axis % rank for axis in axes_of(node) or range(rank)]
    if 1 in axes:
        _set_number(cutter, node, 3, axes.index(1), width, keep=())


def _pad(cutter: Cutter, node: Node) -> None:
    """What is put beside channels, or cropped off them, in numbers of those that are left."""
    rank = len(cutter.plan.channels.shapes[id(node.outputs[0])] or ())
    widths = pad_widths(node, rank)
    new = list(widths)
    for axis, (before, after) in enumerate(widths):
        inside, outside = cutter.along(node, 0, axis), cutter.along(node, 0, axis, output=True)
        if (before, after) == (0, 0) or (inside is None and outside is None):
            continue
        ends = []
        for at, n in ((0, before), (1, after)):
            classes = outside if n > 0 else inside
            side = np.zeros(0, dtype=np.int64) if classes is None or n == 0 else classes[: abs(n)]
            if at and classes is not None and n:
                side = classes[-abs(n) :]
            ends.append(int(np.sign(n)) * (int(cutter.copies(side).sum()) if classes is not None else abs(n)))
        new[axis] = (ends[0], ends[1])
    if new == widths:
        return
    values = [side[0] for side in new] + [side[1] for side in new]
    _set(cutter, node, "pads", values, "pads")
    if axes_of(node) is not None:
        _set(cutter, node, "axes", range(rank), "axes")


def _reduced(cutter: Cutter, node: Node) -> tuple[int, int] | None:
    """How many channels a reduction over them is left with, and of how many; None where it is all or over others."""
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    labels = cutter.plan.channels.labels_of(node.inputs[0])
    if shape is None or labels is None or labels.size == 1:
        return None
    given = axes_of(node)
    if not given and attribute(node, "noop_with_empty_axes"):
        return None
    axes = sorted({axis % len(shape) for axis in given}) if given else list(range(len(shape)))
    summed = [axis for axis in axes if labels.shape[axis] > 1]
    kept = int(cutter.copies(labels.reshape(-1)).sum())
    return None if not summed or kept == labels.size else (kept, shape[summed[0]])


def _behind(cutter: Cutter, node: Node, op: str, value: float, stem: str) -> None:
    """Put an operator with a number behind a node."""
    output = node.outputs[0]
    inner = gs.Variable(cutter.name(f"{output.name}_of_kept"), output.dtype)
    node.outputs = [inner]
    number = gs.Constant(cutter.name(f"{node.name}_{stem}"), np.asarray(value, dtype=output.dtype or np.float32))
    cutter.model.graph.nodes.append(gs.Node(op, cutter.name(f"{node.name}_of_all"), {}, [inner, number], [output]))


def _mean(cutter: Cutter, node: Node) -> None:
    """A mean over channels stays the sum over the source's number of them.

    It is the mean over what is left, times the share that is left: other axes may be of any extent.
    """
    counts = _reduced(cutter, node)
    if counts is not None:
        _behind(cutter, node, "Mul", counts[0] / counts[1], "share")


def _extreme(cutter: Cutter, node: Node) -> None:
    """A maximum or minimum over channels is taken of the zero, too, that a removed channel stands for."""
    counts, op = _reduced(cutter, node), REDUCTIONS[node.op].beside_zero
    if counts is None or op is None or counts[0] > counts[1]:
        return
    if not (op == "Max" and is_nonnegative(node.inputs[0])):
        _behind(cutter, node, op, 0.0, "zero")


def _group_norm(cutter: Cutter, node: Node) -> None:
    """Whole groups go."""
    classes = cutter.along(node, 0, 1)
    if classes is None:
        return
    groups = int(node.attrs["num_groups"])
    node.attrs["num_groups"] = int((cutter.copies(classes.reshape(groups, -1)[:, 0]) > 0).sum())


def _attention(cutter: Cutter, node: Node) -> None:
    """The scale is the source's, whatever is left of a head."""
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    if shape is None or "scale" in node.attrs or cutter.along(node, 0, len(shape) - 1) is None:
        return
    width = shape[3] if len(shape) == 4 else shape[2] // int(node.attrs["q_num_heads"])
    node.attrs["scale"] = float(width**-0.5)


def _depthwise(cutter: Cutter, node: Node) -> None:
    """Where every channel is a group of its own, there are as many groups as channels left."""
    shape = cutter.plan.channels.shapes.get(id(node.inputs[0]))
    groups = groups_of(node)
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
    "Pad": _pad,
    "ReduceMean": _mean,
    "ReduceMax": _extreme,
    "ReduceMin": _extreme,
    "GroupNormalization": _group_norm,
    "Attention": _attention,
    "Conv": _depthwise,
    "ConvTranspose": _depthwise,
    "DeformConv": _depthwise,
    "DepthToSpace": _refuse_added,
    "SpaceToDepth": _refuse_added,
}
"""Operators that say numbers of channels anywhere but in their weights."""
