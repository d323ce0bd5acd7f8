"""The network as a graph of blocks: which block reads which, through tensors of how many channels before and after.

A block is a numbered place in the nodes' names, as in `layers`. Where names tell of none, a node that multiplies, or
that joins several tensors, is a block of its own, and what follows it alone belongs to it. Of a network with very many
blocks, chains are drawn as one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Node, Tensor, is_constant, is_empty, producer, tensors, toposort
from onnxslim_yolo.ops.linear import PLAIN
from onnxslim_yolo.report.layers import block_name

MOST_NODES = 20_000
MOST_BLOCKS = 300
"""More blocks than this nobody lays out while somebody waits."""

Network = dict[str, Any]


def network_of(before: gs.Graph, cut: gs.Graph) -> Network | None:
    """Blocks and edges as report.json holds them, or None of a network that is too large to draw.

    Args:
        before: the source in canonical form. cut: the same graph as cut, in which tensors still have their names.
    """
    if len(before.nodes) > MOST_NODES:
        return None
    nodes = toposort(before)
    found = _assigned(nodes)
    links = _links(before, nodes, found)
    if len(set(found.values())) > MOST_BLOCKS:
        found = _chained(found, links)
        links = _links(before, nodes, found)
    if len(set(found.values())) > MOST_BLOCKS:
        return None
    return _as_json(before, nodes, found, links, {tensor.name: _channels(tensor) for tensor in tensors(cut)})


def _assigned(nodes: list[Node]) -> dict[int, str]:
    """The block of every node, by its `id`."""
    found: dict[int, str] = {}
    for node in nodes:
        name = block_name(node.name)
        read = {id(p): p for tensor in node.inputs if (p := producer(tensor)) is not None}
        alone = next(iter(read.values())) if len(read) == 1 else None
        if not name and alone is not None and node.op not in PLAIN:
            name = found[id(alone)]
        found[id(node)] = name or node.name
    return found


Links = dict[tuple[str, str], dict[str, Tensor]]
"""(from, to) → the tensors that lead there, by name. '<' and '>' stand in front of inputs and outputs."""


def _links(graph: gs.Graph, nodes: list[Node], found: dict[int, str]) -> Links:
    links: Links = {}
    made = {id(tensor): f"<{tensor.name}" for tensor in graph.inputs if not is_constant(tensor)}
    made |= {id(tensor): found[id(node)] for node in nodes for tensor in node.outputs}
    for node in nodes:
        for tensor in node.inputs:
            source = made.get(id(tensor))
            if source is not None and source != found[id(node)] and not is_empty(tensor):
                links.setdefault((source, found[id(node)]), {})[tensor.name] = tensor
    for tensor in graph.outputs:
        if id(tensor) in made:
            links.setdefault((made[id(tensor)], f">{tensor.name}"), {})[tensor.name] = tensor
    return links


def _chained(found: dict[int, str], links: Links) -> dict[int, str]:
    """Blocks of which one reads nothing but the other, which nothing else reads, as one."""
    out, into = Counter(a for a, _ in links), Counter(b for _, b in links)
    head: dict[str, str] = {}
    for a, b in links:
        if out[a] == 1 and into[b] == 1 and a[0] != "<" and b[0] != ">":
            head[b] = head.get(a, a)
    return {key: _first(name, head) for key, name in found.items()}


def _first(name: str, head: dict[str, str]) -> str:
    seen = {name}
    while name in head and head[name] not in seen:
        name = head[name]
        seen.add(name)
    return name


def _as_json(
    graph: gs.Graph, nodes: list[Node], found: dict[int, str], links: Links, after: dict[str, int | None]
) -> Network:
    members: dict[str, list[Node]] = {f"<{tensor.name}": [] for tensor in graph.inputs if not is_constant(tensor)}
    for node in nodes:
        members.setdefault(found[id(node)], []).append(node)
    members |= {f">{tensor.name}": [] for tensor in graph.outputs}
    place = {name: index for index, name in enumerate(members)}
    blocks = [
        {
            "name": name[1:] if not inside and name[0] in "<>" else name,
            "kind": "block" if inside else "input" if name[0] == "<" else "output",
            "nodes": [node.name for node in inside],
            "ops": dict(Counter(node.op for node in inside).most_common()),
        }
        for name, inside in members.items()
    ]
    edges = [
        {
            "from": place[a],
            "to": place[b],
            "tensors": [
                {"name": name, "before": _channels(tensor), "after": after.get(name), "gone": name not in after}
                for name, tensor in held.items()
            ],
        }
        for (a, b), held in links.items()
    ]
    return {"blocks": blocks, "edges": edges}


def _channels(tensor: Tensor) -> int | None:
    """How many channels a map has; None of what is no map, or of unknown size."""
    shape = tensor.shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    return int(shape[1])
