"""A session whose weights lie beside the message computes what the file does, and reads them where they lie."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.apart import LARGE, apart
from onnxslim_yolo.runtime.onnx_run import run_onnx, session
from tests.numeric import build
from tests.passes.cutting import onnx_text

TEXT = onnx_text(
    "float[1,8,9,9] x",
    "float[1,16,2,2] y",
    "float[64,8,8,8] w, float[64] b, float[16,64,1,1] v",
    "a = Conv(x, w, b) y = Conv(a, v)",
)


@pytest.fixture
def model() -> Model:
    return build(TEXT)


@pytest.fixture
def feeds() -> list[dict[str, Array]]:
    return [{"x": np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)}]


@pytest.mark.parametrize("optimise", [False, True])
def test_the_same_as_from_bytes(model: Model, feeds: list[dict[str, Array]], optimise: bool) -> None:
    proto = model.to_onnx()
    wanted = run_onnx(proto.SerializeToString(), feeds, optimise=optimise)[0]["y"]
    for given in (model, proto, apart(model), apart(proto)):
        assert np.array_equal(run_onnx(given, feeds, optimise=optimise)[0]["y"], wanted)


def test_only_what_is_large_lies_beside(model: Model) -> None:
    for given in (model, model.to_onnx()):
        parts = apart(given)
        assert set(parts.weights) == {"w"}
        assert parts.weights["w"].nbytes >= LARGE > len(parts.data)
    assert list(model.graph.nodes[0].inputs[1].shape or ()) == [64, 8, 8, 8]


def test_they_live_as_long_as_the_session(model: Model, feeds: list[dict[str, Array]]) -> None:
    wanted = run_onnx(model, feeds)[0]["y"]
    runner = session(model, optimise=False)
    gc.collect()
    others = [np.full((64, 8, 8, 8), 7.0, np.float32) for _ in range(8)]  # they would lie where freed ones did
    assert np.array_equal(runner.run(None, feeds[0])[0], wanted), len(others)


def test_another_weight_is_another_result(model: Model, feeds: list[dict[str, Array]]) -> None:
    parts = apart(model)
    wanted = run_onnx(parts, feeds)[0]["y"]
    parts.weights["w"][0] *= 1.01
    assert np.abs(run_onnx(parts, feeds)[0]["y"] - wanted).max() > 1e-3


def test_an_initializer_that_is_an_output_stays(model: Model, feeds: list[dict[str, Array]]) -> None:
    proto = model.to_onnx()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, [64, 8, 8, 8]))
    assert not apart(proto).weights
    assert run_onnx(proto, feeds)[0]["w"].shape == (64, 8, 8, 8)


def test_what_no_output_needs_is_not_run(model: Model, feeds: list[dict[str, Array]]) -> None:
    wanted = run_onnx(model, feeds)[0]["y"]
    inner = model.copy()
    inner.graph.outputs = [inner.graph.nodes[0].outputs[0]]
    read = onnx.load_from_string(apart(inner).data).graph
    assert [node.op_type for node in read.node] == ["Conv"]
    assert {tensor.name for tensor in read.initializer} == {"w", "b"}
    assert [node.op for node in inner.graph.nodes] == ["Conv", "Conv"], "it is not edited"
    a = run_onnx(inner, feeds)[0]["a"]
    assert np.array_equal(run_onnx(second_half(model), [{"a": a}])[0]["y"], wanted)


def second_half(model: Model) -> Model:
    second = model.copy()
    second.graph.inputs = [second.graph.nodes[0].outputs[0]]
    second.graph.inputs[0].inputs.clear()
    second.graph.nodes = second.graph.nodes[1:]
    return second
