"""What errors at the positions of a map cost together, by what they cost one by one.

Curvature (`pruning.curvature`) takes errors at different positions as independent, K-FAC's assumption. They are not:
what neighbours lack is alike, and reaches the same detections. By how much that adds up is measured. When channel j
goes and the others make up for it, position p lacks W_j·e_j(p), e_j being what of x_j the others do not tell; carried
to the outputs by the cotangents g (Hutchinson's, as there),

    s_j = Σ_p  g(p)ᵀ·W_j·e_j(p)      r = Σ_j E[s_j²] / Σ_j Σ_p E[(g(p)ᵀ·W_j·e_j(p))²]

E[s_j²] is what that costs, and r is one number a layer. It is near 2 where maps are small and 4 to 9 in the finest maps
of a YOLOv5n: without it channels of fine maps, which find small objects, seem cheaper than they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, shape_of
from onnxslim_yolo.analysis.contraction import Contraction
from onnxslim_yolo.ir.graph import Array, Node, input_constant
from onnxslim_yolo.pruning.calibration import Statistics
from onnxslim_yolo.pruning.fold_removed import matrices

RIDGE = 1e-2
"""λ of Σ + λI, relative to the mean variance."""

POWER = 0.5
"""The curvature is multiplied by r to this power: what is alike at many positions is in part what the layers behind are
fitted to make up for."""


@dataclass(frozen=True)
class Residuals:
    """What a layer reads that its other channels do not tell: e = diag(P)⁻¹·P·(x − μ), group by group.

    Attributes:
        axis: of the channels in the layer's input.
        weight: (groups, outputs · kernel positions, n).
        mean: μ, (groups, n).
        inverse: P = (Σ + λI)⁻¹, (groups, n, n), float64.
        ridge: λ, (groups,).
    """

    axis: int
    weight: Array
    mean: Array
    inverse: Array
    ridge: Array

    @classmethod
    def of(cls, place: Contraction, statistics: Statistics) -> Residuals | None:
        """Of what a layer with a constant weight reads; None for others."""
        constant = input_constant(place.node, 1)
        if constant is None:
            return None
        weight, known = matrices(place.node, constant, 1), statistics.by_channel()
        groups, _, n = weight.shape
        inverse, ridge = np.zeros((groups, n, n)), np.zeros(groups)
        for g in range(groups):
            mine = slice(g * n, (g + 1) * n)
            covariance = np.nan_to_num(known.covariance[mine, mine])
            ridge[g] = max(RIDGE * float(np.diagonal(covariance).mean()), 1e-12)
            inverse[g] = np.linalg.inv(covariance + ridge[g] * np.eye(n))
        return cls(place.axis, weight, np.nan_to_num(known.mean).reshape(groups, n), inverse, ridge)

    @property
    def _diagonal(self) -> Array:
        return np.diagonal(self.inverse, axis1=1, axis2=2)

    @property
    def variance(self) -> Array:
        """Of e, (groups, n): P·Σ·P = P − λP²."""
        squares = np.einsum("gij,gij->gi", self.inverse, self.inverse)
        return np.asarray((self._diagonal - self.ridge[:, None] * squares) / self._diagonal**2)

    def one_by_one(self, curvature: Array) -> float:
        """What they cost where positions are independent: Σ_j W_jᵀ·G·W_j·Var(e_j). `curvature`: G of all outputs."""
        groups, rows, n = self.weight.shape
        outputs, total = len(curvature) // groups, 0.0
        for g, variance in enumerate(self.variance):
            mine = slice(g * outputs, (g + 1) * outputs)
            by_output = self.weight[g].reshape(outputs, rows // outputs * n)
            energy = (by_output * (curvature[mine, mine] @ by_output)).reshape(outputs, -1, n).sum(axis=(0, 1))
            total += float(energy @ variance)
        return total

    def sums(self, adjoint: Adjoint, node: Node, cotangent: gs.Variable) -> gs.Variable:
        """Add what computes s, (groups, n, 1). `cotangent`: of the layer's input, through the layer alone."""
        shape = shape_of(node.inputs[0])
        x, c = (adjoint.in_rows(value, shape, self.axis, self.mean.shape) for value in (node.inputs[0], cotangent))
        apart = self.inverse / self._diagonal[:, :, None]
        own = adjoint.add("Sub", [adjoint.add("MatMul", [apart, x]), apart @ self.mean[:, :, None]])
        return adjoint.sum_over(adjoint.add("Mul", [own, c]), [2])


def with_coherence(
    curvature: Mapping[str, Array], residuals: Mapping[str, Residuals], summed: Mapping[str, Array]
) -> dict[str, Array]:
    """Curvatures, each times its layer's r to the power `POWER`; where that was not measured, the median of the others.

    Args:
        curvature, residuals: by layer. summed: by layer, the mean of s² over images.
    """
    ratios = {}
    for name, squares in summed.items():
        apart, together = residuals[name].one_by_one(curvature[name]), float(squares.sum())
        if apart > 0 and np.isfinite(together / apart):
            ratios[name] = together / apart
    typical = float(np.median(list(ratios.values()))) if ratios else 1.0
    return {name: matrix * ratios.get(name, typical) ** POWER for name, matrix in curvature.items()}
