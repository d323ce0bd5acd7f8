"""Constants along one axis, however many axes of one element stand in front of theirs."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.affine import Affine, affine_chains, affine_of, batch_norm, channel_constant, data_index
from tests.analysis.graphs import onnx_text
from tests.numeric import build, random_feeds, run_onnx

DATA = gs.Variable("x", np.float32, [1, 3, 4, 4])


@pytest.mark.parametrize(
    ("shape", "axis", "along"),
    [
        ((), 1, 1),
        ((1,), 1, 1),
        ((3, 1, 1), 1, 3),
        ((1, 3, 1, 1), 1, 3),
        ((1, 1, 1, 1), 1, 1),
        ((4,), 3, 4),
        ((4, 1), 2, 4),
        ((3,), 1, None),  # along the last axis, where there are 4
        ((4,), 1, None),
        ((1, 3, 4, 1), 1, None),
        ((2, 1, 1), 1, None),
        ((2, 3, 1, 1), 1, None),
        ((1, 1, 3, 1, 1), 1, None),  # more axes than the data
        ((1, 1, 1, 1, 1), 1, None),
        ((3, 1, 1), 4, None),
        ((), 4, None),
    ],
)
def test_constants_along_one_axis(shape: tuple[int, ...], axis: int, along: int | None) -> None:
    values = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)
    found = channel_constant(gs.Constant("c", values), DATA, axis)
    assert (None if found is None else found.tolist()) == (None if along is None else values.reshape(-1).tolist())
    assert along is None or values.size == along


def test_integers_and_open_ranks_are_none() -> None:
    assert channel_constant(gs.Constant("c", np.ones((3, 1, 1), np.int64)), DATA, 1) is None
    assert channel_constant(gs.Constant("c", np.ones((3, 1, 1), np.float32)), gs.Variable("x", np.float32), 1) is None
    assert channel_constant(DATA, DATA, 1) is None


@pytest.mark.parametrize(
    ("op", "first", "scale", "offset"),
    [("Mul", 0, 2, 0), ("Add", 0, 1, 2), ("Sub", 0, 1, -2), ("Sub", 1, -1, 2), ("Div", 0, 0.5, 0)],
)
def test_lines(op: str, first: int, scale: float, offset: float) -> None:
    constant = gs.Constant("c", np.full((3, 1, 1), 2, np.float32))
    inputs = [DATA, constant] if first == 0 else [constant, DATA]
    found = affine_of(gs.Node(op, "n", {}, inputs, [gs.Variable("y")]))
    assert found is not None
    assert np.broadcast_to(found.scale, 3).tolist() == [scale] * 3
    assert np.broadcast_to(found.shift, 3).tolist() == [offset] * 3


def norm(**changed: object) -> gs.Node:
    """γ = 2, 3; β = 1, −1; μ = 4, 0; σ² = 0.25, 0.0625; no ε."""
    values = {"gamma": [2.0, 3], "beta": [1.0, -1], "mean": [4.0, 0], "var": [0.25, 0.0625]}
    inputs = [gs.Constant(name, np.array(changed.get(name, value))) for name, value in values.items()]
    return gs.Node(
        "BatchNormalization", "n", {"epsilon": changed.get("epsilon", 0.0)}, [DATA, *inputs], [gs.Variable("y")]
    )


def test_a_batch_normalisation_by_hand() -> None:
    found = batch_norm(norm())
    assert found is not None and (found.scale.tolist(), found.shift.tolist()) == ([4, 12], [-15, -1])
    assert affine_of(norm()) is not None and affine_of(norm(), axis=2) is None


def test_normalisations_that_are_no_map() -> None:
    assert batch_norm(norm(gamma=np.array([2, 3]))) is None
    assert batch_norm(norm(var=[0.25, 0.0])) is None
    assert batch_norm(norm(var=[0.25, 0.0], epsilon=0.01)) is not None
    for name, value in (("training_mode", 1), ("spatial", 0)):
        node = norm()
        node.attrs[name] = value
        assert batch_norm(node) is None
    node = norm()
    node.outputs.append(gs.Variable("running"))
    assert batch_norm(node) is None
    for index in (1, 2, 3, 4):
        node = norm()
        node.inputs[index] = gs.Variable("computed", np.float32, [2])
        assert batch_norm(node) is None


def test_which_input_is_the_data() -> None:
    constant, y = gs.Constant("c", np.ones(1, np.float32)), [gs.Variable("y")]
    indices = {
        inputs: data_index(gs.Node(op, "n", {}, [{"x": DATA, "c": constant}[which] for which in inputs.split()[1:]], y))
        for inputs in ("Mul x c", "Mul c x", "Mul x x", "Mul c c", "Mul x", "Max x c")
        for op in inputs.split()[:1]
    }
    assert indices == {"Mul x c": 0, "Mul c x": 1, "Mul x x": None, "Mul c c": None, "Mul x": None, "Max x c": None}
    assert data_index(norm()) == 0


def test_what_a_map_says_of_itself() -> None:
    per_channel, one, two = np.array([1.0, 2]), np.ones(1), np.full(1, 2.0)
    assert Affine(one, two).is_uniform
    assert not Affine(per_channel, two).is_uniform and not Affine(two, per_channel).is_uniform
    assert [Affine(scale, one).scales for scale in (one, two, per_channel)] == [False, True, True]
    assert [Affine(one, shift).shifts for shift in (0 * one, one, two, np.array([0.0, 1]))] == [False, True, True, True]


@pytest.mark.parametrize(
    ("body", "source", "length", "axis"),
    [
        ("a = Mul(x, c) y = Add(d, a)", "x", 2, 1),
        ("a = Sub(c, x) y = BatchNormalization(a, s.scale, b, m, v.var)", "x", 2, 1),
        ("a = BatchNormalization(x, s.scale, b, m, v.var) b2 = Relu(a) y = Mul(last, b2)", "x", 1, 1),
        ("y = Add(x, last)", "x", 1, 3),
    ],
)
def test_chains_compute_what_their_map_says(body: str, source: str, length: int, axis: int) -> None:
    weights = """float[3,1,1] c, float[1,3,1,1] d, float[4] last, float[3] s.scale, float[3] b, float[3] m,
        float[3] v.var"""
    model = build(onnx_text("float[2,3,2,4] x", "float[2,3,2,4] y", weights, body))
    chain = affine_chains(model.graph)[0]
    assert (chain.source.name, len(chain.nodes), chain.axis) == (source, length, axis)
    assert chain.has_batch_norm == ("Batch" in body)
    if chain.output.name == "y":
        feeds = random_feeds(model)
        shape = [-1 if k == axis else 1 for k in range(4)]
        found = feeds["x"] * chain.affine.scale.reshape(shape) + chain.affine.shift.reshape(shape)
        np.testing.assert_allclose(found, run_onnx(model, feeds)["y"], rtol=1e-4, atol=1e-5)


def test_every_node_is_in_one_chain_and_a_fork_ends_one() -> None:
    weights, body = "float[3,1,1] c", "a = Mul(x, c) b = Add(a, c) d = Sub(a, c) e = Relu(b) y = Add(e, d)"
    chains = affine_chains(build(onnx_text("float[1,3,2,4] x", "float[1,3,2,4] y", weights, body)).graph)
    assert [[node.op for node in chain.nodes] for chain in chains] == [["Mul"], ["Add"], ["Sub"]]


def test_of_single_numbers_and_open_ranks_there_are_none() -> None:
    for shape in ((), None):
        x, y = gs.Variable("x", np.float32, shape), gs.Variable("y", np.float32, shape)
        node = gs.Node("Mul", "n", {}, [x, gs.Constant("c", np.ones((), np.float32))], [y])
        assert affine_chains(gs.Graph([node], [x], [y])) == []
