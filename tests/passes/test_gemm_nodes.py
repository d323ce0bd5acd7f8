"""Gemm in all its spellings becomes a plain layer: exact, prunable, and the same in ncnn and torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import nodes_of
from onnxslim_yolo.passes import Canonicalise
from tests.kinds import TRUNK, compiled, text_of, trunk, worst, written
from tests.numeric import assert_same, build

FLAT = "p = GlobalAveragePool(f) v = Flatten(p)"
W = "float[8,5] w, float[5] b"

GEMMS = {
    "computed C": ("float[1,5]", f"{W}, float[8,5] u", "d = Gemm(v, u) y = Gemm(v, w, d)"),
    "computed C, beta": ("float[1,5]", f"{W}, float[8,5] u", "d = Gemm(v, u) y = Gemm<beta=-0.5>(v, w, d)"),
    "computed column": ("float[1,5]", f"{W}, float[8,1] u", "d = Gemm(v, u) y = Gemm(v, w, d)"),
    "computed C is the input": ("float[1,8]", "float[8,8] w", "y = Gemm<alpha=2.0>(v, w, v)"),
    "beta 0": ("float[1,5]", W, "y = Gemm<alpha=0.5, beta=0.0>(v, w, b)"),
    "beta 0 and a computed C": ("float[1,5]", f"{W}, float[8,5] u", "d = Gemm(v, u) y = Gemm<beta=0.0>(v, w, d)"),
    "alpha and beta": ("float[1,5]", W, "y = Gemm<alpha=0.3, beta=-1.7>(v, w, b)"),
    "alpha without C": ("float[1,5]", "float[5,8] w", "y = Gemm<alpha=-3.0, transB=1>(v, w)"),
    "shared weight": ("float[1,8]", "float[8,8] w", "a = Gemm<alpha=2.0>(v, w) r = Relu(a) y = Gemm(r, w)"),
    "transA": ("float[1,5]", W, "t = Transpose<perm=[1,0]>(v) y = Gemm<transA=1, alpha=0.7>(t, w, b)"),
    "both transposed": ("float[1,5]", "float[5,8] w", "t = Transpose<perm=[1,0]>(v) y = Gemm<transA=1,transB=1>(t, w)"),
    "computed B": ("float[1,1]", "", "y = Gemm<transB=1, alpha=0.5>(v, v)"),
    "computed B and C": ("float[1,1]", "float[8,1] u", "d = Gemm(v, u) y = Gemm<transB=1, beta=2.0>(v, v, d)"),
    "scalar C": ("float[1,5]", "float[8,5] w, float s", "y = Gemm<beta=3.0>(v, w, s)"),
}


@pytest.mark.parametrize("case", GEMMS)
def test_a_gemm_stays_what_it_is(case: str, tmp_path: Path) -> None:
    kind, weights, last = GEMMS[case]
    body, values = trunk(dead=2)
    path = written(
        text_of("float[1,3,8,8] x", f"{kind} y", f"{TRUNK}, {weights}", f"{body} {FLAT} {last}"), tmp_path, values
    )
    result = compiled(path, tmp_path, emit="onnx,ncnn", snap="none")
    assert result.report["pruning"]["removed"] >= (0 if "input" in case or "shared" in case else 2)
    if result.report["pruning"]["prunable"]:
        compiled(path, tmp_path, emit="onnx", prune=0.4, compensate="none")


def test_a_row_of_values_is_no_bias() -> None:
    text = text_of("float[3,4] x", "float[3,5] y", "float[4,5] w, float[3,1] c", "y = Gemm(x, w, c)")
    model = build(text)
    before = model.copy()
    Canonicalise().run(model)
    assert [node.op for node in model.graph.nodes] == ["Gemm", "Add"]
    assert_same(before, model)
    assert Canonicalise().run(model) == 0


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_half_floats_are_scaled_where_it_costs_nothing(alpha: float) -> None:
    weights = "float16[4,5] w, float16[5] c"
    model = build(text_of("float16[1,4] x", "float16[1,5] y", weights, f"y = Gemm<alpha={alpha}>(x, w, c)"))
    Canonicalise().run(model)
    assert ("alpha" in nodes_of(model.graph, "Gemm")[0].attrs) == (alpha == 0.3)


def test_the_comparison_notices(tmp_path: Path) -> None:
    (body, values), other_folder = trunk(), tmp_path / "other"
    other_folder.mkdir()
    path = written(
        text_of("float[1,3,8,8] x", "float[1,5] y", f"{TRUNK}, {W}", f"{body} {FLAT} y = Gemm(v, w, b)"),
        tmp_path,
        values,
    )
    other = written(
        text_of("float[1,3,8,8] x", "float[1,5] y", f"{TRUNK}, {W}", f"{body} {FLAT} y = Gemm<alpha=1.01>(v, w, b)"),
        other_folder,
        values,
    )
    assert worst(path, other) > 1e-3 and np.isfinite(worst(path, other))
