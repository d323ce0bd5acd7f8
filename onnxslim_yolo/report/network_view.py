"""What the page's script draws of the network: blocks and edges in words, and the journal by tensor.

Everything here is text for people; the script sets it as text and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxslim_yolo.report import wording
from onnxslim_yolo.report.layers import MOVERS, Layer

MOST_TOLD = 8
"""Layers and tensors that a block's or an edge's hover text names."""
MOST_ENTRIES = 20_000
"""Entries of the journal that a page holds."""

Report = Mapping[str, Any]


def network_data(report: Report, layers: Sequence[Layer]) -> dict[str, Any] | None:
    """Blocks and edges to be laid out and drawn; None where the report has no network."""
    network = report.get("network")
    if not network or not network["blocks"]:
        return None
    passes = passes_by_tensor(report)
    by_node = {layer.name: layer for layer in layers}
    made: dict[int, list[str]] = {}
    for edge in network["edges"]:
        made.setdefault(edge["from"], []).extend(tensor["name"] for tensor in edge["tensors"])
    return {
        "blocks": [
            _block(block, [by_node[n] for n in block["nodes"] if n in by_node], made.get(index, []), passes)
            for index, block in enumerate(network["blocks"])
        ],
        "edges": [_edge(edge, passes) for edge in network["edges"]],
    }


def journal_data(report: Report) -> dict[str, Any]:
    """The journal as rows of [pass, tensor, change, before, after]; `left_out` says how many were too many."""
    journal = report.get("journal") or []
    names = [wording.printable(step["name"]) for step in report["passes"]]
    rows = [
        [names[entry["pass"]], *(wording.printable(entry[key]) for key in ("tensor", "change", "before", "after"))]
        for entry in journal[:MOST_ENTRIES]
        if entry["pass"] < len(names)
    ]
    return {"rows": rows, "left_out": max(0, len(journal) - MOST_ENTRIES)}


Touched = Mapping[str, Sequence[tuple[int, str]]]
"""A tensor's name → place in the order of passes, and name, of every pass that touched it."""


def passes_by_tensor(report: Report) -> Touched:
    """Which passes touched a tensor, by its name, in their order."""
    found: dict[str, dict[tuple[int, str], None]] = {}
    for entry in report.get("journal") or []:
        if entry["pass"] < len(report["passes"]):
            names = {entry["tensor"], entry["after"]} if entry["change"] == "renamed" else {entry["tensor"]}
            for name in names:
                found.setdefault(name, {})[entry["pass"], report["passes"][entry["pass"]]["name"]] = None
    return {name: list(passes) for name, passes in found.items()}


def layer_tensors(layer: Layer) -> tuple[str, ...]:
    """Names under which a layer's output and weight are known: what exporters make of a node's name."""
    dotted = layer.name[1:].replace("/", ".").rsplit(".", 1)[0] if layer.name.startswith("/") else layer.name
    return (f"{layer.name}_output_0", f"{layer.name}_output", f"{dotted}.weight", f"{layer.name}.weight")


def touched_text(names: Sequence[str], passes: Touched) -> str | None:
    """'touched by: slice, fold-bn' for any of these tensors; None where no pass did."""
    found = dict.fromkeys(name for _, name in sorted({each for tensor in names for each in passes.get(tensor, ())}))
    return f"touched by: {', '.join(map(wording.printable, found))}" if found else None


def _block(block: Mapping[str, Any], layers: Sequence[Layer], made: Sequence[str], passes: Touched) -> dict[str, Any]:
    title = wording.printable(block["name"]) or "(unnamed)"
    before, after = (sum(side(layer).get("macs", 0) for layer in layers) for side in (_before, _after))
    cut = any(layer.width and layer.kept < layer.width for layer in layers)
    gone = bool(layers) and not any(layer.after for layer in layers)
    frozen = bool(layers) and all(layer.frozen for layer in layers)
    left = after / before if before else 1.0
    return {
        "title": title,
        "sub": block["kind"] if block["kind"] != "block" else _subtitle(block["ops"], before, after),
        "left": round(min(1.0, left), 4),
        "state": "gone" if gone else "whole" if frozen else "cut" if cut or left < 1 else "",
        "kind": block["kind"],
        "first": layers[0].name if layers else None,
        "tip": "\n".join([title, *_block_facts(block, layers, before, after), *_touched(layers, made, passes)]),
    }


