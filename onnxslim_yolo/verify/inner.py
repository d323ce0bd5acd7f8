"""What a pass does to tensors that it leaves their names: where a mistake is that no output shows.

An exact pass may remove tensors and make new ones; one that it does not rename it leaves what it computes. So both
graphs are run with these as outputs, too, and compared channel by channel. One weight tensor 1 % off moves its own
layer's channels by about as much, however little of that reaches an output: layers behind attenuate it below rounding.

Channels that nothing at an output depends on (see `analysis.needed`) are anybody's: `drop-dead` sets them to zero.

A pass may move a factor from a layer to the one behind it, so a tensor may hold something else where all who read it
were changed, and what they make of it agrees.

A channel's difference is divided by its spread, or by what rounding costs there: what the graph before the pass gives
under onnxruntime's optimisations, times `NOISE`, and `UNITS` of the tensor's largest number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.needed import NeededChannels
from onnxslim_yolo.ir.graph import Array, Node, Tensor, input_constant, static_shape, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.registry import ORDERING
from onnxslim_yolo.runtime.onnx_run import Feeds, bytes_of, run_onnx, with_outputs
from onnxslim_yolo.verify.compare import TOLERANCE
from onnxslim_yolo.verify.ruler import NOISE

UNITS = 64.0
"""Units in the last place of the tensor's largest number that any of its elements may be off by."""

AT_ONCE = 64 << 20
"""Numbers of inner tensors that are kept at once."""


MANY = 32
"""Tensors at once of which the graph does not say how large they are."""


@dataclass(frozen=True)
class InnerChange:
    """The first tensor that a pass changed and did not rename: by how much of its spread, and what was allowed."""

    tensor: str
    worst: float
    allowed: float = TOLERANCE


def inner_change(before: Model, after: Model, feed: Feeds) -> InnerChange | None:
    """The first inner tensor of both graphs, in order, that they do not agree on; None if there is none."""
    if any(node.op in ORDERING for node in (*before.graph.nodes, *after.graph.nodes)):
        return None  # whose rows rounding reorders
    shared = _shared(before, after)
    apart = _differences(before, after, shared, feed)
    off = [tensor for tensor in shared if apart.get(tensor.name, 0.0) > TOLERANCE]
    agreeing = {tensor.name for tensor in shared} - {tensor.name for tensor in off}
    agreeing |= {tensor.name for tensor in before.graph.outputs}
    known = agreeing | {tensor.name for tensor in off}
    for tensor in off:
        if _read_alike(before, after, tensor.name) or not _next(before, tensor, known) <= agreeing:
            return InnerChange(tensor.name, apart[tensor.name])
    return None


def _differences(before: Model, after: Model, shared: Sequence[Tensor], feed: Feeds) -> dict[str, float]:
    """By how much these tensors differ, of their spread; those that are equal are left out."""
    data, needed = (bytes_of(before), bytes_of(after)), dict[str, Array]()
    found: dict[str, float] = {}
    for names in _portions(shared):
        mine, theirs = (run_onnx(with_outputs(each, names), [feed])[0] for each in data)
        changed = [name for name in names if not np.array_equal(mine[name], theirs[name], equal_nan=True)]
        if changed:
            again = run_onnx(with_outputs(data[0], names), [feed], optimise=True)[0]
            needed = needed or _needed(before)
            for name in [name for name in changed if mine[name].shape == theirs[name].shape]:
                found[name] = _apart(*(_of_use(each[name], needed[name]) for each in (mine, theirs, again)))
    return found


def _next(model: Model, tensor: Tensor, known: Collection[str]) -> set[str]:
    """The known tensors that depend on this one with no other known one between them."""
    found: set[str] = set()
    seen = {tensor.name}
    for node in toposort(model.graph):
        if any(each.name in seen for each in node.inputs):
            names = {each.name for each in node.outputs}
            found |= names & set(known)
            seen |= names - set(known)
    return found


def _read_alike(before: Model, after: Model, name: str) -> bool:
    """Whether an operator that reads this tensor was left as it was."""
    theirs = [node for node in after.graph.nodes if any(tensor.name == name for tensor in node.inputs)]
    mine = [node for node in before.graph.nodes if any(tensor.name == name for tensor in node.inputs)]
    return any(_same(a, b) for a in mine for b in theirs)


def _same(a: Node, b: Node) -> bool:
    if a.op != b.op or len(a.inputs) != len(b.inputs) or str(a.attrs) != str(b.attrs):
        return False
    for index, (one, other) in enumerate(zip(a.inputs, b.inputs, strict=True)):
        values = input_constant(a, index), input_constant(b, index)
        if (values[0] is None) != (values[1] is None) or (values[0] is None and one.name != other.name):
            return False
        if values[0] is not None and not np.array_equal(values[0], np.asarray(values[1])):
            return False
    return True


def _shared(before: Model, after: Model) -> list[Tensor]:
    """Float tensors that both graphs compute under one name, of one shape, in the first one's order."""
    theirs = {tensor.name: tensor for node in after.graph.nodes for tensor in node.outputs}
    ends = {tensor.name for model in (before, after) for tensor in model.graph.outputs}
    return [
        tensor
        for node in before.graph.nodes
        for tensor in node.outputs
        if tensor.name not in ends and (other := theirs.get(tensor.name)) is not None and _comparable(tensor, other)
    ]


def _needed(model: Model) -> dict[str, Array]:
    """Per tensor, which of its channels any output depends on."""
    graph = model.graph
    shapes = concrete_shapes(graph)
    needs = NeededChannels(graph, shapes, moments_of(graph, shapes))
    return {tensor.name: needs.of(tensor) for node in graph.nodes for tensor in node.outputs}


def _of_use(value: Array, needed: Array) -> Array:
    if value.ndim < 2 or needed.size != value.shape[1]:
        return value if needed.any() else value[:0]
    return np.asarray(value[:, needed])


def _comparable(a: Tensor, b: Tensor) -> bool:
    floating = a.dtype is not None and np.dtype(a.dtype).kind == "f"
    return floating and a.dtype == b.dtype and a.shape is not None and list(a.shape) == list(b.shape or ())


def _portions(tensors: Sequence[Tensor]) -> Iterator[list[str]]:
    """Names of so many tensors at a time as fit."""
    names: list[str] = []
    size = 0
    for tensor in tensors:
        shape = static_shape(tensor)
        own = AT_ONCE // MANY if shape is None else int(np.prod(shape))
        if names and size + own > AT_ONCE:
            yield names
            names, size = [], 0
        names.append(tensor.name)
        size += own
    if names:
        yield names


def _apart(before: Array, after: Array, again: Array) -> float:
    """The worst channel's difference, in what it is divided by."""
    a, b, c = (_by_channel(value) for value in (before, after, again))
    if not a.size:
        return 0.0
    unit = float(np.finfo(before.dtype).eps)
    floor = np.maximum(NOISE * np.abs(a - c).max(axis=1), UNITS * unit * float(np.abs(a).max()))
    scale = np.maximum(a.std(axis=1), floor / TOLERANCE)
    worst = np.abs(a - b).max(axis=1) / np.where(scale > 0, scale, 1.0)
    return float(np.nan_to_num(worst, nan=np.inf).max())


def _by_channel(value: Array) -> Array:
    """(channels, numbers) of a map, in float64; anything else is one channel."""
    wide = value.astype(np.float64)
    if not wide.size:
        return wide.reshape(1, 0)
    return np.moveaxis(wide, 1, 0).reshape(wide.shape[1], -1) if wide.ndim == 4 else wide.reshape(1, -1)
