"""reparam: parallel linear branches of one input, and convolutions in a row, become one convolution.

Convolution is linear in its kernel, so K1∗x + K2∗x = (K1 + K2)∗x once both kernels are laid on one window. Branches are

1. Conv k×k of any kernel, dilation and groups (asymmetric ones too), with a BatchNorm or constant scale and shift on it
   or in front of it, if exact;
2. the identity, or a BatchNorm alone: a depthwise 1×1;
3. AveragePool: depthwise with 1/k², if it has no padding or counts it (`count_include_pad`);
4. several of these in a row (Diverse Branch Block): 1×1 → k×k with padding only if the 1×1 has no bias, for the k×k
   reads 0 beyond the edge where the composed kernel would read the bias.

They are merged if strides and output sizes are equal, nothing else reads what lies between, and the merged kernel does
not multiply more than its branches. Of a sum whose branches fit partly, those that fit are merged. That covers RepVGG,
RepConv (YOLOv6/7/9), RepVGGDW (v10), MobileOne, ACNet, DBB, before or after BatchNorms are folded. A residual Add whose
branch is linear is such a sum as well. Convolutions in a row are merged under conditions 4, too.

Computed in float64, cast to the type of the largest branch; its initializers keep their names. Sources: Ding et al.,
RepVGG (2021), ACNet (2019), Diverse Branch Block (2021), equations for transforms I to VI.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.branches import Merge, SumTree, find_merge, find_row, sum_trees
from onnxslim_yolo.analysis.linear import LinearMap, add, compose_chain
from onnxslim_yolo.analysis.window import set_windows
from onnxslim_yolo.ir.graph import Namer, Node, Tensor, detach, has_input, is_constant, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import is_conv
from onnxslim_yolo.rewrites.absorber import bias_name, cast


@dataclass(frozen=True)
class ReparamBranches:
    """Merge sums of parallel linear branches, and convolutions in a row, each into one convolution."""

    name: ClassVar[str] = "reparam"

    def run(self, model: Model) -> int:
        """Merge until nothing can be merged; return how many convolutions were made."""
        graph, namer, total = model.graph, Namer(model.graph), 0
        while True:
            made = _merge_sums(graph, namer) + _merge_rows(graph, namer)
            if not made:
                return total
            sweep(graph)
            graph.nodes = toposort(graph)
            total += made


def _merge_sums(graph: gs.Graph, namer: Namer) -> int:
    made = 0
    for tree in sum_trees(graph):
        merge = find_merge(graph, tree)
        made += merge is not None and _carry_out(graph, merge, namer)
    return made


def _merge_rows(graph: gs.Graph, namer: Namer) -> int:
    made = 0
    for node in list(graph.nodes):
        row = find_row(graph, node)
        merged = None if row is None else _in_type_of(node, compose_chain(row.steps))
        if row is not None and merged is not None:
            _replace(row.nodes, node, row.base, merged, node.outputs[0], namer)
            made += 1
    return made


def _carry_out(graph: gs.Graph, merge: Merge, namer: Namer) -> bool:
    """Put one convolution in the place of a sum's merged branches. False if its type cannot hold the merged weights."""
    tree, paths = merge.tree, list(merge.paths.values())
    nodes = [node for path in paths for node in path.nodes]
    anchor = max((node for node in nodes if is_conv(node)), key=_weights)
    merged = _in_type_of(anchor, add([compose_chain(path.steps) for path in paths]))
    if merged is None:
        return False
    first = min(merge.paths)
    root, branch = tree.root.outputs[0], tree.leaves[first]
    leaves = [leaf for index, leaf in enumerate(tree.leaves) if index not in merge.paths]
    _take_down(tree)
    summed = gs.Variable(namer(f"{root.name}_merged"), branch.dtype, branch.shape) if leaves else root
    _replace(nodes, anchor, paths[0].base, merged, summed, namer)
    if leaves:
        leaves.insert(first, summed)
        _add_up(graph, leaves, root, [node.name for node in tree.nodes], namer)
    return True


def _weights(node: Node) -> int:
    return int(np.prod(node.inputs[1].shape))


def _in_type_of(node: Node, merged: LinearMap) -> LinearMap | None:
    """The map in the type of a Conv's weight, or None where that would overflow."""
    dtype = node.inputs[1].dtype
    weight, bias = cast(merged.weight, dtype), cast(merged.bias, dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    return LinearMap(merged.geometry, weight, bias)


def _replace(
    nodes: Iterable[Node], anchor: Node, base: Tensor, merged: LinearMap, output: Tensor, namer: Namer
) -> None:
    """Let `anchor`, a Conv among `nodes`, compute `output` from `base` alone; the other nodes go."""
    old = list(anchor.inputs)
    weight_name = old[1].name if len(old[1].outputs) == 1 else namer(f"{old[1].name}__{anchor.name}")
    kept = len(old) > 2 and is_constant(old[2]) and len(old[2].outputs) == 1
    biased = merged.is_biased or has_input(anchor, 2)
    for node in nodes:
        detach(node)
    inputs: list[Tensor] = [base, gs.Constant(weight_name, merged.weight)]
    if biased:
        inputs.append(gs.Constant(old[2].name if kept else namer(bias_name(weight_name)), merged.bias))
    anchor.inputs, anchor.outputs = inputs, [output]
    anchor.attrs["group"] = merged.geometry.groups
    set_windows(anchor, merged.geometry.windows)


def _take_down(tree: SumTree) -> None:
    for node in tree.nodes:
        detach(node)


def _add_up(graph: gs.Graph, leaves: Sequence[Tensor], root: Tensor, names: Sequence[str], namer: Namer) -> None:
    """Add the leaves from left to right into `root`; the new Adds take the names of the old ones."""
    free = iter(names)
    total = leaves[0]
    for index, leaf in enumerate(leaves[1:], start=2):
        is_last = index == len(leaves)
        # Where shapes differ (something is broadcast) the sum's shape is left to inference.
        shape = total.shape if total.shape == leaf.shape else None
        partial = root if is_last else gs.Variable(namer(f"{root.name}_sum"), root.dtype, shape)
        name = next(free, None) or namer(f"{root.name}_add")
        graph.nodes.append(gs.Node("Add", name, inputs=[total, leaf], outputs=[partial]))
        total = partial
