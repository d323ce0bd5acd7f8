"""Einsum as plainer nodes: which, exact in onnxruntime and in ncnn, prunable; and what is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import consumers, is_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import Canonicalise
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session
from tests.numeric import assert_control_fails, assert_same, build, check_declines, ops, rewritten, run_onnx
from tests.passes.cutting import check_slice, onnx_text, remove_random, run

ROUNDING = 1e-6
"""Worst |Δ| / spread: sums are taken in another order."""

EXTENTS = {"b": 1, "h": 3, "q": 4, "k": 5, "d": 6, "c": 7, "w": 2, "i": 3, "j": 4, "n": 5, "o": 8, "s": 4, "t": 6}

EQUATIONS = {
    "bchw,bkc->bkhw": ["Reshape", "MatMul", "Reshape"],  # a mask from prototypes
    "bhqd,bhkd->bhqk": ["Transpose", "MatMul"],
    "bhqk,bhkd->bhqd": ["MatMul"],
    "bqhd,bkhd->bhqk": ["Transpose", "Transpose", "MatMul"],
    "bhqk,bkhd->bqhd": ["Transpose", "MatMul", "Transpose"],
    "ij,jk->ik": ["MatMul"],
    "ij,jk": ["MatMul"],  # the same, its result implied
    "ji,jk->ik": ["Transpose", "MatMul"],
    "ij,kj->ki": ["Transpose", "MatMul"],
    "bij,bjk->bik": ["MatMul"],
    "bij,bj->bi": ["Reshape", "MatMul", "Reshape"],
    "bi,bi->b": ["Reshape", "Reshape", "MatMul", "Reshape"],
    "i,j->ij": ["Reshape", "Mul"],
    "bchw,bc->bchw": ["Reshape", "Mul"],  # a gate
    "bchw,bcd->bhwd": ["Transpose", "Reshape", "MatMul", "Reshape"],
    "bijt,bjo->bio": ["ReduceSum", "MatMul"],
    "bij -> bji": ["Transpose"],
    "bij->bi": ["ReduceSum"],
    "bijk->kb": ["ReduceSum", "Transpose"],
    "bij->bij": [],
}
"""Equation → the nodes it becomes, in some order."""
BROKEN = ("bijk->kb",) if tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24) else ()
"""What onnxruntime itself cannot run: 1.23, the last one for Python 3.10, fails where it copies."""


def runnable(equations: Iterable[str]) -> list[Any]:
    """The equations, those skipped that the reference cannot compute."""
    reason = f"onnxruntime {ort.__version__} fails on the source"
    return [pytest.param(e, marks=pytest.mark.skipif(e in BROKEN, reason=reason)) for e in equations]


def einsum(equation: str, *, constant: int | None = None, opset: int = 17) -> Model:
    """y = Neg(Einsum(equation)) over Tanh of inputs x0 and x1, or over a weight in place of one."""
    operands = equation.replace(" ", "").split("->")[0].split(",")
    shapes = [f"float[{','.join(str(EXTENTS[c]) for c in term)}]" for term in operands]
    computed = [i for i in range(len(operands)) if i != constant]
    inputs = ", ".join(f"{shapes[i]} x{i}" for i in computed)
    names = ["w" if i == constant else f"r{i}" for i in range(len(operands))]
    tanhs = " ".join(f"r{i} = Tanh(x{i})" for i in computed)
    result = equation.replace(" ", "").split("->")[-1] if "->" in equation else "ik"
    body = f'{tanhs} e = Einsum<equation="{equation}">({", ".join(names)}) y = Neg(e)'
    weights = "" if constant is None else f"{shapes[constant]} w"
    return build(onnx_text(inputs, f"float[{','.join('zyxwvu'[: len(result)])}] y", weights, body, opset=opset))


@pytest.mark.parametrize("equation", runnable(EQUATIONS))
def test_equations(equation: str) -> None:
    source = einsum(equation)
    after = rewritten(source, Canonicalise(), rewrites=1 if EQUATIONS[equation] else 2)  # 2: an Identity, which goes
    assert sorted(op for op in ops(after) if op not in ("Tanh", "Neg")) == sorted(EQUATIONS[equation])
    assert_same(source, after, ROUNDING)
    wrong = {name: value * np.float32(1.01) for name, value in run_onnx(after, feeds_of(source)).items()}
    assert np.abs(wrong["y"] - run_onnx(source, feeds_of(source))["y"]).max() > 100 * ROUNDING  # control


def feeds_of(model: Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in model.graph.inputs}


@pytest.mark.parametrize("equation", runnable(e for e in EQUATIONS if e.startswith("b")))
def test_in_ncnn(equation: str, session: NcnnSession) -> None:
    source = einsum(equation)
    converted = emit_ncnn(run(source, Canonicalise()), weights="fp32", cut=False)
    (found,) = compare_outputs(source, converted, [feeds_of(source)], session=session)
    assert found.relative <= 2e-6
    with pytest.raises(UnsupportedError, match="Einsum"):
        emit_ncnn(source, cut=False)


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


@pytest.mark.parametrize(
    ("equation", "constant", "made"),
    [
        ("ij,jk->ik", 1, ["MatMul"]),
        ("ij,kj->ik", 1, ["MatMul"]),  # the weight is transposed once and for all
        ("oc,bcn->bon", 0, ["Transpose", "MatMul", "Transpose"]),  # and goes to the right
        ("bijc,co->bijo", 1, ["MatMul"]),
        ("bchw,c->bchw", 1, ["Mul"]),
    ],
)
def test_a_weight_is_what_a_linear_layer_has(equation: str, constant: int, made: list[str]) -> None:
    source = einsum(equation, constant=constant)
    after = rewritten(source, Canonicalise(), rewrites=1 + (equation in ("ij,kj->ik", "oc,bcn->bon", "bchw,c->bchw")))
    assert [op for op in ops(after) if op not in ("Tanh", "Neg")] == made
    assert_same(source, after, ROUNDING)
    assert_control_fails(source, after, 1e-4)
    product = next(node for node in after.graph.nodes if node.op in ("MatMul", "Mul"))
    assert is_constant(product.inputs[1])


@pytest.mark.parametrize("equation", ["bij->bi", "bijt,bjo->bio"])
def test_sums_before_axes_were_inputs(equation: str) -> None:
    source = einsum(equation, opset=12)
    after = run(source, Canonicalise())
    assert "Einsum" not in ops(after)
    assert_same(source, after, ROUNDING)


SYMBOLIC = {
    "bqhd,bkhd->bhqk": ("float[N,4,3,6] x, float[N,5,3,6] z", "a,b,c,d"),
    "bchw,bkc->bkhw": ("float[N,7,3,2] x, float[N,5,7] z", "a,b,c,d"),
    "bchw,bc->bchw": ("float[N,7,3,2] x, float[N,7] z", "a,b,c,d"),
}


@pytest.mark.parametrize("equation", SYMBOLIC)
def test_a_symbolic_batch(equation: str) -> None:
    inputs, rank = SYMBOLIC[equation]
    source = build(onnx_text(inputs, f"float[{rank}] y", "", f'y = Einsum<equation="{equation}">(x, z)'))
    after = run(source, Canonicalise())
    assert "Einsum" not in ops(after)
    assert_same(source, after, ROUNDING)


ELLIPSES = {
    "...ij,...jk->...ik": ("float[2,3,4] x, float[2,4,5] z", "a,b,c"),
    "...ij,jk": ("float[2,3,4] x, float[4,5] z", "a,b,c"),
    "i...,...->...i": ("float[5,3,4] x, float[3,4] z", "a,b,c"),
    "... , ...": ("float[3,4] x, float[3,4] z", "a,b"),
}
"""Equation → operands, and the result's rank."""


