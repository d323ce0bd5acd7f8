"""What readers of a removed block lose of it that they could still know: its mean, and what of it is linear.

A block that is taken out leaves its readers x where they had x + f(x), or fewer columns. With d what is missing, and
μ, Σ the moments of x and of the pair (d, x) over calibration positions, the best that y = W·(x + d) can do is

    B = Σ_dx (Σ_xx + λI)⁻¹        W ← W·(P + B)        b ← b + W·(μ_d − B·μ_x)

with P what places the columns of x among those that there were: the identity, for a branch. That is the block's
output fitted by least squares as a 1×1 convolution of what bridges it, folded into whoever reads it. A reader of
several groups knows its own columns only: each group is fitted by itself, a depthwise layer's channels one by one, and
what would need the other groups' columns is left to whoever reads that reader. A reader behind another one sees what
that one yields once it is fitted: they are fitted in waves. λ is a share of the mean diagonal of Σ_xx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.blocks import node_named
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    constant_of,
    copy_graph,
    producer,
    revalue,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LinearLayer, tapped_axis
from onnxslim_yolo.pruning.calibration import Images, thin
from onnxslim_yolo.pruning.fold_removed import ridge_regression
from onnxslim_yolo.pruning.shift import shift_outputs

SAMPLES_PER_COLUMN = 4
"""Fewer positions than this per column would fit noise."""


@dataclass(frozen=True)
class _Reader:
    """A linear layer whose input has changed: its names in both graphs are one, and of `before` columns of the old
    `columns` are left, as many of each of its groups."""

    node: str
    groups: int
    before: int
    columns: Array


@dataclass
class _Sums:
    """Σ over positions of x, d, x·xᵀ and d·xᵀ within each group: (groups, n), (groups, m), (groups, n, n) and
    (groups, m, n)."""

    count: int
    x: Array
    d: Array
    xx: Array
    dx: Array


def refit_readers(model: Model, images: Images, ridge: float) -> dict[str, Array]:
    """Fit what reads what removed blocks were part of, in place; returns by layer what its outputs were shifted by.

    Args:
        model: that knows the graph that still has the blocks. images: inputs. ridge: λ.
    """
    came = model.carried.came
    if not model.carried.blocks or came is None:
        return {}
    shifts: dict[str, Array] = {}
    name = Namer(model.graph)
    for wave in _waves(model.graph, _readers(model.graph, came)):
        for reader, sums in zip(wave, _measure(model.graph, came, wave, images), strict=True):
            node = node_named(model.graph, reader.node)
            shift = None if node is None else _fit(node, came, reader, sums, ridge)
            if node is not None and shift is not None:
                shift_outputs(model, node, shift, name)
                shifts[node.name] = shift
    return shifts


def _fit(node: Node, came: gs.Graph, reader: _Reader, sums: _Sums | None, ridge: float) -> Array | None:
    """Edit a reader's weight; returns what its outputs have to be shifted by. None: it stays as it is."""
    if sums is None or sums.count < SAMPLES_PER_COLUMN * sums.x.shape[1]:
        return None
    mean_x, mean_d = sums.x / sums.count, sums.d / sums.count
    inner = sums.xx / sums.count - mean_x[:, :, None] * mean_x[:, None]
    cross = sums.dx / sums.count - mean_d[:, :, None] * mean_x[:, None]
    if not (np.isfinite(inner).all() and np.isfinite(cross).all()) or not (mean_d.any() or cross.any()):
        return None
    known = np.stack([ridge_regression(d, x, ridge) for d, x in zip(cross, inner, strict=True)])
    earlier = node_named(came, node.name)
    layer, old = LinearLayer.of(node), None if earlier is None else LinearLayer.of(earlier)
    if layer is None or old is None:
        return None
    place = np.zeros((reader.before, len(reader.columns)))
    place[reader.columns, np.arange(len(reader.columns))] = 1.0
    mine = np.stack(_diagonal(place, reader.groups))
    blocks = np.einsum("goit,gij->gojt", old.blocks, mine + known)
    revalue(node, 1, layer.stored(blocks).astype(layer.weight.dtype))
    missed = mean_d - np.einsum("gij,gj->gi", known, mean_x)
    lost = np.einsum("goi,gi->go", old.blocks.sum(axis=3), missed).reshape(-1)
    return np.asarray(lost / layer.overlap)


