"""Finding sums of parallel linear branches, and linear layers in a row, that one convolution can replace.

A *path* leads from a base tensor to an end through linear nodes that nothing else reads. The leaves of a tree of Adds
that have paths from one base are branches of it. Which of them are merged is decided by cost: a merged convolution may
not multiply more than its branches did. So a depthwise 7×7 beside a dense 1×1 stay two (merged they are a dense 7×7),
and so do a 1×3 beside a 3×1 alone, while both disappear into a 3×3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.linear import (
    Geometry,
    LinearMap,
    chain_geometry,
    data_input,
    identity,
    linear_map_of,
    sum_geometry,
)
from onnxslim_yolo.ir.graph import Node, Tensor, producer, sole_consumer
from onnxslim_yolo.ops.arithmetic import SUMS
from onnxslim_yolo.ops.linear import is_conv

SUM_OPS = SUMS


@dataclass(frozen=True)
class Path:
    """Linear nodes in a row, first to last, between two tensors. `steps` are their maps; none for the identity.

    Attributes:
        geometry: of all steps as one map.
        cost: multiplications per output position of the steps as they are.
    """

    base: Tensor
    nodes: tuple[Node, ...]
    steps: tuple[LinearMap, ...]
    geometry: Geometry
    cost: int

    @property
    def has_conv(self) -> bool:
        """Whether a convolution is on the path."""
        return any(is_conv(node) for node in self.nodes)


@dataclass(frozen=True)
class SumTree:
    """Adds that nothing else reads, down from a root; and what they add up, left to right."""

    nodes: tuple[Node, ...]
    leaves: tuple[Tensor, ...]

    @property
    def root(self) -> Node:
        """The last Add."""
        return self.nodes[0]


@dataclass(frozen=True)
class Merge:
    """Leaves of a tree, by position, whose paths from one base become one convolution."""

    tree: SumTree
    paths: dict[int, Path]


def sum_trees(graph: gs.Graph) -> Iterator[SumTree]:
    """Every maximal tree of Adds, in the graph's order."""
    for node in list(graph.nodes):
        if node.op not in SUM_OPS or not node.outputs:
            continue
        reader = sole_consumer(graph, node.outputs[0])
        if reader is None or reader.op not in SUM_OPS:
            yield _tree(graph, node)


def find_merge(graph: gs.Graph, tree: SumTree) -> Merge | None:
    """Branches of a sum that one convolution can replace; those of the base with most branches first."""
    by_base: dict[int, dict[int, Path]] = {}
    for index, leaf in enumerate(tree.leaves):
        for path in paths_to(graph, leaf):
            by_base.setdefault(id(path.base), {})[index] = path
    for paths in sorted(by_base.values(), key=len, reverse=True):
        chosen = _affordable(paths)
        if chosen is not None:
            return Merge(tree, chosen)
    return None


def find_row(graph: gs.Graph, node: Node) -> Path | None:
    """The path that ends in this Conv and starts with the Conv before it, if one convolution can replace both."""
    own = linear_map_of(node) if is_conv(node) and node.inputs else None
    if own is None:
        return None
    for path in paths_to(graph, node.inputs[0]):
        if not path.has_conv:
            continue
        steps, cost = (*path.steps, own), path.cost + own.geometry.cost
        geometry = chain_geometry(steps)
        if geometry is None or geometry.cost > cost:
            return None
        return Path(path.base, (*path.nodes, node), steps, geometry, cost)
    return None


def paths_to(graph: gs.Graph, end: Tensor) -> Iterator[Path]:
    """The paths that end in a tensor, shortest (the identity) first, as long as their composition is exact.

    What is not exact does not become so with more steps in front: a pointwise, unbiased beginning is what it lacks.
    """
    if end.shape is not None and len(end.shape) > 2 and isinstance(end.shape[1], int):
        same = identity(end.shape[1], len(end.shape) - 2)
        yield Path(end, (), (same,), same.geometry, same.geometry.cost)
    tensor, cost = end, 0
    nodes: tuple[Node, ...] = ()
    steps: tuple[LinearMap, ...] = ()
    while (node := producer(tensor)) is not None and sole_consumer(graph, tensor) is not None:
        step = linear_map_of(node)
        if step is None:
            return
        tensor, cost = data_input(node), cost + step.geometry.cost
        nodes, steps = (node, *nodes), (step, *steps)
        geometry = chain_geometry(steps)
        if geometry is None:
            return
        yield Path(tensor, nodes, steps, geometry, cost)


def _tree(graph: gs.Graph, root: Node) -> SumTree:
    nodes: list[Node] = []
    leaves: list[Tensor] = []
    stack: list[Tensor | Node] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, gs.Tensor):
            before = producer(item)
            if before is None or before.op not in SUM_OPS or sole_consumer(graph, item) is None:
                leaves.append(item)
                continue
            item = before
        nodes.append(item)
        stack += reversed(item.inputs)
    return SumTree(tuple(nodes), tuple(leaves))


def _affordable(paths: dict[int, Path]) -> dict[int, Path] | None:
    """Two or more of the paths, a convolution among them, whose sum costs no more than they do; else None."""
    order = sorted(paths, key=lambda index: (paths[index].has_conv, paths[index].geometry.cost), reverse=True)
    for start, head in enumerate(order):
        if not paths[head].has_conv:
            return None
        chosen = _grow(paths, order[start:])
        if len(chosen) > 1:
            return {index: paths[index] for index in sorted(chosen)}
    return None


def _grow(paths: dict[int, Path], order: Sequence[int]) -> list[int]:
    chosen, geometry, spent = [order[0]], paths[order[0]].geometry, paths[order[0]].cost
    for index in order[1:]:
        path = paths[index]
        merged = sum_geometry([geometry, path.geometry])
        if merged is None or merged.cost > spent + path.cost:
            continue
        chosen.append(index)
        geometry, spent = merged, merged.cost
    return chosen
