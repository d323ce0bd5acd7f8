"""Whether a network is sparse, of γ written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.sparsity import BINS, SPARSE_SHARE, Sparsity, sparsity_of
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, onnx_text

WEIGHTS = """float[4, 3, 1, 1] u, float[5, 4, 1, 1] v, float[2, 5, 1, 1] w, float[4] g1.gamma, float[5] g2.gamma,
    float[4] b1, float[4] m1, float[4] v1.var, float[5] b2, float[5] m2, float[5] v2.var"""
BODY = """a = Conv (x, u) n = BatchNormalization (a, g1.gamma, b1, m1, v1.var) r = Relu (n)
    b = Conv (r, v) o = BatchNormalization (b, g2.gamma, b2, m2, v2.var) s = Relu (o) y = Conv (s, w)"""


def sparsity(first: list[float], second: list[float]) -> Sparsity:
    values: dict[str, Array] = {"g1.gamma": np.array(first), "g2.gamma": np.array(second)}
    return sparsity_of(
        Labelled(onnx_text("float[1, 3, 6, 6] x", "float[a, b, c, d] y", WEIGHTS, BODY), values).channels
    )


def test_by_hand() -> None:
    found = sparsity([0.005, 0.02, 0.05, 0.5], [0.125, 0.2, 0.3, 1.0, 2.0])
    assert (found.kind, found.prunable) == ("gamma", 9)
    assert found.below_001 == pytest.approx(1 / 9) and found.below_01 == pytest.approx(3 / 9)
    assert found.sparse and SPARSE_SHARE == 0.1
    # The first layer's best channel has 0.5: six are below it before that layer is emptied.
    assert found.suggested == pytest.approx(6 / 9)
    assert len(found.counts) == BINS and sum(found.counts) == 9 and found.counts[0] == 3
    assert len(found.edges) == BINS + 1
    assert [found.edges[0], found.edges[-1]] == pytest.approx([0.005, 2.0])
    groups = {group.width: group for group in found.groups if group.frozen is None}
    assert (groups[4].least, groups[4].median, groups[4].largest) == pytest.approx((0.005, 0.035, 0.5))
    assert groups[4].below_001 == pytest.approx(1 / 4) and groups[5].below_001 == 0
    assert groups[5].median == pytest.approx(0.3)
    assert found.as_json()["groups"][0].keys() >= {"members", "width", "frozen"}


def test_not_sparse() -> None:
    found = sparsity([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8, 0.9])
    assert not found.sparse and found.below_001 == found.below_01 == 0


def test_where_the_norm_is_folded_the_unit_is_the_mean() -> None:
    weight = np.zeros((4, 3, 1, 1))
    weight[0], weight[1], weight[2], weight[3] = 1, 1, 1, 0.001
    graph = Labelled(
        onnx_text("float[1, 3, 6, 6] x", "float[a, b, c, d] y", "float[4, 3, 1, 1] u, float[2, 4, 1, 1] w",
                  "a = Conv (x, u) r = Relu (a) y = Conv (r, w)"), {"u": weight, "w": np.ones((2, 4, 1, 1))}
    )  # fmt: skip
    found = sparsity_of(graph.channels)
    assert found.kind == "weight" and not found.sparse
    assert found.below_001 == pytest.approx(1 / 4) and found.suggested == pytest.approx(1 / 4)
