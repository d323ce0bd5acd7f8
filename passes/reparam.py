"""reparam: parallel linear branches of one input, and convolutions in a row, become one convolution.

Convolution is linear in its kernel, so K1∗x + K2∗x = (K1 + K2)∗x once both kernels are laid on one window. Branches are

1. Conv k×k of any kernel, dilation and groups (asymmetric ones too), a BatchNorm or constant scale and shift on it or in
   front of it, if exact;
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
from onnxslim_yolo.graph import Model, Namer, Node, Tensor, detach, has_input, is_constant, sweep, toposort
from onnxslim_yolo.passes._absorb import bias_name, cast


@dataclass(frozen=True)
class ReparamBranches:
    """Merge sums of parallel linear branches, and convolutions in a row, each into one convolution."""

    name: ClassVar[str] = "reparam"

    def run(self, model: Model) -> int:
        """Merge until nothing can be merged; return how many convolutions were made."""
        graph, namer, total = model.graph, Namer(model.graph), 0
        while True:
            made = _merge_sums(graph, namer) + _merge_rows(graph, namer)
            sweep(graph)
            if not made:
                return total
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
        if row is None:
            continue
        merged = _representable(compose_chain(row.steps), node)
        if merged is not None:
            output = node.outputs[0]
            _replace(row.nodes, node, row.base, merged, output, namer)
            made += 1
    return made


def _carry_out(graph: gs.Graph, merge: Merge, namer: Namer) -> bool:
    paths = list(merge.paths.values())
    nodes = [node for path in paths for node in path.nodes]
    anchor = max((node for node in nodes if node.op == "Conv"), key=lambda node: node.inputs[1].values.size)  # type: ignore[attr-defined]
    merged = _representable(add([compose_chain(path.steps) for path in paths]), anchor)
    if merged is None:
        return False
    tree, base = merge.tree, paths[0].base
    leaves = [leaf for index, leaf in enumerate(tree.leaves) if index not in merge.paths]
    root = tree.root.outputs[0]
    shape = root.shape if not leaves else None
    summed = gs.Variable(namer(f"{root.name}_merged"), anchor.outputs[0].dtype, shape) if leaves else root
    dtype_shape = anchor.outputs[0].shape
    spare = _take_down(tree)
    _replace(nodes, anchor, base, merged, summed, namer)
    if leaves:
        summed.shape = dtype_shape if _same_size(merged, anchor) else None
        leaves.insert(min(merge.paths), summed)
        _add_up(graph, leaves, root, spare, namer)
    return True
