"""Compare outputs column by column.

The difference of two outputs is the worst |Δ| over its column's scale: by how much inputs move the column, or what
rounding hides there (see `ruler`, and `columns` for what a column is).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Array, input_constant, nodes_of, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import PLAIN
from onnxslim_yolo.ops.registry import ORDERING
from onnxslim_yolo.runtime.onnx_run import Feeds, run_onnx
from onnxslim_yolo.verify.columns import meanings
from onnxslim_yolo.verify.ruler import FIRES, Ruler, rulers_of

TOLERANCE = 1e-4
"""Of a column's movement, worst element, where rounding does not cost more: a weight tensor 1 % off is to be seen."""

ROWS = 4096
"""Outputs with at most this many rows are compared as sets of rows where an operator sorts them."""


@dataclass(frozen=True)
class Difference:
    """How far one output is from the reference.

    Attributes:
        output: its name.
        worst: worst |Δ| / scale over all columns (see `ruler`).
        absolute: |Δ| there, of logits where the column is a score's.
        spread: how far inputs move that column.
        at: where the worst element is: its row and its column.
        note: anything peculiar about the comparison.
        column: the name of the worst column.
        columns: how many there are. blind: names of those that no input moves. dim: of those in which a change by 1 %
            may pass, because rounding costs as much.
        silent: of score columns that no input raises above `FIRES`.
    """

    output: str
    worst: float
    absolute: float
    spread: float
    at: tuple[int, ...] = ()
    note: str = ""
    column: str = ""
    columns: int = 1
    blind: tuple[str, ...] = ()
    dim: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All fields; null for what is infinite, which JSON cannot say."""
        finite = {k: v for k, v in asdict(self).items() if not isinstance(v, float) or np.isfinite(v)}
        lists = {k: list(getattr(self, k)) for k in ("at", "blind", "dim", "silent")}
        return {"worst": None, "absolute": None} | finite | lists

    def place(self) -> str:
        """Where it is worst, for people: "output0's class 3"."""
        return f"output '{self.output}'" + (f", {self.column}," if self.column not in ("", "all") else "")


def compare(
    reference: list[Feeds],
    candidate: list[Feeds],
    *,
    sorted_outputs: bool = False,
    rulers: dict[str, Ruler] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Difference]:
    """The difference per output, the worst over all runs. Outputs are matched by name.

    Args:
        reference, candidate: outputs by name, per run.
        sorted_outputs: rows may come in another order, as behind TopK, where rounding decides ties.
        rulers: how each output is compared; made of the reference's runs where left out.
        tolerance: what is allowed: the difference that a column's floor counts as.
    """
    known = rulers if rulers is not None else rulers_of(reference, meanings(reference))
    found: dict[str, Difference] = {}
    for expected, got in zip(reference, candidate, strict=True):
        for name, value in expected.items():
            ruler = known.get(name) or rulers_of([expected], meanings([{name: value}]))[name]
            difference = _difference(name, value, got.get(name), ruler, sorted_outputs, tolerance)
            if name not in found or not difference.worst <= found[name].worst:
                found[name] = difference
    return list(found.values())


def worst_of(differences: list[Difference]) -> float:
    """The worst difference of all outputs; infinite if there are none."""
    return max((d.worst for d in differences), default=float("inf"))


def told_apart(worst: float, allowed: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to see that they differ."""
    for digits in range(2, 17):
        texts = f"{worst:.{digits}e}", f"{allowed:.{digits}e}"
        if texts[0] != texts[1]:
            return texts[0], f"{allowed:.0e}" if digits == 2 and float(f"{allowed:.0e}") == allowed else texts[1]
    return texts


def unseen(differences: Sequence[Difference]) -> list[str]:
    """What the comparison cannot vouch for, a sentence an output and kind of blindness."""
    lines = []
    for d in differences:
        for names, why in (
            (d.blind, "no input moves it; its values agree but for rounding"),
            (d.dim, "rounding hides what a change by 1 % would do"),
            (d.silent, f"no input raises it above {FIRES:g}"),
        ):
            if names:
                lines.append(f"blind: {d.output}: {', '.join(names)}: {why}")
    return lines


