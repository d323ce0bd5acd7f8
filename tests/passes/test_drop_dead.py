"""drop-dead: what contributes nothing goes whole, exactly, and what it must not touch stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array, initializers
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import DropDead, PruneChannels, SliceChannels
from onnxslim_yolo.passes.canonicalise import Canonicalise
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.removed import as_modules
from onnxslim_yolo.rewrites import concat_parts
from tests.numeric import assert_same, build, differences, random_feeds, run_onnx
from tests.passes.cutting import onnx_text, run

Values = dict[str, Array]


def norm(name: str, width: int) -> str:
    return ", ".join(f"float[{width}] {name}.{leaf}" for leaf in ("gamma", "beta", "mean", "var"))


def normed(name: str) -> str:
    return f"{name}.gamma, {name}.beta, {name}.mean, {name}.var"


def conv(name: str, ins: int, outs: int, kernel: int = 3, group: int = 1) -> str:
    return f"float[{outs},{ins // group},{kernel},{kernel}] {name}.weight, {norm(name, outs)}"


def layer(name: str, x: str, kernel: int = 3, group: int = 1, act: bool = True) -> str:
    """Convolution, BatchNormalization, SiLU: the result bears the layer's name."""
    last = f"{name}_b = BatchNormalization({name}_c, {normed(name)})"
    silu = f"{name}_s = Sigmoid({name}_b) {name} = Mul({name}_b, {name}_s)"
    padding = kernel // 2
    made = f"{name}_c = Conv<group={group}, pads=[{padding},{padding},{padding},{padding}]>({x}, {name}.weight)"
    return f"{made} {last} {silu}" if act else f"{made} {last.replace(f'{name}_b =', f'{name} =')}"


def dead(name: str, width: int, beta: float = 0.0) -> Values:
    return {f"{name}.gamma": np.zeros(width), f"{name}.beta": np.full(width, beta) * (1 + np.arange(width) / 8)}


def model(weights: str, body: str, values: Values, opset: int = 17, batch: str = "2") -> Model:
    text = onnx_text(f"float[{batch},3,8,8] x", "float[a,b,c,d] y", weights, body, opset)
    return build(text, values=values)


STEM = f"{conv('stem', 3, 8)}"
BLOCK = f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 8)}, {conv('h', 8, 4)}"


def block(end: str = "r = Add(stem, q)", act: bool = True) -> str:
    before = f"{layer('stem', 'x')} {layer('p', 'stem')} {layer('q', 'p', act=act)}"
    return f"{before} {end} {layer('h', 'r', act=False)} y = Relu(h)"


