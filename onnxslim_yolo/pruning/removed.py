"""Layers that went whole, by the names of their modules.

A graph knows layers by their initializers: `model.2.cv1.conv.weight` and `model.2.cv1.bn.weight` are two. The plan says
`model.2.cv1`, where nothing else of the source lies directly under that name, and all of it went.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def as_modules(removed: Sequence[str], layers: Iterable[str]) -> list[str]:
    """The removed layers, those of one module as that module; in order.

    Args:
        removed: names of layers, each one of `layers`.
        layers: all of the source's.
    """
    gone = set(removed)
    beside: dict[str, set[str]] = {}
    for layer in layers:
        parts = layer.split(".")
        for k in range(1, len(parts)):
            beside.setdefault(".".join(parts[:k]), set()).add(layer)
    found = []
    for name in removed:
        parent, dot, _ = name.rpartition(".")
        within = beside.get(parent, set())
        leaves = all(layer.rpartition(".")[0] == parent for layer in within)
        whole = dot and "." in parent and leaves and within <= gone
        found.append(parent if whole else name)
    return list(dict.fromkeys(found))


def module_of(name: str) -> str:
    """The module an exporter's node came from: '/model.2/cv1/conv/Conv' → 'model.2.cv1.conv'; else the name itself.

    Within a list of modules the exporter repeats the list's name: '/model.22/cv2.0/cv2.0.1/Conv' → 'model.22.cv2.0.1'.
    """
    if not name.startswith("/"):
        return name
    parts = name[1:].split("/")
    scopes = parts[:-1] or parts
    following = [*scopes[1:], ""]
    return ".".join(part for part, after in zip(scopes, following, strict=True) if not after.startswith(f"{part}."))
