"""What a choice of channels has to respect, and how a choice that does not is completed.

All repairs give channels back, never take any: frozen channels stay, no tensor becomes empty, and the parts of a
grouped convolution keep equally many. Giving back is monotone, so repeating it ends.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL, Channels
from onnxslim_yolo.analysis.labelling import Balance
from onnxslim_yolo.ir.graph import Array


def complete(channels: Channels, keep: Array, importance: Array, *, floor: int = 1) -> Array:
    """The smallest completion of a choice that respects every constraint; the most important channels come back first.

    Args:
        keep: per class, whether it shall stay; shape (count,), bool. Not edited.
        importance: per class; shape (count,).
        floor: the least number of channels that any tensor keeps (fewer where it has fewer).

    Returns:
        the completed choice, shape (count,), bool.
    """
    keep = keep | ~channels.prunable
    while True:
        before = int(keep.sum())
        for section in channels.sections:
            _fill(keep, section, importance, floor)
        for balance in channels.balances:
            _level(keep, balance, importance)
        if int(keep.sum()) == before:
            return keep


def violations(channels: Channels, keep: Array, *, emptied: bool = False) -> list[str]:
    """Why a choice cannot be carried out, one sentence each; empty if it can.

    Args:
        emptied: whether tensors may become empty.
    """
    found = [
        f"class {cls} is removed although it {channels.frozen[cls]}"
        for cls in np.flatnonzero(~keep & ~channels.prunable).tolist()
    ]
    found += [
        f"a tensor of {len(s)} channels would become empty"
        for s in channels.sections
        if not emptied and not _kept(keep, s).any()
    ]
    for balance in channels.balances:
        counts = _kept(keep, balance.parts).sum(axis=1)
        if len(set(counts.tolist())) > 1:
            found.append(f"the groups of '{balance.node}' would keep {counts.tolist()} channels")
    return found


def _kept(keep: Array, classes: Array) -> Array:
    return np.where(classes == NO_CHANNEL, True, keep[np.maximum(classes, 0)])


def _fill(keep: Array, section: Array, importance: Array, floor: int) -> None:
    kept = _kept(keep, section)
    missing = min(floor, len(section)) - int(kept.sum())
    if missing > 0:
        _give_back(keep, section[~kept], importance, missing)


def _level(keep: Array, balance: Balance, importance: Array) -> None:
    counts = _kept(keep, balance.parts).sum(axis=1)
    for part, count in zip(balance.parts, counts.tolist(), strict=True):
        missing = int(counts.max()) - count
        if missing > 0:
            _give_back(keep, part[~_kept(keep, part)], importance, missing)


def _give_back(keep: Array, candidates: Array, importance: Array, positions: int) -> None:
    """Keep the most important candidates until `positions` positions are filled (a class may fill several)."""
    order = candidates[np.argsort(-importance[candidates], kind="stable")]
    for cls in order.tolist():
        if positions <= 0:
            return
        if not keep[cls]:
            keep[cls] = True
            positions -= int((candidates == cls).sum())