CHAIN = f"{BLOCK}, {conv('s', 8, 8)}, {conv('t', 8, 8)}"
CONCAT = f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 5)}, {conv('h', 13, 4)}"
CASES: dict[str, tuple[str, str, Values, set[str], set[str]]] = {
    # name: weights, body, values, layers that go, operators that must be gone
    "residual": (BLOCK, block(), dead("q", 8), {"p", "q"}, {"Add"}),
    "bias": (BLOCK, block(), dead("q", 8, 0.5), {"p", "q"}, set()),
    "negative-bias-under-relu": (
        BLOCK,
        block("e = Relu(q) r = Add(e, stem)", act=False),
        dead("q", 8, -0.5),
        {"p", "q"},
        {"Add"},
    ),
    "sum": (BLOCK, block("r = Sum(stem, q)"), dead("q", 8), {"p", "q"}, {"Sum"}),
    "sum-of-three": (BLOCK, block("r = Sum(stem, q, stem)"), dead("q", 8), {"p", "q"}, set()),
    "sum-of-three-with-a-constant": (BLOCK, block("r = Sum(stem, q, stem)"), dead("q", 8, 0.4), {"p", "q"}, set()),
    "difference": (BLOCK, block("r = Sub(stem, q)"), dead("q", 8), {"p", "q"}, {"Sub"}),
    "activation-behind": (BLOCK, block("e = Add(stem, q) r = Relu(e)"), dead("q", 8), {"p", "q"}, {"Add"}),
    "layer-scale": (
        f"{BLOCK}, float[1,8,1,1] ls",
        block("e = Mul(q, ls) r = Add(stem, e)"),
        {"ls": np.zeros((1, 8, 1, 1))},
        {"p", "q"},
        {"Add"},
    ),
    "behind-a-gate": (
        f"{BLOCK}, float[8,8,1,1] g.weight, float[8] g.bias",
        block("m = GlobalAveragePool(q) g = Conv(m, g.weight, g.bias) k = Sigmoid(g) e = Mul(q, k) r = Add(stem, e)"),
        dead("q", 8),
        {"p", "q", "g"},
        {"Add", "GlobalAveragePool"},
    ),
    "constant-gate": (
        f"{BLOCK}, float[8,8,1,1] g.weight, float[8] g.bias",
        block("m = GlobalAveragePool(q) g = Conv(m, g.weight, g.bias) k = Sigmoid(g) e = Mul(q, k) r = Add(stem, e)"),
        {"g.weight": np.zeros((8, 8, 1, 1))},
        {"g"},
        {"GlobalAveragePool"},
    ),
    "folded": (
        f"{BLOCK}, float[8,6,3,3] z.weight, float[8] z.bias",
        block("z = Conv<pads=[1,1,1,1]>(p, z.weight, z.bias) r = Add(stem, z)"),
        {"z.weight": np.zeros((8, 6, 3, 3)), "z.bias": np.zeros(8)},
        {"p", "q", "z"},
        {"Add"},
    ),
    "two-in-series": (
        CHAIN,
        block(f"r0 = Add(stem, q) {layer('s', 'r0')} {layer('t', 's')} r = Add(r0, t)"),
        dead("q", 8) | dead("t", 8),
        {"p", "q", "s", "t"},
        {"Add"},
    ),
    "dead-inside-dead": (
        CHAIN,
        block(f"r0 = Add(q, stem) {layer('s', 'r0')} r1 = Add(r0, s) {layer('t', 'r1')} r = Add(stem, t)"),
        dead("q", 8) | dead("t", 8),
        {"p", "q", "s", "t"},
        {"Add"},
    ),
    "dead-inside-living": (
        CHAIN,
        block(f"{layer('s', 'q')} i = Add(q, s) {layer('t', 'i')} r = Add(stem, t)"),
        dead("s", 8),
        {"s"},
        set(),
    ),
    "part-of-a-concat": (
        CONCAT,
        block("r = Concat<axis=1>(stem, q)"),
        dead("q", 5),
        {"p", "q"},
        {"Concat"},
    ),
    "first-part-by-negative-axis": (
        CONCAT,
        block("r = Concat<axis=-3>(q, stem)"),
        dead("q", 5),
        {"p", "q"},
        {"Concat"},
    ),
    "part-with-a-constant": (
        f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 5)}, {conv('h', 13, 4, 1)}",
        block("r = Concat<axis=1>(stem, q)").replace(layer("h", "r", act=False), layer("h", "r", 1, act=False)),
        dead("q", 5, 0.7),
        {"p", "q"},
        {"Concat"},
    ),
    "part-of-nested-concats": (
        f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 5)}, {conv('h', 21, 4)}, {norm('n', 21)}",
        block(
            f"i = Concat<axis=1>(stem, q) o = Concat<axis=1>(stem, i) n = BatchNormalization(o, {normed('n')}) "
            "k = Sigmoid(n) r = Mul(n, k)"
        ),
        dead("q", 5),
        {"p", "q"},  # the norm's β shows in place of what is dead, and a padded convolution reads that: zeros stay
        set(),
    ),
    "part-under-a-pool": (
        f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 5)}, {conv('h', 21, 4)}",
        block("i = Concat<axis=1>(stem, q) o = Concat<axis=1>(stem, i) r = MaxPool<kernel_shape=[2,2]>(o)"),
        dead("q", 5),
        {"p", "q"},
        set(),
    ),
}


def left(model: Model) -> set[str]:
    return {tensor.name.removesuffix(".weight") for tensor in initializers(model.graph)}


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("case", CASES)
def test_what_is_dead_goes_whole(case: str, opset: int) -> None:
    weights, body, values, gone, operators = CASES[case]
    before = model(weights, body, values, opset)
    after = run(before, DropDead())
    assert_same(before, after)
    assert not gone & left(after)
    assert not operators & {node.op for node in after.graph.nodes}
    assert DropDead().run(after) == 0
    recorded = {name.split(".")[0] for name in after.carried.removed_nodes}
    assert recorded - {"ls"} == gone


def test_the_comparison_can_fail() -> None:
    weights, body, values, *_ = CASES["bias"]
    before, after = model(weights, body, values), run(model(weights, body, dead("q", 8, 0.49)), DropDead())
    feeds = random_feeds(before)
    assert max(differences(run_onnx(before, feeds), run_onnx(after, feeds)).values()) > 1e-3


