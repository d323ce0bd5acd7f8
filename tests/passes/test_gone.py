"""Blocks gone in a width problem: the problem of the graph without them; and the sets of blocks that are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from onnxslim_yolo.analysis.blocks import Block, find_blocks
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import PruneToTarget
from onnxslim_yolo.pruning.allocate import Allocation
from onnxslim_yolo.pruning.block_loss import block_losses
from onnxslim_yolo.pruning.depth import Chosen, _Search, choose_blocks, offers
from onnxslim_yolo.pruning.gone import Blocks
from onnxslim_yolo.pruning.plan import open_plan
from onnxslim_yolo.rewrites.block_edits import take_out
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.passes.test_drop_dead import conv, layer

WIDTH = 16
STEP = PruneToTarget(target="0.6x", cost="macs", importance="gamma")


def gammas(names: Sequence[str], seed: int, width: int = WIDTH) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{name}.gamma": 10 ** rng.uniform(-3, 0) * rng.uniform(0.2, 1.8, width) for name in names}


def residual(seed: int = 0) -> Model:
    """A stem, two residual blocks, two plain layers, a head."""
    names = ["p0", "q0", "p1", "q1", "a", "b"]
    weights = [conv("stem", 3, WIDTH), *(conv(name, WIDTH, WIDTH) for name in names), conv("h", WIDTH, 4)]
    text = [layer("stem", "x")]
    for k, here in enumerate(("stem", "r0")):
        text += [layer(f"p{k}", here), layer(f"q{k}", f"p{k}"), f"r{k} = Add({here}, q{k})"]
    text += [layer("a", "r1"), layer("b", "a"), layer("h", "b", act=False), "y = Relu(h)"]
    values = gammas(["stem", *names], seed) | gammas(["h"], seed, 4)
    declared = onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", ", ".join(weights), " ".join(text), 17)
    return build(declared, values=values)


def joined(seed: int = 0) -> Model:
    """A stem, three parts of a Concat, of which one is two layers, and a head."""
    sizes = {"stem": (3, WIDTH), "a": (WIDTH, 8), "b": (8, WIDTH), "c": (WIDTH, WIDTH), "d": (WIDTH, WIDTH)}
    weights = [conv(name, *size) for name, size in sizes.items()] + [conv("h", 3 * WIDTH, 4, 1)]
    text = [layer("stem", "x"), layer("a", "stem"), layer("b", "a"), layer("c", "stem"), layer("d", "stem")]
    text += ["r = Concat<axis=1>(b, c, d)", layer("h", "r", 1, act=False), "y = Relu(h)"]
    values = gammas(["stem", "b", "c", "d"], seed) | gammas(["a"], seed, 8) | gammas(["h"], seed, 4)
    declared = onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", ", ".join(weights), " ".join(text), 17)
    return build(declared, values=values)


def opened(model: Model) -> Blocks:
    STEP.prune().run(model)
    plan = open_plan(model)
    problem, _, _ = STEP.problem(model, plan, STEP.costs())
    blocks = find_blocks(model.graph)
    return Blocks(model.graph, open_plan(model), problem, blocks, block_losses(model, plan, blocks))


def really(model: Model, blocks: Blocks, gone: frozenset[int], limit: float) -> tuple[float, float, float]:
    """Of a copy without blocks: the cost of all that is left, and of widths at a limit cost and importance lost."""
    trial = model.copy()
    took = take_out(trial, [blocks.removals[index].block for index in sorted(gone)])
    assert len(took) == len(gone)
    problem, _, _ = STEP.problem(trial, open_plan(trial), STEP.costs())
    found = STEP.solve(problem, limit)
    return problem.latency(problem.planned), found.latency, found.lost


@pytest.mark.parametrize("network", [residual, joined])
def test_a_problem_without_blocks_is_that_of_the_graph_without_them(network: Callable[[int], Model]) -> None:
    model = network(3)
    blocks = opened(model)
    whole = blocks.problem.latency(blocks.problem.planned)
    count = len(blocks.removals)
    assert {removal.block.kind for removal in blocks.removals} >= (
        {"part"} if network is joined else {"branch", "chain"}
    )
    tried = [frozenset(some) for size in (1, 2) for some in combinations(range(count), size)]
    tried = [gone for gone in tried if all(blocks.apart(k, gone - {k}) for k in gone)]
    assert len(tried) > count
    for gone in tried:
        less = blocks.without(gone)
        cost, latency, lost = really(model, blocks, gone, 0.4 * whole)
        assert less.latency(less.planned) == pytest.approx(cost)
        assert cost < whole, "the control: something is saved"
        found = STEP.solve(less, 0.4 * whole)
        assert (found.latency, found.lost) == pytest.approx((latency, lost))


def test_what_a_block_saves_is_what_its_problem_costs_less() -> None:
    for model in (residual(1), joined(1)):
        blocks = opened(model)
        whole = blocks.problem.planned
        for index in range(len(blocks.removals)):
            less = blocks.without(frozenset({index}))
            assert blocks.saved(index, whole) == pytest.approx(blocks.problem.latency(whole) - less.latency(whole))


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_no_set_of_blocks_loses_less_than_the_chosen_one(share: float) -> None:
    chosen_any = False
    for seed in range(3, 6):
        model = residual(seed)
        blocks = opened(model)
        limit = share * blocks.problem.latency(blocks.problem.planned)
        alone = STEP.solve(blocks.problem, limit)
        found = choose_blocks(blocks, STEP.candidates(blocks.problem), limit, alone)
        losses = [alone.lost]
        for size in (1, 2, 3):
            for some in combinations(range(len(blocks.removals)), size):
                gone = frozenset(some)
                if all(blocks.apart(k, gone - {k}) for k in gone):
                    _, latency, lost = really(model, blocks, gone, limit)
                    losses += [lost + blocks.lost(gone)] if latency <= limit * (1 + 1e-9) else []
        assert found.lost <= min(losses) * (1 + 1e-6)
        chosen_any |= bool(found.gone)
    assert chosen_any, "the control: blocks go somewhere"


def test_where_widths_do_not_suffice_blocks_go_until_they_do() -> None:
    blocks = opened(residual(2))
    cheapest = STEP.solve(blocks.problem, 0.0)
    found = choose_blocks(blocks, STEP.candidates(blocks.problem), 0.9 * cheapest.latency, cheapest)
    assert found.gone and np.isfinite(found.lost) and found.widths.latency <= 0.9 * cheapest.latency


def test_what_widths_have_lost_counts_in_the_unit_of_what_blocks_lose() -> None:
    """By the ranking widths lose 100 where 4 are measured: 20 of them within a block are 0.8, no more than it loses."""

    def part(name: str) -> Block:
        return Block("part", name, 0, "", (name,), (name,))

    class Two:
        removals = (SimpleNamespace(block=part("a"), lost=1.0), SimpleNamespace(block=part("b"), lost=0.5))

        def saved(self, index: int, choice: list[int]) -> float:
            return (10.0, 30.0)[index]

        def spared(self, index: int, choice: list[int]) -> float:
            return (20.0, 0.0)[index]

    widths = Allocation((), 0.0, 100.0)
    ranked = [offer.block.node for offer in offers(Two(), widths, 4.0 / widths.lost)]  # type: ignore[arg-type]
    assert ranked == ["b", "a"]  # 30 / 0.5 before 10 / 0.2
    assert [offer.block.node for offer in offers(Two(), widths)] == ["a", "b"]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["branch", "chain"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_constant_that_stays_is_a_layer_unless_biases_take_it(kind: str, kernel: int) -> None:
    """A padded reader cannot take it over: an addition comes in the place of either, as when it is done."""
    weights = [conv("stem", 3, WIDTH), conv("p", WIDTH, WIDTH), conv("a", WIDTH, 8, kernel), conv("h", 8, 4)]
    sums = {"branch": "r = Add(stem, p)", "chain": "r = Identity(p)"}[kind]
    text = f"{layer('stem', 'x')} {layer('p', 'stem', act=False)} {sums if kind == 'branch' else ''}"
    here = "r" if kind == "branch" else "p"
    text = f"{text} {layer('a', here, kernel)} {layer('h', 'a', act=False)} y = Relu(h)"
    model = build(onnx_text("float[1,3,32,32] x", "float[1,4,32,32] y", ", ".join(weights), text, 17))
    step = PruneToTarget(target="0.6x", importance="gamma", isa="avx512")
    step.prune().run(model)
    plan = open_plan(model)
    problem, _, _ = step.problem(model, plan, step.costs())
    (plain,) = [block for block in find_blocks(model.graph) if block.kind == kind and len(block.layers) == 1]
    costs = []
    for mean in ((), tuple(np.linspace(0.1, 1, WIDTH).tolist())):
        block = replace(plain, mean=mean)
        blocks = Blocks(model.graph, plan, problem, [block], [1.0])
        trial = model.copy()
        assert take_out(trial, [block]) == [block]
        after, _, _ = step.problem(trial, open_plan(trial), step.costs())
        less = blocks.without(frozenset({0}))
        assert less.latency(less.planned) == pytest.approx(after.latency(after.planned))
        whole = problem.latency(problem.planned)
        assert blocks.saved(0, problem.planned) == pytest.approx(whole - less.latency(less.planned))
        costs.append(less.latency(less.planned))
    assert (costs[1] > costs[0]) == (kernel == 3)


@pytest.mark.parametrize(
    "gains, gone", [((5.0, 3.0), {0, 1}), ((3.0, 5.0), {0, 1}), ((5.0, 0.0), {0}), ((-1.0, 2.0), {1})]
)
def test_blocks_are_added_as_long_as_one_gains(gains: tuple[float, ...], gone: set[int]) -> None:
    """The first of them as well as any other; one that gains nothing is not tried."""
    start = Chosen(frozenset(), Allocation((), 1.0, 10.0), 10.0)
    search = object.__new__(_Search)
    search._start = start
    search._blocks = SimpleNamespace(apart=lambda index, gone: True, gain=lambda index, at: gains[index])  # type: ignore[assignment]
    search._at = lambda now, near: Chosen(now, start.widths, 10.0 - len(now))  # type: ignore[method-assign]
    assert search._added([0, 1]).gone == gone
