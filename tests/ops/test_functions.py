"""The table of functions against onnx's own definitions, the runtimes, and every question that derives from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import _op, _op_list

from onnxslim_yolo.analysis.adjoint_rules import ADJOINTS
from onnxslim_yolo.analysis.moment_functions import FUNCTIONS as MOMENTS
from onnxslim_yolo.analysis.rules import RULES
from onnxslim_yolo.analysis.sign import POSITIVE_OPS
from onnxslim_yolo.emit.ncnn.emitter import OPS, emit_ncnn
from onnxslim_yolo.ir.attributes import attributes, defaults
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.layers import UNARY
from onnxslim_yolo.measure.networks import NCNN_UNARY
from onnxslim_yolo.ops.functions import FUNCTIONS, apply
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session
from tests.kinds import TRUNK, compiled, text_of, trunk, written
from tests.numeric import build

OPSET = 24
GIVEN = {
    "LeakyRelu": "alpha=0.3", "ThresholdedRelu": "alpha=0.4", "Elu": "alpha=0.7", "Celu": "alpha=0.6",
    "Selu": "alpha=1.5,gamma=1.1", "Shrink": "bias=0.2,lambd=0.4", "HardSigmoid": "alpha=0.3,beta=0.4",
    "Swish": "alpha=1.3", "Gelu": 'approximate="tanh"',
}  # fmt: skip
"""Attributes that differ from the defaults."""
SPELT = {**{op: op for op in FUNCTIONS}, **{f"{op}<{given}>": op for op, given in GIVEN.items()}}
BELOW = {"Log": 0.1, "Sqrt": 0.0, "Reciprocal": 0.2, "Acosh": 1.0}
WITHIN = ("Asin", "Acos", "Atanh", "Tan")
"""Functions of [−1, 1], and one with poles beyond."""


def domain(op: str, x: Array) -> Array:
    """Values of which the function has one."""
    if op in WITHIN:
        return np.asarray(np.tanh(x) * 0.9)
    return np.asarray(np.abs(x) + BELOW[op]) if op in BELOW else x


def guard(op: str) -> str:
    """ONNX text that brings f into the function's domain as d."""
    if op in WITHIN:
        return "t = Tanh(f) d = Mul(t, p9)"
    return "t = Abs(f) d = Add(t, low)" if op in BELOW else "d = Identity(f)"


@pytest.mark.parametrize("op", [op for op, row in FUNCTIONS.items() if row.slope_of_value is not None])
def test_a_slope_told_by_the_value_is_the_function_s(op: str) -> None:
    x, step = domain(op, np.random.default_rng(0).normal(0, 2, 40)), 1e-5
    constant, linear, square = FUNCTIONS[op].slope_of_value or (0.0, 0.0, 0.0)
    y = apply(op, {}, x)
    difference = (apply(op, {}, x + step) - apply(op, {}, x - step)) / (2 * step)
    np.testing.assert_allclose(constant + linear * y + square * y * y, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("spelt", SPELT)
def test_the_function_is_onnx_s(spelt: str) -> None:
    op = SPELT[spelt]
    x = domain(op, np.random.default_rng(0).normal(0, 2, (1, 40)))
    text = text_of("float[1,40] x", "float[1,40] y", "", f"y = {spelt}(x)", OPSET)
    proto = onnx.parser.parse_model(text)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float32)})
    given = {a.name: onnx.helper.get_attribute_value(a) for a in proto.graph.node[0].attribute}
    found = apply(op, given, x.astype(np.float32).astype(np.float64))
    assert np.allclose(found, expected, rtol=2e-5, atol=2e-6)
    floor = FUNCTIONS[op].floor
    assert floor is None or (found >= floor - 1e-9).all()


def test_defaults_are_the_schema_s() -> None:
    assert (
        attributes("Elu", {}) == {"alpha": 1.0}
        and attributes("Gelu", {"approximate": b"tanh"})["approximate"] == "tanh"
    )
    assert defaults("HardSigmoid") == pytest.approx({"alpha": 0.2, "beta": 0.5})
    assert np.array_equal(apply("Relu", {"consumed_inputs": [0]}, np.array([-1.0, 2.0])), [0, 2])


