"""The network as people know it: layers in blocks, each with what it cost, what it costs and what was cut from it.

Joins three lists of a report: layers before, layers after (both by node name), and groups (by the names of the
initializers' owners, which for an exporter's '/model.2/cv1/conv/Conv' is 'model.2.cv1.conv'). This is for showing only:
a layer whose names do not meet is shown without widths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnxslim_yolo.pruning.removed import module_of

NEW = "only in the result"
"""The block of layers that a pass made and no source layer stands for."""
MOVERS = ("conv-before-resize", "conv-before-split")
"""Passes that compute a layer in parts, before something else."""
_PART = re.compile(r"(.+?)(?:_part(?:_\d+)?)+")
"""How MOVERS name what they make of a layer, one after the other."""
METRICS = ("macs", "parameters", "latency_us")
"""What may be known per layer, before and after."""


@dataclass(frozen=True)
class Layer:
    """One layer that multiplies.

    Attributes:
        name: the node's. short: its name within its block. op: operator.
        before, after: metric → value; `after` is empty where the layer is gone, `before` where it is new.
        width, kept: channels of its output, 0 where no group names it.
        wanted: channels that the ranking alone would have kept.
        frozen: why channels of it could not go.
        groups: ids of the groups it is a member of.
        moved: layers of the result that do its work, where one of MOVERS made parts of it.
    """

    name: str
    short: str
    op: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    width: int
    wanted: int
    kept: int
    frozen: tuple[str, ...]
    groups: tuple[int, ...]
    moved: tuple[str, ...] = ()

    def share(self, metric: str = "macs") -> float:
        """What is left of a metric, in [0, 1]; 1 where there was nothing to lose."""
        before = self.before.get(metric, 0)
        return min(1.0, self.after.get(metric, 0) / before) if before else 1.0


@dataclass(frozen=True)
class Block:
    """Consecutive layers whose names share a numbered place, as 'model.2'; '' where names tell of none."""

    name: str
    layers: tuple[Layer, ...]

    def total(self, side: Literal["before", "after"], metric: str = "macs") -> float:
        """The sum of a metric over the layers, `side` being 'before' or 'after'."""
        return sum((layer.before if side == "before" else layer.after).get(metric, 0) for layer in self.layers)


def layers_of(report: Mapping[str, Any]) -> list[Layer]:
    """Layers in the source's order; those that only the result has come last.

    A layer that was moved has what its parts cost; the parts are `moved_of`'s.
    """
    after = {layer["name"]: layer for layer in report["after"]["layers"]}
    known = {layer["name"] for layer in report["before"]["layers"]}
    groups, moved = _groups_by_member(report["groups"]), moved_of(report)
    parts = {part["name"] for each in moved.values() for part in each}
    joined = [
        _join(layer, after.get(layer["name"]), groups, moved.get(layer["name"], ()))
        for layer in report["before"]["layers"]
    ]
    new = [layer for layer in report["after"]["layers"] if layer["name"] not in known | parts]
    return joined + [_join(None, layer, groups) for layer in new]


def moved_of(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The layers that MOVERS made parts of, by name, each with the result's layers that do its work."""
    if not any(step["name"] in MOVERS and step["rewrites"] for step in report["passes"]):
        return {}
    known = {layer["name"] for layer in report["before"]["layers"]}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for layer in report["after"]["layers"]:
        match = _PART.fullmatch(layer["name"])
        if layer["name"] not in known and match and match[1] in known:
            found.setdefault(match[1], []).append(layer)
    return found


def blocks_of(layers: Iterable[Layer]) -> list[Block]:
    """Layers gathered into blocks, in order. Layers without a block are gathered under '', those of no source layer
    under `NEW`."""
    rows: list[tuple[str, list[Layer]]] = []
    for layer in layers:
        name = block_name(layer.name) if layer.before else NEW
        if not rows or rows[-1][0] != name:
            rows.append((name, []))
        rows[-1][1].append(layer)
    return [Block(name, tuple(members)) for name, members in rows]


def _groups_by_member(groups: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        for member in dict.fromkeys(group["members"]):
            found.setdefault(member, []).append(group)
    return found


def _join(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    groups: Mapping[str, list[Mapping[str, Any]]],
    parts: Sequence[Mapping[str, Any]] = (),
) -> Layer:
    layer = before or after or {}
    name, dotted = layer["name"], module_of(layer["name"])
    mine = groups.get(name) or groups.get(dotted) or []
    block = _block(dotted)
    return Layer(
        name=name,
        short=(dotted[len(block) + 1 :] or layer["op"]) if block else dotted,
        op=layer["op"],
        before=_metrics(before),
        after=_metrics(after) if not parts else _sum(map(_metrics, parts)),
        width=sum(group["width"] for group in mine),
        wanted=sum(group["wanted"] for group in mine),
        kept=sum(group["kept"] for group in mine),
        frozen=tuple(dict.fromkeys(group["frozen"] for group in mine if group["frozen"] is not None)),
        groups=tuple(group["id"] for group in mine),
        moved=tuple(part["name"] for part in parts),
    )


def _sum(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in metrics:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total


def _metrics(layer: Mapping[str, Any] | None) -> dict[str, float]:
    return {} if layer is None else {m: layer[m] for m in METRICS if layer.get(m) is not None}


def block_name(name: str) -> str:
    """The block that a node's name puts it into; '' where it tells of none."""
    return _block(module_of(name))


def _block(dotted: str) -> str:
    """The name up to its first numbered part: 'model.2.m.0.cv1' → 'model.2', 'stage2.0.conv' → 'stage2'."""
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part.isdigit() or (not last and re.search(r"\d", part)):
            return ".".join(parts[: index + 1])
    return parts[0] if len(parts) > 1 else ""
