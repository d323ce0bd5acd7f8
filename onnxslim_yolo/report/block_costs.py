"""What each block costs, before and after: layers, MACs, parameters, and predicted latency of all that runs in it.

A block is a place in the source's module tree that ends in a number, told by the nodes' names as `report.layers` does:
'model.2', and within it 'model.2.m.0'. One within another is listed behind it, where it has several layers; its cost is
part of the other's. Latency is that of every node of the block that takes time, activations, sums and Concats included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_graphsurgeon as gs

from onnxslim_yolo.latency.layers import describe
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.pruning.removed import module_of
from onnxslim_yolo.report.layers import block_name

Costs = dict[str, dict[str, float]]
"""Place → `layers` (that multiply), `macs`, `parameters`, `latency_us`."""


def enter_blocks(report: dict[str, Any], graphs: Mapping[str, gs.Graph], table: LatencyTable) -> None:
    """Enter `blocks` into a report, in place: {name, before, after}, in the source's order.

    `after` is null where no layer of the block is left: it was removed, or fused into others.

    Args:
        graphs: `before` and `after`, as predicted.
    """
    sides = {key: _costs(report[key]["layers"], graph, table) for key, graph in graphs.items()}
    before, after = sides["before"], sides["after"]
    report["blocks"] = [
        {"name": name, "before": cost, "after": after[name] if name in after and after[name]["layers"] else None}
        for name, cost in before.items()
        if cost["layers"] > 1 or (cost["layers"] and places_of(name)[:1] == [name])
    ]


def places_of(name: str) -> list[str]:
    """The blocks that a node's name puts it into, the outermost first.

    '/model.2/m.0/cv1/Conv' lies in 'model.2' and in 'model.2.m.0'.
    """
    outermost, dotted = block_name(name), module_of(name)
    if not outermost:
        return []
    parts, start = dotted.split("."), outermost.count(".") + 1
    deeper = [".".join(parts[: k + 1]) for k in range(start, len(parts)) if parts[k].isdigit()]
    return [outermost, *deeper]


def _costs(layers: Iterable[Mapping[str, Any]], graph: gs.Graph, table: LatencyTable) -> Costs:
    found: Costs = {}
    for layer in layers:
        for cost in _at(found, layer["name"]):
            cost["layers"] += 1
            cost["macs"] += layer["macs"]
            cost["parameters"] += layer["parameters"]
    for described in describe(graph):
        us = table.predict(described.key)
        for cost in _at(found, described.node.name):
            cost["latency_us"] += us
    return {name: {**cost, "latency_us": round(cost["latency_us"], 2)} for name, cost in found.items()}


def _at(found: Costs, name: str) -> list[dict[str, float]]:
    nothing = {"layers": 0, "macs": 0, "parameters": 0, "latency_us": 0.0}
    return [found.setdefault(place, dict(nothing)) for place in places_of(name)]