_Side = Callable[[Layer], Mapping[str, float]]


def _before(layer: Layer) -> Mapping[str, float]:
    return layer.before


def _after(layer: Layer) -> Mapping[str, float]:
    return layer.after


def _subtitle(ops: Mapping[str, int], before: float, after: float) -> str:
    if before:
        return f"{wording.ratio_text(after, before)} of {wording.count_text(before)} MACs"
    return ", ".join(wording.printable(op) for op in list(ops)[:2])


def _block_facts(block: Mapping[str, Any], layers: Sequence[Layer], before: float, after: float) -> list[str]:
    lines = [", ".join(f"{n} {wording.printable(op)}" for op, n in list(block["ops"].items())[:MOST_TOLD])]
    if before:
        both = f"{wording.count_text(before)} → {wording.count_text(after)}"
        lines.append(f"MACs {both} ({wording.ratio_text(after, before)})")
    widths = [layer for layer in layers if layer.width]
    lines += [_width_text(layer) for layer in widths[:MOST_TOLD]]
    lines += [f"and {len(widths) - MOST_TOLD} more layers"] if len(widths) > MOST_TOLD else []
    reasons = dict.fromkeys(reason for layer in layers for reason in layer.frozen)
    lines += [f"left whole: {wording.printable(reason)}" for reason in list(reasons)[:MOST_TOLD]]
    return [line for line in lines if line]


def _width_text(layer: Layer) -> str:
    name = wording.printable(layer.short)
    if layer.moved:
        return f"{name}: computed by {len(layer.moved)} layers ({' or '.join(MOVERS)})"
    if not layer.after:
        return f"{name}: gone, removed or fused"
    if layer.kept == layer.width:
        return f"{name}: {layer.width} channels, all kept"
    return f"{name}: {layer.width} → {layer.kept} channels, wanted {layer.wanted}"


def _touched(layers: Sequence[Layer], made: Sequence[str], passes: Touched) -> list[str]:
    names = [*made, *(name for layer in layers for name in layer_tensors(layer))]
    text = touched_text(names, passes)
    return [] if text is None else [text]


def _edge(edge: Mapping[str, Any], passes: Touched) -> dict[str, Any]:
    tensors = edge["tensors"]
    left = [tensor for tensor in tensors if not tensor["gone"]] or tensors
    return {
        "from": edge["from"],
        "to": edge["to"],
        "label": ", ".join(dict.fromkeys(text for tensor in left if (text := _channels(tensor)))),
        "channels": max((tensor["after"] or 0 for tensor in tensors), default=0),
        "state": "gone"
        if all(tensor["gone"] for tensor in tensors)
        else "cut"
        if any(tensor["after"] is not None and tensor["after"] != tensor["before"] for tensor in tensors)
        else "",
        "tip": "\n".join(line for tensor in tensors[:MOST_TOLD] for line in _tensor_facts(tensor, passes)),
    }


def _channels(tensor: Mapping[str, Any]) -> str:
    if tensor["before"] is None:
        return ""
    if tensor["after"] is None or tensor["after"] == tensor["before"]:
        return str(tensor["before"])
    return f"{tensor['before']} → {tensor['after']}"


def _tensor_facts(tensor: Mapping[str, Any], passes: Touched) -> list[str]:
    width = _channels(tensor)
    gone = ["gone from the result"] if tensor["gone"] else [f"{width} channels"] if width else []
    touched = touched_text([tensor["name"]], passes)
    return [wording.printable(tensor["name"]), *gone, *([touched] if touched else [])]
