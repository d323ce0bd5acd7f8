"""Linear maps read off nodes, put in a row and added up: what they compute, tap by tap, is what the graph computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.affine import affine_chains, batch_norm
from onnxslim_yolo.analysis.linear import (
    Geometry,
    LinearMap,
    add,
    chain_geometry,
    compose_chain,
    data_input,
    expand_groups,
    linear_map_of,
)
from onnxslim_yolo.analysis.window import Window
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build, random_feeds, run_onnx

WEIGHTS = """float[4, 4, 3, 1] tall, float[4, 4, 1, 3] row, float[4, 2, 3, 3] halves, float[4, 1, 3, 3] depth,
    float[4, 4, 1, 1] point, float[4] bias, float[4, 4, 2, 2] even, float[4] gamma, float[4] beta, float[4] mean,
    float[4] var, float[4, 1, 1] per, float half = {0.5}, float[1, 4, 9, 8] wide, float[4, 4, 5, 5] five"""


def model_of(body: str) -> Model:
    """From x, (1, 4, 9, 8), to y."""
    return build(onnx_text("float[1, 4, 9, 8] x", "float[a, b, c, d] y", WEIGHTS, body))


def applied(found: LinearMap, x: Array, size: tuple[int, int]) -> Array:
    """The map, element by element: zeros beyond the edge."""
    g = found.geometry
    outputs, inputs = g.outputs // g.groups, g.inputs // g.groups
    y = np.broadcast_to(found.bias.reshape(1, -1, 1, 1), (1, g.outputs, *size)).astype(np.float64).copy()
    for o, i, h, w in product(range(g.outputs), range(inputs), *map(range, size)):
        for taps in product(*(range(window.taps) for window in g.windows)):
            at = [reads(window, p, t) for window, p, t in zip(g.windows, (h, w), taps, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                tap, pixel = (o, i, *taps), (0, o // outputs * inputs + i, *at)
                y[0, o, h, w] += found.weight[tap] * x[pixel]
    return np.asarray(y)


def reads(window: Window, position: int, tap: int) -> int:
    """Where a window at an output position reads with one of its taps."""
    return window.stride * position + window.first + window.step * tap


def check(found: LinearMap, model: Model) -> None:
    feeds = random_feeds(model)
    given = run_onnx(model, feeds)["y"]
    told = applied(found, feeds["x"].astype(np.float64), (given.shape[2], given.shape[3]))
    assert np.allclose(told, given, atol=1e-4 * np.abs(given).max())


PADDED = "Conv <pads = [1, 1, 1, 1]>"


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv (x, tall, bias)",
        "y = Conv <group = 2, strides = [2, 1], pads = [1, 0, 2, 1]> (x, halves)",
        "y = Conv <group = 4, dilations = [2, 3]> (x, depth)",
        "y = AveragePool <kernel_shape = [3, 2], strides = [2, 2]> (x)",
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
        "y = BatchNormalization (x, gamma, beta, mean, var)",
        "y = Mul (x, per)",
        "y = Sub (per, x)",
        "y = Div (x, half)",
        "y = Identity (x)",
    ],
)
def test_one_node(body: str) -> None:
    model = model_of(body)
    found = linear_map_of(model.graph.nodes[0])
    assert found is not None and data_input(model.graph.nodes[0]).name == "x"
    check(found, model)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        "y = Mul (x, wide)",
        "y = Div (half, x)",
        "y = MaxPool <kernel_shape = [3, 3]> (x)",
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
        "y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)",
        "s = GlobalAveragePool (x) y = Mul (x, s)",
    ],
)
def test_what_is_none(body: str) -> None:
    model = model_of(body)
    assert linear_map_of(model.graph.nodes[-1]) is None


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, tall, bias) y = Conv (a, row, bias)",
        "a = Conv <strides = [1, 2]> (x, even) y = Conv <dilations = [2, 1]> (a, tall)",
        f"a = {PADDED} (x, five) y = Conv (a, even, bias)",
        "a = Conv <dilations = [2, 1], strides = [1, 2]> (x, tall) y = Conv <strides = [2, 1]> (a, even)",
        "a = Conv <group = 2> (x, halves, bias) y = Conv <group = 4> (a, depth)",
        "a = Conv <group = 4> (x, depth) y = Conv <group = 2, dilations = [2, 2]> (a, halves)",
        f"a = Conv (x, point) y = {PADDED} (a, five)",
        "a = Mul (x, per) y = Conv <group = 4, pads = [1, 0, 1, 2]> (a, depth)",
        "a = Conv (x, row, bias) b = BatchNormalization (a, gamma, beta, mean, var) y = Conv (b, tall)",
        "a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x) y = Conv (a, even)",
    ],
)
def test_in_a_row(body: str) -> None:
    model = model_of(body)
    maps = [linear_map_of(node) for node in model.graph.nodes]
    check(compose_chain([one for one in maps if one is not None]), model)
    assert None not in maps


@pytest.mark.parametrize(
    "body",
    [
        f"a = {PADDED} (x, point, bias) y = {PADDED} (a, five)",
        f"a = Conv (x, even) y = {PADDED} (a, five)",
        f"a = {PADDED} (x, point) y = {PADDED} (a, five)",
        f"a = Conv (x, point, bias) b = Conv (a, point) y = {PADDED} (b, five)",
    ],
)
def test_in_a_row_with_an_edge_between(body: str) -> None:
    maps = [found for node in model_of(body).graph.nodes if (found := linear_map_of(node)) is not None]
    assert len(maps) == body.count("=") - body.count("pads") and chain_geometry(maps) is None
    with pytest.raises(ValueError, match="no single convolution"):
        compose_chain(maps)


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv <pads = [2, 2, 2, 2]> (x, five) b = Conv (x, point, bias) y = Add (a, b)",
        "a = Conv <pads = [0, 1, 0, 1]> (x, row) b = Conv <pads = [1, 0, 1, 0]> (x, tall, bias) y = Add (a, b)",
        "a = Conv <group = 4, pads = [1, 1, 1, 1]> (x, depth) b = Conv <group = 2, pads = [1, 1, 1, 1]> (x, halves)"
        " y = Add (a, b)",
        "a = Conv <group = 4, pads = [2, 2, 2, 2], dilations = [2, 2]> (x, depth) b = Mul (x, per) y = Add (a, b)",
        "a = Conv <group = 4, pads = [2, 1, 2, 1], dilations = [2, 1]> (x, depth)"
        " b = Conv <pads = [0, 1, 0, 1]> (x, row) y = Add (a, b)",
    ],
)
def test_side_by_side(body: str) -> None:
    model = model_of(body)
    maps = [linear_map_of(node) for node in model.graph.nodes[:2]]
    check(add([one for one in maps if one is not None]), model)
    assert None not in maps


def test_side_by_side_at_other_places() -> None:
    body = "a = Conv <strides = [2, 2]> (x, even) b = Conv <strides = [1, 1]> (x, even) y = Relu (a) z = Relu (b)"
    first, second = (linear_map_of(node) for node in model_of(body).graph.nodes[:2])
    assert first is not None and second is not None
    with pytest.raises(ValueError, match="different strides"):
        add([first, second])


def test_what_a_position_costs() -> None:
    three, two = Window.of(3, 1, 1, 1, 1), Window.of(2, 2, 1, 0, 0)
    assert Geometry(6, 4, 2, (three, two)).cost == 6 * 4 // 2 * 3 * 2


def conv(**changed: gs.Tensor) -> gs.Node:
    given: dict[str, gs.Tensor] = {"x": gs.Variable("x", np.float32, [1, 4, 9, 8])}
    given |= {"w": gs.Constant("w", np.ones((2, 4, 1, 1), np.float32)), "b": gs.Constant("b", np.ones(2, np.float32))}
    return gs.Node("Conv", "c", {}, list((given | changed).values()), [gs.Variable("y")])


def test_convolutions_that_are_computed_or_of_whole_numbers_are_none() -> None:
    assert linear_map_of(conv()) is not None
    assert linear_map_of(conv(w=gs.Constant("w", np.ones((2, 4, 1, 1), np.int64)))) is None
    assert linear_map_of(conv(w=gs.Variable("w", np.float32, [2, 4, 1, 1]))) is None
    assert linear_map_of(conv(b=gs.Variable("b", np.float32, [2]))) is None


@pytest.mark.parametrize(
    "shape, channels",
    [(("N", 3, "W"), 3), ((1, 4, 9, 8), 4), ((1, 4), None), ((4,), None), (None, None), (("N", "C", 8), None)],
)
@pytest.mark.parametrize("op", ["Identity", "Mul"])
def test_channels_of_a_map_and_of_nothing_else(op: str, shape: tuple[int, ...] | None, channels: int | None) -> None:
    constant = [gs.Constant("c", np.ones(1, np.float32))] if op == "Mul" else []
    found = linear_map_of(gs.Node(op, "n", {}, [gs.Variable("x", np.float32, shape), *constant], [gs.Variable("y")]))
    assert (None if found is None else found.geometry.inputs) == channels
    assert found is None or len(found.geometry.windows) == len(shape or ()) - 2


def test_groups_written_with_fewer() -> None:
    weight = np.arange(1.0, 9).reshape(4, 2, 1)
    assert expand_groups(weight, 2, 2).tolist() == weight.tolist()
    assert expand_groups(weight, 2, 1)[:, :, 0].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]
    single = expand_groups(np.arange(1.0, 5).reshape(4, 1), 4, 2)
    assert single.tolist() == [[1, 0], [0, 2], [3, 0], [0, 4]]


class TestAffineChains:
    def chains(self, body: str) -> list[tuple[str, str, int, bool]]:
        """(source, output, axis, whether with a norm) of each."""
        found = affine_chains(model_of(body).graph)
        return [(c.source.name, c.output.name, c.axis, c.has_batch_norm) for c in found]

    def test_a_row_of_affine_nodes(self) -> None:
        body = "a = Mul (x, per) b = Add (half, a) y = BatchNormalization (b, gamma, beta, mean, var)"
        assert self.chains(body) == [("x", "y", 1, True)]
        model = model_of(body)
        (chain,) = affine_chains(model.graph)
        feeds = random_feeds(model)
        scale, shift = (part.reshape(1, -1, 1, 1) for part in (chain.affine.scale, chain.affine.shift))
        assert np.allclose(run_onnx(model, feeds)["y"], feeds["x"] * scale + shift, atol=1e-4)

    def test_broken_by_anything_else(self) -> None:
        body = "a = Mul (x, per) b = Relu (a) c = Add (b, per) y = Mul (c, half)"
        assert self.chains(body) == [("x", "a", 1, False), ("b", "y", 1, False)]
        assert self.chains("a = Mul (x, per) b = Mul (a, half) c = Add (a, half) y = Mul (b, c)") == [
            ("x", "a", 1, False),
            ("a", "b", 1, False),
            ("a", "c", 1, False),
        ]
        assert self.chains("y = Mul (x, wide)") == []

    def test_of_tokens_along_the_last_axis(self) -> None:
        text = onnx_text("float[1, 7, 4] x", "float[a, b, c] y", WEIGHTS, "a = Mul (x, bias) y = Add (a, half)")
        (chain,) = affine_chains(build(text).graph)
        assert (chain.axis, len(chain.nodes), chain.has_batch_norm) == (2, 2, False)

    def test_a_norm(self) -> None:
        values = {"gamma": np.array([2.0, 1, 1, 1]), "beta": np.array([1.0, 0, 0, 0]), "mean": np.array([3.0, 0, 0, 0]),
                  "var": np.array([3.0, 3, 3, 3])}  # fmt: skip
        body = "y = BatchNormalization <epsilon = 1.0> (x, gamma, beta, mean, var)"
        model = build(onnx_text("float[1, 4, 9, 8] x", "float[a, b, c, d] y", WEIGHTS, body), values=values)
        found = batch_norm(model.graph.nodes[0])
        assert found is not None
        assert found.scale.tolist() == [1, 0.5, 0.5, 0.5] and found.shift.tolist() == [-2, 0, 0, 0]
        assert not found.is_uniform and found.scales and found.shifts
        flat = build(
            onnx_text("float[1, 4, 9, 8] x", "float[a, b, c, d] y", WEIGHTS, body.replace("1.0", "0.0")),
            values=values | {"var": np.array([1.0, 0, 1, 1])},
        )
        assert batch_norm(flat.graph.nodes[0]) is None
