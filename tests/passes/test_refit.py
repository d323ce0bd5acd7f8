"""Readers of a removed block: what of it is linear in what is left comes back; with controls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxslim_yolo.analysis.blocks import Block, find_blocks
from onnxslim_yolo.ir.graph import Array, Node
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropBlocks, Reconstruct
from onnxslim_yolo.passes.reconstruct import reconstruct
from onnxslim_yolo.pruning.match import matchable, of_what_is_left, output_moments
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.pruning.refit import _columns, _readers, refit_readers
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

WIDTH = 6
SILU = "{0}_s = Sigmoid({0}_c) {0} = Mul({0}_c, {0}_s)"
STEM = "stem_c = Conv<pads=[1,1,1,1]>(x, stem.weight) " + SILU.format("stem")
SHAPES = {"stem": (WIDTH, 3, 3, 3)}


def linear(name: str, x: str) -> str:
    return f"{name}_m = Conv({x}, {name}.weight) {name} = Conv({name}_m, {name}2.weight)"


def network(body: str, **weights: tuple[int, ...]) -> Model:
    shapes = SHAPES | weights
    declared = ", ".join(f"float[{','.join(map(str, shape))}] {name}.weight" for name, shape in shapes.items())
    return build(onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", declared, f"{STEM} {body}", 17))


def one_branch() -> Model:
    """y reads x + M·x, where M is two matrices: linear, so that nothing need be lost."""
    body = f"{linear('f', 'stem')} r = Add(stem, f) y = Conv<pads=[1,1,1,1]>(r, h.weight)"
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), h=(4, WIDTH, 3, 3))


def two_branches() -> Model:
    """The second block reads the first one's result, and so does the sum behind it."""
    second = f"{linear('g', 'r')} q = Add(r, g) y = Conv<pads=[1,1,1,1]>(q, h.weight)"
    body = f"{linear('f', 'stem')} r = Add(stem, f) {second}"
    both = {"f": (3, WIDTH, 1, 1), "f2": (WIDTH, 3, 1, 1), "g": (3, WIDTH, 1, 1), "g2": (WIDTH, 3, 1, 1)}
    return network(body, **both, h=(4, WIDTH, 3, 3))


def part() -> Model:
    """A part of a Concat that is a matrix times another part of it."""
    body = f"{linear('f', 'stem')} c = Concat<axis=1>(f, stem) y = Conv(c, h.weight)"
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), h=(4, 2 * WIDTH, 1, 1))


def transposed() -> Model:
    """Read by a transposed convolution and, flattened over space, by a matrix."""
    body = f"{linear('f', 'stem')} r = Add(stem, f) y = ConvTranspose<pads=[1,1,1,1]>(r, h.weight)"
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), h=(WIDTH, 4, 3, 3))


def grouped(groups: int) -> Model:
    """Read by a layer of several groups, by each channel's own where there are as many as channels."""
    read = f"y_g = Conv<pads=[1,1,1,1], group={groups}>(r, g.weight) y = Conv(y_g, h.weight)"
    body = f"{linear('f', 'stem')} r = Add(stem, f) {read}"
    taps = (WIDTH, WIDTH // groups, 3, 3)
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), g=taps, h=(4, WIDTH, 1, 1))


def shortcut_after_activation() -> Model:
    """What reads the sum reads it through a SiLU: no layer can make up for all of it."""
    body = f"{linear('f', 'stem')} r_c = Add(stem, f) {SILU.format('r')} y = Conv<pads=[1,1,1,1]>(r, h.weight)"
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), h=(4, WIDTH, 3, 3))


