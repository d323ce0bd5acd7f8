"""Shares of a contraction's output variance, by hand; what is not known counts as the typical one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.importance_variance import column_energy, position_shares
from tests.numeric import build
from tests.passes.cutting import onnx_text


def place(layer: str = "y = Conv<group=2>(a, w)") -> tuple[Contraction, Array]:
    weights = "float[4,3,1,1] a.weight, float[4,2,3,3] w, int64[3] rows = {1, 4, 64}"
    text = onnx_text("float[1,3,8,8] x", "float y", weights, f"a = Conv(x, a.weight) {layer}")
    rank = "i,j,k,l" if "Conv<" in layer else "i,j,k"
    model = build(text.replace("float y", f"float[{rank}] y"))
    (found,) = contractions(analyse_channels(model.graph))[:1]
    weight = np.asarray(getattr(model.graph.nodes[-1].inputs[1], "values", np.zeros((4, 2, 3, 3))), np.float64)
    return found, (weight.reshape(2, 2, 2, 9) ** 2).sum(axis=(1, 3)).reshape(-1)


@pytest.mark.parametrize(
    "variance, taken",
    [
        ([1.0, 4.0, 2.0, 0.0], [1.0, 4.0, 2.0, 0.0]),
        ([1.0, np.nan, 2.0, np.nan], [1.0, 1.5, 2.0, 1.5]),
        ([np.inf, 4.0, np.nan, np.nan], [4.0, 4.0, 4.0, 4.0]),
        ([np.nan] * 4, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_share_of_every_input(variance: list[float], taken: list[float]) -> None:
    """Each group's columns are its own."""
    there, energy = place()
    assert column_energy(there) == pytest.approx(energy)
    wanted = np.array(taken) * energy
    assert position_shares(there, np.array(variance)) == pytest.approx(wanted / wanted.sum())


def test_of_no_variance_at_all_nothing_is_shared_and_without_a_weight_nothing_is_known() -> None:
    there, _ = place()
    assert position_shares(there, np.zeros(4)) == pytest.approx(np.zeros(4))
    computed, _ = place("r = Reshape(a, rows) q = Transpose<perm=[0,2,1]>(r) y = MatMul(q, r)")
    assert not computed.weighted and position_shares(computed, np.ones(4)) is None
