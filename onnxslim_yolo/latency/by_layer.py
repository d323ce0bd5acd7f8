"""Predicted latency, told apart by layer and by kind of layer.

The figures are those of the latency table that widths are chosen by (see `latency.table`): a sum over layers, measured
one by one, and scaled to whole networks. A compilation's `--measure` times the whole network; no runtime here tells
the time of single layers inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from onnxslim_yolo.latency.layers import Family, describe
from onnxslim_yolo.latency.table import LatencyTable

_KINDS = {
    "group-conv": "grouped convolution",
    "depthwise": "depthwise convolution",
    "deconv": "transposed convolution",
    "maxpool": "max pooling",
    "avgpool": "average pooling",
    "resize": "resize",
    "concat": "concat",
    "split": "split",
    "gate": "gate (channels scaled)",
    "matmul": "matrix product",
    "gather": "channels picked",
    "move": "other movement of data",
}
_OPS = {"unary": "activation or scale", "binary": "element-wise"}
"""Kinds of which the operator tells more than the kind."""


def add_latency(cost: dict[str, Any], graph: gs.Graph, table: LatencyTable) -> None:
    """Enter predictions into a cost as a report holds it, in place.

    `latency_us` of each layer that multiplies, and `latency_kinds`: {kind, layers, us} with most time first, over all
    layers that take time. The latter add up to the cost's own `latency_us` but for rounding.
    """
    by_node: dict[str, float] = {}
    kinds: dict[str, list[float]] = {}
    for layer in describe(graph):
        us = table.predict(layer.key)
        by_node[layer.node.name] = by_node.get(layer.node.name, 0.0) + us
        kinds.setdefault(kind_text(layer.key.family), []).append(us)
    for entry in cost["layers"]:
        if entry["name"] in by_node:
            entry["latency_us"] = round(by_node[entry["name"]], 2)
    order = sorted(kinds, key=lambda kind: (-sum(kinds[kind]), kind))
    cost["latency_kinds"] = [
        {"kind": kind, "layers": len(kinds[kind]), "us": round(sum(kinds[kind]), 2)} for kind in order
    ]


def kind_text(family: Family) -> str:
    """A family as people call it: 'convolution 3×3, stride 2'."""
    if family.kind == "conv":
        stride = f", stride {max(family.stride)}" if max(family.stride) > 1 else ""
        return f"convolution {family.kernel[0]}×{family.kernel[1]}{stride}"
    if family.kind in _OPS:
        return f"{_OPS[family.kind]}: {family.op}" if family.op else _OPS[family.kind]
    return _KINDS.get(family.kind, family.kind)


def kinds_of(report: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(kind, µs before, µs after), most time before first; empty where a report has no predictions."""
    sides = [
        {row["kind"]: row["us"] for row in (report[key].get("latency_kinds") or [])} for key in ("before", "after")
    ]
    before, after = sides
    names = [*before, *(kind for kind in after if kind not in before)]
    return [(name, before.get(name, 0.0), after.get(name, 0.0)) for name in names]
