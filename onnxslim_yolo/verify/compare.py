"""Compare outputs, and show that the comparison would have noticed a mistake.

The difference of two arrays is the worst |Δ| over the spread (standard deviation) of the reference. A tolerance alone
proves nothing: on weights that hardly matter everything agrees. So a control spoils one layer of the candidate by 1 %
and has to be noticed; how strongly it is, is reported beside the difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.graph import Array, Model, input_constant, nodes_of, replace_constant
from onnxslim_yolo.verify.onnx_run import Feeds, run_onnx

TOLERANCE = 1e-3
"""Of an output's spread, worst element. Refolding fp32 weights through 60 layers costs 1e-6 to 1e-4."""

ROWS = 4096
"""Outputs with at most this many rows are compared as sets of rows where an operator sorts them."""

SORTING = frozenset(("TopK", "NonMaxSuppression", "ArgMax", "ArgMin", "Unique", "NonZero"))


@dataclass(frozen=True)
class Difference:
    """How far one output is from the reference.

    Attributes:
        output: its name.
        worst: worst |Δ| / spread.
        absolute: worst |Δ|.
        spread: the reference's standard deviation.
        at: where the worst element is.
        note: anything peculiar about the comparison.
    """

    output: str
    worst: float
    absolute: float
    spread: float
    at: tuple[int, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """All fields; null for what is infinite, which JSON cannot say."""
        finite = {k: v for k, v in asdict(self).items() if not isinstance(v, float) or np.isfinite(v)}
        return {"worst": None, "absolute": None} | finite | {"at": list(self.at)}


def compare(reference: list[Feeds], candidate: list[Feeds], *, sorted_outputs: bool = False) -> list[Difference]:
    """The difference per output, the worst over all runs. Outputs are matched by name.

    Args:
        reference, candidate: outputs by name, per run.
        sorted_outputs: rows may come in another order, as behind TopK, where rounding decides ties.
    """
    found: dict[str, Difference] = {}
    for expected, got in zip(reference, candidate, strict=True):
        for name, value in expected.items():
            difference = _difference(name, value, got.get(name), sorted_outputs)
            if name not in found or difference.worst > found[name].worst:
                found[name] = difference
    return list(found.values())


def worst_of(differences: list[Difference]) -> float:
    """The worst difference of all outputs; infinite if there are none."""
    return max((d.worst for d in differences), default=float("inf"))


def _difference(name: str, expected: Array, got: Array | None, sorted_outputs: bool) -> Difference:
    infinite = float("inf")
    if got is None:
        return Difference(name, infinite, infinite, 0.0, note="missing")
    if expected.shape != got.shape:
        return Difference(name, infinite, infinite, 0.0, note=f"shape {got.shape}, expected {expected.shape}")
    if expected.size == 0:
        return Difference(name, 0.0, 0.0, 0.0, note="empty")
    a, b = expected.astype(np.float64), got.astype(np.float64)
    both_nan = np.isnan(a) & np.isnan(b)
    delta = np.where(both_nan | (a == b), 0.0, np.abs(a - b))
    delta = np.where(np.isnan(delta), infinite, delta)
    finite = a[np.isfinite(a)]
    spread = float(finite.std()) if finite.size else 0.0
    scale = spread or float(np.abs(finite).max(initial=0.0)) or 1.0
    note = ""
    if sorted_outputs and delta.max() / scale > TOLERANCE and a.ndim >= 2 and a.size // a.shape[-1] <= ROWS:
        delta, note = _unmatched_rows(a, b), "compared as a set of rows"
    at = np.unravel_index(int(np.argmax(delta)), delta.shape)
    worst = float(delta.max())
    return Difference(name, worst / scale, worst, spread, tuple(int(i) for i in at), note)


def _unmatched_rows(a: Array, b: Array) -> Array:
    """Per row of `a`, the distance to the nearest row of `b`; the farthest 2 % may be ties at the cut-off."""
    rows_a, rows_b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    nearest = np.array([np.abs(rows_b - row).max(axis=1).min() for row in rows_a])
    limit = np.sort(nearest)[int(np.ceil(0.98 * len(nearest))) - 1]
    return np.asarray(np.minimum(nearest, limit))


def sorts(graph: gs.Graph) -> bool:
    """Whether an operator of the graph orders or selects by value, so that rounding may reorder outputs."""
    return any(node.op in SORTING for node in graph.nodes)


def control(model: Model, feeds: list[Feeds], reference: list[Feeds], *, layers: int = 3) -> tuple[float, str]:
    """Spoil a layer's weights by 1 % and measure the difference: what the check must be able to see.

    Several layers, spread over the network, are tried one by one; the median is returned with that layer's name. A
    sign is flipped at random so that a following normalisation cannot undo it.
    """
    linear = [
        node
        for node in nodes_of(model.graph, "Conv", "Gemm", "MatMul", "ConvTranspose")
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
