"""What Ultralytics' module computes with pruned widths, against what it has to compute; and a control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.verify.compare import TOLERANCE, compare, worst_of

Outputs = list[list[Array]]
"""Per image what the network returns, in order."""

ALLOWED = 10
"""Times the tolerance of files of one network: torch adds up in another order than onnxruntime, and halves differ."""

ROUNDINGS, MOST = 8, 1e-2
"""Times what the module's own float32 is off its float64, where that is more: a network that finds nothing moves its
columns so little that rounding shows. Never more than `MOST`."""

PLAINLY = 5
"""Where a layer 1 % off shows less than is allowed, it has to show more than `TOLERANCE`, and so many times more than
the difference and rounding do: a network that is hardly trained hardly moves its columns."""

FLOOR = 2.0**-22
"""Of 1, or of a larger value: two steps of float32."""


def sorted_out(arrays: Mapping[str, Array]) -> dict[str, Outputs]:
    """`NAME.IMAGE.OUTPUT` → per name, per image, the outputs."""
    found: dict[str, Outputs] = {}
    for key in sorted(arrays, key=lambda key: (key.split(".")[0], *map(int, key.split(".")[1:]))):
        name, image, _ = key.split(".")
        per_image = found.setdefault(name, [])
        if len(per_image) <= int(image):
            per_image.append([])
        per_image[-1].append(arrays[key])
    return found


def require_equal(source: Path, wanted: Outputs, found: Mapping[str, Outputs], *, sorts: bool) -> float:
    """The largest difference. Raises VerificationError where it is too large, or a control would not be noticed."""
    names = [f"output{i}" for i in range(len(wanted[0]))]
    runs = [dict(zip(names, outputs, strict=True)) for outputs in wanted]

    def named(of: str) -> list[dict[str, Array]]:
        return [dict(zip(names, each, strict=False)) for each in found[of]]

    def apart(reference: list[dict[str, Array]], of: str) -> float:
        seen = [_seen(a, b) for a, b in zip(reference, named(of), strict=True)]
        return worst_of(compare(reference, seen, sorted_outputs=sorts))

    worst, control, rounding = apart(runs, "slim"), apart(runs, "spoiled"), apart(named("slim"), "double")
    allowed = max(ALLOWED * TOLERANCE, min(ROUNDINGS * rounding, MOST))
    if not worst <= allowed:
        raise VerificationError(
            f"Ultralytics' module with these widths does not compute what was planned: {worst:.1e} of its spread off, "
            f"allowed {allowed:.0e}",
            file=source,
            hint="leave ultralytics out of --emit; --emit torch writes the network as a module",
        )
    if not control > min(allowed, max(TOLERANCE, PLAINLY * worst, PLAINLY * rounding)):
        raise VerificationError(
            f"a layer 1 % off changes the module's outputs by {control:.1e} only: they cannot be compared", file=source
        )
    return worst


def _seen(reference: dict[str, Array], candidate: dict[str, Array]) -> dict[str, Array]:
    """The candidate, with what float32 cannot tell from the reference as there: runtimes' sigmoids end at `FLOOR`."""
    found = dict(candidate)
    for name, expected in reference.items():
        got = candidate.get(name)
        if got is not None and got.shape == expected.shape:
            near = np.abs(got - expected) <= FLOOR * np.maximum(1, np.abs(expected))
            found[name] = np.where(near, expected, got)
    return found
