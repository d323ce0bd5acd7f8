"""What of the source went whole, noted on a model by the passes that take layers out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import Channels, analyse_channels
from onnxslim_yolo.ir.graph import TRANSPOSED
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LINEAR
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.removed import as_modules
from onnxslim_yolo.pruning.source_terms import leaf_names

Layers = dict[str, set[str]]
"""The source's initializers by the layer they belong to, in the graph's order."""


def layers_of(graph: gs.Graph, within: Collection[str] | None = None) -> Layers:
    """The layers that a graph has weights of, or that its nodes of these names have."""
    found: Layers = defaultdict(set)
    for node in graph.nodes if within is None else [node for node in graph.nodes if node.name in within]:
        for tensor in node.inputs:
            for name in leaf_names(tensor) if isinstance(tensor, gs.Constant) else ():
                stem, dot, _ = name.removesuffix(TRANSPOSED).rpartition(".")
                found[stem if dot else node.name if node.op in LINEAR else name].add(name)
    return found


def record_removed(model: Model, came: gs.Graph, before: Layers, channels: Channels | None = None) -> list[str]:
    """Note on the model what is no longer there; returns it by modules.

    Args:
        came: the graph before, which is kept where there is none yet; `before`: its layers.
        channels: its analysis, or that of a graph like it, where there is one.
    """
    left = set[str]().union(*layers_of(model.graph).values())
    removed = [layer for layer, names in before.items() if names.isdisjoint(left)]
    if not removed:
        return []
    plan, carried = open_plan(model), model.carried
    known = carried.removed_nodes
    carried = replace(
        carried,
        removed_nodes=(*known, *(name for name in removed if name not in known)),
        layers=carried.layers or tuple(before),
    )
    if carried.came is None:
        known_before = analyse_channels(came, whole_heads=model.whole_heads) if channels is None else channels
        gone = int(known_before.prunable.sum()) - int(plan.channels.prunable.sum())
        carried = replace(carried, came=came, gone=max(0, gone))
    model.carried = carried
    return as_modules(removed, carried.layers)


def listed(names: list[str]) -> str:
    """The first of them, and how many more."""
    return ", ".join(f"'{name}'" for name in names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
