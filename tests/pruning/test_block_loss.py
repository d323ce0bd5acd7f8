"""What a block matters without images: by hand from γ, β and weights, for every kind of block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.analysis.blocks import Block, find_blocks
from onnxslim_yolo.ir.graph import Array, Node, input_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.block_loss import CAUTION, CHAIN, block_losses, block_means, last_gamma
from onnxslim_yolo.pruning.bridge import Bridge
from onnxslim_yolo.pruning.plan import Plan, open_plan
from tests.numeric import build
from tests.passes.cutting import classes_of, onnx_text
from tests.passes.test_drop_dead import conv, layer

WIDTH = 6
EPSILON = 1e-5
"""Of the BatchNormalizations here: Var is γ²·(var / (var + ε))."""


def network(text: str, *layers: str, concat: int = 1) -> Model:
    """A stem `s` and layers (name, or name and groups) of six channels without activations, and a reader `h`."""
    weights = [conv("s", 3, WIDTH, 1), *(conv(name, WIDTH, WIDTH, 1) for name in layers)]
    weights.append(conv("h", concat * WIDTH, 4, 1))
    body = f"{layer('s', 'x', 1, act=False)} {text} {layer('h', 'r', 1, act=False)} y = Relu(h)"
    return build(onnx_text("float[1,3,4,4] x", "float[1,4,4,4] y", ", ".join(weights), body, 17))


def plain(name: str, x: str) -> str:
    return layer(name, x, 1, act=False)


def residual() -> Model:
    return network(f"{plain('p', 's')} r = Add(s, p)", "p")


def joined() -> Model:
    return network(f"{plain('p', 's')} {plain('q', 's')} r = Concat<axis=1>(p, q)", "p", "q", concat=2)


def row() -> Model:
    """A row of two layers, of which the first can be bridged and the second too."""
    return network(f"{plain('p', 's')} {plain('r', 'p')}", "p", "r")


def ranked(model: Model, kind: str = "variance", seed: int = 0) -> Plan:
    plan = open_plan(model)
    values = np.random.default_rng(seed).uniform(0.5, 2.0, plan.channels.count)
    model.plan = replace(plan, importance=values, importance_kind=kind)
    return model.plan


def block(model: Model, kind: str, layers: int = 1) -> Block:
    return next(one for one in find_blocks(model.graph) if one.kind == kind and len(one.layers) == layers)


def values(model: Model, name: str) -> Array:
    constants = {t.name: t for node in model.graph.nodes for t in node.inputs if hasattr(t, "values")}
    return np.asarray(constants[name].values, np.float64)


def variance(model: Model, name: str) -> Array:
    """Of what a layer without an activation yields."""
    var = values(model, f"{name}.var")
    return values(model, f"{name}.gamma") ** 2 * var / (var + EPSILON)


def shares(model: Model, reader: str, spread: Array) -> Array:
    """Of what a 1×1 convolution yields, what is due to each of its inputs."""
    share = spread * (values(model, f"{reader}.weight")[:, :, 0, 0] ** 2).sum(axis=0)
    return np.asarray(share / share.sum())


def test_a_branch_is_worth_what_readers_behind_the_sum_owe_to_it() -> None:
    model = residual()
    plan = ranked(model)
    s, p = variance(model, "s"), variance(model, "p")
    before, behind = shares(model, "p", s), shares(model, "h", s + p)
    importance = plan.importance[classes_of(model, "r")]
    expected = (importance * behind / (before + behind) * p / (s + p)).sum()
    found = block_losses(model, plan, [block(model, "branch")])
    assert found == pytest.approx([CAUTION * expected], rel=1e-4)
    fit = Bridge(np.eye(WIDTH), np.zeros(WIDTH), 0.25)
    assert block_losses(model, plan, [block(model, "branch")], fits=[fit]) == pytest.approx([0.25 * expected], rel=1e-4)


def test_a_part_is_worth_its_channels_and_a_chain_twice_its_ends() -> None:
    model = joined()
    plan = ranked(model)
    for one in (one for one in find_blocks(model.graph) if one.kind == "part"):
        name = "pq"[one.index]
        expected = plan.importance[classes_of(model, name)].sum()
        assert block_losses(model, plan, [one]) == pytest.approx([CAUTION * expected], rel=1e-4)
    model = row()
    plan = ranked(model)
    expected = CHAIN * plan.importance[classes_of(model, "r")].sum()
    assert block_losses(model, plan, [block(model, "chain", 2)]) == pytest.approx([CAUTION * expected], rel=1e-4)
    fit = Bridge(np.eye(WIDTH), np.zeros(WIDTH), 0.5)
    found = block_losses(model, plan, [block(model, "chain", 2)], fits=[fit])
    assert found == pytest.approx([0.5 * expected / CHAIN], rel=1e-4)


def test_by_gamma_a_branch_is_worth_the_sum_of_its_own() -> None:
    model = residual()
    found = block_losses(model, ranked(model, "gamma"), [block(model, "branch")])
    assert found == pytest.approx([np.abs(values(model, "p.gamma")).sum()])
    model = row()  # of a chain γ says nothing: what takes its place is of the same size
    plan = ranked(model, "gamma")
    expected = CAUTION * CHAIN * plan.importance[classes_of(model, "r")].sum()
    assert block_losses(model, plan, [block(model, "chain", 2)]) == pytest.approx([expected], rel=1e-4)


def test_what_importance_does_not_know_is_beyond_price() -> None:
    model = residual()
    plan = ranked(model)
    importance = plan.importance.copy()
    importance[classes_of(model, "r")[2]] = np.inf
    assert block_losses(model, replace(plan, importance=importance), [block(model, "branch")]) == [np.inf]


def test_a_channel_that_stands_at_two_places_counts_once() -> None:
    model = network(f"{plain('p', 's')} t = Concat<axis=1>(p, p) r = Concat<axis=1>(t, s)", "p", concat=3)
    plan = ranked(model)
    twice = next(one for one in find_blocks(model.graph) if one.kind == "part" and len(one.nodes) == 3)
    expected = plan.importance[classes_of(model, "p")].sum()
    assert block_losses(model, plan, [twice]) == pytest.approx([CAUTION * expected], rel=1e-4)


def test_a_block_that_is_not_there_is_an_error() -> None:
    model = residual()
    nowhere = replace(block(model, "branch"), node="nowhere")
    with pytest.raises(ValueError, match="no node 'nowhere'"):
        block_losses(model, ranked(model), [nowhere])
    assert block_means(model, ranked(model), [nowhere]) == [None]


def test_a_branch_is_its_beta_on_average_and_a_chain_the_difference() -> None:
    model = residual()
    (found,) = block_means(model, ranked(model), [block(model, "branch")])
    assert found == pytest.approx(values(model, "p.beta"), rel=1e-5)
    model = row()
    (found,) = block_means(model, ranked(model), [block(model, "chain", 2)])
    assert found == pytest.approx(values(model, "r.beta") - values(model, "s.beta"), rel=1e-4)
    unknown = replace(block(model, "chain", 2), start="nowhere")
    assert block_means(model, ranked(model), [unknown]) == [None]


def bare(bias: str) -> Model:
    """A branch that is a convolution without a norm."""
    weights = f"{conv('s', 3, WIDTH, 1)}, float[6,6,1,1] p.weight, float[6] p.bias, float[1,6,4,4] map"
    body = f"{plain('s', 'x')} p_c = Conv(s, p.weight, p.bias) {bias} r = Add(s, p) {plain('h', 'r')} y = Relu(h)"
    text = onnx_text("float[1,3,4,4] x", "float[1,4,4,4] y", f"{weights}, {conv('h', WIDTH, 4, 1)}", body, 17)
    return build(text)


def test_a_mean_that_is_not_the_same_everywhere_is_none() -> None:
    model = bare("p = Identity(p_c)")
    (found,) = block_means(model, ranked(model), [block(model, "branch")])
    expected = values(model, "p.weight")[:, :, 0, 0] @ values(model, "s.beta") + values(model, "p.bias")
    assert found == pytest.approx(expected, rel=1e-4)
    model = bare("p = Add(p_c, map)")
    assert block_means(model, ranked(model), [block(model, "branch")]) == [None]


def test_what_is_behind_a_norm_is_known_and_nothing_is_of_what_has_none() -> None:
    """`a` and `r` come of an image that nobody knows."""
    text = "a = Conv(x, a.weight) r = Conv(a, r.weight) h = Conv(r, h.weight) y = Relu(h)"
    weights = "float[6,3,1,1] a.weight, float[6,6,1,1] r.weight, float[4,6,1,1] h.weight"
    model = build(onnx_text("float[1,3,4,4] x", "float[1,4,4,4] y", weights, text, 17))
    assert block_means(model, ranked(model), [block(model, "chain")]) == [None]


def test_one_value_a_position_is_no_value_a_channel() -> None:
    """Four channels of two by two positions, whose mean is told position by position."""
    weights = f"{conv('s', 3, 4, 1)}, float[4,4,1,1] p.weight, {conv('h', 4, 4, 1)}"
    for factor, known in (("zero", False), ("flat", True)):
        body = f"{plain('s', 'x')} c = Conv(s, p.weight) o = Mul(c, none) p = Add(o, {factor}) r = Add(s, p)"
        body = f"{body} {plain('h', 'r')} y = Relu(h)"
        values = {"none": np.zeros(1)}
        declared = f"{weights}, float[1] none, float[1,1,2,2] zero, float[1,4,1,1] flat"
        text = onnx_text("float[1,3,2,2] x", "float[1,4,2,2] y", declared, body, 17)
        model = build(text, values=values | {"zero": np.arange(4.0), "flat": np.arange(4.0)})
        (found,) = block_means(model, ranked(model), [block(model, "branch")])
        assert (found is not None) == known
        assert found is None or found == pytest.approx(np.arange(4.0))


@pytest.mark.parametrize(
    "text, known",
    [
        ("r = Add(s, p)", True),
        ("a = Relu(p) r = Add(s, a)", True),
        ("a = Sigmoid(p) b = Mul(p, a) r = Add(s, b)", True),
        ("a = Relu(p) b = Relu(a) c = Relu(b) r = Add(s, c)", True),
        ("a = Relu(p) b = Relu(a) c = Relu(b) d = Relu(c) r = Add(s, d)", False),
        ("a = Mul(p, s) r = Add(s, a)", False),
        ("a = GlobalAveragePool(p) r = Add(s, a)", False),
    ],
)
def test_gamma_is_looked_for_behind_activations_alone(text: str, known: bool) -> None:
    model = network(f"{plain('p', 's')} {text}", "p")
    last = next(node for node in model.graph.nodes if node.op == "Add")
    gamma = last_gamma(last.inputs[1])
    assert (gamma is not None) == known
    assert gamma is None or np.array_equal(gamma, input_constant(norm_of(model, "p"), 1))


def norm_of(model: Model, name: str) -> Node:
    return next(n for n in model.graph.nodes if n.op == "BatchNormalization" and n.inputs[1].name == f"{name}.gamma")