def images(count: int = 12) -> list[Array]:
    rng = np.random.default_rng(3)
    return [rng.uniform(0, 1, (1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def without(model: Model, chosen: Callable[[Block], bool]) -> Model:
    after = model.copy()
    blocks = [block for block in find_blocks(after.graph) if chosen(block)]
    assert blocks
    assert DropBlocks()._take_out(after, blocks) == len(blocks)
    return after


def lost(model: Model, after: Model) -> float:
    """The mean squared difference on images that nothing was fitted to, of the variance."""
    feeds = [{"x": image} for image in images(16)[12:]]
    before, now = (np.concatenate([run_onnx(m, feed)["y"] for feed in feeds]) for m in (model, after))
    return float(((before - now) ** 2).mean() / before.var())


@pytest.mark.parametrize(
    ("make", "ends", "fitted", "most"),
    [
        (one_branch, ("f",), 1, 1e-4),
        (two_branches, ("f",), 2, 1e-4),
        (two_branches, ("g",), 1, 1e-4),
        (two_branches, ("f", "g"), 1, 1e-4),
        (part, ("f",), 1, 1e-4),
        (transposed, ("f",), 1, 1e-4),
        (shortcut_after_activation, ("f",), 1, 0.05),
    ],
)
def test_what_is_linear_comes_back(make: Callable[[], Model], ends: tuple[str, ...], fitted: int, most: float) -> None:
    model = make()
    weights = {node.name: node.inputs[1].name for node in model.graph.nodes if node.op == "Conv"}
    last = {f"{end}2.weight" for end in ends}
    after = without(model, lambda block: block.kind != "chain" and weights.get(block.nodes[-1]) in last)
    before = lost(model, after)
    assert before > 0.1, "the control: the block matters"
    shifts = refit_readers(after, images(), 1e-6)
    assert len(shifts) == fitted
    assert lost(model, after) < min(most, before / 5)


@pytest.mark.parametrize("groups", [2, 3, WIDTH])
def test_what_a_group_cannot_know_the_next_reader_makes_up_for(groups: int) -> None:
    model = grouped(groups)
    after = without(model, lambda block: block.kind == "branch")
    before = lost(model, after)
    assert before > 0.1, "the control: the block matters"
    assert len(refit_readers(after, images(), 1e-6)) == 2
    assert lost(model, after) < before / 2


@pytest.mark.parametrize("groups", [1, 2, 3, WIDTH])
def test_each_group_is_fitted_by_its_own_columns(groups: int) -> None:
    """W ← W·(I + B) and b ← W·(c), where d ≈ B·x + c of each group's columns is numpy's least squares."""
    model, seen = grouped(groups), images()
    after = without(model, lambda block: block.kind == "branch")
    old = _layer(after, "g.weight").inputs[1].values.copy()
    refit_readers(after, seen, 1e-9)
    node = _layer(after, "g.weight")

    tapped = model.copy()
    by_name = {tensor.name: tensor for n in tapped.graph.nodes for tensor in n.outputs}
    tapped.graph.outputs = [by_name["stem"], by_name["f"]]
    values = [run_onnx(tapped, {"x": image}) for image in seen]
    x, d = (np.concatenate([v[key][0].reshape(WIDTH, -1).T for v in values]).astype(float) for key in ("stem", "f"))

    per = WIDTH // groups
    for g in range(groups):
        own = slice(g * per, (g + 1) * per)
        fit = np.linalg.lstsq(np.c_[x[:, own], np.ones(len(x))], d[:, own], rcond=None)[0]
        wanted = np.einsum("oiyx,ij->ojyx", old[own], np.eye(per) + fit[:-1].T)
        shift = old[own].sum(axis=(2, 3)) @ fit[-1]
        assert np.allclose(node.inputs[1].values[own], wanted, atol=1e-4)
        assert np.allclose(node.inputs[2].values[own], shift, atol=1e-4)
    assert not np.allclose(old, node.inputs[1].values, atol=1e-2)


def _layer(model: Model, weight: str) -> Node:
    return next(node for node in model.graph.nodes if any(tensor.name == weight for tensor in node.inputs))


def test_too_few_positions_fit_nothing() -> None:
    body = f"{linear('f', 'p')} r = Add(p, f) y = Conv(r, h.weight)"
    pooled = f"p = MaxPool<kernel_shape=[16,16]>(stem) {body}"
    model = network(pooled, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), h=(4, WIDTH, 1, 1))
    after = without(model, lambda block: block.kind == "branch")
    assert not refit_readers(after, images(4 * WIDTH - 1), 1e-2)
    assert refit_readers(after, images(4 * WIDTH), 1e-2)


def test_where_no_block_went_nothing_is_edited() -> None:
    model = one_branch()
    assert refit_readers(model, images(), 1e-2) == {}


def test_a_constant_is_shared_out_among_the_strides_of_a_transposed_convolution() -> None:
    """Of two by two taps at stride 2 every output gets one: on average a quarter of what they make of the constant."""
    body = """p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(stem) f_m = Conv(p, f.weight) f = Add(f_m, off.weight)
        r = Add(p, f) y = ConvTranspose<strides=[2,2]>(r, h.weight)"""
    model = network(body, f=(WIDTH, WIDTH, 1, 1), off=(1, WIDTH, 1, 1), h=(WIDTH, 4, 2, 2))
    after = without(model, lambda block: block.kind == "branch")
    (shift,) = refit_readers(after, images(), 1e-9).values()
    offset, taps = (_layer(model, f"{name}.weight").inputs[1].values for name in ("off", "h"))
    assert shift == pytest.approx(offset.reshape(-1) @ taps.sum(axis=(2, 3)) / 4, abs=1e-3)


def test_columns_that_are_left_are_told_by_their_weights() -> None:
    old = np.arange(2 * 5 * 3).reshape(2, 5, 3) % 7
    assert _columns(old, old).tolist() == _columns(old + 1, old).tolist() == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    for left in ([0, 2], [1, 3, 4], [4], []):
        found = _columns(old[:, left], old)
        assert found is not None and found.tolist() == left
    assert _columns(old[:, [2, 0]], old) is None and _columns(old[:, [0]] + 100, old) is None
    twice = old[:, [1, 1, 3, 1]]
    assert [_columns(twice[:, left], twice).tolist() for left in ([1, 2], [0, 1])] == [[0, 2], [0, 1]]  # type: ignore[union-attr]


def narrowed() -> Model:
    """A part of a Concat that a depthwise layer reads: with it the layer loses channels of its own, the first ones."""
    read = f"d = Conv<pads=[1,1,1,1], group={2 * WIDTH}>(c, d.weight) y = Conv(d, h.weight)"
    body = f"{linear('f', 'stem')} c = Concat<axis=1>(f, stem) {read}"
    taps = (2 * WIDTH, 1, 3, 3)
    return network(body, f=(3, WIDTH, 1, 1), f2=(WIDTH, 3, 1, 1), d=taps, h=(4, 2 * WIDTH, 1, 1))


def test_a_layer_that_lost_channels_with_a_part_is_matched_by_those_it_has() -> None:
    model = narrowed()
    after = without(model, lambda block: block.kind == "part" and block.index == 0)
    whole = output_moments(model, matchable(model), images())
    left = of_what_is_left(whole, model, after)
    now = output_moments(after, matchable(after), images())
    name = _layer(after, "d.weight").name
    assert len(whole[name][0]) == 2 * WIDTH
    assert np.allclose(left[name], now[name], rtol=1e-4, atol=1e-6)
    assert not np.allclose(np.array(whole[name])[:, :WIDTH], now[name], rtol=1e-2), "the control: the others"
    assert reconstruct(after, open_plan(after), images(), Reconstruct(views=1))
    assert lost(model, after) < 0.5


def test_only_what_reads_a_removed_part_is_fitted_whatever_constants_are_called() -> None:
    """Taking a part out writes the indices of what reads channels anew: shuffles that it has nothing to do with."""
    shuffled = f"e = Gather<axis=1>(stem, order) k = Conv(e, k.weight) {linear('f', 'k')} c = Concat<axis=1>(f, k)"
    text = f"{STEM} order = Constant<value_ints=[{','.join(map(str, reversed(range(WIDTH))))}]>() {shuffled}"
    square = f"float[{WIDTH},{WIDTH},1,1] k.weight, float[3,{WIDTH},1,1] f.weight, float[{WIDTH},3,1,1] f2.weight"
    weights = f"float[{WIDTH},3,3,3] stem.weight, {square}, float[4,{2 * WIDTH},1,1] h.weight"
    body = f"{text} y = Conv(c, h.weight)"
    model = build(onnx_text("float[1,3,16,16] x", "float[1,4,16,16] y", weights, body, 17))
    after = without(model, lambda block: block.kind == "part" and len(block.nodes) < 4)
    came = after.carried.came
    assert came is not None
    assert [reader.node for reader in _readers(after.graph, came)] == [_layer(after, "h.weight").name]
