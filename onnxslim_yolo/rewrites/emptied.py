"""Parts of a Concat that leave it whatever stands behind: by the channel labels. Used by `drop-dead`.

`concat_parts` follows a part through what works channel by channel. This is for the rest: what splits, slices, shuffles
or groups the channels, and linear layers of tokens. The part gets labels of its own, as if a pointwise convolution
stood before the Concat, so that what it is coupled with elsewhere does not matter. It leaves if

1. all of its channels are prunable and dead (`analysis.dead`), given that nothing else is removed;
2. the parts of grouped convolutions stay equal;
3. whatever becomes empty is read by nothing but Concats with other parts, and by what becomes empty with it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels, analyse_channels
from onnxslim_yolo.analysis.constraints import violations
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.analysis.dead import along, dead_channels
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.attributes import operand, set_operand
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    become,
    bypass,
    copy_graph,
    detach,
    is_constant,
    is_empty,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import is_join, is_split
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.shift import shift_outputs
from onnxslim_yolo.rewrites.channel_counts import UPDATES
from onnxslim_yolo.rewrites.cutter import Cutter


def without_part(model: Model, concat: Node, index: int, *, dead: bool = True) -> gs.Graph | None:
    """The model's graph without one part of a Concat, its shapes stale; None where the part has to stay.

    Args:
        dead: only if it is; otherwise as if it were zero.
    """
    work = Model(graph=copy_graph(model.graph))
    node = next(n for n in work.graph.nodes if n.name == concat.name)
    probe = _probe(work.graph, node, index, 1.0 if dead else 0.0)
    channels = analyse_channels(work.graph)
    labels = channels.labels_of(probe)
    classes = np.zeros(0, dtype=np.int64) if labels is None else np.unique(labels[labels != NO_CHANNEL])
    if labels is None or not classes.size or classes.size != np.count_nonzero(labels != NO_CHANNEL):
        return None
    if (
        not (labels != NO_CHANNEL).all()
        or not dead_channels(channels, moments_of(work.graph, channels.shapes))[classes].all()
    ):
        return None
    work.plan = plan = Plan.full(channels).without(classes)
    empty = _empty(channels, plan.keep)
    if violations(channels, plan.keep, emptied=True) or not _can_go(work.graph, empty):
        return None
    return work.graph if _cut(work, plan, empty) else None


def _probe(graph: gs.Graph, node: Node, index: int, factor: float) -> Tensor:
    """Put a pointwise convolution in front of one input that multiplies it; returns what it yields."""
    before, name = node.inputs[index], Namer(graph)
    width, spatial = int(before.shape[1]), len(before.shape) - 2
    weight = (factor * np.eye(width)).astype(before.dtype).reshape(width, width, *[1] * spatial)
    probe = gs.Variable(name(f"{before.name}_part"), before.dtype, list(before.shape))
    graph.nodes.append(gs.Node("Conv", name("part"), {}, [before, gs.Constant(name("part"), weight)], [probe]))
    node.inputs = [probe if k == index else tensor for k, tensor in enumerate(node.inputs)]
    graph.nodes = toposort(graph)
    return probe


def _empty(channels: Channels, keep: Array) -> set[int]:
    """The tensors, by `id`, of which no channel is left."""
    found = set()
    for tensor in channels.keepalive:
        labels = channels.labels_of(tensor)
        if labels is not None and not is_constant(tensor) and (labels != NO_CHANNEL).all() and not keep[labels].any():
            found.add(id(tensor))
    return found


def _can_go(graph: gs.Graph, empty: set[int]) -> bool:
    """Condition 3."""
    for node in graph.nodes:
        if not any(id(tensor) in empty for tensor in node.inputs):
            continue
        others = [t for t in node.inputs if id(t) not in empty]
        outputs = [t for t in node.outputs if not is_empty(t)]
        if not all(id(t) in empty for t in outputs) and not (is_join(node) and others):
            return False
    return not any(id(tensor) in empty for tensor in graph.outputs)


def _cut(work: Model, plan: Plan, empty: set[int]) -> bool:
    """Slice the plan out of the copy; whether what is constant could be moved into biases."""
    moments, name = moments_of(work.graph, plan.channels.shapes), Namer(work.graph)
    shifts = []
    for place in contractions(plan.channels):
        gone = (place.classes != NO_CHANNEL) & ~plan.keep[np.maximum(place.classes, 0)] & place.reads
        mean = along(moments.of(place.node.inputs[place.index]).mean, place.axis, len(gone))
        used = gone & (mean != 0)
        if used.any() and (place.taps is None or not np.isfinite(mean[used]).all()):
            return False
        if used.any() and place.taps is not None:
            shifts.append((place.node, np.asarray(place.taps[:, used] @ mean[used])))
    if not all(shift_outputs(work, node, shift, name) for node, shift in shifts if np.any(shift)):
        return False
    cutter = Cutter(work, plan)
    for node in list(work.graph.nodes):
        if node.op in UPDATES and not all(id(t) in empty for t in node.outputs if not is_empty(t)):
            UPDATES[node.op](cutter, node)
    cutter.cut_initializers()
    _forget(work.graph, empty)
    return True


def _forget(graph: gs.Graph, empty: set[int]) -> None:
    for node in list(graph.nodes):
        outputs = [t for t in node.outputs if not is_empty(t)]
        if outputs and all(id(tensor) in empty for tensor in outputs):
            detach(node)
        elif is_split(node) and any(id(tensor) in empty for tensor in outputs):
            _drop_outputs(graph, node, empty)
    for node in graph.nodes:
        if is_join(node) and any(id(tensor) in empty for tensor in node.inputs):
            node.inputs = [tensor for tensor in node.inputs if id(tensor) not in empty]
            if len(node.inputs) == 1:
                bypass(graph, node)


def _drop_outputs(graph: gs.Graph, node: Node, empty: set[int]) -> None:
    """Take the outputs of width 0 out of a Split whose sizes are set already."""
    left = [k for k, tensor in enumerate(node.outputs) if id(tensor) not in empty]
    sizes = np.asarray(operand(node, "split"))[left]
    set_operand(node, "split", sizes, graph.opset, lambda: node.inputs[1].name)
    node.outputs = [node.outputs[k] for k in left]
    if len(left) == 1:
        become(node, "Identity", {}, node.inputs[:1])