def test_a_constant_that_padding_spoils_stays_as_the_map_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, body, *_ = CASES["part-of-a-concat"]
    before = model(weights, body, dead("q", 5, 0.7))
    after = run(before, DropDead())
    assert_same(before, after)
    assert not {"p", "q"} & left(after)
    (joined,) = [node for node in after.graph.nodes if node.op == "Concat"]
    assert [int(tensor.shape[1]) for tensor in joined.inputs] == [8, 5]
    assert DropDead().run(after) == 0

    planned = run(after, PruneChannels(0.8))  # of the channels that came
    assert planned.plan is not None and planned.plan.removed
    assert_same(masked(planned, planned.plan), run(planned, SliceChannels()))

    monkeypatch.setattr(concat_parts, "MOST_WRITTEN", 10)  # a map of many numbers is no smaller than what computes it
    assert "q" in left(run(before, DropDead()))
    assert "q" in left(run(model(weights, body, dead("q", 5, 0.7), batch="N"), DropDead()))


def test_what_is_broadcast_stays() -> None:
    body = block("m = GlobalAveragePool(stem) r = Add(m, q)")
    before = model(BLOCK, body, dead("q", 8))
    after = run(before, DropDead())
    assert_same(before, after)
    assert "q" in left(after)


def test_an_open_batch() -> None:
    weights, body, values, *_ = CASES["residual"]
    after = run(model(weights, body, values, batch="N"), DropDead())
    assert not {"p", "q"} & left(after)


def test_what_is_to_be_kept_stays() -> None:
    weights, body, values, *_ = CASES["residual"]
    after = run(model(weights, body, values), DropDead(keep=("p",)))
    assert {"p", "q"} <= left(after)
    assert after.plan is None


def test_a_pool_that_nobody_reads_leaves_its_concat() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 24, 1, 1))
    weight[:, 16:] = 0
    pool = "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>"
    body = f"{layer('stem', 'x')} m = {pool}(stem) n = {pool}(m) r = Concat<axis=1>(stem, m, n) y = Conv(r, h.weight)"
    before = model(f"{STEM}, float[4,24,1,1] h.weight", body, {"h.weight": weight})
    after = run(before, DropDead())
    assert_same(before, after)
    assert [node.op for node in after.graph.nodes].count("MaxPool") == 1
    (head,) = (node for node in after.graph.nodes if node.inputs[1:] and node.inputs[1].name == "h.weight")
    assert list(head.inputs[1].shape) == [4, 16, 1, 1]


def test_dead_rows_of_a_branch_free_what_they_alone_read() -> None:
    """The shortcut lives; half of the branch's rows do not, and only they read half of its inner layer."""
    weight = np.random.default_rng(0).normal(size=(8, 6, 3, 3)) / 5
    weight[:4, :3] = 0
    half = {"q.gamma": np.repeat([1.0, 0], 4), "q.beta": np.zeros(8), "q.weight": weight}
    before = model(BLOCK, block(), half)
    after = run(before, Canonicalise(), DropDead())
    assert_same(before, after)
    (q,) = (node for node in after.graph.nodes if node.inputs[1:] and node.inputs[1].name == "q.weight")
    read = q.inputs[1].values  # type: ignore[attr-defined]
    assert not read[:, :3].any() and read[:4, 3:].all()


def test_nothing_dead_nothing_done() -> None:
    assert DropDead().run(model(BLOCK, block(), {})) == 0


def test_a_module_went_where_all_that_lies_directly_in_it_did() -> None:
    layers = ["model.2.cv1.conv", "model.2.cv1.bn", "model.3.conv", "model.3.m.conv", "stem.conv"]
    assert as_modules(["model.2.cv1.conv", "model.2.cv1.bn"], layers) == ["model.2.cv1"]
    assert as_modules(["model.2.cv1.conv"], layers) == ["model.2.cv1.conv"]
    assert as_modules(["model.3.conv", "model.3.m.conv"], layers) == ["model.3.conv", "model.3.m"]


@pytest.mark.parametrize("groups", [1, 2])
def test_constants_among_the_parts_end_the_search(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant that stands in a Concat is no part to take out: nobody reads less without it, again and again."""
    body = block(f"j = Concat<axis=1>(stem, q) {layer('s', 'j', 3, groups)} r = Concat<axis=1>(s, j)")
    weights = f"{STEM}, {conv('p', 8, 6)}, {conv('q', 6, 8)}, {conv('s', 16, 8, 3, groups)}, {conv('h', 24, 4)}"
    before = model(weights, body, dead("q", 8, 0.7))
    rounds, once = [0], DropDead._once

    def counted(self: DropDead, one: Model) -> int:
        rounds[0] += 1
        assert rounds[0] < 9, "it does not end"
        return once(self, one)

    monkeypatch.setattr(DropDead, "_once", counted)
    after = run(before, DropDead())
    assert_same(before, after)
    assert "q" not in left(after)
