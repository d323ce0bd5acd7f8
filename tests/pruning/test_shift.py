"""Shifting what a layer yields: afterwards the graph yields exactly so much more per channel, wherever that is put."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.ir.graph import Namer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.shift import shift_outputs
from tests.analysis.graphs import onnx_text
from tests.numeric import build, constants, ops, random_feeds, run_onnx

WEIGHTS = """float[4, 3, 1, 1] c.weight, float[4, 3, 1, 1] plain, float[4] bias, float[4] gamma, float[4] beta,
    float[4] mean, float[4] var, float[5, 4] m, float[1, 4] row, float[6, 1] column"""
SHIFT = np.array([1.0, -2.0, 0.0, 0.5])
IMAGE, ROWS = "float[1, 3, 4, 4] x", "float[6, 5] x"


def shifted(inputs: str, body: str, outputs: str, index: int = 0) -> tuple[Model, Model, bool]:
    """Before, after and whether anything was done. Nodes stay in an order that runs: analyses follow it."""
    before = build(onnx_text(inputs, outputs, WEIGHTS, body))
    after = before.copy()
    done = shift_outputs(after, after.graph.nodes[index], SHIFT, Namer(after.graph))
    return before, after, done


def change(before: Model, after: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """How much more y is, per channel; the same everywhere."""
    feeds = random_feeds(before)
    old, new = (run_onnx(model, feeds)["y"].astype(np.float64) for model in (before, after))
    more = np.moveaxis(new - old, 1, 0).reshape(old.shape[1], -1)
    assert np.allclose(more, more[:, :1], atol=1e-5)
    return more[:, 0]


@pytest.mark.parametrize(
    "inputs, body, outputs, made",
    [
        (IMAGE, "y = Conv (x, c.weight, bias)", "float[a, b, c, d] y", ["Conv"]),
        (IMAGE, "y = Conv (x, c.weight)", "float[a, b, c, d] y", ["Conv"]),
        (IMAGE, "y = Conv (x, plain)", "float[a, b, c, d] y", ["Conv"]),
        (ROWS, "y = MatMul (x, m)", "float[a, b] y", ["MatMul", "Add"]),
        (ROWS, "t = MatMul (x, m) y = Identity (t)", "float[a, b] y", ["MatMul", "Add", "Identity"]),
        (ROWS, "t = MatMul (x, m) y = Add (t, row)", "float[a, b] y", ["MatMul", "Add"]),
        (ROWS, "t = MatMul (x, m) y = Add (row, t)", "float[a, b] y", ["MatMul", "Add"]),
        (ROWS, "t = MatMul (x, m) y = Add (t, column)", "float[a, b] y", ["MatMul", "Add", "Add"]),
        (ROWS, "y = Gemm (x, m, row)", "float[a, b] y", ["Gemm"]),
        (ROWS, "y = Gemm (x, m)", "float[a, b] y", ["Gemm"]),
    ],
)
def test_by_so_much(inputs: str, body: str, outputs: str, made: list[str]) -> None:
    before, after, done = shifted(inputs, body, outputs)
    assert done and ops(after) == made
    assert change(before, after) == pytest.approx(SHIFT, abs=1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.0])
@pytest.mark.parametrize("bias", ["", ", row"])
def test_before_the_factor_of_a_gemm(beta: float, bias: str) -> None:
    before, after, done = shifted(ROWS, f"y = Gemm <alpha = 3.0, beta = {beta}> (x, m{bias})", "float[a, b] y")
    assert done and change(before, after) == pytest.approx(3 * SHIFT, abs=1e-5)


def test_into_the_mean_of_the_norm_behind_it() -> None:
    body = "t = Conv (x, plain) y = BatchNormalization (t, gamma, beta, mean, var)"
    before, after, done = shifted(IMAGE, body, "float[a, b, c, d] y")
    assert done and len(after.graph.nodes[0].inputs) == 2
    values = constants(before)
    scale = values["gamma"] / np.sqrt(values["var"] + 1e-5)
    assert change(before, after) == pytest.approx(scale * SHIFT, abs=1e-5)


def test_a_norm_that_is_not_the_only_reader_is_left_alone() -> None:
    body = "t = Conv (x, plain) n = BatchNormalization (t, gamma, beta, mean, var) y = Add (t, n)"
    before, after, done = shifted(IMAGE, body, "float[a, b, c, d] y")
    assert done and len(after.graph.nodes[0].inputs) == 3
    assert np.array_equal(constants(after)["mean"], constants(before)["mean"])


def test_nothing_or_into_a_computed_bias_is_not_done() -> None:
    model = build(onnx_text(IMAGE, "float[a, b, c, d] y", WEIGHTS, "y = Conv (x, plain)"))
    assert not shift_outputs(model, model.graph.nodes[0], np.zeros(4), Namer(model.graph))
    assert len(model.graph.nodes[0].inputs) == 2
    computed = "float[1, 3, 4, 4] x, float[4] k"
    _, after, done = shifted(computed, "y = Conv (x, plain, k)", "float[a, b, c, d] y")
    assert not done and ops(after) == ["Conv"]


@pytest.mark.parametrize("weight, name", [("c.weight", "c.bias"), ("plain", "plain_bias")])
def test_a_bias_is_called_as_its_layer_has_it(weight: str, name: str) -> None:
    _, after, _ = shifted(IMAGE, f"y = Conv (x, {weight})", "float[a, b, c, d] y")
    assert after.graph.nodes[0].inputs[2].name == name


def test_slicing_is_told_of_a_new_bias_once() -> None:
    model = build(onnx_text(IMAGE, "float[a, b, c, d] y", WEIGHTS, "t = Conv (x, plain) y = Relu (t)"))
    plan = open_plan(model)
    node, namer = model.graph.nodes[0], Namer(model.graph)
    for _ in range(2):
        assert shift_outputs(model, node, SHIFT, namer)
    uses = [use for use in plan.channels.uses if use.node is node and use.index == 2]
    assert [(use.axis, use.role, len(use.labels)) for use in uses] == [(0, "channel", 4)]
    assert analyse_channels(model.graph).count == plan.channels.count
