"""Padding that `pad-pool` worked into pooling becomes ncnn's Padding again, with not one bit changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.ir.graph import Array, input_constant, nodes_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import PadToPool
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session
from tests.numeric import build, random_feeds

RESTORED = ["UnaryOp", "UnaryOp", "Padding", "Pooling"]
"""Abs, Neg, and what becomes of the padded pooling."""
KEPT = ["UnaryOp", "UnaryOp", "Pooling", "MemoryData", "BinaryOp"]


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


def padded(pool: str, pads: str, size: str = "8,7", more: str = "") -> Model:
    """A pooling of a padded map without a positive number, so that a padding with zeros shows."""
    rank = size.count(",") + 1
    out = ",".join("abc"[:rank])
    return build(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,6,{size}] x) => (float[1,6,{out}] y)
        <int64[{2 * (rank + 2)}] pads = {{{pads}}}, float[1] fill = {{0.0}}>
        {{ a = Abs(x) n = Neg(a) p = Pad(n, pads, fill) y = MaxPool<{pool}>(p) {more} }}"""
    )


def folded(model: Model, rewrites: int = 1) -> Model:
    assert PadToPool().run(model) == rewrites
    return model


def kinds(model: Model) -> list[str]:
    """The layers' types but for the Reshapes that give a sequence a height."""
    found = [line.split()[0] for line in emit_ncnn(model, weights="fp32").param.splitlines()[3:]]
    return [kind for kind in found if kind != "Reshape"]


def difference(wanted: Model, converted: Model, session: NcnnSession) -> float:
    pair = emit_ncnn(converted, weights="fp32")
    return max(found.relative for found in compare_outputs(wanted, pair, [random_feeds(wanted)], session=session))


WINDOWS = {
    "YOLOv3-tiny": ("kernel_shape=[2,2], strides=[1,1]", "0,0,0,0,0,0,1,1", "8,7"),
    "stride 2": ("kernel_shape=[2,2], strides=[2,2]", "0,0,1,1,0,0,1,0", "8,7"),
    "both sides": ("kernel_shape=[3,3], strides=[2,1]", "0,0,1,2,0,0,1,0", "8,7"),
    "pads of its own": ("kernel_shape=[5,5], pads=[2,2,2,2]", "0,0,1,1,0,0,2,1", "8,7"),
    "one axis": ("kernel_shape=[3,3], pads=[1,1,1,1]", "0,0,0,1,0,0,0,1", "8,7"),
    "rows beyond the last window": ("kernel_shape=[2,2], strides=[3,3]", "0,0,0,0,0,0,1,1", "8,7"),
    "every window touches": ("kernel_shape=[3,3], strides=[1,1]", "0,0,1,1,0,0,1,1", "2,2"),
    "every row touches": ("kernel_shape=[3,3], strides=[1,1]", "0,0,1,1,0,0,1,1", "2,9"),
    "sequence": ("kernel_shape=[3], strides=[2]", "0,0,1,0,0,2", "9"),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_floor_becomes_padding(case: str, session: NcnnSession) -> None:
    pool, pads, size = WINDOWS[case]
    model = folded(padded(pool, pads, size))
    assert nodes_of(model.graph, "Max"), "the pass writes another form"
    assert kinds(model) == RESTORED
    assert difference(padded(pool, pads, size), model, session) == 0


def test_control_padding_on_the_other_side_is_noticed(session: NcnnSession) -> None:
    pool, pads, size = WINDOWS["YOLOv3-tiny"]
    shifted = folded(padded(pool, "0,0,1,1,0,0,0,0", size))
    assert difference(padded(pool, pads, size), shifted, session) > 0.1


INDIRECT = {
    "wider than the kernel": ("kernel_shape=[2,2], strides=[1,1]", "0,0,3,0,0,0,2,2"),
    "rounding up": ("kernel_shape=[2,2], strides=[3,3], ceil_mode=1", "0,0,0,0,0,0,2,0"),
}


@pytest.mark.parametrize("case", INDIRECT)
def test_convolution_of_ones_becomes_padding(case: str, session: NcnnSession) -> None:
    pool, pads = INDIRECT[case]
    model = folded(padded(pool, pads))
    assert nodes_of(model.graph, "Conv"), "the pass writes another form"
    assert kinds(model) == RESTORED
    assert difference(padded(pool, pads), model, session) == 0


def floor_of(model: Model) -> Array:
    [node] = nodes_of(model.graph, "Max")
    floor = input_constant(node, 1)
    assert floor is not None
    return floor


SPOILED = {
    "a hole in the last row": lambda floor: floor[..., -1, 2:3],
    "a window inside": lambda floor: floor[..., 3:4, 3:4],
    "another value at one place": lambda floor: floor[..., -1:, -1:],
}


@pytest.mark.parametrize("case", SPOILED)
def test_any_other_floor_is_kept(case: str, session: NcnnSession) -> None:
    pool, pads, size = WINDOWS["YOLOv3-tiny"]
    model = folded(padded(pool, pads, size))
    place = SPOILED[case](floor_of(model))
    place[...] = {"a hole in the last row": np.finfo(np.float32).min}.get(case, -0.5)
    if case == "a window inside":
        place[...] = 0
    assert kinds(model) == KEPT
    assert difference(model, model, session) == 0
    assert difference(padded(pool, pads, size), model, session) > 0.01, "the spoiled floor does not show"


def test_another_value_than_zero(session: NcnnSession) -> None:
    model = folded(padded(*WINDOWS["both sides"]))
    floor_of(model)[floor_of(model) == 0] = -0.25
    assert kinds(model) == RESTORED
    assert difference(model, model, session) == 0


def test_a_pooled_map_that_is_read_twice_keeps_its_floor(session: NcnnSession) -> None:
    model = folded(padded(*WINDOWS["YOLOv3-tiny"]))
    [floored] = nodes_of(model.graph, "Max")
    model.graph.outputs.append(floored.inputs[0])
    assert kinds(model) == ["UnaryOp", "UnaryOp", "Pooling", "Split", "MemoryData", "BinaryOp"]
    assert difference(model, model, session) == 0


def test_other_depthwise_convolutions_stay(session: NcnnSession) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,6,8,7] x) => (float[1,6,9,8] y) <float[6,1,1,1] w>
        { y = Conv<group=6, pads=[0,0,1,1]>(x, w) }"""
    ones = np.ones((6, 1, 1, 1))
    assert kinds(build(text, values={"w": ones})) == ["Padding"]
    ones[3] = 1.01
    spoiled = build(text, values={"w": ones})
    assert kinds(spoiled) == ["ConvolutionDepthWise"]
    assert difference(spoiled, spoiled, session) < 1e-6
