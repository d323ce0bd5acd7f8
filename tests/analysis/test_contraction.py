"""Where channels are summed over: the axis, who reads them, and whether by a constant weight."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.contraction import Contraction, contractions
from tests.analysis.graphs import onnx_text
from tests.numeric import build

W = np.arange(1.0, 9.0).reshape(4, 2, 1, 1)
W[:, 1] = 0
ROW, COLUMN = np.array([[1.0, 1], [0, 0]]), np.array([[1.0, 0], [1, 0]])
WEIGHTS = """float[2,3,1,1] a.weight, float[4,2,1,1] w, float[4,1,3,3] d.weight, float[2,4,1,1] t.weight,
    float[2,2] row, float[2,2] column, float[1,3,1,1] single, int64[3] rows = {1, 2, 64}"""
POOLED = "a = Conv(x, a.weight) p = GlobalAveragePool(a) f = Flatten(p)"
TOKENS = "a = Conv(x, a.weight) r = Reshape(a, rows) q = Transpose<perm=[0,2,1]>(r)"


def of(body: str, outputs: str = "float[i,j,k,l] y") -> list[Contraction]:
    model = build(onnx_text("float[1,3,8,8] x", outputs, WEIGHTS, body), values={"w": W, "row": ROW, "column": COLUMN})
    return contractions(analyse_channels(model.graph))


@pytest.mark.parametrize(
    "body, outputs, axis, weighted, reads, steady",
    [
        ("a = Conv(x, a.weight) y = Conv(a, w)", "float[i,j,k,l] y", 1, True, [True, False], True),
        ("a = Conv(x, a.weight) y = Conv<pads=[1,1,1,1]>(a, w)", "float[i,j,k,l] y", 1, True, [True, False], False),
        ("a = Conv(x, a.weight) y = ConvTranspose(a, t.weight)", "float[i,j,k,l] y", 1, True, [True, True], False),
        (f"{TOKENS} y = MatMul(q, row)", "float[i,j,k] y", 2, True, [True, False], True),
        (f"{TOKENS} y = MatMul(q, column)", "float[i,j,k] y", 2, True, [True, True], True),
        (f"{TOKENS} y = MatMul(row, r)", "float[i,j,k] y", 1, False, [True, True], True),
        (f"{TOKENS} y = MatMul(column, r)", "float[i,j,k] y", 1, False, [True, False], True),
        (f"{POOLED} y = Gemm(f, row)", "float[i,j] y", 1, True, [True, False], True),
        (f"{POOLED} y = Gemm<transB=1>(f, row)", "float[i,j] y", 1, True, [True, True], True),
        (f"{POOLED} y = Gemm<transB=1>(f, column)", "float[i,j] y", 1, True, [True, False], True),
    ],
)
def test_one(body: str, outputs: str, axis: int, weighted: bool, reads: list[bool], steady: bool) -> None:
    (found,) = of(body, outputs)
    assert (found.axis, found.weighted, found.reads.tolist(), found.steady) == (axis, weighted, reads, steady)
    assert len(found.classes) == 2 and found.classes[0] != found.classes[1]
    assert (found.taps is None) == (not weighted)
    if found.node.op == "Conv":
        assert found.taps is not None and np.array_equal(found.taps, W[:, :, 0, 0])


def test_of_two_maps_either_is_one_without_a_weight() -> None:
    found = of(f"{TOKENS} y = MatMul(q, r)", "float[i,j,k] y")
    assert [(one.index, one.axis, one.weighted, one.reads.tolist()) for one in found] == [
        (0, 2, False, [True, True]),
        (1, 1, False, [True, True]),
    ]


def test_what_no_channel_owns_is_none() -> None:
    assert of("y = Conv(x, a.weight)") == []


def test_a_single_channel_is_none() -> None:
    """Nothing could be left of the tensor without it."""
    assert of("a = Conv(x, single) y = Conv(a, d.weight)") == []