@pytest.mark.parametrize("equation", ELLIPSES)
def test_an_ellipsis_is_letters_of_its_own(equation: str) -> None:
    inputs, rank = ELLIPSES[equation]
    source = build(onnx_text(inputs, f"float[{rank}] y", "", f'y = Einsum<equation="{equation}">(x, z)'))
    after = run(source, Canonicalise())
    assert "Einsum" not in ops(after)
    assert_same(source, after, ROUNDING)


DECLINED = {
    "ellipsis-that-broadcasts": ("float[1,3,4] x, float[2,4,5] z", "(x, z)", "...ij,...jk->...ik", "a,b,c"),
    "diagonal": ("float[4,4] x", "(x)", "ii->i", "a"),
    "three": ("float[3,4] x, float[4,5] z, float[5,2] u", "(x, z, u)", "ij,jk,kl->il", "a,b"),
    "integers": ("int32[3,4] x, int32[4,5] z", "(x, z)", "ij,jk->ik", "a,b"),
    "two-unknown-extents": ("float[N,M,4,2,3] x, float[N,3,5] z", "(x, z)", "bijkc,bco->bijko", "a,b,c,d,e"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_is_left_alone(case: str) -> None:
    inputs, operands, equation, rank = DECLINED[case]
    kind = "int32" if case == "integers" else "float"
    text = onnx_text(inputs, f"{kind}[{rank}] y", "", f'y = Einsum<equation="{equation}">{operands}')
    check_declines(build(text), Canonicalise())


def test_what_is_left_alone_has_no_readers_that_the_graph_has_not() -> None:
    """What a declined equation began with is taken off its operands again: a stray reader was found later (exit 3)."""
    inputs, _, equation, rank = DECLINED["two-unknown-extents"]
    model = build(onnx_text(inputs, f"float[{rank}] y", "", f'r = Relu(x) y = Einsum<equation="{equation}">(r, z)'))
    Canonicalise().run(model)
    known = {id(node) for node in model.graph.nodes}
    assert [node.op for node in model.graph.nodes] == ["Relu", "Einsum"]
    assert {id(node) for node in consumers(model.graph.nodes[0].outputs[0])} <= known
    assert {id(node) for node in consumers(model.graph.inputs[1])} <= known


def attention(spelling: str) -> Model:
    """Convolutions to q, k, v; two heads; a convolution back. `spelling`: einsum or matmul."""
    heads = " ".join(f"{n} = Reshape({n}c, split)" for n in "qkv")
    products = {
        "einsum": 's = Einsum<equation="bhdq,bhdk->bhqk">(q, k) p = Softmax<axis=3>(s)'
        ' m = Einsum<equation="bhqk,bhdk->bhdq">(p, v)',
        "matmul": "t = Transpose<perm=[0,1,3,2]>(q) s = MatMul(t, k) p = Softmax<axis=3>(s)"
        " u = Transpose<perm=[0,1,3,2]>(p) m = MatMul(v, u)",
    }[spelling]
    body = (
        "f = Conv(x, stem.weight) r = Relu(f) qc = Conv(r, q.weight) kc = Conv(r, k.weight) vc = Conv(r, v.weight)"
        f" {heads} {products} j = Reshape(m, join) y = Conv(j, out.weight)"
    )
    weights = (
        "float[8,3,1,1] stem.weight, float[12,8,1,1] q.weight, float[12,8,1,1] k.weight, float[12,8,1,1] v.weight,"
        " float[4,12,1,1] out.weight, int64[4] split = {1,2,6,20}, int64[4] join = {1,12,4,5}"
    )
    return build(onnx_text("float[1,3,4,5] x", "float[1,4,4,5] y", weights, body))


def test_attention_is_pruned_as_with_matmul(session: NcnnSession) -> None:
    source = run(attention("einsum"), Canonicalise())
    same = run(attention("matmul"), Canonicalise())
    found, wanted = (open_plan(model.copy()).channels for model in (source, same))
    assert found.count == wanted.count and found.prunable.sum() == wanted.prunable.sum() > found.count / 2
    before = open_plan(attention("einsum")).channels.prunable.sum()
    assert before < found.prunable.sum(), "without the rewrite, Einsum freezes what goes in"
    remove_random(source)
    after = check_slice(source)
    converted = emit_ncnn(after, weights="fp32", cut=False)
    (each,) = compare_outputs(after, converted, [feeds_of(after)], session=session)
    assert each.relative <= 2e-6