def _difference(
    name: str, expected: Array, got: Array | None, ruler: Ruler, sorted_outputs: bool, tolerance: float
) -> Difference:
    infinite = float("inf")
    if got is None:
        return Difference(name, infinite, infinite, 0.0, note="missing")
    if expected.shape != got.shape:
        return Difference(name, infinite, infinite, 0.0, note=f"shape {got.shape}, expected {expected.shape}")
    if expected.size == 0:
        return Difference(name, 0.0, 0.0, 0.0, note="empty")
    scale = ruler.scale(tolerance)
    absolute = ruler.delta(expected, got)
    delta = absolute / scale
    note = ""
    if sorted_outputs and delta.max() > tolerance and expected.ndim >= 2 and len(delta) <= ROWS:
        delta, note = _unmatched_rows(ruler, expected, got, scale), "compared as a set of rows"
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(delta)), delta.shape))
    names = ruler.meaning.names
    return Difference(
        name,
        float(delta[row, column]),
        float(absolute[row, column]),
        float(ruler.movement[column]),
        (row, column),
        note,
        ruler.meaning.name(column),
        ruler.meaning.count,
        tuple(names(ruler.blind)),
        tuple(names(ruler.dim)),
        tuple(names(ruler.silent)),
    )


def _unmatched_rows(ruler: Ruler, expected: Array, got: Array, scale: Array) -> Array:
    """Per row of `expected`, the distance to the nearest row of `got`; the farthest 2 % may be ties at the cut-off."""
    a, b = ruler.meaning.table(expected), ruler.meaning.table(got)
    apart = [ruler.rows(np.broadcast_to(row, b.shape), b) / scale for row in a]
    nearest = np.stack([each[int(each.max(axis=1).argmin())] for each in apart])
    worst = nearest.max(axis=1)
    limit = np.sort(worst)[int(np.ceil(0.98 * len(worst))) - 1]
    return np.asarray(np.minimum(nearest, limit))


def sorts(graph: gs.Graph) -> bool:
    """Whether an operator of the graph orders or selects by value, so that rounding may reorder outputs."""
    return any(node.op in ORDERING for node in graph.nodes)


def control(model: Model, feeds: list[Feeds], reference: list[Feeds], *, layers: int = 3) -> tuple[float, str]:
    """Spoil a layer's weights by 1 % and measure the difference: what the check must be able to see.

    Several layers, spread over the network, are tried one by one; the median is returned with that layer's name. A
    sign is flipped at random so that a following normalisation cannot undo it.
    """
    linear = [
        node
        for node in nodes_of(model.graph, *PLAIN)
        if (weight := input_constant(node, 1)) is not None and weight.dtype.kind == "f"
    ]
    if not linear:
        return 0.0, "(no layer to spoil)"
    places = sorted({round(k * (len(linear) - 1) / max(layers - 1, 1)) for k in range(layers)})
    ordered = sorts(model.graph)
    results: list[tuple[float, str]] = []
    for place in places:
        name = linear[place].name
        outputs = run_onnx(spoiled(model, name, place), feeds)
        results.append((worst_of(compare(reference, outputs, sorted_outputs=ordered)), name))
    return sorted(results)[len(results) // 2]


def spoiled(model: Model, layer: str, seed: int = 0) -> Model:
    """A copy with the weights of the layer of this name 1 % off, up or down at random."""
    copy = model.copy()
    node = next(n for n in copy.graph.nodes if n.name == layer)
    weight = np.asarray(input_constant(node, 1))
    signs = np.random.default_rng(seed).choice([-0.01, 0.01], size=weight.shape)
    replace_constant(node, 1, (weight * (1 + signs)).astype(weight.dtype))
    return copy