def _diagonal(matrix: Array, groups: int) -> list[Array]:
    """The blocks on the diagonal of a matrix whose rows and columns lie in as many groups."""
    rows, columns = (size // groups for size in matrix.shape)
    return [matrix[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]


def _readers(graph: gs.Graph, came: gs.Graph) -> list[_Reader]:
    """The layers whose input is not what it was, in order, as far as no other layer that is fitted stands between.

    What a fitted layer yields is taken for what it was: whoever reads that is not to make up for the same again. Not
    so what one of several groups yields, which lacks what its groups could not tell from their own columns.
    """
    before = {node.name: node for node in came.nodes}
    changed: set[int] = set()
    found: list[_Reader] = []
    for node in toposort(graph):
        earlier = before.get(node.name)
        same = earlier is not None and earlier.op == node.op and _reads_the_same(earlier, node)
        if same and not any(id(tensor) in changed for tensor in node.inputs):
            continue
        reader = None if earlier is None else _reader(node, earlier)
        found += [] if reader is None else [reader]
        if reader is None or reader.groups > 1:
            changed.update(map(id, node.outputs))
    return found


def _reader(node: Node, earlier: Node) -> _Reader | None:
    """A layer that has lost nothing but columns, as many of each group."""
    layer, old = LinearLayer.of(node), LinearLayer.of(earlier)
    if layer is None or old is None or not layer.samples_in_place:
        return None
    new_shape, old_shape = layer.blocks.shape, old.blocks.shape
    if (new_shape[:2], new_shape[3]) != (old_shape[:2], old_shape[3]):
        return None
    columns = [_columns(new, before) for new, before in zip(layer.blocks, old.blocks, strict=True)]
    starts = np.arange(old.groups) * old_shape[2]
    known = [start + own for start, own in zip(starts, columns, strict=True) if own is not None]
    return None if len(known) < old.groups else _Reader(node.name, old.groups, old.inputs, np.concatenate(known))


def _reads_the_same(earlier: Node, node: Node) -> bool:
    """Whether both read what nodes of the same names yield, and the same constants, whatever they are called now."""

    def same(old: Tensor, new: Tensor) -> bool:
        makers = producer(old), producer(new)
        names = [tensor.name if maker is None else maker.name for tensor, maker in zip((old, new), makers, strict=True)]
        before, now = constant_of(old), constant_of(new)
        return names[0] == names[1] or (before is not None and now is not None and np.array_equal(before, now))

    return len(earlier.inputs) == len(node.inputs) and all(map(same, earlier.inputs, node.inputs))


def _columns(new: Array, old: Array) -> Array | None:
    """Which of the old columns are left, told by their weights; None where they cannot be told."""
    if new.shape == old.shape:
        return np.arange(new.shape[1])
    left, place = [], 0
    for column in range(new.shape[1]):
        while place < old.shape[1] and not np.array_equal(new[:, column], old[:, place]):
            place += 1
        if place == old.shape[1]:
            return None
        left.append(place)
        place += 1
    return np.array(left)


def _waves(graph: gs.Graph, readers: Sequence[_Reader]) -> list[list[_Reader]]:
    """Readers that do not follow each other, one wave after the other."""
    depth: dict[int, int] = {}
    by_name = {reader.node: reader for reader in readers}
    waves: dict[int, list[_Reader]] = {}
    for node in toposort(graph):
        here = max((depth.get(id(tensor), 0) for tensor in node.inputs), default=0)
        if node.name in by_name:
            waves.setdefault(here, []).append(by_name[node.name])
            here += 1
        depth |= dict.fromkeys(map(id, node.outputs), here)
    return [waves[k] for k in sorted(waves)]


def _measure(graph: gs.Graph, came: gs.Graph, wave: Sequence[_Reader], images: Images) -> list[_Sums | None]:
    """The sums of every reader, of both graphs over the same images and positions."""
    from onnxslim_yolo.runtime.onnx_run import session

    runners = []
    for side in (graph, came):
        copy = copy_graph(side)
        nodes, name = {node.name: node for node in copy.nodes}, Namer(copy)
        taps = []
        for reader in wave:
            axis = tapped_axis(nodes[reader.node])
            taps.append((thin(copy, nodes[reader.node].inputs[0], axis, name), axis))
        copy.outputs = [gs.Variable(tap, np.float32) for tap, _ in taps]
        copy.nodes = toposort(copy)
        runners.append((session(Model(graph=copy), optimise=True, threads=1), taps))
    feed = graph.inputs[0].name
    sums: list[_Sums | None] = [None] * len(wave)
    for image in images:
        now, then = (runner.run([tap for tap, _ in taps], {feed: image}) for runner, taps in runners)
        for k, reader in enumerate(wave):
            axis = runners[0][1][k][1]
            x, old = (np.moveaxis(value[k], axis, -1).reshape(-1, value[k].shape[axis]) for value in (now, then))
            if len(x) != len(old):
                continue
            sums[k] = _add(sums[k], x.astype(np.float64), old.astype(np.float64), reader)
    return sums


def _add(sums: _Sums | None, x: Array, old: Array, reader: _Reader) -> _Sums:
    d = old.copy()
    d[:, reader.columns] -= x
    x, d = (np.moveaxis(each.reshape(len(each), reader.groups, -1), 0, 2) for each in (x, d))  # (groups, n, positions)
    turned = x.swapaxes(1, 2)
    parts = (x.shape[2], x.sum(axis=2), d.sum(axis=2), x @ turned, d @ turned)
    if sums is None:
        return _Sums(*parts)
    return _Sums(sums.count + parts[0], sums.x + parts[1], sums.d + parts[2], sums.xx + parts[3], sums.dx + parts[4])
