"""Every operator of the emitter's tables: converted, loaded by ncnn, and equal to onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import OPS, emit_ncnn
from onnxslim_yolo.emit.ncnn.ops_functions import FUNCTION_OPS
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_reader import parse_param
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit import ncnn_cases, ncnn_cases_bounds, ncnn_cases_edges, ncnn_cases_shape, ncnn_cases_strangers
from tests.emit.ncnn_session import fresh_session
from tests.numeric import build, random_feeds

TOLERANCE = 2e-5
LOOSE = {"pow-1.5": 1e-4, "pow-scalar-left": 1e-4, "deconv-pads": 5e-5}
CASES = {
    **ncnn_cases.ELEMENTWISE,
    **ncnn_cases.BINARY,
    **ncnn_cases.CONV,
    **ncnn_cases.POOL,
    **ncnn_cases.LINEAR,
    **ncnn_cases_shape.MOVEMENT,
    **ncnn_cases_shape.RESIZE,
    **ncnn_cases_strangers.STRANGERS,
    **ncnn_cases_edges.EDGES,
    **ncnn_cases_bounds.BOUNDS,
}


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnxruntime(name: str, session: NcnnSession) -> None:
    model = build(CASES[name])
    before = model.to_onnx().SerializeToString()
    converted = emit_ncnn(model, weights="fp32", cut=False)
    parse_param(converted.param.encode())
    for found in compare_outputs(model, converted, [random_feeds(model)], session=session):
        assert found.relative <= LOOSE.get(name, TOLERANCE), f"{found}\n{converted.param}"
    assert model.to_onnx().SerializeToString() == before, "the caller's model was edited"


def test_every_operator_of_the_tables_has_a_case() -> None:
    tested = {node.op for text in CASES.values() for node in build(text).graph.nodes}
    internal = {"Silu", "SoftmaxAxis"}  # patterns' results
    rare = {"Tan", "Asin", "Acos", "Atan", "ReduceSumSquare", "ReduceProd", "ReduceL1", "ReduceLogSum"}
    assert set(OPS) - tested - internal - set(FUNCTION_OPS) <= rare  # tests/ops runs the functions


def test_control_a_weight_off_by_one_percent_is_noticed(session: NcnnSession) -> None:
    model, spoiled = build(CASES["conv"]), build(CASES["conv"])
    weight: Model = spoiled
    values = weight.graph.nodes[0].inputs[1].values.copy()
    values.flat[int(np.abs(values).argmax())] *= 1.01
    weight.graph.nodes[0].inputs[1].values = values
    (found,) = compare_outputs(model, emit_ncnn(spoiled, weights="fp32"), [random_feeds(model)], session=session)
    assert found.relative > 10 * TOLERANCE
