"""What running a graph takes, operator by operator, from shapes alone; and the limits that are held against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.effort import (
    CUBIC,
    ELEMENT,
    LARGE_KERNEL,
    NODE,
    NODE_WITH_WEIGHTS,
    POOL_TAP,
    Effort,
    _frame,
    _taps,
    effort_of,
    name_of,
    work_of,
)
from onnxslim_yolo.analysis.limits import Limits, held_to, in_units, limits_for, limits_of, pair_memory
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[8, 4, 3, 3] w, float[4, 8, 2, 2] up, float[2, 4, 16, 16] large, float[2, 4, 15, 15] medium,
    float[4, 1, 16, 16] own, float[1, 256] bias,
    float[1, 128, 4] lstm, float[1, 128, 32] state, float[1, 5] roi, int64[1] batch = {0}, float[1, 4] box,
    float[4] double = {1, 1, 2, 2}, float[4] gamma, float[4] beta, float[4] mean, float[4] var"""
MAP = 4 * 20 * 20
"""Elements of x."""


def model_of(body: str, kind: str = "float[a, b, c, d]", image: str = "1, 4, 20, 20") -> Model:
    return build(onnx_text(f"float[{image}] x, float[1, 4, 20, 20] z", f"{kind} y", WEIGHTS, body))


def work(body: str, kind: str = "float[a, b, c, d]", image: str = "1, 4, 20, 20") -> int:
    graph = model_of(body, kind, image).graph
    return work_of(graph.nodes[-1], concrete_shapes(graph))


@pytest.mark.parametrize(
    "body, expected",
    [
        ('y = Resize <mode = "linear"> (x, , double)', 2 * ELEMENT * 4 * MAP),
        ('y = Resize <mode = "cubic"> (x, , double)', CUBIC * 4 * MAP),
        ("y = LRN <size = 5> (x)", ELEMENT * MAP),
        ("y = LRN <size = 500> (x)", 500 * MAP),
        ("y = RoiAlign <output_height = 50, output_width = 50, sampling_ratio = 3> (x, box, batch)",
         ELEMENT * 9 * 4 * 50 * 50),
        ("y = RoiAlign <output_height = 50, output_width = 50, sampling_ratio = 1> (x, box, batch)",
         ELEMENT * (4 * 50 * 50 + MAP + 4 + 1)),
        ("y = RoiAlign <output_height = 50, output_width = 50> (x, box, batch)", ELEMENT * 4 * 4 * 50 * 50),
        ("y = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (x)", POOL_TAP * 25 * MAP),
        ("y = MaxPool <kernel_shape = [39, 39], pads = [19, 19, 19, 19]> (x)", POOL_TAP * 400 * MAP),
        ('y = Einsum <equation = "nchw, ndhw -> ncdh"> (x, z)', ELEMENT * 2 * MAP),
        ("y = Max (x, z)", ELEMENT * 2 * MAP),
        ("y = Max (x, z, z)", ELEMENT * 4 * MAP),
        ("y = GlobalAveragePool (x)", ELEMENT * MAP),
    ],
)  # fmt: skip
def test_one_operator(body: str, expected: int) -> None:
    assert work(body) == expected


def test_a_product_of_sums() -> None:
    assert work('y = Einsum <equation = "nchw, ncgv -> n"> (x, z)', "float[a]") == 4 * 400 * 400


def test_recurrent_layers_read_their_weights_at_every_step() -> None:
    found = work("y = LSTM <hidden_size = 32> (x, lstm, state)", "float[a, b, c, d]", "1000, 3, 4")
    assert found == 1000 * 3 * (128 * 4 + 128 * 32)
    biased = "y = LSTM <hidden_size = 32> (x, lstm, state, bias)"
    assert work(biased, "float[a, b, c, d]", "1000, 3, 4") == found


def test_windows_are_written_out_where_kernels_are_large() -> None:
    """16·16 elements are above the limit of 225, 15·15 are not."""
    assert LARGE_KERNEL == 225
    large = effort_of(model_of("y = Conv (x, large)").graph).memory
    medium = effort_of(model_of("y = Conv (x, medium)").graph).memory
    weights = 4 * 2 * 4 * (256 - 225)
    outputs = 4 * 2 * (5 * 5 - 6 * 6)
    assert large - medium == 2 * 4 * 4 * 256 * 25 + weights + outputs
    own = effort_of(model_of("y = Conv <group = 4> (x, own)").graph).memory
    windows = 2 * 4 * (4 - 1) * 256 * 25
    assert large - own == windows + 4 * 4 * 256 * (2 - 1) - 4 * 2 * 25  # half the weights, twice the outputs


@pytest.mark.parametrize(
    "body, more",
    [
        ("y = Conv (x, w)", 0),
        ("y = Conv <pads = [1, 2, 3, 4]> (x, w)", 4 * 4 * (24 * 26 - 400)),
        ('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', 4 * 4 * (22 * 22 - 400)),
        ("y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", 4 * 4 * (22 * 22 - 400)),
        ("y = ConvTranspose <strides = [2, 2]> (x, up)", 0),
        ("y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, up)", 4 * 8 * (40 * 40 - 38 * 38)),
    ],
)
def test_a_frame_is_written_out(body: str, more: int) -> None:
    graph = model_of(f"{body.replace('y =', 'a =')} y = GlobalAveragePool (a)").graph
    made = graph.tensors()["a"].shape
    constants = sum(t.values.nbytes for t in graph.tensors().values() if isinstance(t, gs.Constant))
    found = effort_of(graph)
    held = sum(4 * int(np.prod(t.shape)) for t in (*graph.inputs, *graph.outputs)) + constants
    assert found.memory == held + 4 * int(np.prod(made)) + more


