"""What is a few numbers in the source is no full map in the result, and the result is still the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import SliceChannels
from onnxslim_yolo.pipeline import preparation
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import assert_control_fails, assert_same, build

HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'
SIDE = "float[1,8,1,1] p, float[5,8,1,1] w"
SHAPE = "s = Shape(x)\n"
GRID = """from = Constant<value = float {0.0}>()
to = Constant<value = float {64.0}>()
by = Constant<value = float {1.0}>()
r = Range(from, to, by)
t = Constant<value_ints=[1,1,1,64]>()
c = Reshape(r, t)
f = Constant<value_ints=[1,1,64,64]>()
e = Expand(c, f)
"""
VARIANTS = {
    "expand and add": (SIDE, f"{SHAPE}e = Expand(p, s)\nz = Add(e, x)\ny = Conv(z, w)"),
    "expand and mul": (SIDE, f"{SHAPE}e = Expand(p, s)\nz = Mul(x, e)\ny = Conv(z, w)"),
    "expand and where": (
        f"{SIDE}, float[1] zero",
        f"{SHAPE}c = Greater(x, zero)\ne = Expand(p, s)\nz = Where(c, e, x)\ny = Conv(z, w)",
    ),
    "tile": (SIDE, "k = Constant<value_ints=[1,1,64,64]>()\ne = Tile(p, k)\nz = Add(x, e)\ny = Conv(z, w)"),
    "resized": (
        SIDE,
        'k = Constant<value_floats=[1.0,1.0,64.0,64.0]>()\ne = Resize(p, "", k)\nz = Add(x, e)\ny = Conv(z, w)',
    ),
    "padded": (SIDE, "k = Constant<value_ints=[0,0,0,0,0,0,63,63]>()\ne = Pad(p, k)\nz = Add(x, e)\ny = Conv(z, w)"),
    "zeros like it": (SIDE, f"{SHAPE}e = ConstantOfShape(s)\nq = Add(e, p)\nz = Add(q, x)\ny = Conv(z, w)"),
    "a number like it": (
        SIDE,
        f"{SHAPE}e = ConstantOfShape<value = float[1] {{2.0}}>(s)\nq = Mul(x, e)\nz = Add(q, p)\ny = Conv(z, w)",
    ),
    "coordinates beside it": ("float[5,9,1,1] w", f"{GRID}z = Concat<axis=1>(x, e)\ny = Conv(z, w)"),
    "coordinates added": (
        SIDE,
        f"{GRID}v = Transpose<perm=[0,1,3,2]>(e)\nq = Add(e, v)\nz = Add(x, q)\nu = Add(z, p)\ny = Conv(u, w)",
    ),
    "rows joined": (
        "float[1,8,1,64] p, float[5,8,1,1] w",
        f"e = Concat<axis=2>({', '.join(['p'] * 64)})\nz = Add(x, e)\ny = Conv(z, w)",
    ),
    "scattered": (
        "float[8] p, float[5,8,1,1] w, int64[8,4] at",
        f"{SHAPE}e = ConstantOfShape(s)\nq = ScatterND(e, at, p)\nz = Add(x, q)\ny = Conv(z, w)",
    ),
}


def network(weights: str, body: str, batch: str) -> onnx.ModelProto:
    text = f"{HEAD}g (float[{batch},3,64,64] image) => (float[{batch},5,64,64] y)\n<float[8,3,1,1] a, {weights}>\n"
    model = build(f"{text}{{ h = Conv(image, a)\nx = Relu(h)\n{body} }}")
    return model.to_onnx()


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("name", VARIANTS)
def test_not_larger_than_the_source(name: str, batch: str) -> None:
    if batch == "N" and name == "coordinates beside it":
        pytest.skip("a grid of batch 1 goes with no other")
    source = network(*VARIANTS[name], batch)
    model = Model.from_onnx(source)
    PassManager(preparation(CompileOptions())).run(model)
    names = 1024  # of nodes and tensors that passes made
    assert len(model.to_onnx().SerializeToString()) <= len(source.SerializeToString()) + names
    assert_same(source, model)
    assert_control_fails(source, model)


@pytest.mark.parametrize("name", ["expand and add", "expand and mul", "tile", "zeros like it"])
def test_what_was_expanded_is_pruned_with_the_map(name: str) -> None:
    model = Model.from_onnx(network(*VARIANTS[name], "1"))
    PassManager(preparation(CompileOptions())).run(model)
    plan = open_plan(model)
    assert plan.channels.prunable.sum() == 8
    model.plan = plan.without(np.array([1, 5]))
    PassManager([SliceChannels()]).run(model)
    assert model.carried.kept["p"] == {1: [0, 2, 3, 4, 6, 7]}


def test_small_grids_still_become_constants() -> None:
    """The control: what a graph has room for is computed, so that passes see it."""
    body = GRID.replace("64", "8").replace("f = Constant", "f8 = Constant").replace("Expand(c, f)", "Expand(c, f8)")
    text = f"{HEAD}g (float[1,3,8,8] image) => (float[1,4,8,8] y) {{ {body} y = Concat<axis=1>(image, e) }}"
    model = build(text)
    PassManager(preparation(CompileOptions())).run(model)
    assert [node.op for node in model.graph.nodes] == ["Concat"]
