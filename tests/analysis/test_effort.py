"""What running a graph takes, counted by hand."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.effort import (
    CUBIC,
    ELEMENT,
    OUTPUT_COPIES,
    POOL_TAP,
    QUICK_ELEMENT,
    _bytes,
    effort_of,
    work_of,
)
from tests.kinds import text_of
from tests.numeric import build

SIDE = 16
DOUBLE = "float[4] scales = {1.0, 1.0, 2.0, 2.0}"
MAP = 4 * SIDE * SIDE
"""Bytes of one channel."""


def effort(body: str, weights: str = "", outputs: str = "float[a,b,c,d] y"):  # type: ignore[no-untyped-def]
    return effort_of(build(text_of(f"float[1,4,{SIDE},{SIDE}] x", outputs, weights, body)).graph)


def test_memory_is_what_lives_at_once() -> None:
    """Three maps of four channels in a row: two of them live at a time, and the output from the start."""
    found = effort("a = Relu(x) b = Sigmoid(a) c = Tanh(b) y = GlobalAveragePool(c)")
    assert found.memory == 8 * MAP + 4 * 4 and found.memory_node.endswith("(Relu)")
    # A map that is read once more at the end lives all the way.
    longer = effort("a = Relu(x) b = Sigmoid(a) c = Tanh(b) d = Add(c, x) y = GlobalAveragePool(d)")
    assert longer.memory == 12 * MAP + 4 * 4 and longer.memory_node.endswith("(Sigmoid)")


def test_outputs_are_held_several_times() -> None:
    found = effort("y = Relu(x)", outputs=f"float[1,4,{SIDE},{SIDE}] y")
    assert found.memory == OUTPUT_COPIES * 4 * MAP


def test_constants_live_all_the_time() -> None:
    plain, more = (
        effort("a = Relu(x) y = GlobalAveragePool(a)"),
        effort("a = Add(x, w) y = GlobalAveragePool(a)", f"float[1,4,{SIDE},{SIDE}] w"),
    )
    assert more.memory - plain.memory == 4 * MAP


@pytest.mark.parametrize(
    ("body", "weights", "work"),
    [
        ("y = Conv<pads=[3,3,3,3]>(x, w)", "float[64,4,7,7] w", 64 * SIDE**2 * 4 * 49),
        ("y = ConvTranspose<strides=[1,1]>(x, w)", "float[4,64,9,9] w", 4 * SIDE**2 * 64 * 81),
        ("y = MaxPool<kernel_shape=[5,5],pads=[2,2,2,2]>(x)", "", POOL_TAP * 4 * SIDE**2 * 25),
        ("y = Tanh(x)", "", ELEMENT * 4 * SIDE**2),
        ("y = Sigmoid(x)", "", QUICK_ELEMENT * 4 * SIDE**2),
        ("y = MatMul(x, w)", f"float[{SIDE},4096] w", ELEMENT * 4 * SIDE * 4096),
        (
            'y = Resize<mode="cubic">(x, , scales)',
            "float[4] scales = {1.0, 1.0, 2.0, 2.0}",
            CUBIC * 4 * (2 * SIDE) ** 2,
        ),
    ],
)
def test_work(body: str, weights: str, work: int) -> None:
    graph = build(text_of(f"float[1,4,{SIDE},{SIDE}] x", "float[a,b,c,d] y", weights, body)).graph
    assert work_of(graph.nodes[0], concrete_shapes(graph)) == work


def test_the_worst_moment_is_where_the_output_is_checked() -> None:
    found = effort("a = Relu(x) y = Tanh(a)", outputs=f"float[1,4,{SIDE},{SIDE}] y")
    assert found.memory == OUTPUT_COPIES * 4 * MAP and found.memory_node.endswith("(Tanh)")


@pytest.mark.parametrize(
    "kind, size", [(np.float16, 24), (np.float32, 24), (np.int64, 48), (np.bool_, 24), (16, 24), (None, 48)]
)
def test_runtimes_compute_in_four_bytes_at_least(kind: object, size: int) -> None:
    """16 is bfloat16, which numpy lacks; of what is not known the wider one is taken."""
    tensor = gs.Variable("t", kind, (2, 3))
    assert _bytes(tensor, {id(tensor): (2, 3)}) == size
    assert _bytes(tensor, {}) == 0 == _bytes(tensor, {id(tensor): None})


def test_outputs_of_many_nodes_are_held_together() -> None:
    kind = f"float[1,4,{SIDE},{SIDE}]"
    found = effort("y = Relu(x) z = Tanh(x)", outputs=f"{kind} y, {kind} z")
    assert found.memory == OUTPUT_COPIES * 8 * MAP


def test_a_layer_whose_input_is_not_known() -> None:
    x, w, y = (gs.Variable(name, np.float32) for name in "xwy")
    known = {id(w): (64, 400, 1, 1), id(y): (1, 64, 100, 100)}
    assert work_of(gs.Node("Conv", "n", {}, [x, w], [y]), known) == 400 * 640_000
    assert work_of(gs.Node("ConvTranspose", "n", {}, [x, w], [y]), known) == ELEMENT * 640_000


@pytest.mark.parametrize("op", ["Relu", "MatMul", "ConvTranspose", "LSTM", "MaxPool", "Einsum"])
def test_of_what_nothing_is_known_nothing_is_counted(op: str) -> None:
    attributes = {"MaxPool": {"kernel_shape": [3, 3]}, "Einsum": {"equation": "ab,bc->ac"}}.get(op, {})
    tensors = [gs.Variable(name, np.float32) for name in "xwry"]
    node = gs.Node(op, "n", attributes, tensors[: 1 if op in ("Relu", "MaxPool") else 3], tensors[3:])
    assert work_of(node, {}) == 0


def test_three_operands_are_no_recurrent_layer() -> None:
    x, y = gs.Variable("x", np.float32), gs.Variable("y", np.float32)
    shapes = {id(x): (100, 100, 2), id(y): (100, 100, 2)}
    assert work_of(gs.Node("Max", "n", {}, [x, x, x], [y]), shapes) == ELEMENT * 4 * 20_000


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "DeformConv", "MatMul", "Gemm"])
@pytest.mark.parametrize("weight", [(), (3,), None])
def test_a_weight_that_is_none_is_counted_and_not_stumbled_over(op: str, weight: tuple[int, ...] | None) -> None:
    x, w, y = (gs.Variable(name, np.float32) for name in "xwy")
    node = gs.Node(op, inputs=[x, w], outputs=[y])
    shapes = {id(x): (1, 4, 8, 8), id(w): weight, id(y): (1, 4, 8, 8)}
    assert work_of(node, shapes) >= ELEMENT * 4 * 64