def test_every_node_takes_something() -> None:
    found = effort_of(model_of("a = Relu (x) b = BatchNormalization (a, gamma, beta, mean, var) y = Relu (b)").graph)
    assert found.work == 2 * NODE + NODE_WITH_WEIGHTS and "BatchNormalization" in found.work_node


def test_what_nobody_reads_is_let_go_at_once() -> None:
    one = effort_of(model_of("a = Relu (x) b = Tanh (x) y = GlobalAveragePool (b)").graph)
    two = effort_of(model_of("b = Tanh (x) y = GlobalAveragePool (b)").graph)
    assert one.memory == two.memory


def test_a_nodes_name() -> None:
    out = gs.Variable("out")
    assert name_of(gs.Node("Relu", "n", outputs=[out])) == "n (Relu)"
    assert name_of(gs.Node("Relu", "", outputs=[gs.Variable("o")])) == "o (Relu)"
    assert name_of(gs.Node("Relu", "")) == " (Relu)"


@pytest.mark.parametrize(
    "first, taps", [(None, 15), ((1, 4, 20), 15), ((1, 4, 2, 20), 10), ((1, 4, 20, 2), 6), ((1, 4, 0, 20), 5)]
)
def test_a_window_has_at_most_the_elements_of_the_map(first: tuple[int, ...] | None, taps: int) -> None:
    assert _taps(gs.Node("MaxPool", "n", {"kernel_shape": [3, 5]}), first) == taps


def test_a_frame_of_a_size_that_is_known_at_most_alone_is_none() -> None:
    """Where the graph itself does not say the size, nobody knows what `auto_pad` adds."""
    x, w, y = gs.Variable("x", np.float32, [1, 4, "h", "w"]), gs.Constant("w", np.zeros((2, 4, 3, 3))), gs.Variable("y")
    node = gs.Node("Conv", "n", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [x, w], [y])
    shapes = {id(x): (1, 4, 20, 20), id(w): (2, 4, 3, 3), id(y): (1, 2, 10, 10)}
    assert _frame(node, shapes) == 0
    assert _frame(node, {}) == 0 == _frame(node, shapes | {id(x): None}) == _frame(node, shapes | {id(y): None})
    assert _frame(node, shapes | {id(x): (1, 4, 20)}) == 0
    x.shape = [1, 4, 20, 20]
    assert _frame(node, shapes) == 4 * 4 * (21 * 21 - 20 * 20)


class TestLimits:
    @pytest.mark.parametrize(
        "value, text",
        [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (1234, "1.23K"),
            (5e6, "5M"),
            (2.5e9, "2.5G"),
            (1e12, "1T"),
            (3e15, "3e+03T"),
        ],
    )
    def test_units(self, value: float, text: str) -> None:
        assert in_units(value) == text

    def test_are_held(self) -> None:
        limits = Limits(1000.0, 5000.0)
        limits.hold(Effort(1000, "a (Relu)", 5000, "b (Conv)"))
        with pytest.raises(InputError, match="1KB") as memory:
            limits.hold(Effort(1001, "a (Relu)", 5001, "b (Conv)"), Path("m.onnx"))
        assert memory.value.node == "a (Relu)" and "--limit-memory 1.1KB" in str(memory.value.hint)
        with pytest.raises(InputError, match="5K multiply-adds") as work:
            limits.hold(Effort(1000, "a (Relu)", 5001, "b (Conv)"))
        assert work.value.node == "b (Conv)" and "--limit-work 5.5K" in str(work.value.hint)

    def test_grow_with_the_weights(self) -> None:
        none, some = limits_of(0, 0, None, None), limits_of(10, 40, None, None)
        more = limits_of(20, 80, None, None)
        assert some.memory > none.memory > 0 and some.work > none.work > 0
        assert more.memory - some.memory == some.memory - none.memory
        assert more.work - some.work == some.work - none.work
        assert limits_of(10, 40, 7.0, None) == Limits(7.0, some.work)
        assert limits_of(10, 40, None, 7.0) == Limits(some.memory, 7.0)
        assert none == Limits(320 * 2**20, 30e9)
        assert some == Limits(320 * 2**20 + 16 * 40, 30e9 + 60_000 * 10)
        model = model_of("y = Conv (x, medium)")
        assert limits_for(model, None, None) == limits_of(2 * 4 * 225, 4 * 2 * 4 * 225, None, None)

    def test_of_a_pair_grow_with_its_file(self, tmp_path: Path) -> None:
        weights = tmp_path / "m.bin"
        weights.write_bytes(bytes(100))
        assert pair_memory(weights) == 2**30 + 32 * 100
        assert pair_memory(weights, 5.0) == 5.0 and "5B of memory" in held_to(5.0)

    def test_of_what_the_image_decides(self) -> None:
        text = onnx_text("float[1, 1, 1, 1] x, int64[4] k", "float[a, b, c, d] y", WEIGHTS, "y = Expand (x, k)")
        model = build(text)
        with pytest.raises(InputError, match="what the image holds") as told:
            Limits(1e12, 1e12).require(model)
        assert told.value.node is not None and "(Expand)" in told.value.node
        Limits(float("inf"), float("inf")).require(model)
        with pytest.raises(InputError, match="at once"):
            Limits(10.0, 1e12).require(model_of("y = Relu (x)"))
