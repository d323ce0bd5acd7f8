"""Channels that have to go together in number: what a ranking has to know of grouped convolutions.

A grouped convolution's parts keep equally many channels. A ranking that ignores this takes three of one part and none
of the next, and the repair gives all three back. So channels are compared *level by level*: the least important of
every part form one level, the next least the next, and a level is worth its members' mean. Taking whole levels leaves
parts equal and needs no repair.

Where several grouped convolutions share channels (ShuffleNet's, whose shuffle spreads each part over all parts of the
next), levels are formed within cells: the channels that stand in the same part of every one of them. Cells of unequal
size (a Concat shifts the parts' borders) give to a level in proportion to their size: as many levels as their sizes'
greatest common divisor, so that every part of every convolution loses the same share.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.ir.graph import Array


def levelled(channels: Channels, importance: Array, eligible: Array) -> tuple[Array, Array]:
    """Importance with every level's mean in place of its members' own, and the level of each class.

    Args:
        importance: per class; shape (count,).
        eligible: the classes that may go; shape (count,), bool. Others are in no level.

    Returns:
        values: shape (count,), float64; classes in no grouped convolution keep theirs.
        level: shape (count,); a number for the members of one level, the class's own negative otherwise.
    """
    values = np.array(importance, dtype=np.float64)
    level = -1 - np.arange(channels.count)
    number = 0
    for cells in _fair(_cells(channels, eligible), [len(balance.parts) for balance in channels.balances]):
        sizes = [len(cell) for cell in cells]
        # Without a common divisor shares are rounded, and what that unbalances is given back.
        count = gcd(*sizes) if gcd(*sizes) > 1 else min(sizes)
        ranked = [np.array_split(cell[np.argsort(importance[cell], kind="stable")], count) for cell in cells]
        for shares in zip(*ranked, strict=True):
            members = np.concatenate(shares)
            level[members], number = number, number + 1
            values[members] = importance[members].mean()
    return values, level


_Places = tuple[tuple[int, int], ...]
"""(balance, part) pairs: where a cell's channels stand."""


def _cells(channels: Channels, eligible: Array) -> dict[_Places, Array]:
    """The eligible classes of grouped convolutions by where they stand."""
    places: dict[int, list[tuple[int, int]]] = {}
    for index, balance in enumerate(channels.balances):
        for part, classes in enumerate(balance.parts):
            for cls in sorted(set(classes[classes != NO_CHANNEL].tolist())):
                places.setdefault(cls, []).append((index, part))
    cells: dict[_Places, list[int]] = {}
    for cls, place in sorted(places.items()):
        if eligible[cls]:
            cells.setdefault(tuple(place), []).append(cls)
    return {place: np.array(cell) for place, cell in cells.items()}


def _fair(cells: dict[_Places, Array], parts: list[int]) -> list[list[Array]]:
    """Cells in sets, as small as may be, of which every balance's parts hold equally many channels."""
    sets: dict[tuple[int, ...], dict[_Places, Array]] = {}
    for place, cell in cells.items():
        sets.setdefault(tuple(index for index, _ in place), {})[place] = cell
    pending = list(sets.values())
    done: list[dict[_Places, Array]] = []
    while pending:
        current = pending.pop()
        unfair = _unfair(current, parts)
        touching = [other for other in (*pending, *done) if unfair & _balances(other)]
        if not touching:
            done.append(current)
            continue
        gone = {id(other) for other in touching}
        pending, done = ([other for other in group if id(other) not in gone] for group in (pending, done))
        pending.append({place: cell for merged in (current, *touching) for place, cell in merged.items()})
    return [list(found.values()) for found in done]


def _balances(cells: dict[_Places, Array]) -> set[int]:
    return {index for place in cells for index, _ in place}


def _unfair(cells: dict[_Places, Array], parts: list[int]) -> set[int]:
    """Balances of whose parts these cells hold unequal numbers; `parts`: how many each balance has."""
    held: dict[int, list[int]] = {}
    for place, cell in cells.items():
        for index, part in place:
            held.setdefault(index, [0] * parts[index])[part] += len(cell)
    return {index for index, counts in held.items() if len(set(counts)) > 1}