NO_ROWS = {
    "Not": "of truth values", "BitwiseNot": "of bits", "IsInf": "gives truth values", "IsNaN": "gives truth values",
    "Identity": "moves", "Cast": "moves", "Det": "of matrices", "Size": "of shapes", "Shape": "of shapes",
    "Inverse": "of matrices", "LogSoftmax": "over an axis", "Softmax": "over an axis", "Hardmax": "over an axis",
    "Flatten": "moves", "LpNormalization": "over an axis",
    "GlobalAveragePool": "over space", "GlobalMaxPool": "over space", "OptionalHasElement": "of options",
    "OptionalGetElement": "of options",
}  # fmt: skip


def test_every_element_wise_operator_of_onnx_has_a_row_or_a_reason() -> None:
    kinds = (_op.OpRunUnary, _op.OpRunUnaryNum)
    classes = [c for c in vars(_op_list).values() if isinstance(c, type) and issubclass(c, OpRun)]
    names = {c.__name__.split("_")[0] for c in classes if issubclass(c, kinds)}
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert (names & known) - set(FUNCTIONS) <= set(NO_ROWS)


def test_tables_derive_from_it() -> None:
    assert set(FUNCTIONS) <= set(RULES) and set(FUNCTIONS) <= set(MOMENTS) and set(FUNCTIONS) <= set(ADJOINTS)
    assert {op for op, row in FUNCTIONS.items() if row.ncnn} <= set(OPS) and set(FUNCTIONS) <= set(UNARY)
    assert {row.kind for row in FUNCTIONS.values()} <= set(NCNN_UNARY)
    assert "Softplus" in POSITIVE_OPS and "Tanh" not in POSITIVE_OPS


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


@pytest.mark.parametrize("spelt", SPELT)
def test_dead_channels_behind_it_go_exactly(spelt: str, tmp_path: Path) -> None:
    op = SPELT[spelt]
    (body, values), last = trunk(dead=3), "y = Conv(q, w1)"
    weights = f"{TRUNK}, float[4,8,1,1] w1, float p9 = {{0.9}}, float low = {{{BELOW.get(op, 0)}}}"
    text = text_of("float[1,3,8,8] x", "float[1,4,8,8] y", weights, f"{body} {guard(op)} q = {spelt}(d) {last}", OPSET)
    path = written(text, tmp_path, values)
    result = compiled(path, tmp_path, snap="none")  # in ncnn: the next test
    assert result.report["pruning"]["removed"] == 3
    compiled(path, tmp_path, prune=0.5, compensate="none", snap="none")


@pytest.mark.parametrize("spelt", [spelt for spelt, op in SPELT.items() if op in OPS])
def test_ncnn_computes_it(spelt: str, session: NcnnSession) -> None:
    op = SPELT[spelt]
    text = text_of("float[1,6,5,7] x", "float[1,6,5,7] y", "", f"y = {spelt}(x)", OPSET)
    model = build(text)
    x = domain(op, np.random.default_rng(1).normal(0, 1.5, (1, 6, 5, 7))).astype(np.float32)
    (found,) = compare_outputs(model, emit_ncnn(model, cut=False), [{"x": x}], session=session)
    assert found.relative < 5e-5


@pytest.mark.parametrize("spelt", SPELT)
def test_torch_computes_it(spelt: str) -> None:
    torch = pytest.importorskip("torch")
    from onnxslim_yolo.emit.torch import to_torch

    op = SPELT[spelt]
    model: Model = build(text_of("float[1,6,5,7] x", "float[1,6,5,7] y", "", f"y = {spelt}(x)", OPSET))
    x = domain(op, np.random.default_rng(2).normal(0, 1.5, (1, 6, 5, 7))).astype(np.float32)
    with torch.no_grad():
        found = to_torch(model)(torch.from_numpy(x))
    given = dict(model.graph.nodes[0].attrs)
    assert np.allclose(np.asarray(found), apply(op, given, x.astype(np.float64)), rtol=2e-5, atol=2e-6)


def test_the_check_notices_another_function() -> None:
    x = np.linspace(-2, 2, 50)
    assert np.abs(apply("Elu", {"alpha": 1.01}, x) - apply("Elu", {}, x)).max() > 5e-3
